#!/bin/sh
# Runs programs of test-gpu's models under a tool of compute-sanitizer: sanitize.sh BUILDDIR TOOL
set -u
build=$1 tool=$2 passed=0 failed=0
if ! command -v compute-sanitizer >/dev/null; then
    echo "skipped: compute-sanitizer was not found"
    echo "0 passed, 0 failed, 1 skipped"
    exit 0
fi
for case in llama-mixed-a llama-head96 qwen3 llama-fp16; do
    "$build/make_checkpoint" -c tests/models/cases.txt $case "$build/tests/sanitize.$case" &&
        "$build/exlc" build "$build/tests/sanitize.$case" -o "$build/tests/sanitize" --target cuda ${SM:+--sm $SM} || exit 1
    rm -rf "$build/tests/sanitize.$case"
    for mode in graph steps; do
        if compute-sanitizer --error-exitcode 9 --tool "$tool" "$build/tests/sanitize" selftest --device cuda --mode $mode; then
            passed=$((passed + 1))
        else
            failed=$((failed + 1))
        fi
    done
done
echo "$passed passed, $failed failed, 0 skipped"
[ "$failed" -eq 0 ]

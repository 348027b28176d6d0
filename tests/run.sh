#!/bin/sh
# Runs test programs and adds up their closing lines "N passed, N failed, N skipped".
#   tests/run.sh 'name: command' ...
# A program that ends without such a line, or with a status that contradicts it, counts as a failure.
set -u
logs=build/tests/logs
mkdir -p "$logs"
passed=0 failed=0 skipped=0
for test; do
    name=${test%%: *}
    log=$logs/$(echo "$name" | tr ' /' '__').log
    start=$(date +%s)
    sh -c "${test#*: }" >"$log" 2>&1 </dev/null
    status=$?
    totals=$(awk '/^[0-9]+ passed, [0-9]+ failed(, [0-9]+ skipped)?$/ { n++; p += $1; f += $3; s += $5 }
                  END { print n ? p : 0, n ? f : 1, s + 0 }' "$log")
    p=${totals%% *} s=${totals##* } f=${totals#* }
    f=${f% *}
    if [ "$status" -ne 0 ] && [ "$f" -eq 0 ]; then f=1; fi
    passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
    printf '%-28s %5d passed, %d failed, %d skipped  (%d s)\n' "$name" "$p" "$f" "$s" \
        $(($(date +%s) - start))
    if [ "$f" -ne 0 ]; then tail -n 30 "$log" | sed 's/^/    /'; fi
    grep '^skipped: ' "$log" | sort | uniq -c | sed 's/^ *\([0-9]*\) skipped:/    \1 skipped:/'
done
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]

#!/bin/sh
# Runs one fuzzer for some seconds: tests/fuzz.sh BUILDDIR NAME SECONDS. A crash, hang or memory error
# fails; the input is kept in BUILDDIR/fuzz.
set -u
build=$1 name=$2 seconds=$3
if ! echo 'int LLVMFuzzerTestOneInput(const char *d, unsigned long n) { return d && n > 9; }' |
    clang -x c -fsanitize=fuzzer,address - -o /dev/null 2>/dev/null; then
    echo "skipped: fuzzers need clang with its runtime libraries"
    echo "0 passed, 0 failed, 1 skipped"
    exit 0
fi
${MAKE:-make} -s "$build/fuzz/$name" || { echo "0 passed, 1 failed, 0 skipped"; exit 1; }
corpus=$build/fuzz/$name.corpus
mkdir -p "$corpus"
for d in examples/wikilm tests/models/converted/*; do
    n=$(basename "$d")
    case $name in
    template) cp tests/data/templates/*.jinja "$corpus/" && split -l 4 tests/data/templates/cases.jinja "$corpus/case" ;;
    config) cp "$d/config.json" "$corpus/$n" ;;
    tokenizer) cp tests/data/tokenizers/llama3/tokenizer.json "$corpus/" ;;
    safetensors) head -c 6000 "$d/model.safetensors" >"$corpus/$n" ;;
    esac
done
# Inputs that are kept with the tests, and for requests the words that the server looks for.
[ -d "tests/fuzz/seeds/$name" ] && cp tests/fuzz/seeds/"$name"/* "$corpus/"
words=$build/fuzz/$name.words
grep -oh '"[A-Za-z_]\{2,40\}"' runtime/*.c | sort -u >"$words"
case $name in request | http | grammar) options="-dict=$words" leaks=1 ;; *) options= leaks=0 ;; esac
ASAN_OPTIONS=detect_leaks=$leaks "$build/fuzz/$name" $options -detect_leaks=$leaks -timeout=60 -max_len=20000 \
    -max_total_time="$seconds" -artifact_prefix="$build/fuzz/$name." -print_final_stats=1 "$corpus" >"$build/fuzz/$name.log" 2>&1
status=$?
grep -E 'stat::number_of_executed' "$build/fuzz/$name.log"
if [ $status -ne 0 ] || ! grep -q 'stat::number_of_executed' "$build/fuzz/$name.log"; then
    tail -n 30 "$build/fuzz/$name.log"
    echo "0 passed, 1 failed, 0 skipped"
    exit 1
fi
echo "1 passed, 0 failed, 0 skipped"

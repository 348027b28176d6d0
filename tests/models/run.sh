#!/bin/sh
# Builds test checkpoints, compiles them, and compares their logits with those recorded from Hugging
# Face in float64: all at once, and one by one. On a GPU also the modes with each other.
#   tests/models/run.sh BUILDDIR [-d DEVICE] [-m MODE] [-j JOBS] CASE|DIR ...
# A CASE is a name of cases.txt; a DIR holds a checkpoint and its expected.safetensors.
set -u
build=$1
shift
device=cpu mode= target=cpu all=3e-3 each=1e-2 jobs=1
while getopts d:m:j: option; do
    case $option in
    d) device=$OPTARG target=cuda all=1e-2 each=3e-2 ;;
    m) mode="--mode $OPTARG" ;;
    j) jobs=$OPTARG ;;
    *) exit 2 ;;
    esac
done
shift $((OPTIND - 1))
work=$build/tests/models
mkdir -p "$work"
if [ "$jobs" -gt 1 ]; then # one case at a time in each of several of these
    on=; [ "$device" = cpu ] || on="-d $device"
    for case; do rm -f "$work/$(basename "$case").log"; done
    printf '%s\n' "$@" | xargs -P "$jobs" -I{} sh -c \
        '"$0" "$@" >"$1/tests/models/$(basename {}).log" 2>&1' "$0" "$build" $on ${mode:+-m ${mode#--mode }} {}
    for case; do # a run without its closing line has failed
        log=$work/$(basename "$case").log
        grep -v ' passed, ' "$log"
        grep ' passed, .* skipped$' "$log" || echo "$case died: 0 passed, 1 failed, 0 skipped"
    done >"$work/all.log"
    grep -v ' passed, ' "$work/all.log"
    sed -n 's/^.*died: //; s/ passed, \([0-9]*\) failed, .* skipped$/ \1/p' "$work/all.log" |
        awk '{ p += $1; f += $2 } END { print p + 0 " passed, " f + 0 " failed, 0 skipped"; exit f > 0 }'
    exit
fi
passed=0 failed=0
check() { # name, command ...
    name=$1
    shift
    if "$@"; then passed=$((passed + 1)); else
        echo "FAILED: $name: $*"
        failed=$((failed + 1))
        return 1
    fi
}
for case; do
    if [ -d "$case" ]; then
        dir=$case expected=$case/expected.safetensors case=$(basename "$case")
    else
        dir=$work/$case expected=tests/models/expected/$case.safetensors
        rm -rf "$dir"
        "$build/make_checkpoint" -c tests/models/cases.txt "$case" "$dir" || exit 1
    fi
    program=$work/$case.program
    # A program may have been built beforehand, on a machine with the compiler.
    [ -n "${PREBUILT:-}" ] || check "$case build" "$build/exlc" build "$dir" -o "$program" \
        --target $target ${SM:+--sm $SM} || continue
    for row in 0 1; do
        ids=$("$build/compare" ids "$expected" $row) || exit 1
        out=$work/$case.safetensors
        hidden=; [ $row = 0 ] && hidden=--hidden
        check "$case row $row" "$program" logits --device $device $mode --ids "$ids" $hidden -o "$out" &&
            check "$case row $row" "$build/compare" "$expected" "$out" --row $row --all $all \
                --each $each $hidden
        [ $row = 0 ] || continue
        [ "$mode" != "--mode persistent" ] || hidden= # with them, a pass is not one launch
        check "$case one by one" "$program" logits --device $device $mode --ids "$ids" --chunk 1 \
            $hidden -o "$out" &&
            check "$case one by one" "$build/compare" "$expected" "$out" --row $row --all $all \
                --each $each $hidden
        check "$case by five" "$program" logits --device $device $mode --ids "$ids" --chunk 5 -o "$out" &&
            check "$case by five" "$build/compare" "$expected" "$out" --row $row --all $all --each $each
    done
    # The ways to launch a decode pass: the same bits.
    if [ $device != cpu ]; then
        ids=$("$build/compare" ids "$expected" 0 | cut -d, -f1-12)
        for way in steps graph persistent; do
            "$program" logits --device $device --mode $way --ids "$ids" --chunk 1 -o "$out.$way" || break
        done
        for way in graph persistent; do
            check "$case, $way as steps" cmp "$out.steps" "$out.$way"
        done
        rm -f "$out.steps" "$out.graph" "$out.persistent"
    fi
    # Windows: the same whether pages are used again behind them or there is room for all.
    if [ $device = cpu ] && "$program" info --device cpu |
        awk '/^limits/ { long = $2 >= 3072 } /^windows/ { some = 1 } END { exit !(long && some) }'; then
        ids=$(awk 'BEGIN { for (i = 0; i < 3000; i++) printf "%s%d", i ? "," : "", 3 + i * i % 241 }')
        for bits in 16 4; do
            for batch in 1 4; do
                "$program" logits --device cpu --ids "$ids" --chunk 100 --max-context 3072 \
                    --max-batch $batch --cache-bits $bits -o "$out.$batch" || break
            done
            check "$case windows in $bits bits" cmp "$out.1" "$out.4"
        done
        rm -f "$out.1" "$out.4"
    fi
    rm -f "$program.weights" "$out"
    [ -n "${KEEP:-}" ] || rm -rf "$program"
done
echo "$passed passed, $failed failed, 0 skipped"
[ "$failed" -eq 0 ]

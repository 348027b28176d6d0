#!/bin/sh
# The CPU and CUDA must draw the same greedy 64 tokens, ten prompts; where they part, the two best
# logits must be closer than the accuracy that CUDA promises (3e-2 of the rms at one position).
# And a cache of few bits must change as much on both, in prompts and token by token.
#   tests/agree.sh BUILDDIR PROGRAM      PROGRAM: the bundled model, compiled for cpu,cuda
set -u
build=$1 program=$2
passed=0 failed=0
while read -r prompt; do
    cpu=$("$program" run -p "$prompt" -n 64 --temperature 0 --json --device cpu | sed 's/.*"ids": \[\([^]]*\)\].*/\1/; s/,//g')
    for mode in persistent graph steps; do
        gpu=$("$program" run -p "$prompt" -n 64 --temperature 0 --json --device cuda --mode $mode |
            sed 's/.*"ids": \[\([^]]*\)\].*/\1/; s/,//g')
        common=
        set -- $cpu
        for id in $gpu; do
            [ $# -gt 0 ] && [ "$1" = "$id" ] || break
            common="$common $1"
            shift
        done
        if [ "$cpu" = "$gpu" ] && [ -n "$cpu" ]; then
            passed=$((passed + 1))
            continue
        fi
        ids=$(printf '%s' "$prompt" | "$program" tokenize | tr ' ' ',')$(echo "$common" | tr ' ' ',')
        "$program" logits --ids "$ids" --device cpu -o "$build/agree.safetensors"
        last=$(($(echo "$ids" | tr ',' '\n' | wc -l) - 1))
        best=$("$build/compare" best "$build/agree.safetensors" $last)
        echo "'$prompt' ($mode) parts after $(echo $common | wc -w) tokens; best two and their distance: $best"
        set -- $gpu
        shift $(echo $common | wc -w)
        if [ $# -gt 0 ] && [ "$(echo "$best" | awk -v t="$1" '{ print ($3 < 0.03 && (t == $1 || t == $2)) }')" = 1 ]; then
            passed=$((passed + 1))
        else
            failed=$((failed + 1))
        fi
    done
done <<'P'
The city of Paris
In 1905, Albert Einstein
The river flows through
She was born in London and
The species is found in
A football club from
During the Second World War,
The album was released in
Mathematics is the study of
The village has a population of
P
kl() { "$program" eval kl --text tests/data/wiki.txt --windows 2 --cache-bits $1 --chunk $2 --device $3 | sed -n 's/^kl //p'; }
for bits in 8 7,5 4 6,3 2; do
    cpu=$(kl $bits 512 cpu)
    for chunk in 512 1; do
        gpu=$(kl $bits $chunk cuda)
        if awk -v a="$cpu" -v b="$gpu" 'BEGIN { d = a - b; exit !(a > 0 && b > 0 && d * d < 0.04 * a * a + 1e-9) }'; then
            passed=$((passed + 1))
        else
            echo "--cache-bits $bits, chunks of $chunk: kl $gpu, on the CPU $cpu"
            failed=$((failed + 1))
        fi
    done
done
echo "$passed passed, $failed failed, 0 skipped"
[ "$failed" -eq 0 ]

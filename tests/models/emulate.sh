#!/bin/sh
# As run.sh, for the CUDA target on a machine without a GPU: each program with its kernels on the CPU
# (tests/kernels/cuda/emulate.cc). Minutes a case.
#   tests/models/emulate.sh BUILDDIR [-s SM] [-m MODE] CASE ...
# SM 90 takes the forms for sm_90a, others those for every GPU; MODE is steps, graph or persistent.
set -eu
build=$1
shift
sm=90 mode=steps
while getopts s:m: option; do
    case $option in
    s) sm=$OPTARG ;;
    m) mode=$OPTARG ;;
    *) exit 2 ;;
    esac
done
shift $((OPTIND - 1))
work=$build/tests/models
wgmma=$([ "$sm" = 90 ] && echo 1 || echo 0)
mkdir -p "$work"
alignment="-fsanitize=alignment -fno-sanitize-recover=alignment" # of vectors, as on a GPU
for case; do
    dir=$work/$case.emitted
    rm -rf "$work/$case" "$dir"
    "$build/make_checkpoint" -c tests/models/cases.txt "$case" "$work/$case"
    EXLC_OPTIMIZE=-O1 "$build/exlc" build "$work/$case" --target cuda --sm "$sm" --emit "$dir"
    c++ -w -O1 -std=c++17 -fno-strict-aliasing -ffp-contract=off $alignment -Itests/kernels/cuda/emulated -I"$dir" -I. \
        -DEMULATED_WGMMA=$wgmma -DEMULATED_MODEL='"forward.cu"' -c tests/kernels/cuda/emulate.cc \
        -o "$dir/emulate.o"
    program=$work/$case.program
    c++ -rdynamic $alignment -o "$program" "$dir/model.o" "$dir/forward.o" "$dir/emulate.o" "$dir/libruntime.a" \
        -ldl -lm -lpthread
    truncate -s %4096 "$program"
    cat "$dir/weights.bin" "$dir/trailer.bin" >>"$program"
    rm -rf "$dir"
    # Each step alone, in a decode pass and in one that reads a prompt; the passes between stay sound.
    "$program" bench --device cuda --mode steps --steps --prompt 20 --context 4 --gen 1 >"$program.bench"
    grep -q '^    sample ' "$program.bench" && grep -q '^decode ' "$program.bench"
    rm "$program.bench"
    PREBUILT=1 tests/models/run.sh "$build" -d cuda -m "$mode" "$case"
done

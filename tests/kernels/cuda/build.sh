#!/bin/sh
# Builds the tests of the CUDA kernels into folder OUT, which can be carried to a machine with a GPU:
#     tests/kernels/cuda/build.sh OUT [SM]         then there: OUT/run
# or, with SM "emulated", against the kernels on the CPU in their forms for sm_90a, "emulated80" in
# those for other GPUs (takes minutes to run).
set -e
cd "$(dirname "$0")/../../.."
out=${1:?folder} sm=${2:-90a} here=tests/kernels/cuda
configs="${CONFIGS:-formats small odd wide features alone experts groups parallel widths latent direct \
    delta delta_odd}"
wgmma=1
[ "$sm" = emulated80 ] && wgmma=0 sm=emulated
[ "$sm" = emulated ] || configs="$configs large"
# A GPU faults where an address is not aligned.
aligned="-fsanitize=alignment -fno-sanitize-recover=alignment"
mkdir -p "$out"
[ "$sm" = emulated ] || cc -O1 -o "$out/compile" $here/compile.c -ldl
for c in $configs; do
    flags="-O2 -Wall -Wextra -std=gnu11 -I$here/$c -I. -I$here"
    if [ "$sm" = emulated ]; then
        c++ -w -O1 -std=c++17 -fno-strict-aliasing -ffp-contract=off $aligned -I$here/$c -I$here/emulated -I. \
            -DEMULATED_WGMMA=$wgmma -c $here/emulate.cc -o "$out/$c.o"
        cc $flags -c tests/kernels/cuda.c -o "$out/$c.test.o"
        cc $flags -c runtime/sample.c -o "$out/$c.sample.o"
        c++ $aligned -rdynamic -o "$out/$c" "$out/$c.test.o" "$out/$c.sample.o" "$out/$c.o" -ldl -lm
    else
        "$out/compile" $sm $here/$c "$out/$c.cubin"
        cc $flags -o "$out/$c" tests/kernels/cuda.c runtime/sample.c runtime/gpu.c runtime/start.c -ldl -lpthread -lm
    fi
done
cat > "$out/run" <<END
#!/bin/sh
# Runs them; fails when one does.
cd "\$(dirname "\$0")"
status=0
for c in $configs; do
    echo "\$c:"
    if [ -f \$c.cubin ]; then ./\$c \$c.cubin || status=1; else ./\$c || status=1; fi
done
exit \$status
END
chmod +x "$out/run"

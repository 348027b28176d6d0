#!/bin/sh
# Compiles and runs the kernel tests of the CPU: run.sh [quick|full] [instruction sets]
# CC and SAN (e.g. address,undefined) as for make; output under ${BUILD:-build}/kernels.
cd "$(dirname "$0")/../.." || exit 1
mode=${1:-quick}
[ $# -gt 0 ] && shift
sets=${*:-"generic avx2 avx512"}
here=tests/kernels out=${BUILD:-build}/kernels cc=${CC:-cc}
flags="-std=gnu11 -D_GNU_SOURCE -O${OPT:-3} -g -Wall -Wextra -Werror -ffp-contract=fast"
[ -n "$SAN" ] && flags="$flags -fsanitize=$SAN -fno-sanitize-recover=all"
mkdir -p $out
failed=0

generic="-march=x86-64"
avx2="-march=x86-64-v3"
avx512="-march=x86-64-v4 -mavx512vnni -mavx512vbmi2"
for flag in $(grep -m1 '^flags' /proc/cpuinfo); do
    case $flag in avx2) has_avx2=1 ;; avx512_vnni) vnni=1 ;; avx512_vbmi2) vbmi2=1 ;; esac
done
supported() {
    case $1 in
    generic) true ;;
    avx2) [ -n "$has_avx2" ] ;;
    avx512) [ -n "$vnni" ] && [ -n "$vbmi2" ] ;;
    esac
}

# build_and_run NAME SOURCE SET FLAGS...
build_and_run() {
    name=$1 source=$2 set=$3
    shift 3
    eval "march=\$$set"
    # shellcheck disable=SC2086
    if $cc $flags $march "$@" $here/"$source".c $out/ref.o -o $out/"$name"_"$set" -lm -lpthread; then
        echo "$name, $set:"
        $out/"$name"_"$set" || failed=1
    else
        failed=1
    fi
}

# shellcheck disable=SC2086
$cc $flags -c $here/ref.c -o $out/ref.o || exit 1
build_and_run spec spec generic

for set in $sets; do
    supported "$set" || { echo "skipped: this machine has no $set"; continue; }
    if [ "$mode" = full ]; then
        build_and_run linear linear "$set" -DHEADS=5 -DKV_HEADS=5 -DDIM=448
    else
        build_and_run linear linear "$set" -DHEADS=5 -DKV_HEADS=5 -DDIM=448 \
            -D"FORMATS(F)=F(m4) F(m3) F(c2) F(t1) F(f16) F(b16)"
    fi
    build_and_run steps steps "$set"
    [ "$mode" = full ] || continue
    build_and_run heads96 steps "$set" -DHEAD_DIM=96 -DHEADS=6 -DDIM=320 -DFFN_DIM=448 -DNORMS=1 \
        -DBIAS=1 -DWINDOW=100 -DWINDOW_LAYERS=1 -DEMBED_FORMAT=b16 -DFORMAT_LIST=c4,m4,t3,m1,c2,m8,t5,f16
    build_and_run heads128 steps "$set" -DHEAD_DIM=128 -DHEADS=8 -DKV_HEADS=1 -DROPE_DIM=64 \
        -DROPE_INTERLEAVED=1 -DROPE_FACTOR=1.25f -DWINDOW=300 -DBIAS=1 -DFORMAT_LIST=m4,m4,m4,b16,m3,m3,m7,m6
    build_and_run heads80 steps "$set" -DHEAD_DIM=80 -DHEADS=3 -DKV_HEADS=3 -DNORMS=1 -DROPE_DIM=20 \
        -DFORMAT_LIST=f16,f16,b16,f16,b16,f16,f16,c6
    build_and_run heads256 steps "$set" -DHEAD_DIM=256 -DHEADS=2 -DKV_HEADS=1 -DNORMS=1 -DWINDOW=1 \
        -DFORMAT_LIST=m2,m2,m2,m4,m4,m4,m4,m6
done
exit $failed

#!/bin/sh
# Runs test programs, as many at a time as JOBS says (default: one a processor), those behind --alone
# one by one, and adds up their closing lines "N passed, N failed, N skipped".
#   tests/run.sh 'name: command' ... [--alone 'name: command' ...]
# A program that ends without such a line, or with a status that contradicts it, counts as a failure.
set -u
logs=build/tests/logs
mkdir -p "$logs"
if [ "${1:-}" = --one ]; then
    name=${2%%: *}
    log=$logs/$(echo "$name" | tr ' /' '__')
    start=$(date +%s)
    sh -c "${2#*: }" >"$log.log" 2>&1 </dev/null
    status=$?
    times >"$log.times"
    cpu=$(awk -F'[ms ]+' 'NR == 2 { printf "%d", $1 * 60 + $2 + $3 * 60 + $4 + 0.5 }' "$log.times")
    totals=$(awk '/^[0-9]+ passed, [0-9]+ failed(, [0-9]+ skipped)?$/ { n++; p += $1; f += $3; s += $5 }
                  END { print n ? p : 0, n ? f : 1, s + 0 }' "$log.log")
    p=${totals%% *} s=${totals##* } f=${totals#* }
    f=${f% *}
    if [ "$status" -ne 0 ] && [ "$f" -eq 0 ]; then f=1; fi
    echo "$p $f $s" >"$log.total"
    { # in one piece
        printf '%-28s %5d passed, %d failed, %d skipped  (%d s, %d s of processor time)\n' "$name" \
            "$p" "$f" "$s" $(($(date +%s) - start)) "$cpu"
        if [ "$f" -ne 0 ]; then tail -n 30 "$log.log" | sed 's/^/    /'; fi
        grep '^skipped: ' "$log.log" | sort | uniq -c | sed 's/^ *\([0-9]*\) skipped:/    \1 skipped:/'
    } >"$log.said"
    cat "$log.said"
    exit 0
fi
rm -f "$logs"/*.total
pick() { # 0: before --alone, 1: behind it
    want=$1 now=0
    shift
    for test; do
        if [ "$test" = --alone ]; then now=1; elif [ $now = "$want" ]; then printf '%s\0' "$test"; fi
    done
}
pick 0 "$@" | xargs -0 -r -n 1 -P "${JOBS:-$(nproc)}" "$0" --one
pick 1 "$@" | xargs -0 -r -n 1 "$0" --one
tests=$(pick 0 "$@" | tr -cd '\0' | wc -c)
tests=$((tests + $(pick 1 "$@" | tr -cd '\0' | wc -c)))
cat "$logs"/*.total | awk -v tests="$tests" '{ p += $1; f += $2; s += $3 }
    END { if (NR != tests) f++; print p + 0 " passed, " f + 0 " failed, " s + 0 " skipped"; exit f > 0 }'

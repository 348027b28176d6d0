#!/bin/sh
# The bundled model's negative log likelihood on a text it never saw, against the reference's figure
# for the same weights.   tests/quality.sh PROGRAM cpu|cuda [TEXT NLL TOLERANCE WINDOWS]
# Without TEXT: 20 windows of tests/data/wiki.txt, against tests/oracle/record_quality.py.
set -u
program=$1 device=$2
text=${3:-tests/data/wiki.txt} want=${4:-3.207588} tolerance=${5:-0.003} windows=${6:-20}
got=$("$program" eval ppl --text "$text" --context 512 --windows "$windows" --json --device "$device")
echo "$got, expected nll $want within $tolerance"
if echo "$got" | sed 's/.*"nll": \([0-9.]*\).*/\1/' |
    awk -v want="$want" -v tolerance="$tolerance" '{ d = $1 - want; exit !($1 > 0 && d * d <= tolerance * tolerance) }'; then
    echo "1 passed, 0 failed, 0 skipped"
else
    echo "0 passed, 1 failed, 0 skipped"
    exit 1
fi

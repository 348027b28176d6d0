#!/bin/sh
# The list of architectures, docs/architectures.md, from the files of archs/: what each one's comment
# says, and the names in config.json that it claims.
#   tests/architectures.sh print   writes the list to stdout (make docs)
#   tests/architectures.sh         checks that the document is that list, that every architecture has a
#                                  recorded case, that none is named by code outside archs/, and runs the
#                                  commands of docs/adding-an-architecture.md but those of make and Python
set -u
cd "$(dirname "$0")/.." || exit 1

list() {
    cat <<'END'
# Architectures

What `architectures` in config.json may say, and how the family differs from its relatives. Made by
`make docs` from the files of [archs](../archs); `exlc inspect DIR` says of one model what it is, for
which targets it can be compiled, and what is missing.

| family | `architectures` | what it is |
| --- | --- | --- |
END
    for file in archs/*.lua; do
        awk -v name="$(basename "$file" .lua)" '
            /^-- / && !done { text = text (text == "" ? "" : " ") substr($0, 4); next }
            { done = 1 }
            /^ *hf *=/ { while (match($0, /"[A-Za-z0-9_]+"/)) {
                names = names (names == "" ? "" : ", ") "`" substr($0, RSTART + 1, RLENGTH - 2) "`"
                $0 = substr($0, RSTART + RLENGTH) } }
            END { printf "| [%s](../archs/%s.lua) | %s | %s |\n", name, name, names, text }' "$file"
    done
}

[ "${1:-}" = print ] && { list; exit; }
passed=0 failed=0
if list | diff docs/architectures.md - >/dev/null; then passed=1; else
    echo "docs/architectures.md is not what archs/ says (make docs)"
    failed=1
fi
# Of a case that is only there for others, the next one counts.
cases=$(awk '/^case / { name = $2; if (held != "") { print name, held; held = "" } }
             /^config "architectures"/ { if (name ~ /^base/) held = $0; else print name, $0 }' tests/models/cases.txt)
for file in archs/*.lua; do
    claimed=$(grep '^ *hf *=' "$file" | grep -o '"[A-Za-z0-9_]*"' | paste -sd '|')
    case=$(echo "$cases" | grep -E "\[($claimed)\]" | cut -d ' ' -f 1 | head -n 1)
    if [ -f "tests/models/expected/$case.safetensors" ]; then passed=$((passed + 1)); else
        echo "$file has no recorded case"
        failed=$((failed + 1))
    fi
done
# Families by the first part of their names: qwen of qwen3_moe. Comments do not count, nor does the
# prelude, which knows kinds of rope by the names in config.json.
families=$(basename -s .lua archs/*.lua | sed 's/[0-9].*//' | sort -u | paste -sd '|')
for file in compiler/*.[ch] runtime/*.[ch] kernels/*.h kernels/*/*.h kernels/cuda/*.cuh; do
    found=$(${CC:-cc} -fpreprocessed -E -P -x c "$file" 2>/dev/null | grep -iEo "\b($families)[a-z0-9_]*" | sort -u | paste -sd ' ')
    if [ -z "$found" ]; then passed=$((passed + 1)); else
        echo "$file names an architecture: $found"
        failed=$((failed + 1))
    fi
done
commands=$(sed -n 's/^ *\(build\/[a-z_]* .*\|tests\/[a-z/]*\.sh .*\)/\1/p' docs/adding-an-architecture.md | grep -v python)
[ "$(echo "$commands" | wc -l)" -eq 5 ] || { echo "docs/adding-an-architecture.md: not five commands"; failed=$((failed + 1)); }
while read -r command; do
    if out=$(EXLC_OPTIMIZE=-O1 sh -c "$command" 2>&1); then passed=$((passed + 1)); else
        echo "docs/adding-an-architecture.md: $command: $out"
        failed=$((failed + 1))
    fi
done <<END
$commands
END
echo "$passed passed, $failed failed, 0 skipped"
[ "$failed" -eq 0 ]

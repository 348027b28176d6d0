#!/bin/sh
# The chat command: tests/chat.sh PROGRAM CHAT, the bundled model and the same with
# tests/server/chat_template.jinja. Prints "N passed, N failed, N skipped".
program=$1 chatting=$2
work=build/tests/chat
rm -rf "$work"
mkdir -p "$work"
passed=0 failed=0

check() { # NAME COMMAND...
    name=$1
    shift
    if "$@" 2>/dev/null; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "FAILED: $name"
        cat "$work/out" "$work/err"
    fi
}
# Lines, as printf has them, to a chat; options behind. Greedy, with a few tokens an answer.
talk() {
    lines=$1
    shift
    printf "$lines" | "$chatting" chat -n 6 --temperature 0 --device cpu "$@" >"$work/out" 2>"$work/err"
}
raw() {
    lines=$1
    shift
    printf "$lines" | "$program" chat --raw -n 6 --temperature 0 --device cpu "$@" >"$work/out" 2>"$work/err"
}
saved() { # a member of the Nth saved message
    sed -n "/^ {/,/^ }/p" "$work/saved" | awk -v n="$1" -v key="\"$2\"" '/^ {/ { i++ } i == n && $1 == key ":" {
        sub(/^[^:]*: "/, ""); sub(/",?$/, ""); print }'
}
file=$work/saved

raw '/help\n'
for letter in h sp r e x t cc mli tps probs ban think n save load clear; do
    check "there is /$letter" grep -q "/$letter " "$work/err"
done
raw '/frob\n/n\n/clear x\n/t\nThe city of Paris\n'
check "an unknown command" grep -q "no command /frob" "$work/err"
check "a missing value" grep -q "/n needs TOKENS" "$work/err"
check "a value too many" grep -q "/clear takes no value" "$work/err"
check "the next line is answered" [ "$(cat "$work/out")" = "$($program run -p 'The city of Paris' -n 6 --device cpu)" ]

# Raw text: the answer anew, and as it is edited.
raw "The city of Paris\n/retry\n/save $file\n"
check "retry answers the same" [ "$(head -n 1 "$work/out")" = "$(tail -n 1 "$work/out")" ]
check "and once only" [ "$(cat "$file")" = "The city of Paris$(head -n 1 "$work/out")" ]
raw "The city of Paris\n/edit  was\n/save $file\n"
more=$($program run -p 'The city of Pariswas' -n 6 --temperature 0 --device cpu)
check "an edited answer goes on" [ "$(tail -n 1 "$work/out")" = "was$more" ]
check "and takes the other's place" [ "$(cat "$file")" = "The city of Pariswas$more" ]
raw '/edit x\n/retry\n/cc\n'
check "nothing to edit" grep -q "no answer to edit" "$work/err"
check "nothing to retry" grep -q "no answer to try again" "$work/err"
raw 'The city of Paris\n/edit\n'
check "no editor without a terminal" grep -q "without a terminal" "$work/err"

# Conversations.
talk "Hi\n/edit The king of\n/save $file\n"
check "the assistant's message begins as it was edited" [ "$(saved 2 content | cut -c 1-11)" = "The king of" ]
check "is shown whole" grep -qx "The king of the Kingdom.*" "$work/out"
check "and ends the conversation" [ "$(grep -c '"role"' "$file")" -eq 2 ]
talk "Hi\n/retry And you?\n/save $file\n"
check "retry with another message" [ "$(saved 1 content) $(grep -c '"role"' "$file")" = "And you? 2" ]
talk "/mli\nHi\n/x\n\nyou\n.\n/mli\nOne\n/save $file\n"
check "several lines are one message" [ "$(saved 1 content)" = 'Hi\n/x\n\nyou' ]
check "and again one line" [ "$(saved 3 content)" = One ]

# What it may say.
talk 'Hi\n' --think on
check "it thinks" [ "$(tail -n 1 "$work/out")" = "" ]
thought=$(tail -n +2 "$work/err")
talk '/think off\nHi\n'
said=$(cat "$work/out")
check "it does not think" [ -n "$said" ]
talk 'Hi\n' --think off
check "from the start" [ "$said" = "$(cat "$work/out")" ]
talk '/think off\n/think\nHi\n'
check "it thinks again" [ "$thought" = "$(tail -n +4 "$work/err")" ]
check "so does run" [ "$said" = "$($chatting run --chat -p Hi -n 6 --think off --device cpu --temperature 0)" ]
raw '/think\n'
check "raw text has no switch" grep -q "no switch" "$work/err"
raw '/ban " the"\nThe city of Paris is\n/ban\n/retry\n/ban " the"\n/retry\n'
check "a ban is listed" grep -q '^" the"$' "$work/err"
check "it holds" [ "$(sed -n '1,2p' "$work/out" | grep -c ' the')" -eq 0 ]
check "until it is lifted" [ "$(sed -n 3p "$work/out")" = "$($program run -p 'The city of Paris is' -n 6 --device cpu)" ]
raw '/temp 5\n/temp 0\n/temp -1\nThe city of Paris\n' --seed 1
check "the temperature" [ "$(cat "$work/out")" = "$($program run -p 'The city of Paris' -n 6 --device cpu)" ]
check "may not be negative" grep -q "expected a number from 0" "$work/err"

# What it shows.
raw '/probs 2\nThe city of Paris\n/probs 0\n/retry\n/t\n'
check "a line a token, with its likeliest" [ "$(grep -c '^0\.[0-9]* "[^"]*"  [01]\.[0-9]* "[^"]*"  0\.[0-9]* "' "$work/err")" -eq 6 ]
check "greedy tokens are the likeliest" [ "$(grep -c '^\(0\.[0-9]* "[^"]*"\)  \1' "$work/err")" -eq 6 ]
check "the tokens" [ "$(sed -n 's/^ *[0-9]* "\(.*\)"$/\1/p' "$work/err" | tr -d '\n')" = "$(head -n 1 "$work/out")" ]
raw '/tps\nThe city of Paris\n'
check "the speed" grep -q '^\[[0-9]* prompt tokens, .* tokens/s\]$' "$work/err"

# On a terminal.
terminal() { # TYPED [VARIABLE=VALUE...]
    typed=$1
    shift
    (sleep 1; printf "$typed"; sleep 1) | env TERM=xterm "$@" script -qec \
        "$chatting chat -n 6 --temperature 0 --device cpu" /dev/null >"$work/out" 2>"$work/err"
}
escape=$(printf '\033')
if command -v script >/dev/null; then
    terminal 'Hi\n/x\n'
    check "reasoning is dim on a terminal" grep -q "$escape\[2m" "$work/out"
    terminal 'Hi\n/x\n' NO_COLOR=1
    check "not where colours are unwanted" sh -c "! grep -q '$escape\[2m' $work/out"
    # Ctrl-C ends an answer that would fill the context, and the conversation goes on.
    (sleep 1; printf '/tps\nThe city of Paris\n'; sleep 0.4; printf '\003'; sleep 0.4; printf '/t\n/x\n'; sleep 0.4) |
        env TERM=xterm script -qec "$program chat --raw -n 100000 --temperature 0 --device cpu" /dev/null \
            >"$work/out" 2>"$work/err"
    check "Ctrl-C stops an answer" [ "$(sed -n 's/.* s; \([0-9]*\) tokens, .*/\1/p' "$work/out" | head -n 1)" -lt 1900 ]
    check "and nothing else" [ "$(tail -c 200 "$work/out" | grep -c '/x')" -eq 1 ]
    printf '#!/bin/sh\nprintf "The king of\\n" >"$1"\n' >"$work/editor"
    chmod +x "$work/editor"
    terminal "Hi\n/edit\n/save $file\n/x\n" EDITOR="$PWD/$work/editor"
    check "an editor's text is continued" [ "$(saved 2 content | cut -c 1-11)" = "The king of" ]
    talk "/load $file\n/edit \`\`\`c\n/save $file\n"
    sed -i 's/"content": "```.*"/"content": "a\\n```c\\nint x;\\n```\\nb\\n```\\nlast\\n```"/' "$file"
    terminal "/load $file\n/cc 2\n/cc 3\n/x\n"
    check "a block goes to the clipboard" grep -qF "52;c;$(printf 'int x;\n' | base64)" "$work/out"
    check "a third one is not there" grep -q "no such block" "$work/out"
fi

echo "$passed passed, $failed failed, 0 skipped"
[ "$failed" -eq 0 ]

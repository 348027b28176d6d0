#!/bin/sh
# What a user meets at the command line: the compiler's and the program's answers, good and bad.
#   tests/cli.sh BUILDDIR PROGRAM CHAT   the bundled model, compiled, without and with a chat template
set -u
build=$1 program=$2 chatting=$3
work=$build/tests/cli
rm -rf "$work"
mkdir -p "$work"
passed=0 failed=0 skipped=0
check() { # what, command ...
    what=$1
    shift
    if "$@"; then passed=$((passed + 1)); else echo "FAILED: $what"; failed=$((failed + 1)); fi
}
# Runs a command that must end with a status and one line on stderr that contains a text.
refuses() { # status, text, command ...
    want=$1 text=$2
    shift 2
    "$@" >"$work/out" 2>"$work/err" </dev/null
    status=$?
    if [ $status -eq "$want" ] && [ "$(wc -l <"$work/err")" -eq 1 ] && grep -qF -- "$text" "$work/err"; then
        passed=$((passed + 1))
    else
        echo "FAILED: $*: status $status (expected $want), stderr (expected '$text'):"
        head -n 5 "$work/err"
        failed=$((failed + 1))
    fi
}

# --- the compiler ---------------------------------------------------------------------------------
check "version" sh -c "$build/exlc --version | grep -q '^exlc [0-9]'"
check "help" sh -c "$build/exlc --help | grep -q 'exlc build DIR -o FILE'"
check "licenses" sh -c "$build/exlc --licenses | grep -q 'Permission is hereby granted'"
refuses 2 "unknown command" $build/exlc frobnicate
refuses 2 "unknown option" $build/exlc build x -o y --wrong
refuses 2 "needs -o FILE" $build/exlc build x
refuses 2 "expected a whole number" $build/exlc build x -o y --max-batch 0
refuses 1 "No such" $build/exlc build "$work/nowhere" -o "$work/p" --target cpu
refuses 1 "not there yet" $build/exlc quantize
refuses 2 "multiple of 128" $build/exlc bench-kernels --shape 100x300
refuses 2 "goes without a directory" $build/exlc bench-kernels tests/server/bare --shape 128x128
refuses 1 "NVIDIA driver" env CUDA_VISIBLE_DEVICES= $build/exlc bench-kernels tests/server/bare

model() { # a copy of the bundled model's small files with its weights linked
    rm -rf "$work/model"
    mkdir "$work/model"
    cp examples/wikilm/*.json "$work/model"
    ln examples/wikilm/model.safetensors "$work/model" 2>/dev/null ||
        cp examples/wikilm/model.safetensors "$work/model"
}
model
sed -i 's/"LlamaForCausalLM"/"WombatForCausalLM"/' "$work/model/config.json"
refuses 1 "WombatForCausalLM" $build/exlc build "$work/model" -o "$work/p" --target cpu
model
sed -i 's/"hidden_size": 512/"hidden_size": 640/' "$work/model/config.json"
refuses 1 "model." $build/exlc build "$work/model" -o "$work/p" --target cpu
model
sed -i 's/"hidden_act": "silu"/"hidden_act": "gelu"/' "$work/model/config.json"
refuses 1 "hidden_act" $build/exlc build "$work/model" -o "$work/p" --target cpu
model
sed -i 's/"rope_type": "default"/"rope_type": "dynamic"/' "$work/model/config.json"
refuses 1 "dynamic" $build/exlc build "$work/model" -o "$work/p" --target cpu
model
head -c 1000 examples/wikilm/model.safetensors >"$work/short"
rm "$work/model/model.safetensors"
mv "$work/short" "$work/model/model.safetensors"
refuses 1 "model.safetensors" $build/exlc build "$work/model" -o "$work/p" --target cpu
model
printf '{' >"$work/model/config.json"
refuses 1 "config.json" $build/exlc build "$work/model" -o "$work/p" --target cpu
model
refuses 2 "name of a file" $build/exlc build "$work/model" -o "$work/" --target cpu
refuses 2 "expected all or a list" $build/exlc build "$work/model" -o "$work/p" --sm 90x
refuses 1 "not there" $build/exlc build "$work/model" --emit "$work/model" --target cpu
refuses 1 "no-such-dir" $build/exlc build "$work/model" -o "$work/no-such-dir/p" --target cpu
refuses 1 "directory" $build/exlc build "$work/model" -o "$work/model" --target cpu
check "nothing is left of refused builds" [ ! -e "$work/p" ]
check "no work directory is left" sh -c "! ls -d $work/.p.* 2>/dev/null"

# What is no file, what is not there, what may not grow.
rm "$work/model/config.json"
mkfifo "$work/model/config.json"
refuses 1 "not a regular file" timeout 20 $build/exlc build "$work/model" -o "$work/p" --target cpu
model
refuses 1 "File too large" sh -c "ulimit -f 1000; $build/exlc build $work/model -o $work/p --target cpu"
rm "$work/model/tokenizer.json"
refuses 0 "no tokenizer.json: the program will take" env EXLC_OPTIMIZE=-O0 $build/exlc build "$work/model" -o "$work/ids" --target cpu
sed -i 's/"max_position_embeddings": 2048/"max_position_embeddings": 1024/' "$work/model/config.json"
cp examples/wikilm/tokenizer.json "$work/model"
refuses 0 "--max-context: 2048: the model was made for 1024 tokens" env EXLC_OPTIMIZE=-O0 $build/exlc build "$work/model" \
    -o "$work/long" --target cpu --max-context 2048
refuses 0 "a context of 2048 tokens, and the model was made for 1024" "$work/long" run -p x -n 1 --max-context 2048 --device cpu
check "nothing is said within" sh -c "[ -z \"\$($work/long run -p x -n 4 --max-context 1024 --device cpu 2>&1 >/dev/null)\" ]"
rm "$work/long"
refuses 1 "had no tokenizer.json" "$work/ids" run -p x
rm "$work/ids"
model

# C compilers that are missing, that fail, that are killed.
printf '#!/bin/sh\nkill -9 $$\n' >"$work/killed-cc"
printf '#!/bin/sh\necho "In file included from x:\nx.c:1:2: Error: no such thing" >&2\nexit 1\n' >"$work/failing-cc"
chmod +x "$work/killed-cc" "$work/failing-cc"
refuses 1 "no-such-cc: No such file or directory" env CC=no-such-cc $build/exlc build "$work/model" -o "$work/p" --target cpu
refuses 1 "x.c:1:2: Error: no such thing" env CC="$PWD/$work/failing-cc" $build/exlc build "$work/model" -o "$work/p" --target cpu
refuses 1 "ended by signal 9" env CC="$PWD/$work/killed-cc" $build/exlc build "$work/model" -o "$work/p" --target cpu

# A build that is killed leaves nothing.
for signal in TERM KILL; do
    $build/exlc build "$work/model" -o "$work/killed" --target cpu 2>/dev/null &
    pid=$!
    sleep 0.7
    kill -$signal $pid
    wait $pid 2>/dev/null
    sleep 0.5
    check "SIG$signal leaves nothing" sh -c "! ls -d $work/killed $work/.killed* 2>/dev/null"
done

# Chat templates: one that works, one that does not and is no reason to do without the model.
mkdir "$work/model/additional_chat_templates"
cp tests/data/templates/instruct.jinja "$work/model/chat_template.jinja"
printf 'a\n{%% if %%}' >"$work/model/additional_chat_templates/broken.jinja"
printf '{"messages": [{"role": "user", "content": " Hi "}]}' >"$work/request"
printf '{"messages": [{"role": "assistant", "content": "Hi"}]}' >"$work/wrong"
template() { # PROGRAM [DIR]: what it makes of the request
    "$1" template ${2:+"$2"} <"$work/request" 2>/dev/null | head -n 1
}
check "exlc template" sh -c "echo '$(template $build/exlc "$work/model")' | grep -qF '<|begin_of_text|>[INST] Hi [/INST]Today is '"
echo '{"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "NVFP4"}}' >"$work/model/hf_quant_config.json"
cp "$work/model/config.json" "$work/config.json"
sed -i 's/"quantization_config"/"nothing"/' "$work/model/config.json"
refuses 1 'hf_quant_config.json: quantization.quant_algo is "NVFP4"' $build/exlc inspect "$work/model"
rm "$work/model/model.safetensors"
check "inspect of a config" sh -c "$build/exlc inspect '$work/model' | grep -q 'unsupported  .*quant_algo is \"NVFP4\"'"
rm "$work/model/hf_quant_config.json"
cp "$work/config.json" "$work/model"
sed -i '0,/{/s//{"vision_config": {}, /' "$work/model/config.json"
ln examples/wikilm/model.safetensors "$work/model" 2>/dev/null || cp examples/wikilm/model.safetensors "$work/model"
check "inspect names parts" sh -c "$build/exlc inspect '$work/model' | grep -q 'unsupported  images: only the text part'"
mv "$work/config.json" "$work/model"
check "inspect lists templates" sh -c "$build/exlc inspect '$work/model' | grep -q 'templates    default, broken'"
check "inspect names the line" sh -c "$build/exlc inspect '$work/model' | grep -q 'broken.jinja: line 2: '"
check "what a template refuses" sh -c "! $build/exlc template '$work/model' <$work/wrong 2>&1 | grep -v ': Conversation roles must alternate'"
check "a broken template" sh -c "! $build/exlc template '$work/model' --name broken <$work/request 2>&1 | grep -v 'broken.jinja: line 2'"
refuses 1 "line 1" $build/exlc template "$work/model"
refuses 1 "no chat template" sh -c "$build/exlc template examples/wikilm <$work/request"
refuses 2 "needs a model directory" $build/exlc template

# Same input, same bytes.
$build/exlc build "$work/model" --target cpu --cache-bits 8,4 --emit "$work/one" 2>"$work/err"
$build/exlc build "$work/model" --target cpu --cache-bits 8,4 --emit "$work/two" 2>>"$work/err"
check "the broken template is named" sh -c "grep -q 'broken.jinja: line 2: ' $work/err && [ \$(wc -l <$work/err) -eq 2 ]"
check "emitted programs are equal" diff -rq -x '*.o' -x program "$work/one" "$work/two"
check "the stack is not executable" sh -c "readelf -lW $program | grep GNU_STACK | grep -q 'RW '"
check "a full disk is told" sh -c "! $program --help >/dev/full 2>$work/err && ! $build/exlc --help >/dev/full 2>>$work/err"
check "the emitted Makefile builds" sh -c "make -s -C $work/one CFLAGS='-std=gnu11 -O1 -I.' >/dev/null 2>&1 && \
    $work/one/model run -p 'The city' -n 4 >/dev/null"

check "a program takes the most bits it was built for" sh -c "$work/one/model info --device cpu | grep -q 'keys in 8 bits, values in 8'"
refuses 2 "built for 8 4" $work/one/model info --device cpu --cache-bits 16

refuses 1 "no switch for reasoning" $work/one/model run --chat -p x --think off --device cpu
refuses 1 "no switch for reasoning" $work/one/model chat --think on --device cpu
refuses 2 "goes with --chat" $program run -p x --think on
refuses 2 "goes without --raw" $program chat --raw --think on
check "the program renders alike" [ "$(template $work/one/model)" = "$(template $build/exlc "$work/model")" ]
refuses 1 "Conversation roles must alternate" sh -c "$work/one/model template <$work/wrong"
prompt=$($work/one/model template <"$work/request" | sed 's/<|begin_of_text|>//') # run adds it
said=$($work/one/model run -p "$prompt" -n 8 --device cpu)
check "run --chat continues its prompt" [ "$said" = "$($work/one/model run --chat -p ' Hi ' -n 8 --device cpu)" ]
check "chat does too" [ "$said" = "$(echo ' Hi ' | $work/one/model chat -n 8 --device cpu 2>"$work/err")" ]

# --- the program ----------------------------------------------------------------------------------
check "needs libc, libm and the loader only" sh -c "[ -z \"\$(readelf -d $program | grep NEEDED |
    grep -vE 'libc\.so\.6|libm\.so\.6|ld-linux')\" ]"
check "no command explains" sh -c "$program | grep -q LlamaForCausalLM"
for command in run chat serve batch bench info tokenize template logits eval verify selftest; do
    check "$command has help" sh -c "$program $command -h | grep -q '^wikilm $command'"
done
check "help lists a command's own options" sh -c "$program bench --help | grep -q -- --device && \
    ! $program bench --help | grep -q -- --port"
refuses 2 "unknown command" $program frobnicate
refuses 2 "unknown option" $program run --wrong
refuses 2 "needs -p" $program run
refuses 2 "-p PROMPT or -f FILE" $program run -p x -f "$work/prompt"
refuses 1 "no-such" $program run -f "$work/no-such"
refuses 2 "run takes no 'The city'" $program run -n 1 'The city'
refuses 2 "needs ppl or kl" $program eval
refuses 1 "'a' is no token id" sh -c "echo 1 a | $program tokenize --decode"
refuses 2 "expected a number" $program run -p x --temperature warm
refuses 1 "do not fit" $program logits --ids 1,2,3 --max-context 2 -o "$work/o"
refuses 1 "expected 0 to 4095" $program logits --ids 4096 -o "$work/o"
refuses 1 "no-such" $program logits --ids 1 -o "$work/no-such/o"
refuses 1 "no-such" $program eval ppl --text "$work/no-such"
refuses 2 "chat takes no --port" $program chat --port 1
refuses 1 "no chat template" $program chat
check "keys are not printed" sh -c "$program serve --api-key secret --print-config | grep -e -key | grep -c '^# a.*-key is' | grep -qx 2"
refuses 2 "a multiple of 256" $program run -p Hi --chunk 100 --deterministic
refuses 1 "no chat template" $program run --chat -p x
refuses 1 "UTF-8" $chatting run --chat -p "$(printf 'a\377')"
check "a chat's reasoning goes to stderr" sh -c "[ -z \"\$($chatting run --chat -p Hi -n 4 --device cpu 2>$work/err)\" ] && [ -s $work/err ]"
check "and has a place of its own in JSON" sh -c "$chatting run --chat -p Hi -n 4 --json --device cpu |
    grep -q '\"text\": \"\", \"reasoning_content\": \"..*\", \"ids\"'"
check "a chat remembers" sh -c "printf 'Hi\nAnd?\n/save $work/saved\n' | $chatting chat -n 4 --device cpu >/dev/null 2>&1 &&
    [ \$(grep -c '\"reasoning_content\"' $work/saved) -eq 2 ]"
mkfifo "$work/pipe"
refuses 1 "no regular file" $program logits --ids 1 -o "$work/pipe" --device cpu
check "the program has a version" sh -c "$program --version | grep -q exlc"
refuses 1 "are needed" $program eval ppl --text tests/data/wiki.txt --cache-tokens 256 --device cpu
refuses 2 "built for 16 8 7" $program bench --cache-bits 9
refuses 2 "bits of keys and of values" $program run -p x --cache-bits 8,8,8
refuses 2 "goes with --device cuda" $program run -p x --host-cache 1G --device cpu
refuses 2 "EXLC_HOST_CACHE goes with" env EXLC_HOST_CACHE=1G $program serve --device cpu
refuses 2 "no recurrent layers" $program run -p x --saved-states 4 --device cpu
refuses 2 "whole number" $program run -p x --host-cache 1T --device cpu
refuses 2 "16 and 2 to 8" $build/exlc build examples/wikilm -o "$work/x" --cache-bits 8,9
check "info follows --cache-bits" sh -c "$program info --json --device cpu --cache-bits 8,4 |
    grep -q '\"cache_bytes_per_token\": 2496'"
kl() { $program eval kl --text tests/data/wiki.txt --windows 2 --device cpu --cache-bits $1 | sed -n 's/^kl //p'; }
check "a cache of 16 bits changes nothing" [ "$(kl 16)" = 0.000000 ]
check "8 bits change little, 4 more" sh -c "echo $(kl 8) $(kl 8,4) $(kl 4) |
    awk '{ exit !(\$1 < 1e-4 && \$1 < \$2 && \$2 < \$3 && \$3 < 0.03) }'"
check "bench reads several prompts before it decodes" sh -c "timeout 60 $program bench --prompt 8 --batch 3 \
    --context 90 --gen 2 --chunk 16 --device cpu | grep -q '^decode.*batch   3  context     90'"
check "serve's defaults for requests" sh -c "EXLC_TOP_K=40 $program serve --temperature 0.7 --print-config >$work/out &&
    grep -qx 'temperature = 0.7' $work/out && grep -qx 'top-k = 40' $work/out && grep -q '^# top-p is not set' $work/out"
printf 'port = 99\n[section]\n# nothing\ncors = "*"\nmax-queue = 7\n' >"$work/config"
check "serve reads file, environment and options in turn" sh -c "EXLC_MAX_QUEUE=8 EXLC_PORT=98 \
    $program serve --config $work/config --port 97 --print-config >$work/out && \
    grep -q '^port = 97' $work/out && grep -q '^max-queue = 8' $work/out && grep -qF 'cors = \"*\"' $work/out"
echo 'prot = 1' >"$work/config"
refuses 2 "config:1: unknown option prot" $program serve --config "$work/config"
refuses 1 "no-such" $program serve --config "$work/no-such"
echo 'port = 8x' >"$work/config"
refuses 2 "config:1: port 8x: expected a whole number" $program serve --config "$work/config"
refuses 2 "EXLC_PORT 8x: expected a whole number" env EXLC_PORT=8x $program serve
refuses 2 "EXLC_DEVICE tpu: expected cpu" env EXLC_DEVICE=tpu $program serve
refuses 2 "EXLC_LOG_REQUESTS maybe: expected true or false" env EXLC_LOG_REQUESTS=maybe $program serve
refuses 2 "EXLC_MAX_CONTEXT 9999: this program was built for at most 2048" env EXLC_MAX_CONTEXT=9999 $program serve --device cpu
refuses 1 "tests/cli: Is a directory" $program serve --config "$work" --print-config
refuses 2 "--api-key needs a text" $program serve --api-key "" --print-config
refuses 2 "--admin-key needs a text" $program serve --admin-key "" --print-config
printf 'api-key =\n' >"$work/config"
refuses 2 "config:1: api-key needs a text" $program serve --config "$work/config"
check "an unknown host" sh -c "! $program serve --host no.host.invalid --device cpu 2>&1 | tail -n 1 | grep -qv -- '--host no.host.invalid: '"
refuses 2 "--batch 1000: this program was built for at most 16" $program bench --batch 1000
refuses 2 "--batch 4 is more than --max-batch 2" $program bench --batch 4 --max-batch 2
refuses 2 "run takes no --context" $program run --context 5
check "run --json says where the start's time went" sh -c "$program run -p x -n 1 --json --device cpu |
    sed 's/.*\"start\": {//' | tr -d '\"{}: ' | tr , '\n' | sed 's/[a-z_]*/& /' |
    awk '\$1 == \"total\" { total = \$2; next } { sum += \$2 } \$1 == \"first_token\" { seen = 1 }
         END { exit !(seen && total > 0 && sum - total < 1e-3 && total - sum < 1e-3) }'"

# eval kl against recorded logits and against another program, whose figures awk has worked out too.
numbers() { # FILE ROWS: the logits, a value a line
    skip=$((8 + $(od -An -tu8 -N8 "$1")))
    od -An -v -tf4 -w4 -j $skip -N $(($2 * 4096 * 4)) "$1"
}
divergence() { # A B ROWS: mean and largest divergence of B from A, equal likeliest, share of the five likeliest
    numbers "$1" $3 >"$work/a" && numbers "$2" $3 >"$work/b" && paste "$work/a" "$work/b" | awk '
        function top(values, best,    i, j, k) {
            for (i = 0; i < 5; i++) {
                best[i] = -1
                for (j = 0; j < 4096; j++) {
                    for (k = 0; k < i && best[k] != j; k++);
                    if (k == i && (best[i] < 0 || values[j] > values[best[i]])) best[i] = j
                }
            }
        }
        { a[n] = $1; b[n] = $2; n++ }
        n == 4096 {
            p = q = kl = 0
            for (i = 0; i < n; i++) { p += exp(a[i]); q += exp(b[i]) }
            for (i = 0; i < n; i++) kl += exp(a[i]) / p * (a[i] - log(p) - b[i] + log(q))
            top(a, x); top(b, y)
            same += x[0] == y[0]
            for (i = 0; i < 5; i++) for (j = 0; j < 5; j++) five += x[i] == y[j]
            sum += kl; if (kl > most) most = kl
            rows++; n = 0
        }
        END { printf "%.5f %.5f %.3f %.3f\n", sum / rows, most, same / rows, five / 5 / rows }'
}
measured() { # of JSON on stdin
    tr -d '"{}:' | tr , '\n' | awk '{ v[$1] = $2 }
        END { printf "%.5f %.5f %.3f %.3f\n", v["kl"], v["kl_max"], v["top1"], v["top5"] }'
}
$program logits --device cpu --ids 0,5,100,7,33,900,41 -o "$work/wide"
$program logits --device cpu --ids 0,5,100,7,33,900,41 --cache-bits 3 -o "$work/narrow"
want=$(divergence "$work/wide" "$work/narrow" 7)
got=$($program eval kl --device cpu --reference "$work/wide" --cache-bits 3 --json | measured)
check "eval kl against a file: $got, expected $want" [ "$got" = "$want" ]
text="--text tests/data/wiki.txt --context 40 --windows 3 --device cpu --json"
want=$($program eval kl $text --cache-bits 3)
got=$($program eval kl $text --cache-bits 3 --reference $program)
check "eval kl against a program: $got, expected $want" [ -n "$want" -a "$got" = "$want" ]
refuses 2 "holds the ids" $program eval kl --text tests/data/wiki.txt --reference "$work/wide"
refuses 1 "ended early" $program eval kl --text tests/data/wiki.txt --reference /bin/true
refuses 1 "no safetensors" $program eval kl --reference tests/data/wiki.txt
refuses 2 "goes with" $program logits --ids - -o "$work/x"
head -c 3000 "$work/wide" >"$work/short"
refuses 1 "cut short" $program eval kl --reference "$work/short"

check "help speaks of its own command" sh -c "! $program eval --help | grep -q 'bench\|serve' && $program bench --help | grep -q 'context LIST'"
check "raw chat continues lines" sh -c "[ \"\$(printf 'The city of Paris\n' |
    $program chat --raw -n 8 --device cpu 2>/dev/null)\" = \"\$($program run -p 'The city of Paris' -n 8 --device cpu)\" ]"
printf '\377\376' >"$work/bad"
check "invalid UTF-8 is refused" sh -c "! $program tokenize <$work/bad >/dev/null 2>$work/err"
check "verify" sh -c "$program verify | grep -q 'as built'"
check "selftest" sh -c "$program selftest --device cpu | grep -q 'equal when repeated'"
check "info as JSON" sh -c "$program info --json --device cpu | grep -q '\"cache_bytes_per_token\": 6144'"
check "info as JSON says how wide keys and values are" sh -c "$program info --json --device cpu --cache-bits 8,4 |
    grep -q '\"key_bits\": 8, \"value_bits\": 4'"
sized() { # of info --json: memory, tokens of cache, context
    $program info --json --device cpu "$@" | tr -d ' {}"' | tr , '\n' |
        awk -F: '{ v[$1] = $2 } END { print v["memory_bytes"], v["cache_tokens"], v["context"] }'
}
check "a GPU with room enough changes nothing" [ "$(sized --gpu-memory 1G)" = "$(sized)" ]
check "with less it takes as much cache as fits" sh -c "echo $(sized --gpu-memory 286M) $(sized --cache-tokens 1280) |
    awk '{ exit !(\$1 <= 30 * 1048576 && \$1 > 28 * 1048576 && \$2 < 2048 && \$2 % 256 == 0 && \$3 == \$2) }'"
check "of fewer bits more" sh -c "[ \"$(sized --gpu-memory 286M --cache-bits 4 | cut -d ' ' -f 2)\" = 2048 ]"
refuses 1 "do not hold this model" $program info --device cpu --gpu-memory 271M
refuses 1 "do not hold this model: with 2048 tokens" $program info --device cpu --gpu-memory 286M --max-context 2048
check "info has what is missing as null" sh -c "$program info --json --device cpu | grep -q '\"driver_min\": null'"

text='The city of Paris'
greedy=$($program run -p "$text" -n 24 --device cpu)
check "greedy repeats" [ "$greedy" = "$($program run -p "$text" -n 24 --device cpu)" ]
check "threads do not matter" [ "$greedy" = "$($program run -p "$text" -n 24 --device cpu --threads 1)" ]
check "chunks do not matter in 5 bits" [ "$($program run -p "$text" -n 24 --device cpu --cache-bits 5)" = \
    "$($program run -p "$text" -n 24 --device cpu --cache-bits 5 --chunk 2)" ]
check "chunks do not matter" [ "$greedy" = "$($program run -p "$text" -n 24 --device cpu --chunk 2)" ]
for set in avx2 generic; do
    check "$set writes the same" [ "$greedy" = "$(EXLC_CPU=$set $program run -p "$text" -n 24 --device cpu)" ]
done
printf '%s\n' "$text" >"$work/prompt"
check "a prompt in a file" [ "$greedy" = "$($program run -f "$work/prompt" -n 24 --device cpu)" ]
check "a prompt on standard input" [ "$greedy" = "$(printf '%s' "$text" | $program run -f - -n 24 --device cpu)" ]
drawn=$($program run -p "$text" -n 24 --temperature 1 --seed 7 --device cpu)
check "a seed repeats" [ "$drawn" = "$($program run -p "$text" -n 24 --temperature 1 --seed 7 --device cpu)" ]
check "another seed differs" [ "$drawn" != "$($program run -p "$text" -n 24 --temperature 1 --seed 8 --device cpu)" ]
check "top-k 1 is greedy" [ "$greedy" = "$($program run -p "$text" -n 24 --temperature 1 --top-k 1 --device cpu)" ]
stop=$(printf '%s' "$greedy" | cut -d ' ' -f 5)
check "a stop string ends the text before it" [ "$(printf '%s' "$greedy" | sed "s/$stop.*//")" = \
    "$($program run -p "$text" -n 24 --stop "$stop" --device cpu)" ]

# A file of requests: a line each, in their order, whoever is done first.
cat >"$work/requests" <<EOF
{"custom_id": "long", "prompt": "$text", "max_tokens": 24}
{"custom_id": "short", "method": "POST", "url": "/v1/completions", "body": {"prompt": "$text", "max_tokens": 1, "stream": true}}

{"prompt": "x", "temprature": 1}
not JSON
{"url": "/v1/nothing", "body": {}}
{"path": "/completions", "body": {"prompt": "$text", "max_tokens": 24}}
EOF
batch() { # options: id, status and text of each answer
    "$@" batch --device cpu -f "$work/requests" 2>"$work/err" |
        sed 's/^{"custom_id":\(null\|"[a-z]*"\),"response":{"status_code":\([0-9]*\),.*"text":"\([^"]*\)".*/\1 \2 \3/
             s/^{"custom_id":\(null\|"[a-z]*"\),"response":{"status_code":\([0-9]*\),.*"message":"\([^"]*\)".*/\1 \2 \3/'
}
cat >"$work/want" <<EOF
"long" 200 $greedy
"short" 200  is
null 400 Unrecognized request argument supplied: temprature
null 400 the line is no JSON: column 3: '[' or '{' expected near 'not'
null 400 neither a path of this server nor prompt, messages or input
null 200 $greedy
EOF
batch $program >"$work/got"
check "a file of requests" cmp "$work/want" "$work/got"
check "on standard input" sh -c "$program batch --device cpu <$work/requests 2>/dev/null | wc -l | grep -qx 6"
refuses 1 "no-such" $program batch -f "$work/no-such"
printf 'root ::= "it is " ("so" | "not so") "."\n' >"$work/grammar"
check "a grammar" sh -c "$program run -p '$text' --temperature 1 --grammar-file $work/grammar --device cpu | grep -qx 'it is so\.\|it is not so\.'"
check "a schema" sh -c "$program run -p '$text' --temperature 1 --json-schema '{\"type\": \"boolean\"}' --device cpu | grep -qx 'true\|false'"
check "a schema in a chat" sh -c "echo Hi | $program chat --raw --json-schema '{\"enum\": [\"a\"]}' --device cpu 2>/dev/null | grep -qx '\"a\"'"
refuses 1 "--json-schema: schema #/type" $program run -p x --json-schema '{"type": "x"}' --device cpu
refuses 1 "tests/cli.sh: line 4: expected '::='" $program run -p x --grammar-file tests/cli.sh --device cpu
refuses 1 "No such file" $program run -p x --grammar-file "$work/nowhere" --device cpu
refuses 2 "exclude each other" $program run -p x --grammar-file "$work/grammar" --json-schema '{}' --device cpu
check "JSON output" sh -c "$program run -p '$text' -n 3 --json --device cpu | grep -q '\"stop_reason\": \"length\"'"
check "a closed stdout is told" sh -c "! $program run -p '$text' -n 4 --device cpu >&- 2>$work/err && grep -q 'cannot write' $work/err"
check "chat tells it too" sh -c "! echo x | $program chat --raw -n 4 --device cpu >&- 2>$work/err && grep -q 'cannot write' $work/err"
$program serve --port 0 --device cpu <&- >&- 2>&- &
pid=$!
sleep 0.5
check "serve lives without standard streams" kill -TERM $pid
wait $pid
check "and ends well" [ $? -eq 0 ]
check "n 0 draws nothing" [ -z "$($program run -p "$text" -n 0 --device cpu)" ]
printf 'Grüße, 世界! \360\237\230\200' >"$work/text"
check "tokens and back" sh -c "$program tokenize --no-special <$work/text | $program tokenize --decode |
    cmp -s - $work/text"
check "exlc tokenizes alike" sh -c "[ \"\$($build/exlc tokenize examples/wikilm <$work/text)\" = \
    \"\$($program tokenize <$work/text)\" ]"
check "tokenize adds BOS" sh -c "$program tokenize <$work/text | grep -q '^0 '"

# Damaged programs say so.
cp "$program" "$work/stripped" && strip "$work/stripped"
refuses 1 "stripped" "$work/stripped" run -p x
head -c $(($(stat -c %s "$program") - 100000)) "$program" >"$work/cut" && chmod +x "$work/cut"
refuses 1 "truncated" "$work/cut" run -p x
cp "$program" "$work/flipped"
printf 'X' | dd of="$work/flipped" bs=1 seek=$(($(stat -c %s "$program") - 3000000)) conv=notrunc 2>/dev/null
refuses 1 "expected" "$work/flipped" verify

echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]

# What the tests are made of; included by the Makefile. Each test ends in "N passed, N failed, N
# skipped"; tests/run.sh adds those lines up.

TEST_CFLAGS = $(CFLAGS) $(LUA_CFLAGS) -I.
UNIT = $(patsubst tests/unit/%.c,$(B)/tests/unit/%,$(wildcard tests/unit/*.c))

$(B)/tests/%.o: tests/%.c
	@mkdir -p $(@D)
	$(CC) $(TEST_CFLAGS) -c $< -o $@
$(UNIT) $(B)/tests/archs/run: $(B)/tests/%: $(B)/tests/%.o $(PASSES) $(B)/embedded.o $(B)/libruntime.a
	@mkdir -p $(@D)
	$(CC) $(SANITIZE) -o $@ $< $(PASSES) $(B)/embedded.o $(B)/libruntime.a $(EXLC_LIBS)
$(B)/make_checkpoint $(B)/compare: $(B)/%: tests/models/%.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) -o $@ $< -lm
.PRECIOUS: $(B)/tests/%.o

# A driver without a GPU.
$(B)/tests/unit/driver: $(B)/tests/libcuda.so.1
$(B)/tests/libcuda.so.1: tests/fake_driver.c
	@mkdir -p $(@D)
	$(CC) $(TEST_CFLAGS) -shared -Wl,-soname,libcuda.so.1 -o $@ $<

# Fuzzers need clang and its runtime; without them the test says so.
FUZZ = safetensors config tokenizer template grammar
FUZZ_safetensors = compiler/checkpoint.c compiler/json.c compiler/util.c
FUZZ_config = $(FUZZ_safetensors) compiler/arch.c compiler/graph.c compiler/fuse.c compiler/choose.c \
              compiler/embedded.c $(B)/embedded.o
FUZZ_tokenizer = compiler/tokenizer.c compiler/json.c compiler/util.c runtime/tokens.c
FUZZ_template = $(patsubst %,compiler/%.c,template lexer tokenizer json util) \
                $(patsubst %,runtime/%.c,template value methods filters)
FUZZ_grammar = $(GRAMMARS)
GRAMMARS = $(patsubst %,runtime/%.c,apart gbnf grammar match merge notation pattern ranges schema)
# What the server reads, up to the real generator over a made-up model.
SERVED = request http
FUZZ_request = $(patsubst %,compiler/%.c,template lexer tokenizer json util) \
               $(GRAMMARS) \
               $(patsubst %,runtime/%.c,api answer base64 batch cache chat completions constrain conversation embeddings fields filters foreign \
                 frame generate mask messages methods metrics pools reply request responses sample sampling states template tier \
                 tokens value)
FUZZ_http = $(FUZZ_request) runtime/exchange.c runtime/keys.c runtime/readers.c runtime/server.c $(B)/page.o -l:libevent_extra.a -l:libevent_core.a
FUZZ_WRAP = $(foreach f,die arena_alloc arena_copy arena_format grow_array,-Wl$(comma)--wrap=$f)
FUZZ_WRAP_tokenizer = $(foreach f,die arena_alloc,-Wl$(comma)--wrap=$f)
$(B)/fuzz/%: tests/fuzz/%.c tests/fuzz/*.h compiler/*.c runtime/*.[ch] $(B)/embedded.o
	@mkdir -p $(@D)
	clang -std=gnu11 -D_GNU_SOURCE -g -O1 -I. $(LUA_CFLAGS) -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=undefined \
	    $(if $(filter $(SERVED) grammar,$*),,$(or $(FUZZ_WRAP_$*),$(FUZZ_WRAP))) \
	    $(if $(filter template,$*),-DRENDER_MAX_STEPS=200000u) -o $@ $< $(FUZZ_$*) \
	    -lcjson $(LUA_LIBS) -lpcre2-8 -lutf8proc -l:libjansson.a -lxxhash -lm

# The bundled model for the CPU alone.
$(B)/tests/wikilm: $(B)/exlc $(wildcard examples/wikilm/*)
	@mkdir -p $(@D)
	$(B)/exlc build examples/wikilm -o $@ --target cpu

# It again, with a chat template, and marks of replies among its special tokens.
CHATLM = $(B)/tests/models/chatlm
$(B)/tests/chatlm: $(B)/exlc $(wildcard examples/wikilm/*) tests/server/chat_template.jinja
	@mkdir -p $(CHATLM)
	@cp examples/wikilm/* tests/server/chat_template.jinja $(CHATLM)
	@sed -i 's|<.start_header_id.>|<tool_call>|; s|<.end_header_id.>|</tool_call>|; s|<.eot_id.>|</think>|' \
	    $(CHATLM)/tokenizer.json
	EXLC_OPTIMIZE=-O1 $(B)/exlc build $(CHATLM) -o $@ --target cpu

# A recurrent model with made-up weights that chats as that one does.
RECURRENT = $(B)/tests/models/recurrent
$(B)/tests/recurrent: $(B)/tests/chatlm tests/server/recurrent.json
	@mkdir -p $(RECURRENT)
	@cp $(CHATLM)/tokenizer*.json $(CHATLM)/generation_config.json $(CHATLM)/chat_template.jinja $(RECURRENT)
	@cp tests/server/recurrent.json $(RECURRENT)/config.json
	$(B)/exlc build $(RECURRENT) -o $@ --target cpu --random-weights 3 --bits 4 --codebook mul1 --head-bits 6

# A recorded case as models for embeddings are saved, its names without "model." in the second.
EMBED_CASE = llama-signs
$(B)/tests/embed-lasttoken $(B)/tests/embed-mean_tokens: $(B)/tests/embed-%: $(B)/exlc $(B)/make_checkpoint tests/models/cases.txt
	@rm -rf $(B)/tests/models/embed-$* && mkdir -p $(B)/tests/models/embed-$*/1_Pooling
	$(B)/make_checkpoint -c tests/models/cases.txt $(EMBED_CASE) $(B)/tests/models/embed-$*
	@echo '[{"type": "sentence_transformers.models.Transformer", "path": ""},' \
	    '{"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"}' \
	    $(if $(filter lasttoken,$*),'$(comma) {"type": "sentence_transformers.models.Normalize"$(comma) "path": "2"}') ']' \
	    > $(B)/tests/models/embed-$*/modules.json
	@echo '{"pooling_mode_$*": true, "pooling_mode_cls_token": false}' > $(B)/tests/models/embed-$*/1_Pooling/config.json
	@$(if $(filter mean_tokens,$*),LC_ALL=C sed -i 's/"model\./      "/g' $(B)/tests/models/embed-$*/model.safetensors)
	EXLC_OPTIMIZE=-O0 $(B)/exlc build $(B)/tests/models/embed-$* -o $@ --target cpu 2>/dev/null

$(B)/tests/serve: tests/server/run.c tests/server/client.h
$(B)/tests/load: tests/server/load.c tests/server/client.h
$(B)/tests/embed: tests/server/embed.c tests/server/client.h
$(B)/tests/serve $(B)/tests/load $(B)/tests/embed:
	@mkdir -p $(@D)
	$(CC) $(TEST_CFLAGS) -o $@ $< -l:libjansson.a -lm -lpthread

# A bare config.json, with made-up weights and no tokenizer.
$(B)/tests/bare: $(B)/exlc tests/server/bare/config.json
	@mkdir -p $(@D)
	$(B)/exlc build tests/server/bare -o $@ --target cpu --random-weights 3 --bits 4 --max-batch 32

# One quoted 'name: command' a test.
UNIT_TESTS = $(foreach u,$(UNIT) $(B)/tests/archs/run,'$(notdir $u): $u $(if $(filter %/run,$u),tests/archs/*.test)')
fuzz_tests = $(foreach f,$1,'fuzz $f: tests/fuzz.sh $(B) $f $(FUZZ_SECONDS)')
FUZZ_SECONDS = 4
QUICK = $(shell sed -n 's/^case \([^ ]*\).* quick.*/\1/p' tests/models/cases.txt)
CASES = $(shell sed -n 's/^case \([^ ]*\).*/\1/p' tests/models/cases.txt | grep -v '^base')
# On the CUDA target without a GPU.
EMULATED = qwen3-moe dots1 gpt-oss cohere qwen3-next decilm deepseek-v3 deepseek-v2-lite
EMULATED_PASS = decilm deepseek-v3 deepseek-v2-lite
CONVERTED = $(wildcard tests/models/converted/*/)
model_tests = 'models: EXLC_OPTIMIZE=-O1 tests/models/run.sh $(B) -j 2 $1 $(CONVERTED:/=)'

EMBED = $(B)/tests/embed $(B)/tests/embed-lasttoken $(B)/tests/embed-mean_tokens
embed_test = 'embeddings: $(EMBED) tests/models/expected/$(EMBED_CASE).safetensors'
TEST_PROGRAMS = $(B)/exlc $(B)/tests/wikilm $(B)/make_checkpoint $(B)/compare $(UNIT) $(B)/tests/archs/run \
                $(B)/tests/serve $(B)/tests/load $(B)/tests/chatlm $(EMBED)

# What needs no GPU and no Python, in minutes.
test: $(TEST_PROGRAMS)
	@tests/run.sh $(UNIT_TESTS) 'kernels: OPT=1 tests/kernels/run.sh quick' $(call fuzz_tests,$(FUZZ) request) \
	    $(call model_tests,$(QUICK)) 'architectures: tests/architectures.sh' \
	    --alone 'command line: tests/cli.sh $(B) $(B)/tests/wikilm $(B)/tests/chatlm' \
	    'conversations: tests/chat.sh $(B)/tests/wikilm $(B)/tests/chatlm' $(embed_test) \
	    'server: $(B)/tests/serve $(B)/tests/wikilm tests/data/wiki.txt $(B)/tests/chatlm' \
	    'server, soak: $(B)/tests/load -c 8 -p 100 -n 12 -t 3 $(B)/tests/wikilm'

# The full matrix: every case, format and compute capability, sanitizers, a minute of each fuzzer.
test-long: $(TEST_PROGRAMS) $(B)/tests/bare
	@tests/run.sh $(UNIT_TESTS) 'kernels: tests/kernels/run.sh full' \
	    'kernels with sanitizers: SAN=address,undefined OPT=1 tests/kernels/run.sh full' \
	    'device code: $(B)/tests/unit/device 80 86 89 90 100 120 0' \
	    'emulated CUDA: tests/kernels/cuda/build.sh $(B)/emulated emulated && $(B)/emulated/run' \
	    $(foreach c,$(EMULATED),'emulated $c: tests/models/emulate.sh $(B) $c') \
	    $(foreach c,$(EMULATED_PASS),'emulated $c, one launch: tests/models/emulate.sh $(B) -m persistent $c') \
	    $(call model_tests,$(CASES)) 'quality: tests/quality.sh $(B)/tests/wikilm cpu' \
	    'a million draws: DRAWS=1000000 $(B)/tests/unit/sample' \
	    --alone 'command line: tests/cli.sh $(B) $(B)/tests/wikilm $(B)/tests/chatlm' \
	    'conversations: tests/chat.sh $(B)/tests/wikilm $(B)/tests/chatlm' $(embed_test) \
	    'server, soak: $(B)/tests/load -c 32 -t 60 $(B)/tests/bare' \
	    'server: $(B)/tests/serve $(B)/tests/wikilm tests/data/wiki.txt $(B)/tests/chatlm'
	@$(MAKE) --no-print-directory FUZZ_SECONDS=60 test-fuzz
	@$(MAKE) --no-print-directory SAN=1 test-units
test-fuzz: $(B)/exlc
	@tests/run.sh $(call fuzz_tests,$(FUZZ) $(SERVED))
test-units: $(UNIT) $(B)/tests/archs/run
	@ASAN_OPTIONS=detect_leaks=0 tests/run.sh $(UNIT_TESTS)

# Python peers, in virtual environments of their own. TEMPLATES names directories with chat templates,
# SCHEMAS a file with a {"schema": ...} a line; SOAK is how many requests the server gets.
SOAK = 400
test-clients: $(B)/exlc $(B)/tokens_driver $(B)/template_driver $(B)/grammar_driver $(B)/make_checkpoint $(B)/tests/wikilm $(B)/tests/chatlm $(B)/tests/recurrent $(B)/tests/embed-lasttoken
	[ -x build/venv/bin/pip ] || python3 -m venv build/venv
	build/venv/bin/pip install -q 'tokenizers<0.23' numpy openai anthropic playwright 'jsonschema[format-nongpl]'
	[ -x build/venv-jinja/bin/pip ] || python3 -m venv build/venv-jinja
	build/venv-jinja/bin/pip install -q jinja2==3.1.6 transformers==5.23.0
	@tests/run.sh --alone 'tokenizers: build/venv/bin/python tests/clients/tokenizers.py --driver $(B)/tokens_driver \
	    $(wildcard tests/data/tokenizers/*) examples/wikilm' \
	    'chat templates: build/venv-jinja/bin/python tests/clients/templates.py $(B)/template_driver $(TEMPLATES)' \
	    'configs: build/venv-jinja/bin/python tests/clients/configs.py $(B)/exlc' \
	    'grammars: build/venv/bin/python -W ignore tests/clients/grammars.py $(B)/grammar_driver 20' \
	    'openai: build/venv/bin/python tests/clients/openai_client.py $(B)/tests/wikilm $(B)/tests/chatlm $(B)/tests/embed-lasttoken' \
	    'constrained: build/venv/bin/python tests/clients/constrained.py $(B)/tests/wikilm $(B)/tests/chatlm $(SCHEMAS)' \
    'anthropic: build/venv/bin/python tests/clients/anthropic_client.py $(B)/tests/wikilm $(B)/tests/chatlm' \
	    'page: build/venv/bin/python tests/clients/page.py $(B)/tests/wikilm $(B)/tests/chatlm' \
	    'soak: build/venv/bin/python tests/clients/soak.py $(B)/tests/chatlm tests/data/wiki.txt $(SOAK)' \
	    'soak, recurrent: build/venv/bin/python tests/clients/soak.py $(B)/tests/recurrent tests/data/wiki.txt $(SOAK)' \
	    'format: build/venv/bin/python tests/oracle/test_exl3.py' \
	    'checkpoints: build/venv/bin/python tests/oracle/test_checkpoints.py'
$(B)/tokens_driver: tests/tokens_driver.c $(B)/compiler/tokenizer.o $(B)/compiler/util.o $(B)/compiler/json.o $(B)/runtime/tokens.o
	$(CC) $(TEST_CFLAGS) -o $@ $^ -lcjson -lpcre2-8 -lutf8proc -lm

$(B)/grammar_driver: tests/grammar_driver.c $(patsubst %.c,$(B)/%.o,$(GRAMMARS))
	$(CC) $(TEST_CFLAGS) -o $@ $^ -l:libjansson.a -l:libutf8proc.a -lm

$(B)/template_driver: tests/template_driver.c $(patsubst %,$(B)/compiler/%.o,template lexer tokenizer util json) $(SHARED)
	$(CC) $(TEST_CFLAGS) -o $@ $^ -lcjson -l:libjansson.a -lpcre2-8 -lutf8proc -lm

# Every kernel and the whole program on the GPU that is here. build/exlc may come from elsewhere.
GPU_SM = $(shell nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -n 1 | tr -d .)
test-gpu: $(TEST_PROGRAMS)
	$(B)/exlc build examples/wikilm -o $(B)/wikilm-gpu --target cpu,cuda --sm $(GPU_SM)
	tests/kernels/cuda/build.sh $(B)/cuda $(patsubst 90,90a,$(patsubst 100,100a,$(GPU_SM)))
	@SM=$(GPU_SM) tests/run.sh --alone 'gpu: $(B)/tests/unit/gpu' 'kernels: $(B)/cuda/run' \
	    $(foreach m,graph steps,'models $m: tests/models/run.sh $(B) -d cuda -m $m $(CASES) $(CONVERTED:/=)') \
	    'CPU and CUDA agree: tests/agree.sh $(B) $(B)/wikilm-gpu' \
	    'quality: tests/quality.sh $(B)/wikilm-gpu cuda' \
	    'server: DEVICE=cuda $(B)/tests/serve $(B)/wikilm-gpu tests/data/wiki.txt' \
	    'server, soak: DEVICE=cuda $(B)/tests/load -c 16 -t 60 $(B)/wikilm-gpu' \
	    $(foreach t,memcheck racecheck,'$t: tests/sanitize.sh $(B) $t')

# The list of architectures, from the comments and names in archs/.
docs:
	tests/architectures.sh print > docs/architectures.md

# Rewrites the marked regions of templates/ after a change of what exlc emits.
templates: $(B)/tests/unit/templates
	$< update
	$(MAKE) --no-print-directory all

.PHONY: test test-long test-fuzz test-units test-clients test-gpu docs templates
-include $(UNIT:=.d)

# make        the compiler, build/exlc
# make run    installs what is missing, compiles the bundled model and lets it write
# make test   what needs no GPU and no Python, in minutes
# make test-long, test-clients, test-gpu: the full matrix; Python peers; every kernel on a GPU
# make deps, install PREFIX=, clean
# SAN=1 builds with the address and undefined-behaviour sanitizers, under build/san.

CC = cc
PREFIX = /usr/local
B = build$(if $(SAN),/san)
WARN = -Wall -Wextra -Werror
SANITIZE = $(if $(SAN),-fsanitize=address$(comma)undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer)
comma = ,
CFLAGS = -std=gnu11 -D_GNU_SOURCE -O2 -g $(WARN) -fPIC $(SANITIZE) -MMD -MP

COMPILER = $(patsubst compiler/%.c,$(B)/compiler/%.o,$(wildcard compiler/*.c))
RUNTIME = $(patsubst runtime/%.c,$(B)/runtime/%.o,$(wildcard runtime/*.c))
PASSES = $(filter-out $(B)/compiler/main.o,$(COMPILER))
STATIC_LIBS = pcre2-8 utf8proc xxhash event_core event_extra jansson edit tinfo bsd md
EXLC_LIBS = -lcjson $(LUA_LIBS) -lxxhash -l:libpcre2-8.a -l:libutf8proc.a -l:libjansson.a -ldl -lm -lpthread
LUA_LIBS = $(shell pkg-config --libs lua5.4 2>/dev/null || echo -llua5.4)
LUA_CFLAGS = $(shell pkg-config --cflags lua5.4 2>/dev/null || echo -I/usr/include/lua5.4)

# What exlc carries: the text of programs to come.
CARRIED = compiler/prelude.lua $(wildcard archs/* templates/* kernels/*.h kernels/cpu/*.h \
          kernels/cuda/*.h kernels/cuda/*.cuh runtime/*.h)

all: $(B)/exlc

# Commands that exlc has in common with the programs it makes.
SHARED = $(patsubst %,$(B)/runtime/%.o,filters input methods render template tokenize tokens value)

$(B)/exlc: $(COMPILER) $(B)/embedded.o $(SHARED)
	$(CC) $(SANITIZE) -o $@ $^ $(EXLC_LIBS)

$(B)/compiler/%.o: compiler/%.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(LUA_CFLAGS) -c $< -o $@

$(B)/runtime/%.o: runtime/%.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) -c $< -o $@

# The runtime and the libraries inside it, as one archive.
$(B)/libruntime.a: $(RUNTIME) $(B)/licenses.o $(B)/page.o
	@rm -f $@
	@( echo create $@; \
	  for o in $^; do echo addmod $$o; done; \
	  for l in $(STATIC_LIBS); do echo addlib $$($(CC) -print-file-name=lib$$l.a); done; \
	  echo save; echo end ) | ar -M

# Notices of what is inside, as the packages state them.
$(B)/licenses.txt: LICENSE Makefile
	@mkdir -p $(@D)
	@( cat LICENSE; for p in libpcre2-dev libutf8proc-dev libxxhash-dev libevent-dev libjansson-dev \
	      libedit-dev libtinfo6 libbsd-dev libmd-dev libcjson-dev liblua5.4-dev; do \
	    f=/usr/share/doc/$$p/copyright; [ -r $$f ] || continue; \
	    printf '\n---- %s ----\n\n' $$p; cat $$f; done ) > $@
$(B)/licenses.o: $(B)/licenses.txt Makefile
	@printf '.section .rodata\n.globl licenses_text\nlicenses_text:\n.incbin "%s"\n.byte 0\n.section .note.GNU-stack,"",@progbits\n' $< \
	    | $(CC) -c -x assembler - -o $@

# The page that the server shows.
$(B)/page.o: runtime/page.html Makefile
	@mkdir -p $(@D)
	@printf '.section .rodata\n.globl page_text, page_text_end\npage_text:\n.incbin "%s"\npage_text_end:\n.section .note.GNU-stack,"",@progbits\n' $< \
	    | $(CC) -c -x assembler - -o $@

# One symbol pair and one table row a file, sorted by name.
$(B)/embedded.o: $(CARRIED) $(B)/libruntime.a $(B)/licenses.txt compiler/embed.sh
	@compiler/embed.sh $(B)/libruntime.a=libruntime.a $(B)/licenses.txt=licenses.txt \
	    $(foreach f,$(CARRIED),$(f)=$(f)) > $(B)/embedded.S
	$(CC) -c $(B)/embedded.S -o $@

# --- dependencies ---------------------------------------------------------------------------------

PACKAGES = gcc libc6-dev pkg-config libcjson-dev liblua5.4-dev libpcre2-dev libutf8proc-dev libxxhash-dev \
           libevent-dev libjansson-dev libedit-dev libncurses-dev libbsd-dev libmd-dev
HEADERS = cjson/cJSON.h lua5.4/lua.h pcre2.h utf8proc.h xxhash.h event2/http.h jansson.h histedit.h \
          curses.h bsd/string.h md5.h

deps:
	@missing=; command -v $(CC) >/dev/null && command -v pkg-config >/dev/null || missing=tools; \
	for h in $(HEADERS); do [ -e /usr/include/$$h ] || missing="$$missing $$h"; done; \
	[ -z "$$missing" ] && exit 0; \
	sudo=; [ "$$(id -u)" = 0 ] || sudo=sudo; \
	if ! command -v apt-get >/dev/null || { [ -n "$$sudo" ] && ! sudo -n true 2>/dev/null; }; then \
	    echo "missing:$$missing. Install with:"; \
	    echo "  sudo apt-get install -y $(PACKAGES)"; exit 1; fi; \
	echo "installing $(PACKAGES)"; \
	$$sudo apt-get install -y -q $(PACKAGES) >/dev/null 2>&1 || \
	    { $$sudo apt-get update -q && $$sudo apt-get install -y -q $(PACKAGES); }

# --- the bundled model ----------------------------------------------------------------------------

# Where no GPU could run it, device code is not waited for.
GPU = $(wildcard /dev/nvidiactl /dev/dxg)
$(B)/wikilm: $(B)/exlc $(wildcard examples/wikilm/*)
	$(B)/exlc build examples/wikilm -o $@ $(if $(GPU),,--target cpu)

run: deps
	@$(MAKE) --no-print-directory $(if $(filter -j%,$(MAKEFLAGS)),,-j$$(nproc)) $(B)/wikilm
	$(B)/wikilm run -p "The city of Paris" -n 128 --temperature 0.8 --seed 1

# --- tests ----------------------------------------------------------------------------------------

include tests/tests.mk

install: $(B)/exlc
	install -D -m 755 $(B)/exlc $(DESTDIR)$(PREFIX)/bin/exlc

clean:
	rm -rf build

.PHONY: all deps run install clean
-include $(COMPILER:.o=.d) $(RUNTIME:.o=.d)

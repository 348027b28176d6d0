// Fuzzes compile_tokenizer_text, and the runtime on whatever it accepts. Built with
//
//     clang -fsanitize=fuzzer,address -Wl,--wrap=die,--wrap=arena_alloc
//
// and run with -detect_leaks=0 and ASAN_OPTIONS=detect_leaks=0: die jumps back here instead of
// ending the process, and what it leaves behind is lost. The memory of cJSON and most of the arena
// is given back after every input.
#include "../../compiler/tokenizer.h"
#include "../../runtime/tokens.h"
#include <cjson/cJSON.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>

static jmp_buf refused;
static void **blocks;
static size_t block_count, block_room;

static void *keep(size_t bytes)
{
    if (block_count == block_room) {
        block_room = block_room ? 2 * block_room : 1024;
        blocks = realloc(blocks, block_room * sizeof *blocks);
    }
    return blocks[block_count++] = calloc(1, bytes ? bytes : 1);
}

static void ignore(void *block)
{
    (void)block;
}

_Noreturn void __wrap_die(const char *where, const char *fmt, ...);
void *__wrap_arena_alloc(size_t bytes);

void __wrap_die(const char *where, const char *fmt, ...)
{
    (void)where, (void)fmt;
    longjmp(refused, 1);
}

void *__wrap_arena_alloc(size_t bytes)
{
    return keep(bytes);
}

static void use(const Buffer *tables)
{
    static const char text[] =
        " Hello  w\xc3\xb6rld's 12\n\n<s> \xe2\x96\x81 \xf0\x9f\x98\x80 aab</s>";
    Tokens *t;
    Error err;
    TokenList list = {0};
    TokenText decoded = {0};
    if (tokens_open(&t, tables->data, tables->bytes, &err)) return;
    for (int flags = 0; flags < 4; flags++)
        if (tokens_encode(t, text, sizeof text - 1, flags, &list, &err)) break;
    for (int32_t id = 0; id < tokens_count(t) && id < 64; id++) {
        TokenList one = {&id, 1, 1};
        tokens_decode(t, one.id, 1, id & 1, &decoded, &err);
    }
    tokens_decode(t, list.id, list.count, 0, &decoded, &err);
    free(list.id);
    free(decoded.data);
    tokens_close(t);
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t bytes)
{
    static Buffer tables;
    cJSON_InitHooks(&(cJSON_Hooks){keep, ignore});
    char *text = malloc(bytes + 1); // parse_json is given texts that end in a zero
    memcpy(text, data, bytes);
    text[bytes] = 0;
    tables.bytes = 0;
    if (!setjmp(refused)) {
        compile_tokenizer_text("fuzz", text, bytes, &tables);
        use(&tables);
    }
    free(text);
    while (block_count) free(blocks[--block_count]);
    return 0;
}

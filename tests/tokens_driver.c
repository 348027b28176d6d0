// Encodes and decodes for tests/clients/tokenizers.py: `tokens_driver DIR`, one request a line.
//
//     e HEX            ids of the text, without special tokens around it
//     s HEX            ids of the text, with them
//     p HEX            ids, special tokens in the text taken as text
//     d 0|1 ID ...     text of the ids in hex; 1 leaves special tokens out
//     b ID             bytes of a token in hex
//     n                size of the vocabulary
#include "../compiler/tokenizer.h"
#include "../runtime/tokens.h"
#include <stdlib.h>
#include <string.h>

static void fail(const char *what)
{
    fprintf(stderr, "tokens_driver: %s\n", what);
    exit(2);
}

static void print_hex(const char *s, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) printf("%02x", (unsigned char)s[i]);
    printf("\n");
}

static size_t read_hex(char *s)
{
    static const char digits[] = "0123456789abcdef";
    size_t n = 0;
    for (; s[2 * n] && s[2 * n + 1]; n++)
        s[n] = (char)((strchr(digits, s[2 * n]) - digits) << 4 |
                      (strchr(digits, s[2 * n + 1]) - digits));
    return n;
}

static void encode(const Tokens *t, int flags, char *hex)
{
    TokenList list = {0};
    Error err;
    if (tokens_encode(t, hex, read_hex(hex), flags, &list, &err)) fail(err.text);
    for (size_t i = 0; i < list.count; i++) printf(i ? " %d" : "%d", list.id[i]);
    printf("\n");
    free(list.id);
}

// The stream must give the same as decoding at once, and only whole characters.
static void decode(const Tokens *t, int skip_special, char *ids)
{
    TokenList list = {0};
    TokenText whole = {0}, parts = {0};
    Error err;
    for (char *word = strtok(ids, " "); word; word = strtok(NULL, " ")) {
        list.id = realloc(list.id, (list.count + 1) * sizeof *list.id);
        list.id[list.count++] = atoi(word);
    }
    if (tokens_decode(t, list.id, list.count, skip_special, &whole, &err)) fail(err.text);
    TokenStream s;
    stream_open(&s, t, skip_special);
    parts.data = malloc(whole.bytes + 4096);
    for (size_t i = 0; i <= list.count; i++) {
        if (i < list.count ? stream_feed(&s, list.id[i], &err) : stream_flush(&s, &err))
            fail(err.text);
        if (!utf8_valid(s.text.data, s.text.bytes)) fail("the stream gave half a character");
        if (parts.bytes + s.text.bytes > whole.bytes) fail("the stream gave too much");
        if (s.text.bytes) memcpy(parts.data + parts.bytes, s.text.data, s.text.bytes);
        parts.bytes += s.text.bytes;
    }
    if (parts.bytes != whole.bytes || (whole.bytes && memcmp(parts.data, whole.data, whole.bytes)))
        fail("the stream differs from decoding at once");
    print_hex(whole.data, whole.bytes);
    stream_close(&s);
    free(list.id);
    free(whole.data);
    free(parts.data);
}

int main(int argc, char **argv)
{
    if (argc != 2) fail("usage: tokens_driver DIR");
    Buffer tables = {0};
    compile_tokenizer(argv[1], &tables);
    if (!tables.bytes) fail("no tokenizer.json");
    Tokens *t;
    Error err;
    if (tokens_open(&t, tables.data, tables.bytes, &err)) fail(err.text);
    char *line = NULL;
    size_t room = 0;
    for (ssize_t n; (n = getline(&line, &room, stdin)) > 0; fflush(stdout)) {
        line[n - 1] = 0;
        if (line[0] == 'e')
            encode(t, TOKENS_PARSE_SPECIAL, line + 2);
        else if (line[0] == 's')
            encode(t, TOKENS_PARSE_SPECIAL | TOKENS_ADD_SPECIAL, line + 2);
        else if (line[0] == 'p')
            encode(t, 0, line + 2);
        else if (line[0] == 'd')
            decode(t, line[2] == '1', line + 3);
        else if (line[0] == 'n')
            printf("%d\n", tokens_count(t));
        else if (line[0] == 'b') {
            size_t bytes;
            const char *s = tokens_bytes(t, atoi(line + 2), &bytes);
            print_hex(s, bytes);
        } else
            fail("unknown request");
    }
    free(line);
    tokens_close(t);
    buffer_free(&tables);
    return 0;
}

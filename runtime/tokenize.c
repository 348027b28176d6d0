// Text on standard input to token ids, or the other way.
#include "tokenize.h"
#include "input.h"
#include "tokens.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int parse_ids(const Tokens *t, const char *p, TokenList *ids, Error *err)
{
    for (;;) {
        p += strspn(p, " \t\r\n,");
        if (!*p) return 0;
        char *end;
        errno = 0;
        long id = strtol(p, &end, 10);
        if (end == p)
            return error_set(err, "standard input: '%.*s' is no token id",
                             (int)strcspn(p, " \t\r\n,"), p);
        if (errno || id < 0 || id >= tokens_count(t))
            return error_set(err, "standard input: id %.*s, expected 0 to %d",
                             (int)strcspn(p, " \t\r\n,"), p, tokens_count(t) - 1);
        if (ids->count == ids->room) {
            ids->room = ids->room ? ids->room * 2 : 1024;
            int32_t *larger = realloc(ids->id, 4 * ids->room);
            if (!larger) return error_set(err, "out of memory");
            ids->id = larger;
        }
        ids->id[ids->count++] = (int32_t)id;
        p = end;
    }
}

int tokenize_input(const void *tables, size_t bytes, int decode, int no_special, Error *err)
{
    Tokens *t;
    if (tokens_open(&t, tables, bytes, err) != 0) return -1;
    size_t length;
    TokenList ids = {0};
    TokenText text = {0};
    char *input = read_input(&length, err);
    int status = input ? 0 : -1;
    if (status == 0 && decode) {
        if (strlen(input) != length) status = error_set(err, "standard input: a zero byte");
        if (status == 0) status = parse_ids(t, input, &ids, err);
        if (status == 0) status = tokens_decode(t, ids.id, ids.count, no_special, &text, err);
        if (status == 0) fwrite(text.data, 1, text.bytes, stdout);
    } else if (status == 0) {
        int flags = TOKENS_PARSE_SPECIAL | (no_special ? 0 : TOKENS_ADD_SPECIAL);
        status = tokens_encode(t, input, length, flags, &ids, err);
        for (size_t i = 0; status == 0 && i < ids.count; i++)
            printf("%s%d", i ? " " : "", ids.id[i]);
        if (status == 0) putchar('\n');
    }
    free(text.data);
    free(ids.id);
    free(input);
    tokens_close(t);
    return status;
}

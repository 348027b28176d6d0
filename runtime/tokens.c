// Text <-> tokens: see tokens.h. Encoding runs the stages of tokenizer.json one after the other
// over a list of pieces; each piece is a stretch of text or already a token:
//
//     text -> added tokens -> normalizers -> added tokens -> pre-tokenizers -> merges -> ids
//
// Decoding runs the decoder's steps over one token at a time.
#include "tokens.h"
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#define REPLACEMENT "\xef\xbf\xbd" // U+FFFD
#define MAX_TEXT ((size_t)1 << 30)

// A tree of bytes; children are linked, the root is indexed directly.
typedef struct {
    int32_t child, sibling, added; // indices of nodes; of the added token that ends here, or -1
    unsigned char byte;
} Node;

typedef struct {
    Node *node;
    size_t count, room;
    int32_t root[256];
} Tree;

struct Tokens {
    const VocabHeader *header;
    const uint32_t *ends, *slots, *merge_ends;
    const uint8_t *kinds;
    const VocabMerge *merges;
    const VocabAdded *added;
    const VocabStep *normalizers, *pretokenizers, *decoders;
    const int32_t *prefix, *suffix;
    const char *text;
    pcre2_code *normalizer_code[VOCAB_MAX_STEPS], *pretokenizer_code[VOCAB_MAX_STEPS];
    Tree raw, normalized;       // added tokens, to find before and after normalizing
    int32_t low_chars[512];     // the token of each of the first characters, or -1
    int32_t byte_tokens[256];   // the token "<0x..>" of each byte, or -1
    uint16_t char_of_byte[256]; // the characters that stand for bytes in byte-level vocabularies
    int16_t byte_of_char[512];  // and back, or -1
    char *bytes;                // of all tokens, for tokens_bytes
    uint32_t *byte_ends;
};

// --- memory and characters -----------------------------------------------------------------------

static int grow(void **list, size_t *room, size_t count, size_t size, Error *err)
{
    if (count <= *room) return 0;
    size_t wanted = *room ? *room : 16;
    while (wanted < count) wanted *= 2;
    void *fresh = realloc(*list, wanted * size);
    if (!fresh) return error_set(err, "out of memory for %zu bytes", wanted * size);
    *list = fresh;
    *room = wanted;
    return 0;
}

static int add_text(TokenText *t, const char *s, size_t bytes, Error *err)
{
    if (grow((void **)&t->data, &t->room, t->bytes + bytes, 1, err)) return -1;
    if (bytes) memcpy(t->data + t->bytes, s, bytes);
    t->bytes += bytes;
    return 0;
}

static int add_id(TokenList *t, int32_t id, Error *err)
{
    if (grow((void **)&t->id, &t->room, t->count + 1, sizeof *t->id, err)) return -1;
    t->id[t->count++] = id;
    return 0;
}

// The length of the valid character at the start of s; 0 when there is none. Then *bad is the
// number of bytes that one U+FFFD replaces, and *more is set if further bytes could complete them.
static size_t check_char(const char *s, size_t bytes, size_t *bad, int *more)
{
    const unsigned char *p = (const unsigned char *)s;
    unsigned low = 0x80, high = 0xbf;
    size_t length;
    *more = 0;
    *bad = 1;
    if (p[0] < 0x80) return 1;
    if (p[0] < 0xc2 || p[0] > 0xf4) return 0;
    length = p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : 4;
    if (p[0] == 0xe0) low = 0xa0;
    if (p[0] == 0xed) high = 0x9f;
    if (p[0] == 0xf0) low = 0x90;
    if (p[0] == 0xf4) high = 0x8f;
    for (size_t i = 1; i < length; i++, low = 0x80, high = 0xbf) {
        *bad = i;
        if (i == bytes) return *more = 1, 0;
        if (p[i] < low || p[i] > high) return 0;
    }
    return length;
}

static int is_utf8(const char *s, size_t bytes)
{
    size_t bad;
    int more;
    for (size_t i = 0, n; i < bytes; i += n)
        if (!(n = check_char(s + i, bytes - i, &bad, &more))) return 0;
    return 1;
}

// The functions from here on are given valid UTF-8.
static size_t char_bytes(const char *s)
{
    unsigned char c = (unsigned char)*s;
    return c < 0x80 ? 1 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
}

static int32_t char_at(const char *s)
{
    const unsigned char *p = (const unsigned char *)s;
    if (p[0] < 0x80) return p[0];
    if (p[0] < 0xe0) return (p[0] & 31) << 6 | (p[1] & 63);
    if (p[0] < 0xf0) return (p[0] & 15) << 12 | (p[1] & 63) << 6 | (p[2] & 63);
    return (p[0] & 7) << 18 | (p[1] & 63) << 12 | (p[2] & 63) << 6 | (p[3] & 63);
}

static size_t previous_char(const char *s, size_t end)
{
    do end--;
    while (end && ((unsigned char)s[end] & 0xc0) == 0x80);
    return end;
}

static int is_space(int32_t c) // the property White_Space
{
    return (c >= 9 && c <= 13) || c == 32 || c == 0x85 || c == 0xa0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f ||
           c == 0x205f || c == 0x3000;
}

// \w of the Rust package regex: letters, marks, decimal numbers, connectors and joiners.
static int is_word(int32_t c)
{
    switch (utf8proc_category(c)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
        return 1;
    default:
        break;
    }
    return c == 0x200c || c == 0x200d || (c >= 0x24b6 && c <= 0x24e9) ||
           (c >= 0x1f130 && c <= 0x1f149) || (c >= 0x1f150 && c <= 0x1f169) ||
           (c >= 0x1f170 && c <= 0x1f189);
}

static int is_number(int32_t c)
{
    utf8proc_category_t k = utf8proc_category(c);
    return k >= UTF8PROC_CATEGORY_ND && k <= UTF8PROC_CATEGORY_NO;
}

static int is_punctuation(int32_t c)
{
    if (c < 128)
        return (c > 32 && c < '0') || (c > '9' && c < 'A') || (c > 'Z' && c < 'a') ||
               (c > 'z' && c < 127);
    utf8proc_category_t k = utf8proc_category(c);
    return k >= UTF8PROC_CATEGORY_PC && k <= UTF8PROC_CATEGORY_PO;
}

// --- tables --------------------------------------------------------------------------------------

static const char *token_text(const Tokens *t, uint32_t id, size_t *bytes)
{
    uint32_t start = id ? t->ends[id - 1] : 0;
    *bytes = t->ends[id] - start;
    return t->text + start;
}

static int32_t find_token(const Tokens *t, const char *s, size_t bytes, int kinds)
{
    uint32_t mask = t->header->slots.count - 1;
    for (uint32_t h = vocab_hash(s, bytes);; h++) {
        uint32_t slot = t->slots[h & mask];
        if (!slot) return -1;
        size_t n;
        const char *name = token_text(t, slot - 1, &n);
        if (n == bytes && memcmp(name, s, n) == 0)
            return t->kinds[slot - 1] & kinds ? (int32_t)slot - 1 : -1;
    }
}

static const VocabMerge *find_merge(const Tokens *t, uint32_t left, uint32_t right)
{
    uint32_t low = left ? t->merge_ends[left - 1] : 0, high = t->merge_ends[left], end = high;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (t->merges[middle].right < right)
            low = middle + 1;
        else
            high = middle;
    }
    return low < end && t->merges[low].right == right ? &t->merges[low] : NULL;
}

// --- working memory of one call ------------------------------------------------------------------

typedef struct {
    size_t start, bytes;
    int32_t id; // -1: text
    int first;  // starts where the original text starts
} Piece;

typedef struct {
    size_t start, end;
    int match;
} Span;

typedef struct {
    int32_t id, previous, next; // id -1: gone into its left neighbour
} Symbol;

typedef struct {
    uint64_t order; // rank, then position
    int32_t id;
} Candidate;

typedef struct {
    uint32_t hash;
    size_t start, bytes, first, count; // a word in the text, its ids in the list
} Known;

typedef struct {
    const Tokens *tokens;
    Error *err;
    int parse_special;
    const char *text; // what the pieces point into
    TokenText buffer[2], normal[2];
    int which; // buffer[which] receives the next text
    Piece *pieces, *next;
    size_t piece_count, piece_room, next_count, next_room;
    Span *spans;
    size_t span_count, span_room;
    Symbol *symbols;
    size_t symbol_room;
    Candidate *heap;
    size_t heap_count, heap_room;
    Known *known;
    pcre2_match_data *match;
    pcre2_match_context *context;
    pcre2_jit_stack *stack;
} Work;

static void close_work(Work *w)
{
    for (int i = 0; i < 2; i++) {
        free(w->buffer[i].data);
        free(w->normal[i].data);
    }
    free(w->pieces);
    free(w->next);
    free(w->spans);
    free(w->symbols);
    free(w->heap);
    free(w->known);
    pcre2_match_data_free(w->match);
    pcre2_match_context_free(w->context);
    if (w->stack) pcre2_jit_stack_free(w->stack);
}

static int open_work(Work *w, const Tokens *t, Error *err)
{
    *w = (Work){.tokens = t, .err = err};
    w->match = pcre2_match_data_create(1, NULL);
    w->context = pcre2_match_context_create(NULL);
    w->stack = pcre2_jit_stack_create(32 << 10, 64 << 20, NULL);
    if (!w->match || !w->context) {
        close_work(w);
        return error_set(err, "out of memory for regular expressions");
    }
    pcre2_jit_stack_assign(w->context, NULL, w->stack);
    pcre2_set_match_limit(w->context, 1u << 31);
    pcre2_set_depth_limit(w->context, 1u << 31);
    pcre2_set_heap_limit(w->context, 4u << 20); // KiB
    return 0;
}

static int add_piece(Work *w, const Piece *parent, size_t start, size_t bytes, int32_t id)
{
    if (!bytes && id < 0) return 0;
    if (grow((void **)&w->next, &w->next_room, w->next_count + 1, sizeof *w->next, w->err))
        return -1;
    int first = parent->first && start == parent->start;
    w->next[w->next_count++] = (Piece){start, bytes, id, first};
    return 0;
}

// The pieces collected by add_piece become the current ones.
static void take_pieces(Work *w)
{
    Piece *list = w->pieces;
    size_t room = w->piece_room;
    w->pieces = w->next, w->piece_count = w->next_count, w->piece_room = w->next_room;
    w->next = list, w->next_count = 0, w->next_room = room;
}

static int add_span(Work *w, size_t start, size_t end, int match)
{
    if (grow((void **)&w->spans, &w->span_room, w->span_count + 1, sizeof *w->spans, w->err))
        return -1;
    w->spans[w->span_count++] = (Span){start, end, match};
    return 0;
}

// --- patterns: spans that cover a text, matches and what lies between them -----------------------

// Empty matches count, except right behind the match before.
static int find_regex(Work *w, const pcre2_code *code, const char *s, size_t bytes)
{
    size_t from = 0, covered = 0, last = SIZE_MAX;
    w->span_count = 0;
    while (from <= bytes) {
        int n =
            pcre2_match(code, (PCRE2_SPTR)s, bytes, from, PCRE2_NO_UTF_CHECK, w->match, w->context);
        if (n == PCRE2_ERROR_NOMATCH) break;
        if (n < 0) {
            char message[160];
            pcre2_get_error_message(n, (PCRE2_UCHAR *)message, sizeof message);
            return error_set(w->err, "the tokenizer's regular expression gave up: %s", message);
        }
        const PCRE2_SIZE *at = pcre2_get_ovector_pointer(w->match);
        if (at[0] == at[1] && at[1] == last) {
            from = at[1] < bytes ? at[1] + char_bytes(s + at[1]) : bytes + 1;
            continue;
        }
        if (at[0] > covered && add_span(w, covered, at[0], 0)) return -1;
        if (add_span(w, at[0], at[1], 1)) return -1;
        from = covered = last = at[1];
    }
    return covered < bytes ? add_span(w, covered, bytes, 0) : 0;
}

static int find_string(Work *w, const char *text, size_t text_bytes, const char *s, size_t bytes)
{
    size_t covered = 0;
    w->span_count = 0;
    for (;;) {
        const char *p = memmem(s + covered, bytes - covered, text, text_bytes);
        if (!p) break;
        size_t at = (size_t)(p - s);
        if (at > covered && add_span(w, covered, at, 0)) return -1;
        if (add_span(w, at, at + text_bytes, 1)) return -1;
        covered = at + text_bytes;
    }
    return covered < bytes ? add_span(w, covered, bytes, 0) : 0;
}

static int find_chars(Work *w, int (*is_match)(int32_t), const char *s, size_t bytes)
{
    size_t covered = 0;
    w->span_count = 0;
    for (size_t i = 0, n; i < bytes; i += n) {
        n = char_bytes(s + i);
        if (!is_match(char_at(s + i))) continue;
        if (i > covered && add_span(w, covered, i, 0)) return -1;
        if (add_span(w, i, i + n, 1)) return -1;
        covered = i + n;
    }
    return covered < bytes ? add_span(w, covered, bytes, 0) : 0;
}

static int find_step(Work *w, const VocabStep *step, const pcre2_code *code, const char *s,
                     size_t bytes)
{
    if (code) return find_regex(w, code, s, bytes);
    return find_string(w, w->tokens->text + step->text.at, step->text.count, s, bytes);
}

// Every match becomes the step's content.
static int replace_spans(const VocabStep *step, const Work *w, const char *s, TokenText *out)
{
    for (size_t i = 0; i < w->span_count; i++) {
        const Span *span = &w->spans[i];
        if (span->match
                ? add_text(out, w->tokens->text + step->content.at, step->content.count, w->err)
                : add_text(out, s + span->start, span->end - span->start, w->err))
            return -1;
    }
    return 0;
}

// The spans of a piece become pieces.
static int split_piece(Work *w, const Piece *piece, uint32_t behavior, uint32_t invert)
{
    for (size_t i = 0; i < w->span_count; i++) {
        Span span = w->spans[i];
        int match = span.match != (int)invert;
        for (;;) { // takes in the following spans that belong to this one
            if (i + 1 == w->span_count) break;
            int next = w->spans[i + 1].match != (int)invert;
            if (!((behavior == CONTIGUOUS && match == next) ||
                  (behavior == MERGED_WITH_PREVIOUS && !match && next) ||
                  (behavior == MERGED_WITH_NEXT && match && !next)))
                break;
            span.end = w->spans[++i].end;
            if (behavior != CONTIGUOUS) break;
        }
        if (behavior == REMOVED && match) continue;
        if (add_piece(w, piece, piece->start + span.start, span.end - span.start, -1)) return -1;
    }
    return 0;
}

// --- added tokens --------------------------------------------------------------------------------

static int tree_add(Tree *tree, const char *s, size_t bytes, int32_t added, Error *err)
{
    int32_t *link = &tree->root[(unsigned char)s[0]], at = -1;
    for (size_t i = 0; i < bytes; i++) {
        unsigned char byte = (unsigned char)s[i];
        size_t parent = (size_t)at;
        for (at = *link; at >= 0 && tree->node[at].byte != byte;) at = tree->node[at].sibling;
        if (at < 0) {
            if (tree->count >= INT32_MAX) return error_set(err, "too many added tokens");
            int32_t first = *link;
            if (grow((void **)&tree->node, &tree->room, tree->count + 1, sizeof *tree->node, err))
                return -1;
            at = (int32_t)tree->count++;
            tree->node[at] = (Node){-1, first, -1, byte};
            if (i)
                tree->node[parent].child = at; // growing moved what `link` pointed to
            else
                tree->root[byte] = at;
        }
        link = &tree->node[at].child;
    }
    if (tree->node[at].added < 0) tree->node[at].added = added;
    return 0;
}

// The longest added token at the start of s, as its index; -1 for none.
static int32_t tree_find(const Tree *tree, const char *s, size_t bytes, size_t *length)
{
    int32_t found = -1, at = tree->root[(unsigned char)s[0]];
    for (size_t i = 0; at >= 0;) {
        if (tree->node[at].added >= 0) found = tree->node[at].added, *length = i + 1;
        if (++i == bytes) break;
        for (at = tree->node[at].child; at >= 0 && tree->node[at].byte != (unsigned char)s[i];)
            at = tree->node[at].sibling;
    }
    return found;
}

// Splits a piece at the added tokens of `tree`. A token may take in the space around it, so its
// match and its piece differ.
static int split_added(Work *w, const Tree *tree, const Piece *piece)
{
    const Tokens *t = w->tokens;
    const char *s = w->text + piece->start;
    size_t done = 0, length = 0;
    for (size_t i = 0; tree->count && i < piece->bytes;) {
        int32_t index = tree->root[(unsigned char)s[i]];
        if (index >= 0) index = tree_find(tree, s + i, piece->bytes - i, &length);
        if (index < 0) {
            i++;
            continue;
        }
        size_t start = i, end = i += length;
        VocabAdded added = t->added[index];
        if (!w->parse_special && t->kinds[added.id] & TOKEN_SPECIAL) continue;
        if (added.flags & ADDED_SINGLE_WORD &&
            ((start && is_word(char_at(s + previous_char(s, start)))) ||
             (end < piece->bytes && is_word(char_at(s + end)))))
            continue;
        if (added.flags & ADDED_LSTRIP) {
            size_t before;
            while (start && is_space(char_at(s + (before = previous_char(s, start)))))
                start = before;
            if (start < done) start = done;
        }
        if (added.flags & ADDED_RSTRIP)
            while (end < piece->bytes && is_space(char_at(s + end))) end += char_bytes(s + end);
        if (done < start && add_piece(w, piece, piece->start + done, start - done, -1)) return -1;
        if (add_piece(w, piece, piece->start + start, end - start, (int32_t)added.id)) return -1;
        done = end;
    }
    if (done == piece->bytes) return 0;
    return add_piece(w, piece, piece->start + done, piece->bytes - done, -1);
}

// --- normalizers ---------------------------------------------------------------------------------

static int is_ascii(const char *s, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        if ((unsigned char)s[i] >= 0x80) return 0;
    return 1;
}

static int compose(Work *w, uint32_t kind, const char *s, size_t bytes, TokenText *out)
{
    if (is_ascii(s, bytes)) return add_text(out, s, bytes, w->err);
    int composed = kind == NORMALIZE_NFC || kind == NORMALIZE_NFKC;
    int compatible = kind == NORMALIZE_NFKC || kind == NORMALIZE_NFKD;
    utf8proc_option_t options = UTF8PROC_STABLE |
                                (composed ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE) |
                                (compatible ? UTF8PROC_COMPAT : 0);
    utf8proc_uint8_t *result;
    utf8proc_ssize_t n =
        utf8proc_map((const utf8proc_uint8_t *)s, (utf8proc_ssize_t)bytes, &result, options);
    if (n < 0) return error_set(w->err, "cannot normalize: %s", utf8proc_errmsg(n));
    int failed = add_text(out, (char *)result, (size_t)n, w->err);
    free(result);
    return failed;
}

static int lowercase(Work *w, const char *s, size_t bytes, TokenText *out)
{
    for (size_t i = 0, n; i < bytes; i += n) {
        char c[8];
        n = char_bytes(s + i);
        int32_t code = char_at(s + i);
        size_t m = (size_t)utf8proc_encode_char(utf8proc_tolower(code), (utf8proc_uint8_t *)c);
        // The one character whose lower case is two.
        if (add_text(out, code == 0x130 ? "i\xcc\x87" : c, code == 0x130 ? 3 : m, w->err))
            return -1;
    }
    return 0;
}

static int normalize_step(Work *w, const VocabStep *step, const pcre2_code *code, const char *s,
                          size_t bytes, TokenText *out)
{
    switch (step->kind) {
    case NORMALIZE_LOWERCASE:
        return lowercase(w, s, bytes, out);
    case NORMALIZE_STRIP:
        while (step->option & STRIP_LEFT && bytes && is_space(char_at(s))) {
            size_t n = char_bytes(s);
            s += n, bytes -= n;
        }
        while (step->option & STRIP_RIGHT && bytes &&
               is_space(char_at(s + previous_char(s, bytes))))
            bytes = previous_char(s, bytes);
        return add_text(out, s, bytes, w->err);
    case NORMALIZE_PREPEND:
        if (bytes && add_text(out, w->tokens->text + step->text.at, step->text.count, w->err))
            return -1;
        return add_text(out, s, bytes, w->err);
    case NORMALIZE_REPLACE:
    case NORMALIZE_REPLACE_REGEX:
        return !bytes                               ? 0
               : find_step(w, step, code, s, bytes) ? -1
                                                    : replace_spans(step, w, s, out);
    default:
        return compose(w, step->kind, s, bytes, out);
    }
}

// Runs all normalizers; *s and *bytes then describe the result, inside w->normal or unchanged.
static int normalize(Work *w, const char **s, size_t *bytes)
{
    const Tokens *t = w->tokens;
    for (uint32_t i = 0; i < t->header->normalizers.count; i++) {
        TokenText *out = &w->normal[i & 1];
        out->bytes = 0;
        if (normalize_step(w, &t->normalizers[i], t->normalizer_code[i], *s, *bytes, out))
            return -1;
        *s = out->data ? out->data : "";
        *bytes = out->bytes;
    }
    return 0;
}

// Normalizes every piece of text and finds the added tokens in the result.
static int normalize_pieces(Work *w)
{
    TokenText *out = &w->buffer[w->which];
    const char *from = w->text;
    for (size_t i = 0; i < w->piece_count; i++) {
        Piece piece = w->pieces[i];
        if (piece.id < 0 && w->tokens->header->normalizers.count) {
            const char *s = from + piece.start;
            size_t n = piece.bytes;
            if (normalize(w, &s, &n)) return -1;
            piece.start = out->bytes;
            piece.bytes = n;
            if (add_text(out, s, n, w->err)) return -1;
            w->text = out->data;
        }
        if (piece.id < 0 ? split_added(w, &w->tokens->normalized, &piece)
                         : add_piece(w, &piece, piece.start, piece.bytes, piece.id))
            return -1;
    }
    w->which ^= w->text != from;
    take_pieces(w);
    return 0;
}

// --- pre-tokenizers ------------------------------------------------------------------------------

static int add_chars(Work *w, const char *s, size_t bytes, TokenText *out)
{
    if (grow((void **)&out->data, &out->room, out->bytes + 2 * bytes, 1, w->err)) return -1;
    for (size_t i = 0; i < bytes; i++) {
        uint16_t c = w->tokens->char_of_byte[(unsigned char)s[i]];
        if (c >= 0x80) out->data[out->bytes++] = (char)(0xc0 | c >> 6);
        out->data[out->bytes++] = (char)(c >= 0x80 ? 0x80 | (c & 63) : c);
    }
    return 0;
}

static int add_metaspace(Work *w, const VocabStep *step, const char *s, const Piece *piece,
                         TokenText *out)
{
    const char *replacement = w->tokens->text + step->text.at;
    size_t n = step->text.count;
    int starts = piece->bytes && (s[0] == ' ' || (piece->bytes >= n && !memcmp(s, replacement, n)));
    if (!starts &&
        (step->option == PREPEND_ALWAYS || (step->option == PREPEND_FIRST && piece->first)))
        if (add_text(out, replacement, n, w->err)) return -1;
    for (size_t i = 0; i < piece->bytes; i++)
        if (s[i] == ' ' ? add_text(out, replacement, n, w->err) : add_text(out, s + i, 1, w->err))
            return -1;
    return 0;
}

// The steps that change the text: every piece is copied into a fresh buffer.
static int rewrite_pieces(Work *w, const VocabStep *step)
{
    TokenText *out = &w->buffer[w->which];
    const char *from = w->text;
    out->bytes = 0;
    for (size_t i = 0; i < w->piece_count; i++) {
        Piece piece = w->pieces[i];
        const char *s = from + piece.start;
        if (piece.id < 0) {
            size_t start = out->bytes;
            int failed;
            if (step->kind == BYTES_TO_CHARS) {
                failed = add_chars(w, s, piece.bytes, out);
            } else if (step->kind == METASPACE) {
                failed = add_metaspace(w, step, s, &piece, out);
            } else {
                failed = (s[0] != ' ' && add_text(out, " ", 1, w->err)) ||
                         add_text(out, s, piece.bytes, w->err);
            }
            if (failed) return -1;
            piece.start = start;
            piece.bytes = out->bytes - start;
        }
        w->pieces[i] = piece;
    }
    if (out->data) w->text = out->data;
    w->which ^= 1;
    return 0;
}

static int split_pieces(Work *w, const VocabStep *step, const pcre2_code *code)
{
    uint32_t behavior = step->kind == METASPACE ? MERGED_WITH_NEXT : step->option;
    uint32_t invert = step->kind == METASPACE ? 0 : step->flag;
    for (size_t i = 0; i < w->piece_count; i++) {
        const Piece *piece = &w->pieces[i];
        const char *s = w->text + piece->start;
        int failed;
        if (piece->id >= 0) {
            if (add_piece(w, piece, piece->start, piece->bytes, piece->id)) return -1;
            continue;
        }
        if (step->kind == SPLIT_DIGITS)
            failed = find_chars(w, is_number, s, piece->bytes);
        else if (step->kind == SPLIT_PUNCTUATION)
            failed = find_chars(w, is_punctuation, s, piece->bytes);
        else
            failed = find_step(w, step, code, s, piece->bytes);
        if (failed || split_piece(w, piece, behavior, invert)) return -1;
    }
    take_pieces(w);
    return 0;
}

static int pretokenize(Work *w)
{
    const Tokens *t = w->tokens;
    for (uint32_t i = 0; i < t->header->pretokenizers.count; i++) {
        const VocabStep *step = &t->pretokenizers[i];
        int rewrites =
            step->kind == PREFIX_SPACE || step->kind == BYTES_TO_CHARS || step->kind == METASPACE;
        int splits = !rewrites || (step->kind == METASPACE && step->flag);
        if (rewrites && rewrite_pieces(w, step)) return -1;
        if (splits && split_pieces(w, step, t->pretokenizer_code[i])) return -1;
    }
    return 0;
}

// --- merges --------------------------------------------------------------------------------------

static void heap_sink(Work *w, size_t at)
{
    Candidate moving = w->heap[at];
    for (size_t child; (child = 2 * at + 1) < w->heap_count; at = child) {
        if (child + 1 < w->heap_count && w->heap[child + 1].order < w->heap[child].order) child++;
        if (w->heap[child].order >= moving.order) break;
        w->heap[at] = w->heap[child];
    }
    w->heap[at] = moving;
}

static int heap_add(Work *w, uint32_t position, const VocabMerge *merge)
{
    if (grow((void **)&w->heap, &w->heap_room, w->heap_count + 1, sizeof *w->heap, w->err))
        return -1;
    size_t at = w->heap_count++;
    Candidate c = {(uint64_t)merge->rank << 32 | position, (int32_t)merge->id};
    for (; at && w->heap[(at - 1) / 2].order > c.order; at = (at - 1) / 2)
        w->heap[at] = w->heap[(at - 1) / 2];
    w->heap[at] = c;
    return 0;
}

// Considers joining the symbols at `left` and `right`; -1 is no symbol.
static int consider(Work *w, int32_t left, int32_t right)
{
    if (left < 0 || right < 0) return 0;
    const VocabMerge *m =
        find_merge(w->tokens, (uint32_t)w->symbols[left].id, (uint32_t)w->symbols[right].id);
    return m ? heap_add(w, (uint32_t)left, m) : 0;
}

// Joins neighbours, the lowest rank first and then the leftmost, until no merge applies. A
// candidate is out of date when its pair no longer joins into the same token.
static int merge_symbols(Work *w, size_t count)
{
    w->heap_count = 0;
    for (size_t i = 0; i + 1 < count; i++)
        if (consider(w, (int32_t)i, (int32_t)i + 1)) return -1;
    while (w->heap_count) {
        Candidate top = w->heap[0];
        w->heap[0] = w->heap[--w->heap_count];
        if (w->heap_count) heap_sink(w, 0);
        int32_t at = (int32_t)(uint32_t)top.order;
        Symbol *left = &w->symbols[at];
        if (left->id < 0 || left->next < 0) continue;
        Symbol *right = &w->symbols[left->next];
        const VocabMerge *m = find_merge(w->tokens, (uint32_t)left->id, (uint32_t)right->id);
        if (!m || (int32_t)m->id != top.id) continue;
        left->id = top.id;
        right->id = -1;
        left->next = right->next;
        if (left->next >= 0) w->symbols[left->next].previous = at;
        if (consider(w, left->previous, at) || consider(w, at, left->next)) return -1;
    }
    return 0;
}

static void add_symbol(Work *w, size_t *count, int32_t id)
{
    int32_t at = (int32_t)(*count)++;
    if (at) w->symbols[at - 1].next = at;
    w->symbols[at] = (Symbol){id, at - 1, -1};
}

// The tokens of the bytes of one character; 0 when one of them has none.
static int add_byte_tokens(Work *w, const char *s, size_t bytes, size_t *count)
{
    for (size_t i = 0; i < bytes; i++)
        if (w->tokens->byte_tokens[(unsigned char)s[i]] < 0) return 0;
    for (size_t i = 0; i < bytes; i++)
        add_symbol(w, count, w->tokens->byte_tokens[(unsigned char)s[i]]);
    return 1;
}

static int encode_word(Work *w, const char *s, size_t bytes, TokenList *out)
{
    const Tokens *t = w->tokens;
    uint32_t flags = t->header->flags;
    if (flags & VOCAB_IGNORE_MERGES) {
        int32_t id = find_token(t, s, bytes, TOKEN_MODEL);
        if (id >= 0) return add_id(out, id, w->err);
    }
    if (grow((void **)&w->symbols, &w->symbol_room, bytes + 1, sizeof *w->symbols, w->err))
        return -1;
    size_t count = 0;
    int unknown = 0; // an unknown token waits: the next unknown character may join it
    for (size_t i = 0, n; i < bytes; i += n) {
        n = char_bytes(s + i);
        int32_t c = char_at(s + i);
        int32_t id = c < 512 ? t->low_chars[c] : find_token(t, s + i, n, TOKEN_MODEL);
        if (id >= 0) {
            if (unknown) add_symbol(w, &count, t->header->unk);
            unknown = 0;
            add_symbol(w, &count, id);
        } else if (flags & VOCAB_BYTE_FALLBACK && add_byte_tokens(w, s + i, n, &count)) {
            continue; // an unknown token keeps waiting: the package puts it behind these
        } else if (t->header->unk >= 0) {
            if (unknown && !(flags & VOCAB_FUSE_UNK)) add_symbol(w, &count, t->header->unk);
            unknown = 1;
        }
    }
    if (unknown) add_symbol(w, &count, t->header->unk);
    if (count > 1 && merge_symbols(w, count)) return -1;
    for (size_t i = 0; i < count; i++)
        if (w->symbols[i].id >= 0 && add_id(out, w->symbols[i].id, w->err)) return -1;
    return 0;
}

// Words repeat, so the ids of those already seen in this text are copied. The table is small: a
// word that collides with another replaces it.
static int encode_pieces(Work *w, TokenList *out)
{
    uint32_t slots = 16;
    while (slots < w->piece_count && slots < 16384) slots *= 2;
    if (w->piece_count > 1) {
        w->known = calloc(slots, sizeof *w->known);
        if (!w->known) return error_set(w->err, "out of memory for %u words", slots);
    }
    for (size_t i = 0; i < w->piece_count; i++) {
        const Piece *piece = &w->pieces[i];
        const char *s = w->text + piece->start;
        if (piece->id >= 0) {
            if (add_id(out, piece->id, w->err)) return -1;
            continue;
        }
        uint32_t hash = w->known && piece->bytes < 64 ? vocab_hash(s, piece->bytes) : 0;
        Known *k = w->known && piece->bytes < 64 ? &w->known[hash & (slots - 1)] : NULL;
        if (k && k->hash == hash && k->bytes == piece->bytes &&
            memcmp(w->text + k->start, s, k->bytes) == 0) {
            for (size_t j = 0; j < k->count; j++)
                if (add_id(out, out->id[k->first + j], w->err)) return -1;
            continue;
        }
        size_t first = out->count;
        if (encode_word(w, s, piece->bytes, out)) return -1;
        if (k) *k = (Known){hash, piece->start, piece->bytes, first, out->count - first};
    }
    return 0;
}

static int encode(Work *w, const char *text, size_t bytes, TokenList *out)
{
    Piece whole = {0, bytes, -1, 1};
    w->text = text;
    if (split_added(w, &w->tokens->raw, &whole)) return -1;
    take_pieces(w);
    return normalize_pieces(w) || pretokenize(w) || encode_pieces(w, out) ? -1 : 0;
}

int tokens_encode(const Tokens *t, const char *text, size_t bytes, int flags, TokenList *out,
                  Error *err)
{
    if (bytes > MAX_TEXT) return error_set(err, "a text of %zu bytes is too long to encode", bytes);
    if (!is_utf8(text, bytes)) return error_set(err, "the text is not valid UTF-8");
    Work w;
    if (open_work(&w, t, err)) return -1;
    w.parse_special = (flags & TOKENS_PARSE_SPECIAL) != 0;
    int failed = 0;
    if (flags & TOKENS_ADD_SPECIAL)
        for (uint32_t i = 0; i < t->header->prefix.count && !failed; i++)
            failed = add_id(out, t->prefix[i], err);
    failed = failed || encode(&w, text, bytes, out);
    if (flags & TOKENS_ADD_SPECIAL)
        for (uint32_t i = 0; i < t->header->suffix.count && !failed; i++)
            failed = add_id(out, t->suffix[i], err);
    close_work(&w);
    return failed ? -1 : 0;
}

// --- decoding ------------------------------------------------------------------------------------

// "<0x41>" -> 0x41, with digits as Rust's from_str_radix takes them; -1 for any other token.
static int byte_of_token(const char *s, size_t bytes)
{
    if (bytes != 6 || memcmp(s, "<0x", 3) != 0 || s[5] != '>') return -1;
    int value = 0;
    for (int i = 3; i < 5; i++) {
        char c = s[i];
        if (i == 3 && c == '+') continue;
        int digit = c >= '0' && c <= '9'                 ? c - '0'
                    : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10
                                                         : -1;
        if (digit < 0) return -1;
        value = value * 16 + digit;
    }
    return value;
}

// The bytes that a token's characters stand for; the token itself when one stands for none.
static int add_bytes(const Tokens *t, const char *s, size_t bytes, TokenText *out, Error *err)
{
    size_t before = out->bytes;
    if (grow((void **)&out->data, &out->room, out->bytes + bytes, 1, err)) return -1;
    for (size_t i = 0; i < bytes; i += char_bytes(s + i)) {
        int32_t c = char_at(s + i);
        if (c >= 512 || t->byte_of_char[c] < 0) {
            out->bytes = before;
            return add_text(out, s, bytes, err);
        }
        out->data[out->bytes++] = (char)t->byte_of_char[c];
    }
    return 0;
}

// Replaces the step's text in one token.
static int replace_text(const Tokens *t, const VocabStep *step, const char *by, size_t by_bytes,
                        const char *s, size_t bytes, TokenText *out, Error *err)
{
    const char *text = t->text + step->text.at, *p;
    while (bytes && (p = memmem(s, bytes, text, step->text.count))) {
        if (add_text(out, s, (size_t)(p - s), err) || add_text(out, by, by_bytes, err)) return -1;
        bytes -= (size_t)(p - s) + step->text.count;
        s = p + step->text.count;
    }
    return add_text(out, s, bytes, err);
}

// Moves whole characters from `in` to `out`, U+FFFD for what is none; keeps the start of one that
// may go on in `partial`.
static int add_valid(TokenStream *s, TokenText *in, TokenText *out, Error *err)
{
    size_t i = 0, bad;
    while (i < in->bytes) {
        int more;
        size_t n = check_char(in->data + i, in->bytes - i, &bad, &more);
        if (more) {
            s->partial_bytes = (int)(in->bytes - i);
            memcpy(s->partial, in->data + i, in->bytes - i);
            return 0;
        }
        if (n ? add_text(out, in->data + i, n, err) : add_text(out, REPLACEMENT, 3, err)) return -1;
        i += n ? n : bad;
    }
    return 0;
}

static int stream_push(TokenStream *s, uint32_t from, const char *text, size_t bytes, Error *err);

// The bytes of a run are characters together, or every byte becomes U+FFFD.
static int push_run(TokenStream *s, uint32_t step, Error *err)
{
    size_t bytes = s->run.bytes;
    s->run.bytes = 0;
    if (!bytes) return 0;
    if (is_utf8(s->run.data, bytes)) return stream_push(s, step + 1, s->run.data, bytes, err);
    for (size_t i = 0; i < bytes; i++)
        if (stream_push(s, step + 1, REPLACEMENT, 3, err)) return -1;
    return 0;
}

// Passes one string through the decoder's steps, beginning with step `from`. Before the tokens are
// joined the string is one token, afterwards it is a further part of the whole text. seen[] is, for
// Metaspace, whether a token came before; for Strip of the whole text, the characters removed, and
// UINT32_MAX once another character came.
static int stream_push(TokenStream *s, uint32_t from, const char *text, size_t bytes, Error *err)
{
    const Tokens *t = s->tokens;
    int joined = 0, which = 0; // the half of the working memory that is free
    for (uint32_t i = 0; i < t->header->decoders.count; i++) {
        const VocabStep *step = &t->decoders[i];
        int joins = step->kind == DECODE_FUSE || step->kind == DECODE_BYTES;
        if (i < from) {
            joined |= joins;
            continue;
        }
        TokenText *out = &s->work[which];
        out->bytes = 0;
        switch (step->kind) {
        case DECODE_REPLACE:
            if (replace_text(t, step, t->text + step->content.at, step->content.count, text, bytes,
                             out, err))
                return -1;
            text = out->data, bytes = out->bytes, which ^= 1;
            break;
        case DECODE_METASPACE: {
            size_t spaces = step->flag && !s->seen[i] ? 0 : 1;
            s->seen[i] = 1;
            if (replace_text(t, step, " ", spaces, text, bytes, out, err)) return -1;
            text = out->data, bytes = out->bytes, which ^= 1;
            break;
        }
        case DECODE_STRIP: {
            uint32_t removed = joined ? s->seen[i] : 0;
            while (bytes && removed < step->option) {
                if (bytes < step->text.count ||
                    memcmp(text, t->text + step->text.at, step->text.count) != 0) {
                    removed = UINT32_MAX;
                    break;
                }
                text += step->text.count, bytes -= step->text.count;
                removed++;
            }
            s->seen[i] = removed;
            break;
        }
        case DECODE_BYTE_FALLBACK: {
            int byte = byte_of_token(text, bytes);
            if (byte >= 0) return add_text(&s->run, (char[]){(char)byte}, 1, err);
            if (s->run.bytes) { // the token outlives what the run does with the working memory
                s->held.bytes = 0;
                if (add_text(&s->held, text, bytes, err) || push_run(s, i, err)) return -1;
                text = s->held.data;
            }
            break;
        }
        case DECODE_BYTES:
            s->joined.bytes = 0;
            if (add_text(&s->joined, s->partial, (size_t)s->partial_bytes, err) ||
                add_bytes(t, text, bytes, &s->joined, err))
                return -1;
            s->partial_bytes = 0;
            if (add_valid(s, &s->joined, out, err)) return -1;
            text = out->data, bytes = out->bytes, which ^= 1;
            break;
        default:
            break;
        }
        joined |= joins;
    }
    return add_text(&s->text, text, bytes, err);
}

void stream_open(TokenStream *s, const Tokens *t, int skip_special)
{
    *s = (TokenStream){.tokens = t, .skip_special = skip_special};
}

// Adds to s->text without clearing it.
static int stream_add(TokenStream *s, int32_t id, Error *err)
{
    const Tokens *t = s->tokens;
    if (!tokens_exists(t, id) || (s->skip_special && tokens_is_special(t, id))) return 0;
    size_t bytes;
    const char *text = token_text(t, (uint32_t)id, &bytes);
    // Without a decoder the package puts a space between tokens.
    if (!t->header->decoders.count && s->count && add_text(&s->text, " ", 1, err)) return -1;
    s->count++;
    return stream_push(s, 0, text, bytes, err);
}

static int stream_end(TokenStream *s, Error *err)
{
    const Tokens *t = s->tokens;
    for (uint32_t i = 0; i < t->header->decoders.count; i++) {
        if (t->decoders[i].kind == DECODE_BYTE_FALLBACK && push_run(s, i, err)) return -1;
        if (t->decoders[i].kind == DECODE_BYTES && s->partial_bytes) {
            s->partial_bytes = 0;
            if (stream_push(s, i + 1, REPLACEMENT, 3, err)) return -1;
        }
    }
    s->count = 0;
    memset(s->seen, 0, sizeof s->seen);
    return 0;
}

int stream_feed(TokenStream *s, int32_t id, Error *err)
{
    s->text.bytes = 0;
    return stream_add(s, id, err);
}

int stream_flush(TokenStream *s, Error *err)
{
    s->text.bytes = 0;
    return stream_end(s, err);
}

void stream_close(TokenStream *s)
{
    free(s->text.data);
    free(s->run.data);
    free(s->held.data);
    free(s->joined.data);
    free(s->work[0].data);
    free(s->work[1].data);
    *s = (TokenStream){0};
}

int tokens_decode(const Tokens *t, const int32_t *id, size_t count, int skip_special,
                  TokenText *out, Error *err)
{
    TokenStream s;
    stream_open(&s, t, skip_special);
    int failed = 0;
    for (size_t i = 0; i < count && !failed; i++) failed = stream_add(&s, id[i], err);
    failed = failed || stream_end(&s, err) || add_text(out, s.text.data, s.text.bytes, err);
    stream_close(&s);
    return failed ? -1 : 0;
}

// --- questions -----------------------------------------------------------------------------------

int tokens_count(const Tokens *t)
{
    return (int)t->header->ends.count;
}

int tokens_exists(const Tokens *t, int32_t id)
{
    return id >= 0 && (uint32_t)id < t->header->ends.count && t->kinds[id];
}

int tokens_is_special(const Tokens *t, int32_t id)
{
    return tokens_exists(t, id) && t->kinds[id] & TOKEN_SPECIAL;
}

const char *tokens_bytes(const Tokens *t, int32_t id, size_t *bytes)
{
    *bytes = 0;
    if (!tokens_exists(t, id)) return "";
    uint32_t start = id ? t->byte_ends[id - 1] : 0;
    *bytes = t->byte_ends[id] - start;
    return t->bytes + start;
}

int32_t tokens_find(const Tokens *t, const char *content, size_t bytes)
{
    return find_token(t, content, bytes, ~0);
}

int32_t tokens_bos(const Tokens *t)
{
    return t->header->bos;
}

int32_t tokens_eos(const Tokens *t)
{
    return t->header->eos;
}

// --- opening -------------------------------------------------------------------------------------

static int damaged(Error *err, const char *what)
{
    return error_set(err, "the tokenizer's tables are damaged: %s", what);
}

static int check_span(const VocabHeader *h, VocabSpan span, size_t size)
{
    return span.at % 8 == 0 && span.at >= sizeof *h && span.at <= h->bytes &&
           span.count <= (h->bytes - span.at) / size;
}

static int check_header(const void *tables, size_t bytes, Error *err)
{
    const VocabHeader *h = tables;
    if ((uintptr_t)tables % 8) return error_set(err, "the tokenizer's tables are not aligned");
    if (bytes < sizeof *h || memcmp(h->magic, VOCAB_MAGIC, sizeof VOCAB_MAGIC) != 0)
        return damaged(err, "no header");
    if (h->version != VOCAB_VERSION)
        return error_set(err, "the tokenizer's tables have version %u, expected %d", h->version,
                         VOCAB_VERSION);
    if (h->bytes < sizeof *h || h->bytes > bytes) return damaged(err, "cut short");
    uint32_t ids = h->ends.count;
    if (!check_span(h, h->ends, 4) || !check_span(h, h->kinds, 1) || !check_span(h, h->slots, 4) ||
        !check_span(h, h->merge_ends, 4) || !check_span(h, h->merges, sizeof(VocabMerge)) ||
        !check_span(h, h->added, sizeof(VocabAdded)) || !check_span(h, h->prefix, 4) ||
        !check_span(h, h->suffix, 4) || !check_span(h, h->normalizers, sizeof(VocabStep)) ||
        !check_span(h, h->pretokenizers, sizeof(VocabStep)) ||
        !check_span(h, h->decoders, sizeof(VocabStep)) || !check_span(h, h->text, 1))
        return damaged(err, "a section lies outside");
    if (!ids || ids > 1u << 24 || h->kinds.count != ids || h->merge_ends.count != ids ||
        h->normalizers.count > VOCAB_MAX_STEPS || h->pretokenizers.count > VOCAB_MAX_STEPS ||
        h->decoders.count > VOCAB_MAX_STEPS || !h->slots.count ||
        (h->slots.count & (h->slots.count - 1)))
        return damaged(err, "a count");
    return 0;
}

static int is_token(const Tokens *t, int64_t id)
{
    return id >= 0 && id < t->header->ends.count && t->kinds[id];
}

static int check_tables(const Tokens *t, Error *err)
{
    const VocabHeader *h = t->header;
    uint32_t ids = h->ends.count, end = 0, used = 0;
    for (uint32_t id = 0; id < ids; id++) {
        if (t->ends[id] < end || t->ends[id] > h->text.count ||
            !is_utf8(t->text + end, t->ends[id] - end))
            return damaged(err, "the string of a token");
        end = t->ends[id];
    }
    for (uint32_t i = 0; i < h->slots.count; i++) {
        if (t->slots[i] && !is_token(t, (int64_t)t->slots[i] - 1)) return damaged(err, "a slot");
        used += t->slots[i] != 0;
    }
    if (used == h->slots.count) return damaged(err, "no free slot");
    end = 0;
    for (uint32_t id = 0; id < ids; id++) {
        if (t->merge_ends[id] < end || t->merge_ends[id] > h->merges.count)
            return damaged(err, "the merges of a token");
        for (uint32_t i = end; i < t->merge_ends[id]; i++)
            if (!is_token(t, t->merges[i].id) ||
                (i > end && t->merges[i].right <= t->merges[i - 1].right))
                return damaged(err, "a merge");
        end = t->merge_ends[id];
    }
    for (uint32_t i = 0; i < h->added.count; i++)
        if (!is_token(t, t->added[i].id)) return damaged(err, "an added token");
    for (uint32_t i = 0; i < h->prefix.count; i++)
        if (!is_token(t, t->prefix[i])) return damaged(err, "a special token");
    for (uint32_t i = 0; i < h->suffix.count; i++)
        if (!is_token(t, t->suffix[i])) return damaged(err, "a special token");
    if ((h->unk != -1 && !is_token(t, h->unk)) || (h->bos != -1 && !is_token(t, h->bos)) ||
        (h->eos != -1 && !is_token(t, h->eos)))
        return damaged(err, "a special token");
    return 0;
}

static int check_step_text(const Tokens *t, VocabSpan span)
{
    return span.at <= t->header->text.count && span.count <= t->header->text.count - span.at &&
           is_utf8(t->text + span.at, span.count);
}

// Checks a list of steps and compiles their regular expressions.
static int open_steps(const Tokens *t, const VocabStep *list, uint32_t count, uint32_t low,
                      uint32_t high, pcre2_code **code, Error *err)
{
    for (uint32_t i = 0; i < count; i++) {
        const VocabStep *s = &list[i];
        int regex = s->kind == NORMALIZE_REPLACE_REGEX || s->kind == SPLIT_REGEX;
        int needs_text = regex || s->kind == NORMALIZE_REPLACE || s->kind == SPLIT_STRING ||
                         s->kind == METASPACE || s->kind == DECODE_REPLACE ||
                         s->kind == DECODE_STRIP || s->kind == DECODE_METASPACE;
        if (s->kind < low || s->kind > high || !check_step_text(t, s->text) ||
            !check_step_text(t, s->content) || (needs_text && !s->text.count) || s->flag > 1 ||
            (s->kind >= SPLIT_STRING && s->kind <= METASPACE && s->option > MERGED_WITH_NEXT))
            return damaged(err, "a step");
        if (!regex) continue;
        pcre2_compile_context *context = pcre2_compile_context_create(NULL);
        if (!context) return error_set(err, "out of memory for a regular expression");
        pcre2_set_newline(context, PCRE2_NEWLINE_LF);
        int number;
        PCRE2_SIZE at;
        code[i] = pcre2_compile((PCRE2_SPTR)(t->text + s->text.at), s->text.count,
                                PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C,
                                &number, &at, context);
        pcre2_compile_context_free(context);
        if (!code[i]) {
            char message[160];
            pcre2_get_error_message(number, (PCRE2_UCHAR *)message, sizeof message);
            return error_set(err, "the tokenizer's regular expression: %s at byte %zu of %.200s",
                             message, (size_t)at, t->text + s->text.at);
        }
        pcre2_jit_compile(code[i], PCRE2_JIT_COMPLETE); // without it matching is only slower
    }
    return 0;
}

// The stream has one place each for what these steps hold back.
static int check_decoders(const Tokens *t, Error *err)
{
    int runs = 0, joins = 0;
    for (uint32_t i = 0; i < t->header->decoders.count; i++) {
        runs += t->decoders[i].kind == DECODE_BYTE_FALLBACK;
        joins += t->decoders[i].kind == DECODE_BYTES;
    }
    return runs > 1 || joins > 1 ? damaged(err, "the decoder") : 0;
}

// The characters that stand for bytes: printable ones for themselves, the others from U+0100 on.
static void make_byte_chars(Tokens *t)
{
    uint16_t next = 256;
    memset(t->byte_of_char, -1, sizeof t->byte_of_char);
    for (int b = 0; b < 256; b++) {
        int printable = (b >= '!' && b <= '~') || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
        t->char_of_byte[b] = printable ? (uint16_t)b : next++;
        t->byte_of_char[t->char_of_byte[b]] = (int16_t)b;
    }
}

// What tokens_bytes gives for one token: the decoder's steps without those that ask for the start
// of the text.
static int add_token_bytes(const Tokens *t, uint32_t id, TokenText *work, TokenText *all,
                           Error *err)
{
    size_t bytes;
    const char *text = token_text(t, id, &bytes);
    for (uint32_t i = 0; i < t->header->decoders.count; i++) {
        const VocabStep *step = &t->decoders[i];
        uint32_t kind = step->kind;
        TokenText *out = &work[i & 1];
        out->bytes = 0;
        int byte;
        if (kind == DECODE_REPLACE) {
            if (replace_text(t, step, t->text + step->content.at, step->content.count, text, bytes,
                             out, err))
                return -1;
        } else if (kind == DECODE_METASPACE) {
            if (replace_text(t, step, " ", 1, text, bytes, out, err)) return -1;
        } else if (kind == DECODE_BYTES) {
            return add_bytes(t, text, bytes, all, err);
        } else if (kind == DECODE_BYTE_FALLBACK && (byte = byte_of_token(text, bytes)) >= 0) {
            return add_text(all, (char[]){(char)byte}, 1, err);
        } else {
            continue;
        }
        text = out->data, bytes = out->bytes;
    }
    return add_text(all, text, bytes, err);
}

static int make_bytes(Tokens *t, Error *err)
{
    TokenText work[2] = {{0}}, all = {0};
    uint32_t ids = t->header->ends.count;
    int failed = 0;
    t->byte_ends = calloc(ids, sizeof *t->byte_ends);
    if (!t->byte_ends) return error_set(err, "out of memory for %u tokens", ids);
    for (uint32_t id = 0; id < ids && !failed; id++) {
        if (t->kinds[id]) failed = add_token_bytes(t, id, work, &all, err);
        if (all.bytes > UINT32_MAX) failed = damaged(err, "the text of all tokens");
        t->byte_ends[id] = (uint32_t)all.bytes;
    }
    free(work[0].data);
    free(work[1].data);
    t->bytes = all.data;
    return failed ? -1 : 0;
}

static int make_trees(Tokens *t, Error *err)
{
    Work w;
    if (open_work(&w, t, err)) return -1;
    memset(t->raw.root, -1, sizeof t->raw.root);
    memset(t->normalized.root, -1, sizeof t->normalized.root);
    int failed = 0;
    for (uint32_t i = 0; i < t->header->added.count && !failed; i++) {
        size_t bytes;
        const char *s = token_text(t, t->added[i].id, &bytes);
        int normalized = (t->added[i].flags & ADDED_NORMALIZED) != 0;
        failed = normalized && normalize(&w, &s, &bytes);
        if (!failed && !bytes)
            failed = error_set(err, "the added token with id %u is empty", t->added[i].id);
        failed =
            failed || tree_add(normalized ? &t->normalized : &t->raw, s, bytes, (int32_t)i, err);
    }
    close_work(&w);
    return failed ? -1 : 0;
}

// One id, without a token: ends, kinds, slots and merge_ends have one zero each, the rest is empty.
static const struct {
    VocabHeader header;
    uint64_t zeros;
} no_tokens = {{.magic = VOCAB_MAGIC,
                .version = VOCAB_VERSION,
                .bytes = sizeof no_tokens,
                .unk = -1,
                .bos = -1,
                .eos = -1,
                .ends = {sizeof(VocabHeader), 1},
                .kinds = {sizeof(VocabHeader), 1},
                .slots = {sizeof(VocabHeader), 1},
                .merge_ends = {sizeof(VocabHeader), 1},
                .merges = {sizeof(VocabHeader), 0},
                .added = {sizeof(VocabHeader), 0},
                .prefix = {sizeof(VocabHeader), 0},
                .suffix = {sizeof(VocabHeader), 0},
                .normalizers = {sizeof(VocabHeader), 0},
                .pretokenizers = {sizeof(VocabHeader), 0},
                .decoders = {sizeof(VocabHeader), 0},
                .text = {sizeof(VocabHeader), 0}},
               0};

int tokens_open(Tokens **out, const void *tables, size_t bytes, Error *err)
{
    *out = NULL;
    if (!tables) tables = &no_tokens, bytes = sizeof no_tokens;
    if (check_header(tables, bytes, err)) return -1;
    Tokens *t = calloc(1, sizeof *t);
    if (!t) return error_set(err, "out of memory for the tokenizer");
    const char *base = tables;
    const VocabHeader *h = t->header = tables;
    t->ends = (const uint32_t *)(base + h->ends.at);
    t->kinds = (const uint8_t *)(base + h->kinds.at);
    t->slots = (const uint32_t *)(base + h->slots.at);
    t->merge_ends = (const uint32_t *)(base + h->merge_ends.at);
    t->merges = (const VocabMerge *)(base + h->merges.at);
    t->added = (const VocabAdded *)(base + h->added.at);
    t->prefix = (const int32_t *)(base + h->prefix.at);
    t->suffix = (const int32_t *)(base + h->suffix.at);
    t->normalizers = (const VocabStep *)(base + h->normalizers.at);
    t->pretokenizers = (const VocabStep *)(base + h->pretokenizers.at);
    t->decoders = (const VocabStep *)(base + h->decoders.at);
    t->text = base + h->text.at;
    make_byte_chars(t);
    if (check_tables(t, err) ||
        open_steps(t, t->normalizers, h->normalizers.count, NORMALIZE_NFC, NORMALIZE_REPLACE_REGEX,
                   t->normalizer_code, err) ||
        open_steps(t, t->pretokenizers, h->pretokenizers.count, SPLIT_STRING, METASPACE,
                   t->pretokenizer_code, err) ||
        open_steps(t, t->decoders, h->decoders.count, DECODE_BYTES, DECODE_METASPACE, NULL, err) ||
        check_decoders(t, err) || make_bytes(t, err) || make_trees(t, err)) {
        tokens_close(t);
        return -1;
    }
    for (int c = 0; c < 512; c++) {
        char s[4];
        size_t n = (size_t)utf8proc_encode_char(c, (utf8proc_uint8_t *)s);
        t->low_chars[c] = find_token(t, s, n, TOKEN_MODEL);
    }
    for (int b = 0; b < 256; b++) {
        char s[8];
        snprintf(s, sizeof s, "<0x%02X>", b);
        t->byte_tokens[b] = find_token(t, s, 6, TOKEN_MODEL);
    }
    *out = t;
    return 0;
}

void tokens_close(Tokens *t)
{
    if (!t) return;
    for (int i = 0; i < VOCAB_MAX_STEPS; i++) {
        pcre2_code_free(t->normalizer_code[i]);
        pcre2_code_free(t->pretokenizer_code[i]);
    }
    free(t->raw.node);
    free(t->normalized.node);
    free(t->bytes);
    free(t->byte_ends);
    free(t);
}

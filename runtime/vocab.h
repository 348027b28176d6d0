// The tables of a tokenizer, as compiler/tokenizer.c writes them and tokens.c reads them: one block
// of memory without pointers, little-endian, every section 8-byte aligned.
//
//     header | ends | kinds | slots | merge_ends | merges | added | prefix | suffix
//            | normalizers | pretokenizers | decoders | text
//
// A token's string is text[ends[id - 1] .. ends[id]); its merges as the left half of a pair are
// merges[merge_ends[id - 1] .. merge_ends[id]), ascending by the right half.
#pragma once
#include <stddef.h>
#include <stdint.h>

#define VOCAB_MAGIC "exlctok"
#define VOCAB_VERSION 1
#define VOCAB_MAX_STEPS 64

// A section: `at` counts bytes from the start of the block, `count` its elements.
typedef struct {
    uint32_t at, count;
} VocabSpan;

enum { VOCAB_BYTE_FALLBACK = 1, VOCAB_FUSE_UNK = 2, VOCAB_IGNORE_MERGES = 4 }; // flags

typedef struct {
    char magic[8];
    uint32_t version, flags;
    uint64_t bytes;               // of the whole block
    int32_t unk, bos, eos, spare; // ids, or -1
    VocabSpan ends, kinds;        // uint32_t, uint8_t; one per id
    VocabSpan slots;              // uint32_t, id + 1 by hash; a power of two of them
    VocabSpan merge_ends, merges; // uint32_t per id; VocabMerge
    VocabSpan added;              // VocabAdded
    VocabSpan prefix, suffix;     // int32_t, ids around a text with special tokens
    VocabSpan normalizers, pretokenizers, decoders; // VocabStep
    VocabSpan text;                                 // bytes, UTF-8
} VocabHeader;

enum { TOKEN_MODEL = 1, TOKEN_ADDED = 2, TOKEN_SPECIAL = 4 }; // kinds; 0 is an id without a token

// Joining the left token with `right` gives `id`; the lowest rank is joined first.
typedef struct {
    uint32_t right, rank, id;
} VocabMerge;

enum { ADDED_LSTRIP = 1, ADDED_RSTRIP = 2, ADDED_SINGLE_WORD = 4, ADDED_NORMALIZED = 8 };

typedef struct {
    uint32_t id, flags;
} VocabAdded;

// `text` and `content` count bytes within the text section.
typedef struct {
    uint32_t kind, option, flag, spare;
    VocabSpan text, content;
} VocabStep;

enum {
    // normalizers
    NORMALIZE_NFC = 1,
    NORMALIZE_NFD,
    NORMALIZE_NFKC,
    NORMALIZE_NFKD,
    NORMALIZE_LOWERCASE,
    NORMALIZE_STRIP,         // option: STRIP_LEFT | STRIP_RIGHT
    NORMALIZE_PREPEND,       // text
    NORMALIZE_REPLACE,       // text by content
    NORMALIZE_REPLACE_REGEX, // matches of text by content
    // pre-tokenizers
    SPLIT_STRING = 32, // text, option: the behaviours below, flag: inverted
    SPLIT_REGEX,       // likewise
    SPLIT_DIGITS,      // option: a behaviour
    SPLIT_PUNCTUATION, // option: a behaviour
    PREFIX_SPACE,
    BYTES_TO_CHARS, // every byte becomes the character that stands for it
    METASPACE,      // text: replacement, option: the schemes below, flag: split
    // decoders
    DECODE_BYTES = 64, // the inverse of BYTES_TO_CHARS over all tokens
    DECODE_REPLACE,    // text by content
    DECODE_BYTE_FALLBACK,
    DECODE_FUSE,
    DECODE_STRIP,    // up to `option` times text at the start
    DECODE_METASPACE // text, flag: the first token loses it
};

enum { STRIP_LEFT = 1, STRIP_RIGHT = 2 };
enum { ISOLATED, REMOVED, CONTIGUOUS, MERGED_WITH_PREVIOUS, MERGED_WITH_NEXT };
enum { PREPEND_ALWAYS, PREPEND_FIRST, PREPEND_NEVER };

static inline uint32_t vocab_hash(const char *s, size_t bytes)
{
    uint32_t h = 2166136261u;
    for (size_t i = 0; i < bytes; i++) h = (h ^ (unsigned char)s[i]) * 16777619u;
    return h ^ h >> 15;
}

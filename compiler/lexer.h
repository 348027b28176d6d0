// Jinja text -> tokens, as Jinja 3.1 cuts it with trim_blocks and lstrip_blocks.
#pragma once
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>

typedef enum {
    TOKEN_END,
    TOKEN_DATA,
    TOKEN_VARIABLE_BEGIN,
    TOKEN_VARIABLE_END,
    TOKEN_BLOCK_BEGIN,
    TOKEN_BLOCK_END,
    TOKEN_NAME,
    TOKEN_STRING,
    TOKEN_INTEGER,
    TOKEN_FLOAT,
    TOKEN_OPERATOR
} TokenKind;

typedef struct {
    TokenKind kind;
    uint32_t line;
    const char *text; // of data, names, strings (unescaped) and operators
    size_t bytes;
    uint64_t bits; // of numbers
} Token;

// Where reading a template ends when it is no template.
typedef struct {
    const char *where;   // the file, for the message
    const char *problem; // "FILE: line N: ..."
    jmp_buf failed;
} Syntax;

// Fills syntax->problem and jumps to syntax->failed.
_Noreturn void fail_syntax(Syntax *syntax, uint32_t line, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

// The tokens of a valid UTF-8 text; the last one is TOKEN_END. Data has lost the white space that
// tags take away.
Token *lex_template(Syntax *syntax, const char *text, size_t bytes);

// The tokenizer against what the tokenizers package answered (tests/data/tokenizers, recorded by
// tests/oracle/record_tokenizers.py), hostile files, damaged tables, long words. Runs in the root
// of the repository.
#include "../../runtime/tokens.h"
#include "../../compiler/json.h"
#include "../../compiler/tokenizer.h"
#include "../check.h"
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

// --- recorded answers ----------------------------------------------------------------------------

static int same_ids(const TokenList *list, const cJSON *ids)
{
    if ((int)list->count != cJSON_GetArraySize(ids)) return 0;
    const cJSON *id = ids->child;
    for (size_t i = 0; i < list->count; i++, id = id->next)
        if (list->id[i] != id->valueint) return 0;
    return 1;
}

static void check_encode(const Tokens *t, const char *name, const cJSON *c, const char *key,
                         int flags)
{
    const char *text = json_get(c, "text")->valuestring;
    TokenList list = {0};
    Error err = {""};
    int failed = tokens_encode(t, text, strlen(text), flags, &list, &err);
    CHECK_MSG(!failed, "%s: %s", name, err.text);
    CHECK_MSG(same_ids(&list, json_get(c, key)), "%s, %s: %s", name, key, text);
    free(list.id);
}

static void check_decode(const Tokens *t, const char *name, const cJSON *c, const char *key,
                         int skip_special)
{
    const char *wanted = json_get(c, key)->valuestring;
    TokenText whole = {0}, parts = {0};
    TokenList list = {0};
    Error err;
    const cJSON *id;
    cJSON_ArrayForEach(id, json_get(c, "ids"))
    {
        list.id = realloc(list.id, (list.count + 1) * sizeof *list.id);
        list.id[list.count++] = id->valueint;
    }
    CHECK(tokens_decode(t, list.id, list.count, skip_special, &whole, &err) == 0);
    CHECK_MSG(whole.bytes == strlen(wanted) &&
                  !memcmp(whole.bytes ? whole.data : "", wanted, whole.bytes),
              "%s: found \"%.*s\", expected \"%s\"", name, (int)whole.bytes,
              whole.bytes ? whole.data : "", wanted);
    TokenStream s;
    stream_open(&s, t, skip_special);
    parts.data = malloc(whole.bytes + 1);
    int whole_chars = 1, fits = 1;
    for (size_t i = 0; i <= list.count && fits; i++) {
        CHECK((i < list.count ? stream_feed(&s, list.id[i], &err) : stream_flush(&s, &err)) == 0);
        whole_chars &= utf8_valid(s.text.data, s.text.bytes);
        fits = parts.bytes + s.text.bytes <= whole.bytes;
        if (fits && s.text.bytes) memcpy(parts.data + parts.bytes, s.text.data, s.text.bytes);
        parts.bytes += s.text.bytes;
    }
    CHECK(whole_chars);
    CHECK(fits && parts.bytes == whole.bytes && memcmp(parts.data, wanted, whole.bytes) == 0);
    stream_close(&s);
    free(parts.data);
    free(whole.data);
    free(list.id);
}

static void check_recorded(const char *name)
{
    char *dir = arena_format("tests/data/tokenizers/%s", name);
    Buffer tables = {0};
    Error err;
    Tokens *t;
    compile_tokenizer(dir, &tables);
    CHECK(tables.bytes > 0);
    int opened = tokens_open(&t, tables.data, tables.bytes, &err) == 0;
    CHECK_MSG(opened, "%s: %s", name, err.text);
    if (!opened) return;
    cJSON *vectors = read_json(arena_format("%s/vectors.json", dir));
    const cJSON *c;
    cJSON_ArrayForEach(c, json_get(vectors, "cases"))
    {
        check_encode(t, name, c, "ids", TOKENS_PARSE_SPECIAL);
        check_encode(t, name, c, "special", TOKENS_PARSE_SPECIAL | TOKENS_ADD_SPECIAL);
        check_encode(t, name, c, "plain", 0);
    }
    cJSON_ArrayForEach(c, json_get(vectors, "decodes"))
    {
        check_decode(t, name, c, "text", 0);
        check_decode(t, name, c, "skipped", 1);
    }
    cJSON_Delete(vectors);
    tokens_close(t);
    buffer_free(&tables);
}

// --- questions about tokens ----------------------------------------------------------------------

#define TOKEN(id, content, special)                                                                \
    "{\"id\":" #id ",\"content\":\"" content "\",\"special\":" #special                            \
    ",\"lstrip\":false,\"rstrip\":false,\"single_word\":false,\"normalized\":false}"

static const char small[] = "{\"added_tokens\":[" TOKEN(0, "<s>", true) "," TOKEN(
    7, "<tool>",
    false) "],"
           "\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\",\"pattern\":"
           "{\"String\":\"\xe2\x96\x81\"},\"content\":\" \"},{\"type\":\"ByteFallback\"},"
           "{\"type\":\"Fuse\"}]},\"model\":{\"type\":\"BPE\",\"byte_fallback\":true,\"vocab\":{\"<"
           "s>\":0,"
           "\"a\":1,\"b\":2,\"ab\":3,\"\xe2\x96\x81\":4,\"\xe2\x96\x81"
           "ab\":5,\"<0xE2>\":6},"
           "\"merges\":[\"a b\",[\"x\"]]}}";

static Tokens *open_small(Buffer *tables)
{
    char *text = arena_copy(small, sizeof small - 1);
    memcpy(strstr(text, ",[\"x\"]"), "      ", 6); // the wrong merge is for check_hostile
    compile_tokenizer_text("small", text, strlen(text), tables);
    Tokens *t = NULL;
    Error err;
    CHECK(tokens_open(&t, tables->data, tables->bytes, &err) == 0);
    return t;
}

static int bytes_are(const Tokens *t, int32_t id, const char *wanted)
{
    size_t bytes;
    const char *s = tokens_bytes(t, id, &bytes);
    return bytes == strlen(wanted) && memcmp(s, wanted, bytes) == 0;
}

static void check_questions(void)
{
    Buffer tables = {0};
    Tokens *t = open_small(&tables);
    CHECK(tokens_count(t) == 8);
    CHECK(tokens_exists(t, 7) && !tokens_exists(t, 8) && !tokens_exists(t, -1));
    CHECK(tokens_is_special(t, 0) && !tokens_is_special(t, 7) && !tokens_is_special(t, 99));
    CHECK(tokens_find(t, "<tool>", 6) == 7 && tokens_find(t, "ab", 2) == 3);
    CHECK(tokens_find(t, "zz", 2) == -1);
    CHECK(tokens_bos(t) == -1 && tokens_eos(t) == -1);
    CHECK(bytes_are(t, 5, " ab") && bytes_are(t, 6, "\xe2") && bytes_are(t, 0, "<s>"));
    CHECK(bytes_are(t, 8, "") && bytes_are(t, -1, ""));
    TokenList list = {0};
    Error err;
    CHECK(tokens_encode(t, "a\xff", 2, 0, &list, &err) == -1);
    CHECK(strstr(err.text, "UTF-8") != NULL);
    CHECK(tokens_encode(t, NULL, 0, 0, &list, &err) == 0 && list.count == 0);
    free(list.id);
    tokens_close(t);
    buffer_free(&tables);
}

// A word of a million characters must not take quadratic time.
static void check_long_word(void)
{
    Buffer tables = {0};
    Tokens *t = open_small(&tables);
    size_t bytes = 1000000;
    char *text = malloc(bytes);
    for (size_t i = 0; i < bytes; i++) text[i] = "ab"[i & 1];
    TokenList list = {0};
    Error err;
    clock_t start = clock();
    CHECK(tokens_encode(t, text, bytes, 0, &list, &err) == 0);
    CHECK(list.count == bytes / 2 && list.id[0] == 3 && list.id[list.count - 1] == 3);
    CHECK(clock() - start < 20 * CLOCKS_PER_SEC);
    free(list.id);
    free(text);
    tokens_close(t);
    buffer_free(&tables);
}

// --- damaged tables ------------------------------------------------------------------------------

// Opening may fail or succeed; what opens must encode and decode without harm.
static void use_tables(const void *tables, size_t bytes)
{
    static const char text[] = "<s>Hello  w\xc3\xb6rld 12 ab \xe2\x98\x83\n";
    Tokens *t;
    Error err;
    TokenList list = {0};
    TokenText decoded = {0};
    if (tokens_open(&t, tables, bytes, &err)) return;
    if (!tokens_encode(t, text, sizeof text - 1, TOKENS_ADD_SPECIAL, &list, &err))
        tokens_decode(t, list.id, list.count, 0, &decoded, &err);
    for (int32_t id = -1; id <= tokens_count(t); id += 17) tokens_is_special(t, id);
    tokens_close(t);
    free(list.id);
    free(decoded.data);
}

static void check_damaged(const char *dir, size_t stride)
{
    Buffer tables = {0};
    compile_tokenizer(dir, &tables);
    Tokens *t;
    Error err;
    char *copy = malloc(tables.bytes);
    for (size_t i = 0; i < tables.bytes; i += i < sizeof(VocabHeader) ? 1 : stride) {
        static const unsigned char flips[] = {0x01, 0x80, 0xff};
        memcpy(copy, tables.data, tables.bytes);
        copy[i] ^= (char)flips[i % 3];
        use_tables(copy, tables.bytes);
    }
    for (size_t n = 0; n < tables.bytes; n += n < 300 ? 1 : stride * 3) {
        char *cut = malloc(n ? n : 1); // so that a sanitizer sees every read beyond it
        memcpy(cut, tables.data, n);
        CHECK(tokens_open(&t, cut, n, &err) == -1);
        free(cut);
    }
    free(copy);
    buffer_free(&tables);
}

// --- hostile files -------------------------------------------------------------------------------

// Compiling must end in exit 1 and one line on stderr that holds `message`.
static void expect_refusal(const char *text, size_t bytes, const char *message)
{
    int ends[2];
    char output[4096];
    size_t n = 0;
    fflush(NULL);
    if (pipe(ends) != 0) return;
    pid_t child = fork();
    if (child == 0) {
        dup2(ends[1], 2);
        close(ends[0]);
        Buffer tables = {0};
        compile_tokenizer_text("x/tokenizer.json", text, bytes, &tables);
        _exit(0);
    }
    close(ends[1]);
    for (ssize_t got;
         n < sizeof output - 1 && (got = read(ends[0], output + n, sizeof output - 1 - n)) > 0;)
        n += (size_t)got;
    close(ends[0]);
    output[n] = 0;
    int status;
    waitpid(child, &status, 0);
    const char *newline = strchr(output, '\n');
    CHECK_MSG(WIFEXITED(status) && WEXITSTATUS(status) == 1, "status %x: %.300s", status, text);
    CHECK_MSG(newline && !newline[1], "not one line: %s", output);
    CHECK_MSG(strncmp(output, "exlc: x/tokenizer.json: ", 24) == 0, "%s", output);
    CHECK_MSG(strstr(output, message) != NULL, "expected \"%s\", found %s", message, output);
}

#define MODEL                                                                                      \
    "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[\"a b\"]}"
#define SPLIT(pattern)                                                                             \
    "{" MODEL ",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"" pattern           \
    "\"},\"behavior\":\"Isolated\",\"invert\":false}}"

static const char *const hostile[][2] = {
    {"", "unexpected end"},
    {"[]", "not an object"},
    {"{}", "model is missing"},
    {"{\"model\":[]}", "model is missing"},
    {"{\"model\":{\"type\":\"Unigram\",\"vocab\":[]}}", "\"Unigram\" is not supported"},
    {"{\"model\":{\"type\":7,\"vocab\":{},\"merges\":[]}}", "type is not a string"},
    {"{\"model\":{\"vocab\":[],\"merges\":[]}}", "vocab is not an object"},
    {"{\"model\":{\"vocab\":{\"a\":0}}}", "merges is not a list"},
    {"{\"model\":{\"vocab\":{},\"merges\":[]}}", "vocabulary is empty"},
    {"{\"model\":{\"vocab\":{\"a\":4000000000},\"merges\":[]}}", "4000000000"},
    {"{\"model\":{\"vocab\":{\"a\":-1},\"merges\":[]}}", "id of token \"a\" is -1"},
    {"{\"model\":{\"vocab\":{\"a\":0.5},\"merges\":[]}}", "id of token"},
    {"{\"model\":{\"vocab\":{\"a\":\"0\"},\"merges\":[]}}", "id of token"},
    {"{\"model\":{\"vocab\":{\"a\":0,\"b\":0},\"merges\":[]}}", "same id 0"},
    {"{\"model\":{\"vocab\":{\"a\":0,\"a\":1},\"merges\":[]}}", "twice"},
    {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[\"a b\"]}}", "\"b\" is not in the vocabulary"},
    {"{\"model\":{\"vocab\":{\"a\":0,\"b\":1},\"merges\":[\"a b\"]}}", "\"ab\" is not in the"},
    {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[\"a\"]}}", "expected two tokens"},
    {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[\"a a a\"]}}", "expected two tokens"},
    {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[[\"a\"]]}}", "not a pair"},
    {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[[\"a\",1]]}}", "not a pair"},
    {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[7]}}", "not a pair"},
    {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[],\"dropout\":0.1}}", "dropout"},
    {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[],\"end_of_word_suffix\":\"</w>\"}}",
     "end_of_word"},
    {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[],\"unk_token\":\"u\"}}", "\"u\" is not in the"},
    {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[],\"fuse_unk\":1}}", "fuse_unk"},
    {"{" MODEL ",\"added_tokens\":{}}", "added_tokens is not a list"},
    {"{" MODEL ",\"added_tokens\":[7]}", "content is not a string"},
    {"{" MODEL ",\"added_tokens\":[" TOKEN(9, "x", true) "]}", "has id 9, expected 3"},
    {"{" MODEL ",\"added_tokens\":[" TOKEN(1, "a", true) "]}", "has id 1, expected 0"},
    {"{" MODEL ",\"added_tokens\":[" TOKEN(3, "", true) "]}", "is empty"},
    {"{" MODEL ",\"added_tokens\":[" TOKEN(3, "x", true) "," TOKEN(3, "x", true) "]}",
     "two tokens"},
    {"{" MODEL ",\"added_tokens\":[" TOKEN(3, "x", 1) "]}", "special is not true or false"},
    {"{" MODEL ",\"added_tokens\":[{\"id\":3,\"content\":\"x\",\"special\":true}]}", "lstrip"},
    {"{" MODEL ",\"normalizer\":{}}", "type is not a string"},
    {"{" MODEL ",\"normalizer\":{\"type\":\"BertNormalizer\"}}", "\"BertNormalizer\""},
    {"{" MODEL ",\"normalizer\":{\"type\":\"Sequence\"}}", "normalizers is not a list"},
    {"{" MODEL ",\"normalizer\":{\"type\":\"Replace\",\"pattern\":\"x\",\"content\":\"\"}}",
     "pattern"},
    {"{" MODEL ",\"normalizer\":{\"type\":\"Replace\",\"pattern\":{\"String\":\"\"}}}",
     "empty pattern"},
    {"{" MODEL ",\"pre_tokenizer\":{\"type\":\"Whitespace\"}}", "\"Whitespace\""},
    {"{" MODEL ",\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"__\"}}",
     "one character"},
    {"{" MODEL ",\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"_\","
     "\"prepend_scheme\":\"last\"}}",
     "\"last\""},
    {"{" MODEL
     ",\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"_\",\"prepend_scheme\":"
     "\"first\"},\"normalizer\":{\"type\":\"Strip\",\"strip_left\":true,\"strip_right\":true}}",
     "moves the start"},
    {"{" MODEL ",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"String\":\"x\"},"
     "\"behavior\":\"Odd\"}}",
     "\"Odd\""},
    {"{" MODEL ",\"decoder\":{\"type\":\"WordPiece\"}}", "\"WordPiece\""},
    {"{" MODEL ",\"decoder\":{\"type\":\"Strip\",\"content\":\" \",\"start\":0,\"stop\":1}}",
     "stop"},
    {"{" MODEL ",\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Fuse\"},"
     "{\"type\":\"ByteFallback\"}]}}",
     "after the tokens were joined"},
    {"{" MODEL ",\"post_processor\":{\"type\":\"BertProcessing\"}}", "\"BertProcessing\""},
    {"{" MODEL ",\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[]}}",
     "sequence A"},
    {"{" MODEL ",\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":["
     "{\"SpecialToken\":{\"id\":\"q\"}}]}}",
     "\"q\" is not defined"},
    {"{" MODEL ",\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":"
     "{\"id\":\"q\"}}],\"special_tokens\":{\"q\":{\"ids\":[77]}}}}",
     "77"},
    {SPLIT("("), "unfinished group"},
    {SPLIT(")"), "unmatched )"},
    {SPLIT("[a"), "unfinished class"},
    {SPLIT("[]"), "empty class"},
    {SPLIT("[z-a]"), "range"},
    {SPLIT("[a[^b]]"), "class inside a class"},
    {SPLIT("[[:alpha:]]"), "class inside a class"},
    {SPLIT("(?i:\xc3\xa9)"), "without case"},
    {SPLIT("(?i:St)"), "without case"},
    {SPLIT("*a"), "quantifier"},
    {SPLIT("a{2"), "quantifier"},
    {SPLIT("a{3,2}"), "quantifier"},
    {SPLIT("(a)\\\\1"), "escape"},
    {SPLIT("\\\\p{Nonsense}"), "property"},
    {SPLIT("\\\\pL"), "without braces"},
    {SPLIT("(?<name>a)"), "this group"},
    {SPLIT("(?m:a)"), "this group"},
    {SPLIT("a\\\\"), "escape"},
};

static void check_hostile(void)
{
    for (size_t i = 0; i < sizeof hostile / sizeof *hostile; i++)
        expect_refusal(hostile[i][0], strlen(hostile[i][0]), hostile[i][1]);
    expect_refusal(small, sizeof small - 1, "not a string like the first");
    // Every file cut short is refused.
    for (size_t n = 1; n < sizeof small - 1; n += 37) expect_refusal(small, n, "");
}

// --- a directory without a tokenizer, and one with a configuration
// --------------------------------

static void put_file(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");
    CHECK(f && fputs(text, f) >= 0 && fclose(f) == 0);
}

static void check_directory(void)
{
    char dir[] = "/tmp/exlc-tokens-XXXXXX";
    Buffer tables = {0};
    Tokens *t;
    Error err;
    CHECK(mkdtemp(dir) != NULL);
    compile_tokenizer(dir, &tables);
    CHECK(tables.bytes == 0);

    char *path = arena_format("%s/tokenizer.json", dir);
    char *config = arena_format("%s/tokenizer_config.json", dir);
    static const char text[] = "{" MODEL "}";
    static const char options[] = "{\"bos_token\":{\"content\":\"a\"},\"eos_token\":\"ab\","
                                  "\"model_max_length\":1000000000000000019884624838656}";
    put_file(path, text);
    put_file(config, options);
    compile_tokenizer(dir, &tables);
    CHECK(tokens_open(&t, tables.data, tables.bytes, &err) == 0);
    CHECK(tokens_bos(t) == 0 && tokens_eos(t) == 2);
    tokens_close(t);
    buffer_free(&tables);
    unlink(path);
    unlink(config);
    rmdir(dir);
}

// A model that came without a tokenizer: ids have no text, text has no ids.
static void check_nothing(void)
{
    Tokens *t;
    TokenList ids = {0};
    TokenText text = {0};
    TokenStream stream;
    Error err;
    CHECK(tokens_open(&t, NULL, 0, &err) == 0);
    CHECK(tokens_bos(t) == -1 && tokens_eos(t) == -1 && !tokens_exists(t, 0));
    CHECK(tokens_encode(t, "a", 1, TOKENS_ADD_SPECIAL, &ids, &err) == 0 && ids.count == 0);
    CHECK(tokens_decode(t, (int32_t[]){0, 7}, 2, 0, &text, &err) == 0 && text.bytes == 0);
    stream_open(&stream, t, 1);
    CHECK(stream_feed(&stream, 100000, &err) == 0 && stream.text.bytes == 0);
    CHECK(stream_flush(&stream, &err) == 0 && stream.text.bytes == 0);
    stream_close(&stream);
    free(ids.id);
    free(text.data);
    tokens_close(t);
}

int main(void)
{
    static const char *const names[] = {"llama3",           "gpt2",   "sentencepiece", "metaspace",
                                        "metaspace-always", "options"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) check_recorded(names[i]);
    check_questions();
    check_long_word();
    check_hostile();
    check_directory();
    check_nothing();
    check_damaged("tests/data/tokenizers/options", 7);
    check_damaged("tests/data/tokenizers/sentencepiece", 31);
    return check_done();
}

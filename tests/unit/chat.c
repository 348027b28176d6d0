// Chat templates against what Jinja answered (tests/data/templates, recorded by
// tests/oracle/record_templates.py), where templates come from, hostile ones, damaged tables. Runs
// in the root of the repository.
#include "../../runtime/template.h"
#include "../../runtime/value.h"
#include "../files.h"
#include <time.h>

// Renders a template given as text; the answer or the error, which the caller frees.
static char *render(const char *template, size_t bytes, const json_t *request, time_t now,
                    int *failed)
{
    Buffer tables = {0};
    Templates *t;
    Error err = {""};
    char *text = NULL;
    size_t length;
    compile_template_text("x.jinja", template, bytes, &tables);
    *failed = templates_open(&t, tables.data, tables.bytes, &err) != 0;
    CHECK(!*failed);
    *failed = template_render(t, 0, request, now, &text, &length, &err) != 0;
    CHECK(!*failed == (text != NULL));
    templates_close(t);
    buffer_free(&tables);
    return text ? text : strdup(err.text);
}

// --- recorded answers ----------------------------------------------------------------------------

static void check_case(const json_t *c, const json_t *requests, time_t now)
{
    const char *name = json_string_value(json_object_get(c, "name"));
    const char *request = json_string_value(json_object_get(c, "request"));
    const char *text = json_string_value(json_object_get(c, "template"));
    const char *wanted = json_string_value(json_object_get(c, "text"));
    const json_t *error = json_object_get(c, "error");
    Buffer file = {0};
    if (strcmp(request, "context") != 0)
        file = read_file(arena_format("tests/data/templates/%s", text));
    int failed;
    char *found = render(file.data ? file.data : text, file.data ? file.bytes : strlen(text),
                         json_object_get(requests, request), now, &failed);
    if (!error)
        CHECK_MSG(!failed && strcmp(found, wanted) == 0, "%s: found '%s', expected '%s'", name,
                  found, wanted);
    else if (json_is_null(error))
        CHECK_MSG(failed && *found, "%s: no error but '%s'", name, found);
    else
        CHECK_MSG(failed && strcmp(found, json_string_value(error)) == 0, "%s: %s", name, found);
    free(found);
    buffer_free(&file);
}

static void check_recorded(void)
{
    json_error_t where;
    json_t *all = json_load_file("tests/data/templates/recorded.json", JSON_ALLOW_NUL, &where), *c;
    size_t i;
    if (!all) die("recorded.json", "line %d: %s", where.line, where.text);
    json_array_foreach(json_object_get(all, "cases"), i, c) check_case(
        c, json_object_get(all, "requests"), json_integer_value(json_object_get(all, "now")));
    CHECK(i > 250);
    json_decref(all);
}

// --- where templates come from -------------------------------------------------------------------

static Templates *open_directory(const char *dir)
{
    Buffer *tables = arena_alloc(sizeof *tables);
    Templates *t;
    Error err;
    compile_templates(dir, tables);
    if (templates_open(&t, tables->data, tables->bytes, &err) != 0) die(dir, "%s", err.text);
    return t;
}

// The text that DIR's template for a request gives; NULL when there is none.
static const char *render_directory(const char *dir, const char *name, const char *request)
{
    Templates *t = open_directory(dir);
    Error err = {""};
    json_t *json = json_loads(request, 0, NULL);
    char *text = NULL;
    size_t bytes;
    int i = templates_find(t, name, json_object_get(json, "tools") != NULL, &err);
    const char *result = NULL;
    if (i >= 0 && template_render(t, i, json, 0, &text, &bytes, &err) == 0)
        result = arena_copy(text, bytes);
    CHECK((result == NULL) == (err.text[0] != 0));
    free(text);
    json_decref(json);
    templates_close(t);
    return result;
}

static int renders(const char *dir, const char *name, const char *request, const char *wanted)
{
    const char *text = render_directory(dir, name, request);
    if (!text || !wanted) return text == wanted;
    return strcmp(text, wanted) == 0;
}

static void check_sources(void)
{
    const char *dir = make_directory();
    CHECK(renders(dir, NULL, "{}", NULL));
    put_text(dir, "tokenizer_config.json",
             "{\"model_max_length\": 1000000000000000019884624838656, \"bos_token\": {\"content\": "
             "\"<s>\"},"
             " \"eos_token\": \"</s>\", \"pad_token\": null, \"chat_template\": \"{{ bos_token "
             "}}c{{ pad_token }}\"}");
    CHECK(renders(dir, NULL, "{}", "<s>c"));
    CHECK(renders(dir, NULL, "{\"bos_token\": \"B\"}", "Bc"));
    CHECK(renders(dir, "default", "{}", "<s>c"));
    CHECK(renders(dir, "other", "{}", NULL));
    put_text(dir, "chat_template.json", "{\"chat_template\": \"j{{ eos_token }}\"}");
    CHECK(renders(dir, NULL, "{}", "j</s>"));
    put_text(dir, "chat_template.jinja", "f{{ tools is none }}\n");
    CHECK(renders(dir, NULL, "{}", "fTrue"));
    if (system(arena_format("mkdir %s/additional_chat_templates", dir)) != 0)
        die(dir, "cannot make a directory");
    put_text(dir, "additional_chat_templates/tool_use.jinja", "t{{ tools | length }}");
    put_text(dir, "additional_chat_templates/rag.jinja", "r{{ documents }}");
    CHECK(renders(dir, NULL, "{}", "fTrue"));
    CHECK(renders(dir, NULL, "{\"tools\": [1]}", "t1"));
    CHECK(renders(dir, "rag", "{\"tools\": [1]}", "rNone"));
    CHECK(renders(dir, "default", "{\"tools\": [1]}", "fFalse"));
    Templates *t = open_directory(dir);
    CHECK(templates_count(t) == 3 && strcmp(templates_name(t, 0), "default") == 0);
    CHECK(strcmp(templates_text(t, 0), "f{{ tools is none }}\n") == 0);
    CHECK(strcmp(templates_token(t, "eos_token"), "</s>") == 0 && !templates_token(t, "pad_token"));
    templates_close(t);
    remove_directory(dir);
}

static void check_named(void)
{
    const char *dir = make_directory();
    put_text(dir, "tokenizer_config.json",
             "{\"chat_template\": [{\"name\": \"default\", \"template\": \"d\"},"
             "{\"name\": \"tool_use\", \"template\": \"ok\\n{% if %}\"}, {\"name\": \"x\"}]}");
    Templates *t = open_directory(dir);
    CHECK(templates_count(t) == 3);
    CHECK(!templates_problem(t, 0));
    const char *problem = templates_problem(t, 1);
    CHECK_MSG(problem && strstr(problem, "tokenizer_config.json: template \"tool_use\": line 2: "),
              "%s", problem);
    CHECK(templates_problem(t, 2) && strstr(templates_problem(t, 2), "without name or template"));
    templates_close(t);
    CHECK(renders(dir, NULL, "{}", "d"));
    CHECK(renders(dir, NULL, "{\"tools\": []}", NULL));
    put_text(dir, "tokenizer_config.json", "{\"chat_template\": 5}");
    CHECK(renders(dir, NULL, "{}", NULL));
    put_text(dir, "tokenizer_config.json", "{\"chat_template\": null}");
    CHECK(renders(dir, NULL, "{}", NULL));
    put_text(dir, "chat_template.jinja", "a\xff");
    CHECK(renders(dir, NULL, "{}", NULL));
    remove_directory(dir);
}

// --- hostile templates ---------------------------------------------------------------------------

static void check_hostile(void)
{
    static const char *const hostile[][2] = {
        {"{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "nested deeper"},
        {"{% set ns = namespace(x='aaaaaaaaaaaaaaaa') %}{% for i in range(100) %}{% set ns.x = "
         "ns.x + ns.x %}"
         "{% endfor %}",
         "memory"},
        {"{% set ns = namespace(x=[1]) %}{% for i in range(100) %}{% set ns.x = ns.x + ns.x %}{% "
         "endfor %}",
         "memory"},
        {"{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
         "memory"},
        {"{% set r = range(99999) %}{% for a in r %}{{ 1 if 'a' in r else '' }}{% endfor %}",
         "steps"},
        {"{{ 'x' * 999999999999 }}", "memory"},
        {"{{ '%999999d' % 1 }}{{ '%9999999d' % 1 }}", "million"},
        {"{{ 'x'.center(99999999999) }}", "width"},
        {"{% set ns = namespace(x=[]) %}{% for i in range(5000) %}{% set ns.x = [ns.x] %}{% endfor "
         "%}{{ ns.x }}",
         "nested deeper"},
        {"{% set ns = namespace(x=[]) %}{% for i in range(5000) %}{% set ns.x = [ns.x] %}{% endfor "
         "%}"
         "{{ ns.x | tojson }}",
         "nested deeper"},
        {"{% set ns = namespace(x=1, y=1) %}{% for i in range(5000) %}{% set ns.x = [ns.x] %}{% "
         "set ns.y = [ns.y] %}"
         "{% endfor %}{{ ns.x == ns.y }}",
         "nested deeper"},
        {"{% set ns = namespace() %}{% set ns.self = ns %}{{ ns }}", "nested deeper"},
        {"{% set s = 'b' * 999999 %}{% for i in range(99999) %}{{ 'a' in s }}{% endfor %}",
         "steps"},
        {"{{ 2 ** 64 }}", "64 bits"},
        {"{{ 99999999999999999999 }}", "too large"},
        {"{{ strftime_now('%A' * 1000) }}", "too long"},
        {"{{ 1.0e308 * 10 }}{{ (1.0e308 * 10) | int }}{{ -9223372036854775807 - 2 }}", "64 bits"}};
    json_t *request = json_object();
    for (size_t i = 0; i < sizeof hostile / sizeof *hostile; i++) {
        int failed;
        clock_t start = clock();
        char *found = render(hostile[i][0], strlen(hostile[i][0]), request, 0, &failed);
        double seconds = (double)(clock() - start) / CLOCKS_PER_SEC;
        CHECK_MSG(failed && strstr(found, hostile[i][1]), "%s: %s", hostile[i][0], found);
        CHECK_MSG(seconds < 20, "%s: %.1f s", hostile[i][0], seconds);
        free(found);
    }
    json_decref(request);
}

// Nesting that the compiler must not follow to the end of its stack.
static void check_nesting(void)
{
    static const char *const open[] = {"{{ ", "{{ ", "{{ ", "{% if 1 %}", "{{ "};
    static const char *const again[] = {"(", "[", "not ", "{% if 1 %}", "-"};
    json_t *request = json_object();
    for (int i = 0; i < 5; i++) {
        Buffer b = {0};
        int failed;
        buffer_print(&b, "%s", open[i]);
        for (int k = 0; k < 50000; k++) buffer_print(&b, "%s", again[i]);
        char *found = render(b.data, b.bytes, request, 0, &failed);
        CHECK_MSG(failed && strstr(found, "nested deeper than"), "%s: %s", again[i], found);
        free(found);
        buffer_free(&b);
    }
    Buffer b = {0};
    for (int k = 0; k < 20000; k++)
        buffer_print(&b, "{%% %s x == %d %%}%d", k ? "elif" : "if", k, k);
    buffer_print(&b, "{%% endif %%}");
    int failed;
    char *found = render(b.data, b.bytes, request, 0, &failed);
    CHECK_MSG(failed && strstr(found, "nested deeper than"), "elif: %s", found);
    free(found);
    buffer_free(&b);
    json_decref(request);
}

// A long conversation is no attack.
static void check_long(void)
{
    json_t *request = json_object(), *messages = json_array();
    Buffer file = read_file("tests/data/templates/chatml.jinja"), content = {0};
    for (int i = 0; i < 5000; i++) buffer_print(&content, "word %d ", i);
    for (int i = 0; i < 1000; i++)
        json_array_append_new(
            messages,
            json_pack("{s:s, s:s}", "role", i % 2 ? "assistant" : "user", "content", content.data));
    json_object_set_new(request, "messages", messages);
    int failed;
    char *found = render(file.data, file.bytes, request, 0, &failed);
    CHECK_MSG(!failed && strlen(found) > 1000 * content.bytes, "%.100s", found);
    free(found);
    buffer_free(&content);
    buffer_free(&file);
    json_decref(request);
}

// --- errors and damage ---------------------------------------------------------------------------

static void check_errors(void)
{
    static const char *const cases[][2] = {
        {"{{ raise_exception('Only \"user\" roles, please: 100 % sure') }}",
         "Only \"user\" roles, please: 100 % sure"},
        {"a\nb\n{{ messages[0].content }}", "chat template, line 3: list object has no element 0"},
        {"a\n{% for x in 5 %}{% endfor %}", "chat template, line 2: 'int' object is not iterable"},
        {"a\n\n{% endif %}", "x.jinja: line 3: Encountered unknown tag 'endif'."}};
    json_t *request = json_pack("{s:[]}", "messages");
    int failed;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *found = render(cases[i][0], strlen(cases[i][0]), request, 0, &failed);
        CHECK_MSG(failed && strcmp(found, cases[i][1]) == 0, "%s", found);
        free(found);
    }
    char *found = render("x", 1, json_array_get(request, 0), 0, &failed);
    CHECK(failed && strstr(found, "not a JSON object"));
    free(found);
    json_decref(request);
}

// Whatever happens to the tables, opening or rendering ends in an answer.
static void check_damaged(void)
{
    Buffer file = read_file("tests/data/templates/chatml.jinja"), tables = {0};
    compile_template_text("x.jinja", file.data, file.bytes, &tables);
    json_t *request = json_pack("{s:[{s:s, s:s}], s:b}", "messages", "role", "user", "content", "x",
                                "add_generation_prompt", 1);
    char *copy = malloc(tables.bytes);
    uint64_t seed = 1;
    int opened = 0;
    for (int i = 0; i < 3000; i++) {
        memcpy(copy, tables.data, tables.bytes);
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        copy[(seed >> 16) % tables.bytes] ^= (char)(1 << (seed >> 60));
        Templates *t;
        Error err;
        char *text;
        size_t bytes;
        if (templates_open(&t, copy, tables.bytes, &err) != 0) continue;
        opened++;
        if (template_render(t, 0, request, 0, &text, &bytes, &err) == 0) free(text);
        templates_close(t);
    }
    CHECK(opened > 0);
    Templates *t;
    Error err;
    for (size_t bytes = 0; bytes < tables.bytes; bytes += 97)
        CHECK(templates_open(&t, tables.data, bytes, &err) != 0);
    free(copy);
    json_decref(request);
    buffer_free(&tables);
    buffer_free(&file);
}

int main(void)
{
    setenv("TZ", "UTC", 1);
    check_recorded();
    check_sources();
    check_named();
    check_errors();
    check_hostile();
    check_nesting();
    check_long();
    check_damaged();
    return check_done();
}

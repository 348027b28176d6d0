// Renders templates for tests in other languages: a line of JSON {"template", "request", "now"} on
// standard input gives a line {"text"} or {"error"} on standard output.
#include "../compiler/template.h"
#include "../runtime/template.h"
#include <stdlib.h>
#include <string.h>

static json_t *render(const json_t *line)
{
    const json_t *source = json_object_get(line, "template");
    Buffer tables = {0};
    Templates *t = NULL;
    Error err = {""};
    char *text = NULL;
    size_t bytes = 0;
    compile_template_text("template", json_string_value(source), json_string_length(source),
                          &tables);
    int failed =
        templates_open(&t, tables.data, tables.bytes, &err) != 0 ||
        template_render(t, 0, json_object_get(line, "request"),
                        json_integer_value(json_object_get(line, "now")), &text, &bytes, &err) != 0;
    json_t *answer =
        failed ? json_pack("{s:s}", "error", err.text) : json_pack("{s:s%}", "text", text, bytes);
    free(text);
    templates_close(t);
    buffer_free(&tables);
    return answer;
}

int main(void)
{
    char *line = NULL;
    size_t room = 0;
    while (getline(&line, &room, stdin) > 0) {
        json_error_t where;
        json_t *input = json_loads(line, JSON_ALLOW_NUL, &where);
        json_t *answer = json_is_string(json_object_get(input, "template"))
                             ? render(input)
                             : json_pack("{s:s}", "error", where.text);
        json_dumpf(answer, stdout, JSON_COMPACT);
        putchar('\n');
        json_decref(answer);
        json_decref(input);
    }
    free(line);
    return 0;
}

// A request on standard input to the text of its prompt.
#include "render.h"
#include "input.h"
#include "template.h"
#include <stdlib.h>

static int render_text(const Templates *t, const char *name, const char *input, size_t length,
                       Error *err)
{
    json_error_t where;
    json_t *request = json_loadb(input, length, JSON_ALLOW_NUL, &where);
    if (!request) return error_set(err, "standard input, line %d: %s", where.line, where.text);
    const json_t *messages = json_object_get(request, "messages");
    int fine = json_array_size(messages) > 0;
    for (size_t i = 0; fine && i < json_array_size(messages); i++)
        fine = json_is_object(json_array_get(messages, i));
    if (!fine) {
        json_decref(request);
        return error_set(err, "standard input: messages: expected a list of at least one message");
    }
    // As the server does.
    if (!json_object_get(request, "add_generation_prompt") &&
        !json_is_true(json_object_get(request, "continue_final_message")))
        json_object_set_new(request, "add_generation_prompt", json_true());
    char *text = NULL;
    size_t bytes;
    int has_tools =
        !json_is_null(json_object_get(request, "tools")) && json_object_get(request, "tools");
    int i = templates_find(t, name, has_tools, err);
    int status = i < 0 ? -1 : template_render(t, i, request, 0, &text, &bytes, err);
    if (status == 0) fwrite(text, 1, bytes, stdout);
    free(text);
    json_decref(request);
    return status;
}

int render_input(const void *tables, size_t bytes, const char *name, Error *err)
{
    Templates *t;
    size_t length;
    if (templates_open(&t, tables, bytes, err) != 0) return -1;
    int status = templates_count(t) ? 0 : templates_find(t, name, 0, err);
    char *input = status == 0 ? read_input(&length, err) : NULL;
    status = input ? render_text(t, name, input, length, err) : -1;
    free(input);
    templates_close(t);
    return status;
}

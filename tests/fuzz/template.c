// Fuzzes compile_template_text, and the rendering of whatever it accepts. Built with
//
//     clang -fsanitize=fuzzer,address,undefined -Wl,--wrap=die,--wrap=arena_alloc,...   (heap.h)
#include "heap.h"
#include "../../runtime/template.h"

static json_t *make_request(void)
{
    static const char text[] = "{\"messages\": [{\"role\": \"system\", \"content\": \"S "
                               "\\u00e9\"}, {\"role\": \"user\", \"content\":"
                               " [{\"type\": \"text\", \"text\": \" a,b \"}]}, {\"role\": "
                               "\"assistant\", \"content\": null,"
                               " \"tool_calls\": [{\"function\": {\"name\": \"f\", \"arguments\": "
                               "{\"x\": 1.5, \"y\": [true, -3]}}}]}],"
                               " \"tools\": [{\"type\": \"function\", \"function\": {\"name\": "
                               "\"f\"}}], \"bos_token\": \"<s>\","
                               " \"x\": \"a b\", \"n\": 3, \"add_generation_prompt\": true}";
    json_t *request = json_loads(text, 0, NULL);
    if (!request) abort();
    return request;
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t bytes)
{
    static Buffer tables;
    static json_t *request;
    if (!request) request = make_request();
    hook_json();
    tables.bytes = 0;
    if (setjmp(refused)) abort(); // a template is kept with its problem, never refused
    compile_template_text("fuzz", (const char *)data, bytes, &tables);
    Templates *t;
    Error err;
    char *text = NULL;
    size_t length;
    if (templates_open(&t, tables.data, tables.bytes, &err) != 0) abort();
    if (template_render(t, 0, request, 1752148800, &text, &length, &err) == 0) free(text);
    templates_close(t);
    free_blocks();
    return 0;
}

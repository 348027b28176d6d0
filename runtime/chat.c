// Messages to the text that a model was trained on.
#include "chat.h"

int chat_has_template(void)
{
    return 0;
}

int chat_prompt(const json_t *values, TokenText *out, Error *err)
{
    (void)values, (void)out;
    return error_set(err, "the model has no chat template");
}

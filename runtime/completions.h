// OpenAI's /v1/completions and /v1/chat/completions.
#pragma once
#include "api.h"

extern const Family text_completions, chat_completions;
json_t *completions_error(const Refusal *r); // OpenAI's error object

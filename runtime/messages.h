// Anthropic's /v1/messages.
#pragma once
#include "api.h"

extern const Family messages;
// /v1/messages/count_tokens; NULL and a refusal.
json_t *messages_count(Api *api, json_t *body, Refusal *r);

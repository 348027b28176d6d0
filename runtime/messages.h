// Anthropic's /v1/messages.
#pragma once
#include "api.h"

extern const Family messages;

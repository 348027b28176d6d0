// OpenAI's /v1/responses.
#pragma once
#include "api.h"

extern const Family responses;

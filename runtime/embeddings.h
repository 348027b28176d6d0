// OpenAI's /v1/embeddings, of models that are made for it.
#pragma once
#include "api.h"

extern const Family embeddings;

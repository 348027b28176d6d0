// How a model that is made for embeddings turns a text's states into one vector: modules.json and
// the configs it names, as Sentence Transformers writes them.
#include "exlc.h"
#include "json.h"
#include <string.h>

// The last part of "sentence_transformers.models.Pooling".
static const char *kind_of(const cJSON *module)
{
    const cJSON *type = json_get(module, "type");
    const char *dot = cJSON_IsString(type) ? strrchr(type->valuestring, '.') : NULL;
    return dot ? dot + 1 : cJSON_IsString(type) ? type->valuestring : "?";
}

// One way must be on, and one that a program has.
static const char *read_pooling(const char *path)
{
    static const struct {
        const char *key, *word, *pooling;
    } ways[] = {{"pooling_mode_lasttoken", "lasttoken", "EMBEDDING_LAST"},
                {"pooling_mode_cls_token", "cls", "EMBEDDING_FIRST"},
                {"pooling_mode_mean_tokens", "mean", "EMBEDDING_MEAN"},
                {"pooling_mode_max_tokens", "max", NULL},
                {"pooling_mode_mean_sqrt_len_tokens", "mean_sqrt_len_tokens", NULL},
                {"pooling_mode_weightedmean_tokens", "weightedmean", NULL}};
    const cJSON *config = read_json_if_present(path);
    const cJSON *mode = json_get(config, "pooling_mode");
    const char *pooling = NULL;
    int found = 0;
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        if (!cJSON_IsTrue(json_get(config, ways[i].key)) &&
            !(cJSON_IsString(mode) && strcmp(mode->valuestring, ways[i].word) == 0))
            continue;
        found++;
        pooling = ways[i].pooling;
    }
    if (found != 1 || !pooling)
        warn(path,
             "expected pooling of the last token, the first or the mean alone: the program will "
             "give no embeddings");
    return found == 1 ? pooling : NULL;
}

Embedding read_embedding(const char *dir)
{
    Embedding e = {0};
    char *path = arena_format("%s/modules.json", dir);
    const cJSON *modules = read_json_if_present(path);
    const cJSON *module;
    cJSON_ArrayForEach(module, modules)
    {
        const char *kind = kind_of(module);
        const cJSON *where = json_get(module, "path");
        if (strcmp(kind, "Pooling") == 0 && cJSON_IsString(where)) {
            e.pooling = read_pooling(arena_format("%s/%s/config.json", dir, where->valuestring));
            if (!e.pooling) break;
        } else if (strcmp(kind, "Normalize") == 0) {
            e.normal = 1;
        } else if (strcmp(kind, "Transformer") != 0) {
            warn(path, "module %s is not there: the program will give no embeddings", kind);
            e = (Embedding){0};
            break;
        }
    }
    return e;
}

// What those who watch a server see of its figures.
#include "../../runtime/api.h"
#include "../check.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

const ModelInfo model_info = {.name = "metrics", .vocab = 8};

// The value of a line, or NAN.
static double value(const char *text, const char *name)
{
    size_t n = strlen(name);
    for (const char *line = text; line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL)
        if (strncmp(line, name, n) == 0 && line[n] == ' ') return atof(line + n);
    return NAN;
}

static void test_times(void)
{
    Generator g = {.stats = {.pages = 10,
                             .pages_used = 5,
                             .prompt_tokens = 40,
                             .reused_tokens = 30,
                             .first_token = {.count = 6, .within = {1, 2, 0, 1}, .sum = 100.5}}};
    Api api = {.generator = &g};
    TokenText text = {0};
    Error err;
    CHECK(api_metrics(&api, &text, &err) == 0);
    // Buckets hold all that are shorter.
    CHECK(value(text.data, "exlc:time_to_first_token_seconds_bucket{le=\"0.001\"}") == 1);
    CHECK(value(text.data, "exlc:time_to_first_token_seconds_bucket{le=\"0.0025\"}") == 3);
    CHECK(value(text.data, "exlc:time_to_first_token_seconds_bucket{le=\"0.005\"}") == 3);
    CHECK(value(text.data, "exlc:time_to_first_token_seconds_bucket{le=\"0.01\"}") == 4);
    CHECK(value(text.data, "exlc:time_to_first_token_seconds_bucket{le=\"60\"}") == 4);
    CHECK(value(text.data, "exlc:time_to_first_token_seconds_bucket{le=\"+Inf\"}") == 6);
    CHECK(value(text.data, "exlc:time_to_first_token_seconds_sum") == 100.5);
    CHECK(value(text.data, "exlc:time_to_first_token_seconds_count") == 6);
    CHECK(value(text.data, "exlc:cache_usage_ratio") == 0.5);
    free(text.data);
    json_t *cache = api_cache(&api);
    CHECK(json_real_value(json_object_get(cache, "hit_rate")) == 0.75);
    json_decref(cache);
}

static const char *last_issue(json_t *health)
{
    const json_t *issues = json_object_get(health, "issues");
    return json_string_value(json_object_get(json_array_get(issues, 0), "description"));
}

static void test_health(void)
{
    Generator g = {0};
    Api api = {.generator = &g};
    int status;
    json_t *health = api_health(&api, 0, &status);
    CHECK(status == 200 && !last_issue(health));
    json_decref(health);
    health = api_health(&api, 1, &status);
    CHECK(status == 503);
    json_decref(health);
    // Faults make it unhealthy for a while, and are listed, the last ones, the newest first.
    for (; g.stats.faults < FAULTS_KEPT + 3; g.stats.faults++) {
        Fault *f = &g.stats.fault[g.stats.faults % FAULTS_KEPT];
        f->at = monotonic_seconds() - 1000;
        error_set(&f->error, "fault %d", (int)g.stats.faults);
    }
    health = api_health(&api, 0, &status);
    CHECK(status == 200 && strcmp(last_issue(health), "fault 10") == 0);
    CHECK(json_array_size(json_object_get(health, "issues")) == FAULTS_KEPT);
    json_decref(health);
    g.stats.fault[10 % FAULTS_KEPT].at = monotonic_seconds() - 5;
    health = api_health(&api, 0, &status);
    CHECK(status == 503 &&
          strcmp(json_string_value(json_object_get(health, "status")), "failing") == 0);
    json_decref(health);
}

int main(void)
{
    test_times();
    test_health();
    return check_done();
}

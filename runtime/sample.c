// The sampler chain on the CPU.
#include "sample.h"
#include <math.h>
#include <stdlib.h>

// Partial order by descending weight, ascending id: moves the `keep` likeliest of n to the front.
static void select_top(float *p, int32_t *id, int n, int keep)
{
    int low = 0, high = n - 1;
    while (low < high) {
        float pivot = p[(low + high) / 2];
        int32_t pivot_id = id[(low + high) / 2];
        int i = low, j = high;
        while (i <= j) {
            while (p[i] > pivot || (p[i] == pivot && id[i] < pivot_id)) i++;
            while (p[j] < pivot || (p[j] == pivot && id[j] > pivot_id)) j--;
            if (i > j) break;
            float f = p[i];
            p[i] = p[j], p[j] = f;
            int32_t t = id[i];
            id[i] = id[j], id[j] = t;
            i++, j--;
        }
        if (keep - 1 <= j) high = j;
        else if (keep - 1 >= i) low = i;
        else return;
    }
}

typedef struct {
    float p;
    int32_t id;
} Pair;

static int by_weight(const void *a, const void *b)
{
    const Pair *x = a, *y = b;
    if (x->p != y->p) return x->p < y->p ? 1 : -1;
    return x->id < y->id ? -1 : 1;
}

int32_t sample_token(const float *logits, int vocab, const Sampling *s, float *p, int32_t *ids)
{
    int best = -1;
    for (int i = 0; i < vocab; i++) {
        if (isnan(logits[i])) return -1;
        if (best < 0 || logits[i] > logits[best]) best = i;
    }
    if (s->temperature <= 0 || s->top_k == 1 || !isfinite(logits[best])) return best;

    double total = 0;
    for (int i = 0; i < vocab; i++) {
        p[i] = expf((logits[i] - logits[best]) / s->temperature);
        ids[i] = i;
        total += p[i];
    }
    int n = vocab;
    if (s->top_k > 0 && s->top_k < n) {
        select_top(p, ids, n, s->top_k);
        n = s->top_k;
        total = 0;
        for (int i = 0; i < n; i++) total += p[i];
    }
    if (s->top_p < 1) {
        // The likeliest are few: look at 256, 2048, ... of them until their mass suffices.
        for (int look = 256;; look *= 8) {
            int m = look < n ? look : n;
            select_top(p, ids, n, m);
            Pair *pairs = malloc(sizeof *pairs * (size_t)m);
            if (!pairs) return best;
            for (int i = 0; i < m; i++) pairs[i] = (Pair){p[i], ids[i]};
            qsort(pairs, (size_t)m, sizeof *pairs, by_weight);
            double mass = 0;
            int kept = 0;
            while (kept < m && (kept == 0 || mass < s->top_p * total)) mass += pairs[kept++].p;
            for (int i = 0; i < kept; i++) p[i] = pairs[i].p, ids[i] = pairs[i].id;
            free(pairs);
            if (kept < m || m == n) {
                n = kept;
                total = mass;
                break;
            }
        }
    }
    if (s->min_p > 0) { // the likeliest token has weight 1
        int kept = 0;
        total = 0;
        for (int i = 0; i < n; i++) {
            if (p[i] < s->min_p) continue;
            p[kept] = p[i], ids[kept++] = ids[i];
            total += p[i];
        }
        n = kept;
    }
    double target = sampling_uniform(s->seed, s->draw) * total, mass = 0;
    for (int i = 0; i < n; i++) {
        mass += p[i];
        if (mass > target) return ids[i];
    }
    return ids[n - 1];
}

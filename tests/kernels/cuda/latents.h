// Steps of latent attention against double precision; part of tests/kernels/cuda.c.
#pragma once

static void random_latents(Layer *layer, int q_a, int kv_a, int q_b)
{
    if (Q_LATENT) {
        layer->q_a = random_linear(q_a, DIM, Q_LATENT, 1);
        layer->q_a_norm = random_vector(Q_LATENT, 1, 0.2f);
    }
    layer->kv_a = random_linear(kv_a, DIM, LATENT_ROW, 0);
    layer->q_b = random_linear(q_b, Q_LATENT ? Q_LATENT : DIM, HEADS * QUERY_DIM, 0);
    layer->kv_a_norm = random_vector(KV_LATENT, 1, 0.2f);
    layer->kv_b = random_scales(HEADS * EXPANDED * KV_LATENT, 1 / sqrtf(NOPE_DIM));
    uint16_t *values = (uint16_t *)(weights + layer->kv_b);
    for (int i = 0; i < HEADS * EXPANDED * KV_LATENT && KV_B_FORMAT == b16; i++) {
        float value = (float)reference_half(values[i]);
        uint32_t bits;
        memcpy(&bits, &value, 4);
        values[i] = (uint16_t)(bits >> 16);
    }
}

// latent, or where queries come from x latent_direct.
static void launch_latents(Gpu *gpu, const State *s, const Batch *b, int q_a, int kv_a, int q_b,
                           const Layer *layer)
{
    if (Q_LATENT)
        launch_latent(gpu, s, b, q_a, kv_a, q_b, layer);
    else
        launch_latent_direct(gpu, s, b, q_b, kv_a, layer);
}

// Rows of kv_b for a head, to be freed.
static double *reference_expansion(const Layer *layer, int head)
{
    const uint16_t *from = (uint16_t *)(weights + layer->kv_b);
    from += (size_t)head * EXPANDED * KV_LATENT;
    double *rows = malloc(EXPANDED * KV_LATENT * sizeof *rows);
    for (int i = 0; i < EXPANDED * KV_LATENT; i++) {
        uint32_t bits = (uint32_t)from[i] << 16;
        float wide;
        memcpy(&wide, &bits, 4);
        rows[i] = KV_B_FORMAT == b16 ? wide : reference_half(from[i]);
    }
    return rows;
}

static void reference_rms(double *v, const float *weight, int count)
{
    double sum = 0;
    for (int i = 0; i < count; i++) sum += v[i] * v[i];
    for (int i = 0; i < count; i++) v[i] *= weight[i] / sqrt(sum / count + LATENT_EPS);
}

// From x to queries, and to keys and values in the cache.
static void check_latent(int q_a, int kv_a, int q_b, int l, const char *name)
{
    const Layer *layer = &layers[l];
    set_x();
    launch_latents(gpu, &s, &b, q_a, kv_a, q_b, s.layers + l);
    if (decode_form(gpu, &s, &b)) clear_all_sums();
    double *x = normed_x(layer->attn_norm, NULL, b.rows);
    float *rope = get(s.rope, (size_t)b.rows * TURNS * 4);
    double *q = malloc((size_t)b.rows * Q_LATENT * 8);
    double *kv = malloc((size_t)b.rows * LATENT_ROW * 8);
    double *heads = malloc((size_t)b.rows * HEADS * QUERY_DIM * 8);
    double *queries = calloc((size_t)b.rows * Q_DIM, 8);
    if (Q_LATENT) reference_linear(weights, &layer->q_a, q_a, DIM, Q_LATENT, b.rows, x, q);
    reference_linear(weights, &layer->kv_a, kv_a, DIM, LATENT_ROW, b.rows, x, kv);
    for (int r = 0; r < b.rows; r++) {
        if (Q_LATENT)
            reference_rms(q + r * Q_LATENT, (float *)(weights + layer->q_a_norm), Q_LATENT);
        reference_rms(kv + r * LATENT_ROW, (float *)(weights + layer->kv_a_norm), KV_LATENT);
        reference_head(kv + r * LATENT_ROW + KV_LATENT, NULL, rope + r * TURNS);
    }
    reference_linear(weights, &layer->q_b, q_b, Q_LATENT ? Q_LATENT : DIM, HEADS * QUERY_DIM,
                     b.rows, Q_LATENT ? q : x, heads);
    for (int i = 0; i < b.rows * HEADS; i++) {
        double *k = reference_expansion(layer, i % HEADS);
        double *from = heads + i * QUERY_DIM, *to = queries + i * LATENT_ROW;
        for (int n = 0; n < NOPE_DIM; n++)
            for (int c = 0; c < KV_LATENT; c++) to[c] += from[n] * k[n * KV_LATENT + c];
        reference_head(from + NOPE_DIM, NULL, rope + i / HEADS * TURNS);
        memcpy(to + KV_LATENT, from + NOPE_DIM, ROPE_DIM * 8);
        free(k);
    }
    char what[64];
    float *got = get(s.q, (size_t)b.rows * Q_DIM * 4);
    snprintf(what, sizeof what, "latent(%s).q", name);
    compare(what, b.rows, Q_DIM, got, queries, 2e-3);
    uint8_t *cache = get(s.cache[pool_of(l)], CACHE_BYTES);
    for (int value = 0; value < 2; value++) {
        int bits = value ? s.value_bits : s.key_bits;
        double *expected = malloc((size_t)b.rows * LATENT_ROW * 8);
        memcpy(expected, kv, (size_t)b.rows * LATENT_ROW * 8);
        if (bits < 16) ref_turn(expected, b.rows * LATENT_ROW);
        for (int i = 0; i < b.rows * LATENT_ROW; i++)
            got[i] = cache_at(cache, l, sequence[i / LATENT_ROW], value, 0,
                              position[i / LATENT_ROW], i % LATENT_ROW);
        snprintf(what, sizeof what, "latent(%s).%s", name, value ? "value" : "key");
        if (bits < 16)
            compare_stored(what, LATENT_ROW, bits, got, expected);
        else
            compare(what, b.rows, LATENT_ROW, got, expected, 2e-3);
        free(expected);
    }
    free(x), free(rope), free(q), free(kv), free(heads), free(queries), free(got), free(cache);
}

static int reference_splits(int window, int at, int *length)
{
    for (*length = LATENT_SPLIT; at / *length >= LATENT_SPLITS;) *length *= 2;
    return at / *length - (window > 0 && at >= window ? at - window + 1 : 0) / *length + 1;
}

#define SPLITS_OF_ROW ((size_t)LATENT_SPLITS * LATENT_SPLIT_FLOATS)

static void check_attend(int l)
{
    int window = layers[l].window, decode = decode_form(gpu, &s, &b);
    float *q = random_floats((size_t)b.rows * Q_DIM, 1);
    put(s.q, q, (size_t)b.rows * Q_DIM * 4);
    if (decode)
        launch_decode(gpu, STEP_ATTEND, &s, &b, s.layers + l, 0, 0, 0, 0, ATTEND_ROOM);
    else
        launch_attend(gpu, &s, &b, s.layers + l);
    float *all = decode ? get(work_place(places().large), b.rows * SPLITS_OF_ROW * 4) : NULL;
    float *a = get(s.a, (size_t)b.rows * Q_DIM * 4);
    uint8_t *cache = get(s.cache[pool_of(l)], CACHE_BYTES);
    float *got = malloc((size_t)b.rows * HEADS * KV_LATENT * 4);
    double *expected = calloc((size_t)b.rows * HEADS * KV_LATENT, 8);
    double *keys = malloc((size_t)MAX_CONTEXT * LATENT_ROW * 8), p[MAX_CONTEXT];
    double *values = malloc((size_t)MAX_CONTEXT * KV_LATENT * 8);
    for (int r = 0; r < b.rows; r++) {
        int last = position[r], first = window > 0 && last >= window ? last - window + 1 : 0;
        int length, splits = reference_splits(window, last, &length);
        for (int t = first; t <= last; t++) {
            for (int i = 0; i < LATENT_ROW; i++)
                keys[t * LATENT_ROW + i] = cache_at(cache, l, sequence[r], 0, 0, t, i);
            for (int i = 0; i < KV_LATENT; i++)
                values[t * KV_LATENT + i] = cache_at(cache, l, sequence[r], 1, 0, t, i);
        }
        for (int h = 0; h < HEADS; h++) {
            size_t place = (size_t)r * HEADS + h;
            double query[LATENT_ROW], most = -INFINITY, total = 0;
            for (int i = 0; i < LATENT_ROW; i++) query[i] = q[place * LATENT_ROW + i];
            if (s.key_bits < 16) ref_turn(query, LATENT_ROW);
            for (int t = first; t <= last; t++) {
                p[t] = 0;
                for (int i = 0; i < LATENT_ROW; i++) p[t] += query[i] * keys[t * LATENT_ROW + i];
                p[t] *= SOFTMAX_SCALE;
                most = fmax(most, p[t]);
            }
            for (int t = first; t <= last; t++) total += p[t] = exp(p[t] - most);
            for (int t = first; t <= last; t++)
                for (int c = 0; c < KV_LATENT; c++)
                    expected[place * KV_LATENT + c] += p[t] / total * values[t * KV_LATENT + c];
            for (int c = 0; c < KV_LATENT; c++) {
                double largest = -INFINITY, sum = 0, weight = 0;
                if (!decode) {
                    got[place * KV_LATENT + c] = a[place * LATENT_ROW + c];
                    continue;
                }
                const float *part = all + r * SPLITS_OF_ROW;
                for (int j = 0; j < splits; j++)
                    largest = fmax(largest, part[j * LATENT_SPLIT_FLOATS + HEADS * KV_LATENT + h]);
                for (int j = 0; j < splits; j++, part += LATENT_SPLIT_FLOATS) {
                    double factor = exp2(part[HEADS * KV_LATENT + h] - largest);
                    sum += factor * part[h * KV_LATENT + c];
                    weight += factor * part[HEADS * (KV_LATENT + 1) + h];
                }
                got[place * KV_LATENT + c] = sum / weight;
            }
        }
    }
    compare(window ? "attend, window" : "attend", b.rows, HEADS * KV_LATENT, got, expected, 2e-3);
    free(q), free(all), free(a), free(cache), free(got), free(expected), free(keys), free(values);
}

// x += linear(value rows of kv_b on what attention gave).
static void check_latent_out(int format, int l, const char *name)
{
    const Layer *layer = &layers[l];
    int decode = decode_form(gpu, &s, &b);
    float *a = random_floats((size_t)b.rows * Q_DIM, 1), *got;
    set_x();
    float *before = get(s.x, (size_t)b.rows * DIM * 4);
    put(s.a, a, (size_t)b.rows * Q_DIM * 4);
    if (decode) { // as splits, all but the first of no weight
        float *all = calloc(b.rows * SPLITS_OF_ROW, 4);
        for (int r = 0; r < b.rows; r++) {
            int length, splits = reference_splits(layer->window, position[r], &length);
            for (int j = 0; j < splits; j++) {
                float *part = all + r * SPLITS_OF_ROW + (size_t)j * LATENT_SPLIT_FLOATS;
                for (int h = 0; h < HEADS; h++) {
                    for (int c = 0; c < KV_LATENT; c++)
                        part[h * KV_LATENT + c] =
                            j ? 7 : 2 * a[((size_t)r * HEADS + h) * LATENT_ROW + c];
                    part[HEADS * KV_LATENT + h] = j ? -INFINITY : 3;
                    part[HEADS * (KV_LATENT + 1) + h] = j ? 0 : 2;
                }
            }
        }
        put(work_place(places().large), all, b.rows * SPLITS_OF_ROW * 4);
        free(all);
    }
    launch_latent_out(gpu, &s, &b, format, s.layers + l);
    double *v = calloc((size_t)b.rows * ATTENDED, 8), *y = malloc((size_t)b.rows * DIM * 8);
    for (int i = 0; i < b.rows * HEADS; i++) {
        double *k = reference_expansion(layer, i % HEADS), *w = k + NOPE_DIM * KV_LATENT;
        double latent[KV_LATENT];
        for (int c = 0; c < KV_LATENT; c++) latent[c] = a[(size_t)i * LATENT_ROW + c];
        if (s.value_bits < 16) ref_turn(latent, KV_LATENT);
        for (int j = 0; j < VALUE_DIM; j++)
            for (int c = 0; c < KV_LATENT; c++)
                v[(size_t)i * VALUE_DIM + j] += w[j * KV_LATENT + c] * latent[c];
        free(k);
    }
    reference_linear(weights, &layer->o, format, ATTENDED, DIM, b.rows, v, y);
    for (int i = 0; i < b.rows * DIM; i++) y[i] = y[i] * RESIDUAL_SCALE + before[i];
    if (decode) {
        double *sums = finished(places().sums_out, b.rows, PADDED(DIM), 0, &layer->o, DIM, 1);
        got = malloc((size_t)b.rows * DIM * 4);
        for (int i = 0; i < b.rows * DIM; i++) got[i] = sums[i] * RESIDUAL_SCALE + before[i];
        free(sums);
    } else {
        got = get(s.x, (size_t)b.rows * DIM * 4);
        check_squares();
    }
    char what[64];
    snprintf(what, sizeof what, "latent_out(%s)", name);
    compare(what, b.rows, DIM, got, y, 1e-3);
    clear_all_sums();
    free(a), free(before), free(v), free(y), free(got);
}

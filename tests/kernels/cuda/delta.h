// A gated delta net in double precision, and its CUDA steps against that; part of cuda.c.
#pragma once

#define SHARED_KEYS (DELTA_HEADS / DELTA_KEY_HEADS) // heads of values to one of keys
#define STATE_FLOATS ((size_t)SEQUENCES * STATE_LAYERS * LAYER_STATE)

static double *widen(const float *v, size_t count)
{
    double *w = malloc(count * sizeof *w);
    for (size_t i = 0; i < count; i++) w[i] = v[i];
    return w;
}

// The first channel of a head of q, k, v or z (0 .. 3) in a row of the projection, or of that of z.
static int delta_place(int part, int head)
{
    int group = 2 * DELTA_KEY_DIM + 2 * SHARED_KEYS * DELTA_VALUE_DIM;
    if (!DELTA_BY_KEYS)
        return part < 2 ? part * DELTA_KEYS + head * DELTA_KEY_DIM
                        : (part == 2 ? 2 * DELTA_KEYS : 0) + head * DELTA_VALUE_DIM;
    if (part < 2) return head * group + part * DELTA_KEY_DIM;
    return head / SHARED_KEYS * group + 2 * DELTA_KEY_DIM +
           ((part - 2) * SHARED_KEYS + head % SHARED_KEYS) * DELTA_VALUE_DIM;
}

static void random_delta(Layer *layer, int in, int z, int o)
{
    layer->delta_in = random_linear(in, DIM, DELTA_IN, 0);
    layer->delta_z = DELTA_BY_KEYS ? (Linear){0} : random_linear(z, DIM, DELTA_VALUES, 0);
    layer->delta_b = random_vector((DELTA_BY_KEYS ? 2 : 1) * DELTA_HEADS * DIM, 0, 1 / sqrtf(DIM));
    layer->delta_a =
        DELTA_BY_KEYS ? layer->delta_b : random_vector(DELTA_HEADS * DIM, 0, 1 / sqrtf(DIM));
    layer->a_log = random_vector(DELTA_HEADS, -1, 0.5f);
    layer->dt_bias = random_vector(DELTA_HEADS, -1, 0.5f);
    layer->conv = random_vector(DELTA_TAPS * CONV_DIM, 0, 0.7f);
    layer->delta_norm = random_vector(DELTA_VALUE_DIM, 1, 0.2f);
    layer->o = random_linear(o, DELTA_VALUES, DIM, 0);
}

// Then: heads that forget nothing and heads that forget at once, strengths near nothing and near
// one, keys that their own token alone decides, so that they come back with it.
static void make_hard(Layer *layer)
{
    float *a_log = (float *)(weights + layer->a_log), *taps = (float *)(weights + layer->conv);
    float *scores = (float *)(weights + layer->delta_b);
    for (int i = 0; i < DELTA_HEADS; i++) a_log[i] = i % 2 ? 2 : -9;
    for (int i = 0; i < (DELTA_BY_KEYS ? 2 : 1) * DELTA_HEADS * DIM; i++) scores[i] *= 10;
    for (int t = 0; t < DELTA_TAPS - 1; t++)
        memset(taps + t * CONV_DIM, 0, 2 * DELTA_KEYS * sizeof *taps);
}

// Few tokens in turn.
static void repeat_x(int tokens)
{
    float *x = get(s.x, (size_t)b.rows * DIM * 4);
    for (int r = tokens; r < b.rows; r++)
        memcpy(x + r * DIM, x + random_bits() % tokens * DIM, DIM * 4);
    put(s.x, x, (size_t)b.rows * DIM * 4);
    set_squares();
    free(x);
}

// States that a sequence's tokens before may have left; of the padding, zeros.
static float *random_states(void)
{
    float *states = random_floats(STATE_FLOATS, 0.3f);
    for (size_t i = 0; i < STATE_FLOATS; i++) {
        size_t at = i % LAYER_STATE;
        if (at < DELTA_MATRICES && at % DELTA_COLUMNS >= DELTA_VALUE_DIM) states[i] = 0;
    }
    return states;
}

static double silu_of(double x)
{
    return x / (1 + exp(-x));
}

// One token of a head: q, k (DELTA_KEY_DIM) and v (DELTA_VALUE_DIM) after the convolution.
static void reference_rule(double *matrix, double *q, double *k, const double *v, double strength,
                           double decay, double *y)
{
    double squares[2] = {1e-6, 1e-6};
    for (int i = 0; i < DELTA_KEY_DIM; i++) squares[0] += q[i] * q[i], squares[1] += k[i] * k[i];
    for (int i = 0; i < DELTA_KEY_DIM; i++)
        q[i] /= sqrt(squares[0]) * sqrt(DELTA_KEY_DIM), k[i] /= sqrt(squares[1]);
    for (int c = 0; c < DELTA_VALUE_DIM; c++) {
        double found = 0;
        y[c] = 0;
        for (int i = 0; i < DELTA_KEY_DIM; i++)
            found += k[i] * (matrix[i * DELTA_COLUMNS + c] *= decay);
        for (int i = 0; i < DELTA_KEY_DIM; i++) {
            matrix[i * DELTA_COLUMNS + c] += k[i] * strength * (v[c] - found);
            y[c] += q[i] * matrix[i * DELTA_COLUMNS + c];
        }
    }
}

// What delta_out multiplies with (rows, DELTA_VALUES), of normed x; states become those behind the
// last rows.
static double *reference_delta(const Layer *layer, const int formats[2], const double *x,
                               double *states)
{
    double *in = malloc((size_t)b.rows * DELTA_IN * 8),
           *z = malloc((size_t)b.rows * DELTA_VALUES * 8);
    double *y = malloc((size_t)b.rows * DELTA_VALUES * 8), mixed[CONV_DIM];
    reference_linear(weights, &layer->delta_in, formats[0], DIM, DELTA_IN, b.rows, x, in);
    if (!DELTA_BY_KEYS)
        reference_linear(weights, &layer->delta_z, formats[1], DIM, DELTA_VALUES, b.rows, x, z);
    for (int r = 0; r < b.rows; r++) {
        double *state = states + ((size_t)sequence[r] * STATE_LAYERS + layer->kept) * LAYER_STATE;
        double *before = state + DELTA_MATRICES;
        if (position[r] == 0) memset(state, 0, LAYER_STATE * sizeof *state);
        for (int head = 0; head < 2 * DELTA_KEY_HEADS + DELTA_HEADS; head++) {
            int part = head < 2 * DELTA_KEY_HEADS ? head / DELTA_KEY_HEADS : 2;
            int own = head - part * DELTA_KEY_HEADS,
                width = part < 2 ? DELTA_KEY_DIM : DELTA_VALUE_DIM;
            for (int i = 0; i < width; i++) {
                int channel = part * DELTA_KEYS + own * width + i;
                const float *taps = (float *)(weights + layer->conv) + channel;
                double new = in[(size_t)r * DELTA_IN + delta_place(part, own) + i], sum = 0;
                for (int t = 0; t < DELTA_TAPS - 1; t++) {
                    double *old = before + t * CONV_DIM + channel;
                    sum += *old * taps[t * CONV_DIM];
                    *old = t + 2 < DELTA_TAPS ? old[CONV_DIM] : new;
                }
                mixed[channel] = silu_of(sum + new *taps[(DELTA_TAPS - 1) * CONV_DIM]);
            }
        }
        for (int head = 0; head < DELTA_HEADS; head++) {
            double score[2] = {0, 0}, q[DELTA_KEY_DIM], k[DELTA_KEY_DIM], square = 0;
            double *to = y + (size_t)r * DELTA_VALUES + head * DELTA_VALUE_DIM;
            int key = head / SHARED_KEYS;
            for (int j = 0; j < 2; j++) {
                int row = DELTA_BY_KEYS ? (2 * key + j) * SHARED_KEYS + head % SHARED_KEYS : head;
                const float *w = (float *)(weights + (j ? layer->delta_a : layer->delta_b));
                for (int i = 0; i < DIM; i++) score[j] += x[r * DIM + i] * w[row * DIM + i];
            }
            score[1] += ((float *)(weights + layer->dt_bias))[head];
            for (int i = 0; i < DELTA_KEY_DIM; i++) {
                q[i] = mixed[key * DELTA_KEY_DIM + i];
                k[i] = mixed[DELTA_KEYS + key * DELTA_KEY_DIM + i];
            }
            reference_rule(
                state + (size_t)head * DELTA_KEY_DIM * DELTA_COLUMNS, q, k,
                mixed + 2 * DELTA_KEYS + head * DELTA_VALUE_DIM, 1 / (1 + exp(-score[0])),
                exp(-exp(((float *)(weights + layer->a_log))[head]) * log1p(exp(score[1]))), to);
            const double *open =
                DELTA_BY_KEYS ? in + (size_t)r * DELTA_IN : z + (size_t)r * DELTA_VALUES;
            open += delta_place(3, head);
            for (int i = 0; i < DELTA_VALUE_DIM; i++) square += to[i] * to[i];
            for (int i = 0; i < DELTA_VALUE_DIM; i++)
                to[i] *= ((float *)(weights + layer->delta_norm))[i] * silu_of(open[i]) /
                         sqrt(square / DELTA_VALUE_DIM + NORM_EPS);
        }
    }
    free(in), free(z);
    return y;
}

static void run_delta(const State *state, const Batch *batch, const int f[3], int l)
{
    if (f[1])
        launch_delta(gpu, state, batch, f[0], f[1], s.layers + l);
    else
        launch_delta_grouped(gpu, state, batch, f[0], s.layers + l);
    launch_delta_out(gpu, state, batch, f[2], s.layers + l);
}

// The rows of one segment, one after the other and alone, give the sums and the state that they
// gave in the batch.
static void check_delta_alone(const int formats[3], int l, const float *states, const char *what)
{
    int bytes = PADDED(DIM) * 8;
    char *all = get(work_place(places().sums_out), (size_t)b.rows * bytes);
    float *after = get(s.states, STATE_FLOATS * 4);
    Segment own = segment[random_bits() % b.segments];
    size_t place = ((size_t)own.sequence * STATE_LAYERS + layers[l].kept) * LAYER_STATE;
    put(s.states, states, STATE_FLOATS * 4);
    for (int i = 0; i < own.rows; i++) {
        State one = s;
        Batch few = b;
        Segment alone = {0, 1, own.sequence, own.position + i};
        int row = own.row + i;
        clear_all_sums();
        put(b.segment, &alone, sizeof alone);
        one.x += (size_t)row * DIM;
        few.rows = few.segments = 1, few.position += row, few.sequence += row;
        run_delta(&one, &few, formats, l);
        char *sums = get(work_place(places().sums_out), bytes);
        if (memcmp(sums, all + (size_t)row * bytes, bytes) != 0) {
            printf("%s, %d rows: row %d differs when it is alone\n", what, b.rows, row);
            failed++;
            i = own.rows;
        }
        free(sums);
    }
    float *again = get(s.states + place, LAYER_STATE * 4);
    if (memcmp(again, after + place, LAYER_STATE * 4) != 0) {
        printf("%s, %d rows: another state when rows come alone\n", what, b.rows);
        failed++;
    }
    put(b.segment, segment, sizeof segment);
    free(all), free(after), free(again);
}

// delta and delta_out: x += what they give, and the states of the batch's sequences. The rows are
// those of `tokens` different tokens, or of as many as rows (0).
static void check_delta(const int formats[3], int l, int tokens, const char *name)
{
    const Layer *layer = &layers[l];
    int decode = decode_form(gpu, &s, &b);
    float *states = random_states(), *got = malloc((size_t)b.rows * DIM * 4);
    double *expected = widen(states, STATE_FLOATS), *y = malloc((size_t)b.rows * DIM * 8);
    char what[64];
    snprintf(what, sizeof what, "delta(%s)", name);
    put(s.states, states, STATE_FLOATS * 4);
    set_x();
    if (tokens) repeat_x(tokens);
    float *before = get(s.x, (size_t)b.rows * DIM * 4);
    run_delta(&s, &b, formats, l);
    double *x = normed_x(layer->attn_norm, NULL, b.rows);
    if (!decode) { // x is another one by now
        for (int r = 0; r < b.rows; r++)
            reference_norm(before + (size_t)r * DIM, (float *)(weights + layer->attn_norm), DIM,
                           x + (size_t)r * DIM);
        check_squares();
    }
    double *values = reference_delta(layer, formats, x, expected);
    reference_linear(weights, &layer->o, formats[2], DELTA_VALUES, DIM, b.rows, values, y);
    double *sums = finished(places().sums_out, b.rows, PADDED(DIM), 0, &layer->o, DIM, 1);
    float *after = get(s.x, (size_t)b.rows * DIM * 4);
    for (int i = 0; i < b.rows * DIM; i++) {
        got[i] = decode ? sums[i] : after[i] - before[i];
        if (!decode) y[i] *= RESIDUAL_SCALE;
    }
    compare(what, b.rows, DIM, got, y, 2e-3);
    float *kept = get(s.states, STATE_FLOATS * 4);
    // What tokens that come back add to a state cancels, and leaves the rounding of them all.
    compare("states", SEQUENCES * STATE_LAYERS, LAYER_STATE, kept, expected, tokens ? 1e-2 : 2e-3);
    if (decode) check_delta_alone(formats, l, states, what);
    clear_all_sums();
    free(states), free(got), free(expected), free(y), free(before), free(x), free(values);
    free(sums), free(after), free(kept);
}

// Prompts of several chunks with rests, alone and together.
static void check_delta_prompts(const int formats[3], int l, const char *name)
{
    static const int batches[][3] = {{230}, {65, 128, 9}};
    uint64_t start = weights_used;
    for (int i = 0; i < 2; i++)
        for (int hard = 0; hard < 2; hard++) {
            make_batch(i ? 3 : 1, batches[i]);
            random_delta(&layers[l], formats[0], formats[1], formats[2]);
            if (hard) make_hard(&layers[l]);
            put_weights();
            check_delta(formats, l, hard ? 3 : 0, name);
            weights_used = start;
        }
}

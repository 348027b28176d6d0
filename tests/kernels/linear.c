// Products of the CPU kernels against ref.c, through the step `out`: every format, widths that are
// and are not multiples of 128, few rows and many, one worker and several.
#include "constants.h"
#include "../../kernels/cpu/steps.h"
#include "../check.h"
#include "ref.h"
#include "workers.h"
#include <math.h>

typedef struct {
    State state;
    Batch batch;
    Layer layer;
    int format;
} Case;

#ifndef FORMATS
#define FORMATS EVERY_FORMAT
#endif

// Formats are constants of a call, so there is one function for each.
#define RUN(name)                                                                                  \
    static void run_##name(Worker *w, void *context)                                               \
    {                                                                                              \
        Case *c = context;                                                                         \
        out(w, &c->state, &c->batch, name, &c->layer);                                             \
    }
FORMATS(RUN)

#define ENTRY(name) {#name, name, run_##name},
static const struct {
    const char *name;
    int format;
    void (*run)(Worker *w, void *context);
} entries[] = {FORMATS(ENTRY)};

enum { IN = HEADS * HEAD_DIM, MOST_ROWS = 300 };

static uint64_t append(uint8_t *weights, uint64_t *used, const void *data, size_t bytes)
{
    uint64_t at = *used;
    memcpy(weights + at, data, bytes);
    *used = (at + bytes + 255) / 256 * 256;
    return at;
}

int main(void)
{
    static const int rows_list[] = {1, 2, 3, 8, 9, 21, 33, 130, 300}, workers_list[] = {1, 2, 3};
    uint8_t *weights = aligned_alloc(256, 64 << 20);
    float *a = malloc((size_t)MOST_ROWS * IN * 4), *x = malloc((size_t)MOST_ROWS * DIM * 4);
    double *wide = malloc((size_t)MOST_ROWS * IN * 8), *y = malloc((size_t)MOST_ROWS * DIM * 8);
    float *before = malloc((size_t)MOST_ROWS * DIM * 4),
          *single = malloc((size_t)MOST_ROWS * DIM * 4);
    void *work = aligned_alloc(64, (CPU_WORK_BYTES(MOST_ROWS, 1) + 63) / 64 * 64);

    for (size_t e = 0; e < sizeof entries / sizeof *entries; e++) {
        RefLinear linear = ref_random(entries[e].format, IN, DIM, e % 2);
        size_t bytes;
        uint8_t *packed = ref_pack(&linear, &bytes);
        uint64_t used = 256;
        Case c = {.format = entries[e].format};
        c.layer.o.weights = append(weights, &used, packed, bytes);
        if (linear.suh) {
            c.layer.o.suh = append(weights, &used, linear.suh, PADDED(IN) * 2);
            c.layer.o.svh = append(weights, &used, linear.svh, PADDED(DIM) * 2);
        }
        if (linear.bias) c.layer.o.bias = append(weights, &used, linear.bias, PADDED(DIM) * 4);
        free(packed);
        ref_dense(&linear);

        for (int i = 0; i < MOST_ROWS * IN; i++) {
            int channel = i % IN; // a few channels are much larger than the rest
            a[i] = (float)ref_random_normal() * (channel % 97 == 3 ? 20 : 1) + 0.3f;
            wide[i] = a[i];
        }
        ref_linear(&linear, wide, MOST_ROWS, y);
        for (int i = 0; i < MOST_ROWS * DIM; i++) {
            before[i] = (float)ref_random_normal();
            y[i] += before[i];
        }
        c.state = (State){.weights = weights,
                          .layers = &c.layer,
                          .a = a,
                          .x = x,
                          .work = work,
                          .max_rows = MOST_ROWS,
                          .max_outputs = 1};
        double worst_few = 0, worst_many = 0;
        for (size_t i = 0; i < sizeof rows_list / sizeof *rows_list; i++)
            for (size_t j = 0; j < sizeof workers_list / sizeof *workers_list; j++) {
                int rows = rows_list[i], workers = workers_list[j];
                c.batch = (Batch){.rows = rows};
                memcpy(x, before, (size_t)rows * DIM * 4);
                memset(work, 0xff, CPU_WORK_BYTES(MOST_ROWS, 1));
                run_workers(workers, CPU_LOCAL_BYTES, entries[e].run, &c);
                double error = ref_error(x, y, (size_t)rows * DIM);
                double *worst = rows <= FEW_ROWS ? &worst_few : &worst_many;
                *worst = error > *worst ? error : *worst;
                CHECK_MSG(error < 3e-4, "%s, %d rows, %d workers: error %.3g", entries[e].name,
                          rows, workers, error);
                if (error >= 3e-4)
                    for (int n = 0; n < rows * DIM; n++)
                        if (!(fabs(x[n] - y[n]) < 1e-2)) {
                            fprintf(stderr, "  first: row %d column %d: %g, expected %g\n", n / DIM,
                                    n % DIM, x[n], y[n]);
                            break;
                        }
                // The same bits with any number of workers; for few rows with any other rows.
                if (j == 0 && (rows == 1 || rows > FEW_ROWS))
                    memcpy(single, x, (size_t)rows * DIM * 4);
                CHECK_MSG(memcmp(single, x, (size_t)(rows <= FEW_ROWS ? 1 : rows) * DIM * 4) == 0,
                          "%s, %d rows, %d workers: other bits", entries[e].name, rows, workers);
            }
        printf("%-3s %d x %d: error %.2e few rows, %.2e many\n", entries[e].name, IN, DIM,
               worst_few, worst_many);

        // A NaN in a row stays in that row, and is not lost.
        a[IN + 5] = NAN;
        c.batch.rows = 3;
        memcpy(x, before, (size_t)3 * DIM * 4);
        run_workers(1, CPU_LOCAL_BYTES, entries[e].run, &c);
        int nans[3] = {0};
        for (int n = 0; n < 3 * DIM; n++) nans[n / DIM] += isnan(x[n]);
        CHECK_MSG(nans[0] == 0 && nans[1] == DIM && nans[2] == 0, "%s: %d %d %d NaN",
                  entries[e].name, nans[0], nans[1], nans[2]);
        ref_free(&linear);
    }
    free(weights), free(a), free(x), free(wide), free(y), free(before), free(single), free(work);
    return check_done();
}

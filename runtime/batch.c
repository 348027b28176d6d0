// Which rows the next pass computes.
#include "batch.h"
#include <stdlib.h>
#include <string.h>

int batch_open(Batcher *b, Device *d, const DeviceOptions *o, Error *err)
{
    *b = (Batcher){.device = d, .options = *o, .max_context = o->max_context};
    size_t rows = (size_t)o->max_rows, slots = (size_t)o->max_sequences;
    b->sequences = calloc(slots, sizeof *b->sequences);
    b->free_pages = calloc((size_t)o->pages, sizeof *b->free_pages);
    b->token = calloc(rows, 4);
    b->position = calloc(rows, 4);
    b->sequence = calloc(rows, 4);
    b->output = calloc(rows, 4);
    b->segment = calloc(rows, sizeof *b->segment);
    b->sampling = calloc((size_t)o->max_outputs, sizeof *b->sampling);
    b->owner = calloc((size_t)o->max_outputs, sizeof *b->owner);
    int bad = !b->sequences || !b->free_pages || !b->token || !b->position || !b->sequence ||
              !b->output || !b->segment || !b->sampling || !b->owner;
    for (size_t i = 0; !bad && i < slots; i++) {
        b->sequences[i].tokens = calloc((size_t)b->max_context + 1, 4);
        b->sequences[i].page = calloc((size_t)o->pages_per_sequence, sizeof(int));
        bad = !b->sequences[i].tokens || !b->sequences[i].page;
    }
    if (bad) return error_set(err, "out of memory");
    for (int i = o->pages - 1; i >= 0; i--) b->free_pages[b->free_count++] = i;
    return 0;
}

void batch_close(Batcher *b)
{
    for (int i = 0; b->sequences && i < b->options.max_sequences; i++) {
        free(b->sequences[i].tokens);
        free(b->sequences[i].page);
    }
    free(b->sequences);
    free(b->free_pages);
    free(b->token);
    free(b->position);
    free(b->sequence);
    free(b->output);
    free(b->segment);
    free(b->sampling);
    free(b->owner);
    *b = (Batcher){0};
}

int batch_admit(Batcher *b, const int32_t *tokens, int count, int more, const Sampling *sampling)
{
    if (count < 1 || more < 0 || (int64_t)count + more > b->max_context) return BATCH_TOO_LONG;
    int pages = (count + more + PAGE - 1) / PAGE, slot = 0;
    if (pages > b->options.pages) return BATCH_TOO_LONG;
    while (slot < b->options.max_sequences && b->sequences[slot].active) slot++;
    if (slot == b->options.max_sequences || pages > b->free_count) return BATCH_FULL;
    Sequence *s = &b->sequences[slot];
    memcpy(s->tokens, tokens, 4 * (size_t)count);
    s->count = count;
    s->computed = 0;
    s->active = 1;
    s->sampling = *sampling;
    for (s->pages = 0; s->pages < pages; s->pages++) {
        s->page[s->pages] = b->free_pages[--b->free_count];
        device_set_page(b->device, slot, s->pages, s->page[s->pages]);
    }
    return slot;
}

void batch_extend(Batcher *b, int sequence, const int32_t *tokens, int count)
{
    Sequence *s = &b->sequences[sequence];
    memcpy(s->tokens + s->count, tokens, 4 * (size_t)count);
    s->count += count;
}

void batch_retire(Batcher *b, int sequence)
{
    Sequence *s = &b->sequences[sequence];
    while (s->pages > 0) b->free_pages[b->free_count++] = s->page[--s->pages];
    s->active = 0;
}

int batch_room(const Batcher *b, int sequence)
{
    const Sequence *s = &b->sequences[sequence];
    int room = s->pages * PAGE < b->max_context ? s->pages * PAGE : b->max_context;
    return room - s->count;
}

// Adds `rows` rows of a sequence to the pass.
static void add_rows(Batcher *b, Batch *pass, int slot, int rows)
{
    Sequence *s = &b->sequences[slot];
    b->segment[pass->segments++] = (Segment){pass->rows, rows, slot, s->computed};
    for (int i = 0; i < rows; i++, pass->rows++, s->computed++) {
        b->token[pass->rows] = s->tokens[s->computed];
        b->position[pass->rows] = s->computed;
        b->sequence[pass->rows] = slot;
    }
    if (s->computed == s->count) {
        b->owner[pass->outputs] = slot;
        b->sampling[pass->outputs] = s->sampling;
        b->output[pass->outputs++] = pass->rows - 1;
    }
}

int batch_step(Batcher *b, Drawn *drawn)
{
    Batch pass = {.token = b->token,
                  .position = b->position,
                  .sequence = b->sequence,
                  .output = b->output,
                  .segment = b->segment};
    // A prompt first, so that it joins the others soon; else one row of everybody.
    for (int i = 0; i < b->options.max_sequences && !pass.rows; i++) {
        Sequence *s = &b->sequences[i];
        int left = s->count - s->computed;
        if (s->active && left > 1)
            add_rows(b, &pass, i, left < b->options.max_rows ? left : b->options.max_rows);
    }
    int prompt = pass.rows > 0;
    for (int i = 0; i < b->options.max_sequences && !prompt; i++) {
        Sequence *s = &b->sequences[i];
        if (s->active && s->count > s->computed && pass.rows < b->options.max_rows &&
            pass.outputs < b->options.max_outputs)
            add_rows(b, &pass, i, 1);
    }
    if (!pass.rows) return 0;
    device_forward(b->device, &pass, pass.outputs ? b->sampling : NULL);
    if (!pass.outputs) return 0;
    const int32_t *tokens = device_tokens(b->device);
    for (int i = 0; i < pass.outputs; i++) {
        Sequence *s = &b->sequences[b->owner[i]];
        drawn[i] = (Drawn){b->owner[i], tokens[i]};
        if (tokens[i] >= 0 && batch_room(b, b->owner[i]) > 0) s->tokens[s->count++] = tokens[i];
        s->sampling.draw++;
    }
    return pass.outputs;
}

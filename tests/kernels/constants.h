// The numbers of a made-up model; any may be given as -D on the command line.
#pragma once

#ifndef LAYERS
#define LAYERS 2
#endif
#ifndef DIM
#define DIM 256
#endif
#ifndef HEADS
#define HEADS 4
#endif
#ifndef KV_HEADS
#define KV_HEADS 2
#endif
#ifndef HEAD_DIM
#define HEAD_DIM 64
#endif
#ifndef FFN_DIM
#define FFN_DIM 512
#endif
#ifndef VOCAB
#define VOCAB 500
#endif
#ifndef NORM_EPS
#define NORM_EPS 1e-05f
#endif
#ifndef SOFTMAX_SCALE
#define SOFTMAX_SCALE 0.125f
#endif
#ifndef EMBED_FORMAT
#define EMBED_FORMAT f16
#endif
#ifndef ROPE_DIM
#define ROPE_DIM HEAD_DIM
#endif
#ifndef ROPE_INTERLEAVED
#define ROPE_INTERLEAVED 0
#endif
#ifndef ROPE_FACTOR
#define ROPE_FACTOR 1.0f
#endif
#ifndef MAX_CONTEXT
#define MAX_CONTEXT 4096
#endif
#ifndef MAX_BATCH
#define MAX_BATCH 16
#endif
#ifndef QUANTIZED_CACHE
#define QUANTIZED_CACHE (HEAD_DIM % 32 == 0)
#endif
#ifndef WINDOW_LAYERS
#define WINDOW_LAYERS 0
#endif
// The first frequencies; the rest are zero.
#define ROPE_INVERSE                                                                               \
    {                                                                                              \
        1.0f, 0.7f, 0.5f, 0.3f, 0.1f, 0.03f, 0.01f, 0.001f                                         \
    }

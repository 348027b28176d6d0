// The numbers of this model, each with its key in config.json. Included by host and device code.
#pragma once

// exlc: begin constants
#define LAYERS 2               // num_hidden_layers
#define DIM 256                // hidden_size
#define HEADS 4                // num_attention_heads
#define KV_HEADS 2             // num_key_value_heads
#define HEAD_DIM 64            // head_dim
#define FFN_DIM 512            // intermediate_size
#define VOCAB 512              // vocab_size
#define NORM_EPS 1e-05f        // rms_norm_eps
#define SOFTMAX_SCALE 0.125f   // head_dim^-0.5
#define EMBED_FORMAT f16       // of model.embed_tokens
#define ROPE_DIM 64            // channels of a head that rotate
#define ROPE_INTERLEAVED 0     // pairs are (j, j + ROPE_DIM / 2); 1: (2j, 2j + 1)
#define ROPE_FACTOR 1.0f       // on cosine and sine
#define MAX_CONTEXT 4096       // --max-context, else max_position_embeddings
#define MAX_BATCH 16           // --max-batch
// Inverse frequencies (ROPE_DIM / 2), radians per position: rope_theta, rope_scaling.
#define ROPE_INVERSE                                                                               \
    {                                                                                              \
        1.0f, 0.5f                                                                                 \
    }
// exlc: end constants

// exlc: begin title
// sample (LlamaForCausalLM), by exlc 0.1.0 from archs/llama.lua.
// exlc: end title
// The numbers of this model, each with its key in config.json. Included by host and device code.
#pragma once

// exlc: begin constants
#define LAYERS 2                // num_hidden_layers
#define DIM 256                 // hidden_size
#define HEADS 4                 // num_attention_heads
#define KV_HEADS 2              // num_key_value_heads
#define HEAD_DIM 64             // head_dim
#define FFN_DIM 512             // intermediate_size
#define VOCAB 512               // vocab_size
#define NORM_EPS 1e-06f         // rms_norm_eps
#define SOFTMAX_SCALE 0.125f    // on the products of query and key
#define EMBED_FORMAT f16        // of the embedding table
#define MODEL_FORMATS(F) F(m4) F(m6) // of the weights
#define ROPE_DIM 64             // channels of a head that rotate
#define ROPE_INTERLEAVED 0      // 0: pairs (j, j + ROPE_DIM / 2); 1: (2j, 2j + 1)
#define ROPE_FACTOR 1.0f        // on cosine and sine
#define MAX_CONTEXT 4096        // --max-context
#define MAX_BATCH 16            // --max-batch
#define QUANTIZED_CACHE 1       // --cache-bits

// Radians per position of each rotating pair, ROPE_DIM / 2 of them.
#define ROPE_INVERSE \
    { \
        1.0f, 0.7498942f, 0.56234133f, 0.4216965f, 0.31622776f, 0.23713738f, 0.17782794f, \
        0.13335215f, 0.1f, 0.07498942f, 0.056234132f, 0.04216965f, 0.031622775f, 0.023713738f, \
        0.017782794f, 0.013335214f, 0.01f, 0.0074989423f, 0.0056234132f, 0.004216965f, \
        0.0031622776f, 0.0023713738f, 0.0017782794f, 0.0013335214f, 0.001f, 0.0007498942f, \
        0.0005623413f, 0.00042169652f, 0.00031622776f, 0.00023713737f, 0.00017782794f, \
        0.00013335215f \
    }
// exlc: end constants

// exlc: begin title
// sample (LlamaForCausalLM), by exlc 0.1.0 from archs/llama.lua.
// exlc: end title
// What the runtime knows of this model: where its weights are, and its other parts.
#include "constants.h"
#include "runtime/program.h"

// exlc: begin model
// Offsets into the weights: {weights, suh, svh, bias}, 0 where there is none.
static const Layer layers[LAYERS] = {
    {.attn_norm = 0x41000, // layer 0
     .q = {0x41400, 0x49400, 0x49600, 0x0},
     .k = {0x49800, 0x4d800, 0x4da00, 0x0},
     .v = {0x4db00, 0x51b00, 0x51d00, 0x0},
     .q_norm = 0x0, .k_norm = 0x0,
     .o = {0x51e00, 0x59e00, 0x5a000, 0x0},
     .ffn_norm = 0x5a200,
     .gate = {0x5a600, 0x6a600, 0x6a800, 0x0},
     .up = {0x6ac00, 0x7ac00, 0x7ae00, 0x0},
     .down = {0x7b200, 0x8b200, 0x8b600, 0x0},
     .window = 0, .rope = 0, .kv_heads = 2, .ffn_dim = 512, .kept = 0},
    {.attn_norm = 0x8b800, // layer 1
     .q = {0x8bc00, 0x93c00, 0x93e00, 0x0},
     .k = {0x94000, 0x98000, 0x98200, 0x0},
     .v = {0x98300, 0x9c300, 0x9c500, 0x0},
     .q_norm = 0x0, .k_norm = 0x0,
     .o = {0x9c600, 0xa4600, 0xa4800, 0x0},
     .ffn_norm = 0xa4a00,
     .gate = {0xa4e00, 0xb4e00, 0xb5000, 0x0},
     .up = {0xb5400, 0xc5400, 0xc5600, 0x0},
     .down = {0xc5a00, 0xd5a00, 0xd5e00, 0x0},
     .window = 0, .rope = 0, .kv_heads = 2, .ffn_dim = 512, .kept = 1},
};

static const TensorInfo tensors[] = {
    {"model.layers.0.self_attn.q_proj", m4, 256, 256},
    {"model.layers.0.self_attn.k_proj", m4, 256, 128},
    {"model.layers.0.self_attn.v_proj", m4, 256, 128},
    {"model.layers.0.self_attn.o_proj", m4, 256, 256},
    {"model.layers.0.mlp.gate_proj", m4, 256, 512},
    {"model.layers.0.mlp.up_proj", m4, 256, 512},
    {"model.layers.0.mlp.down_proj", m4, 512, 256},
    {"model.layers.1.self_attn.q_proj", m4, 256, 256},
    {"model.layers.1.self_attn.k_proj", m4, 256, 128},
    {"model.layers.1.self_attn.v_proj", m4, 256, 128},
    {"model.layers.1.self_attn.o_proj", m4, 256, 256},
    {"model.layers.1.mlp.gate_proj", m4, 256, 512},
    {"model.layers.1.mlp.up_proj", m4, 256, 512},
    {"model.layers.1.mlp.down_proj", m4, 512, 256},
    {"lm_head", m6, 256, 512},
};

static const int32_t eos[] = {2};

EMBED_FILE(tokenizer_tables, "tokenizer.bin");
EMBED_FILE(template_tables, "templates.bin");

extern const CpuTarget cpu_avx512, cpu_avx2, cpu_generic;
static const CpuTarget *const cpu_targets[] = {&cpu_avx512, &cpu_avx2, &cpu_generic, NULL};

void forward_gpu(Gpu *gpu, const State *s, const Batch *b, int together);
void sample_gpu(Gpu *gpu, const State *s, const Batch *b, const Sampling *sampling,
                int32_t *tokens);
int forward_decode_rows(const Gpu *gpu);
size_t forward_work_bytes(int max_rows, int max_outputs);
EMBED_FILE(image_90, "sm_90.cubin");
EMBED_FILE(image_0, "sm_0.cubin");
static const GpuImage images[] = {
    {90, image_90, image_90_end},
    {0, image_0, image_0_end},
    {0, NULL, NULL},
};

const ModelInfo model_info = {
    .name = "sample",
    .architecture = "LlamaForCausalLM",
    .exlc_version = "0.1.0",
    .build_id = "dd09a4b0915199ebae9ea0b4b5f5e1b9",
    .layers = LAYERS, .dim = DIM, .heads = HEADS, .kv_heads = KV_HEADS,
    .head_dim = HEAD_DIM, .ffn_dim = FFN_DIM, .vocab = VOCAB,
    .rope_dim = ROPE_DIM, .max_context = MAX_CONTEXT, .max_batch = MAX_BATCH,
    .cache_bits = 0x101fc, .ropes = 1, .y_dim = 0, .wide_head_norms = 0,
    .cache_layers = 2, .window_layers = 0, .state_bytes = 0,
    .parameters = 1443072, .bits = 4,
    .weights_bytes = 977408, .weights_hash = "dd09a4b0915199ebae9ea0b4b5f5e1b9", .random_seed = 0u,
    .layer_table = layers,
    .ends = {.embed = 0x1000, .norm = 0xd6000,
     .head = {0xd6400, 0xee400, 0xee600, 0x0}},
    .tensors = tensors, .tensor_count = 15,
    .tokenizer = tokenizer_tables, .tokenizer_bytes = 17624,
    .templates = template_tables, .templates_bytes = 168,
    .eos = eos, .eos_count = 1, .bos = 1,
    .temperature = 0, .top_k = 50, .top_p = 1, .min_p = 0,
    .cpu = cpu_targets,
    .driver_min = "580", .images = images, .forward_gpu = forward_gpu,
    .sample_gpu = sample_gpu, .gpu_decode_rows = forward_decode_rows,
    .gpu_work_bytes = forward_work_bytes,
};
// exlc: end model

// From config.json to a graph and its steps: facts, rope tables (tests/data/rope.json, from
// tests/oracle/rope.py), windows, heads, parameters, and all that must be refused. Runs in the root
// of the repository.
#include "../files.h"
#include <math.h>

// A config of the architecture with more members, which come first.
static const char *config_of(const char *architecture, const char *members)
{
    static const char *const defaults[][2] = {
        {"hidden_size", "256"},       {"num_hidden_layers", "4"},   {"num_attention_heads", "4"},
        {"vocab_size", "512"},        {"intermediate_size", "384"}, {"rms_norm_eps", "1e-06"},
        {"num_key_value_heads", "2"},
    };
    Buffer b = {0};
    buffer_print(&b, "{\"architectures\": [\"%s\"]", architecture);
    if (*members) buffer_print(&b, ", %s", members);
    for (size_t i = 0; i < sizeof defaults / sizeof *defaults; i++)
        if (!strstr(members, arena_format("\"%s\"", defaults[i][0])))
            buffer_print(&b, ", \"%s\": %s", defaults[i][0], defaults[i][1]);
    buffer_print(&b, "}");
    return b.data;
}

static Checkpoint *checkpoint_of(const char *config)
{
    Checkpoint *ck = arena_alloc(sizeof *ck);
    *ck = (Checkpoint){.dir = "test",
                       .name = "test",
                       .random_seed = 1,
                       .random_format = m4,
                       .random_head_format = m6};
    ck->config = parse_json("test/config.json", config, strlen(config));
    return ck;
}

static Plan *plan_of(const char *architecture, const char *members)
{
    Plan *plan = fuse_ops(trace_arch(checkpoint_of(config_of(architecture, members))));
    choose_variants(plan);
    return plan;
}

static const Facts *facts_of(const char *architecture, const char *members)
{
    return &plan_of(architecture, members)->graph->facts;
}

static void plan_child(void *argument)
{
    fuse_ops(trace_arch(checkpoint_of(argument)));
}

static void refused(const char *architecture, const char *members, const char *words)
{
    check_dies(members, plan_child, (void *)(intptr_t)config_of(architecture, members), words);
}

static void quantization_child(void *argument)
{
    check_quantization(checkpoint_of(argument));
}

// Weights of another quantization are refused; made-up ones are not of any.
static void refused_weights(const char *members, const char *words)
{
    const char *config = config_of("LlamaForCausalLM", members);
    check_dies(members, quantization_child, (void *)(intptr_t)config, words);
    CHECK(plan_of("LlamaForCausalLM", members)->layers[0].q);
}

#define LLAMA "LlamaForCausalLM"
#define MISTRAL "MistralForCausalLM"
#define QWEN2 "Qwen2ForCausalLM"
#define QWEN3 "Qwen3ForCausalLM"
#define PHI3 "Phi3ForCausalLM"

// --- facts ---------------------------------------------------------------------------------------

static void check_facts(void)
{
    const Facts *f = facts_of(LLAMA, "\"head_dim\": null");
    CHECK(f->dim == 256 && f->layers == 4 && f->heads == 4 && f->kv_heads == 2 && f->vocab == 512);
    CHECK(f->head_dim == 64 && f->ffn_dim == 384 && f->norm_eps == 1e-6);
    CHECK(f->softmax_scale == 0.125 && f->max_position == 2048);
    CHECK(f->rope_dim == 64 && !f->rope_interleaved && f->ropes[0].factor == 1);
    CHECK(facts_of(LLAMA, "\"head_dim\": 32")->head_dim == 32);
    CHECK(facts_of(LLAMA, "\"num_key_value_heads\": null")->kv_heads == 4);
    CHECK(facts_of(LLAMA, "\"max_position_embeddings\": 100")->max_position == 100);
    CHECK(facts_of(LLAMA, "\"max_position_embeddings\": 100")->reach == 100);
    // As Qwen's cards have YaRN added, and where the length is already the extended one.
    CHECK(facts_of(LLAMA, "\"max_position_embeddings\": 32768, \"rope_scaling\": {\"type\": "
                          "\"yarn\", \"factor\": 4.0, "
                          "\"original_max_position_embeddings\": 32768}")
              ->reach == 131072);
    CHECK(facts_of(LLAMA, "\"max_position_embeddings\": 131072, \"rope_scaling\": {\"type\": "
                          "\"yarn\", \"factor\": 4.0, "
                          "\"original_max_position_embeddings\": 32768}")
              ->reach == 131072);
    CHECK(facts_of(QWEN2, "\"num_attention_heads\": 2")->head_dim == 128);
    CHECK(facts_of(QWEN3, "")->head_dim == 128);

    Plan *plan = plan_of(LLAMA, "\"head_dim\": null");
    CHECK(cache_bytes_per_token(plan, 16, 16) == 4 * 2 * 2 * 64 * 2);
    // Groups of 32 channels with a scale of two bytes.
    CHECK(cache_bytes_per_token(plan, 8, 4) == 4 * 2 * (2 * (32 + 2) + 2 * (16 + 2)));
    CHECK(window_bytes(plan, 2048, 16, 16) == 0);
    plan = plan_of(MISTRAL, "\"sliding_window\": 300");
    CHECK(cache_bytes_per_token(plan, 16, 16) == 0);
    CHECK(window_bytes(plan, 100, 16, 16) == 256 * (uint64_t)plan->graph->facts.layers *
                                                 (uint64_t)plan->graph->facts.kv_heads * 4 *
                                                 (uint64_t)plan->graph->facts.head_dim);

    plan = plan_of(QWEN3, "\"head_dim\": 64");
    CHECK(plan->layers[3].q_norm && plan->layers[3].k_norm && plan->layers[3].q->in == 256);
    CHECK(plan->run_count == 1 && plan->runs[0].first == 0 && plan->runs[0].last == 3);
    CHECK(plan->runs[0].step_count == 6 && strcmp(plan->runs[0].steps[0].name, "keep") == 0);
    CHECK(plan->head->out == 512 && plan->head->format == m6 && plan->bits == 4);
    CHECK(plan->parameters ==
          2 * 512 * 256 + 256 + 4 * (256 * 64 * 12 + 2 * 64 + 2 * 256 + 3 * 256 * 384));
    CHECK(plan_of(LLAMA, "\"tie_word_embeddings\": true")->parameters ==
          plan_of(LLAMA, "")->parameters - 512 * 256);
}

// --- rope ----------------------------------------------------------------------------------------

static void check_rope(void)
{
    const cJSON *cases = read_json("tests/data/rope.json");
    for (const cJSON *c = cases->child; c; c = c->next) {
        const char *name = json_get(c, "name")->valuestring;
        char *config = cJSON_PrintUnformatted(json_get(c, "config"));
        config[strlen(config) - 1] = 0;
        const char *members = config + 1;
        if (!strstr(members, "head_dim")) members = arena_format("%s,\"head_dim\":128", members);
        if (!strstr(members, "max_position_embeddings\":"))
            members = arena_format("%s,\"max_position_embeddings\":131072", members);
        const char *more = strstr(members, "\"max_position_embeddings\"")
                               ? ""
                               : ",\"max_position_embeddings\":131072";
        const Facts *f = facts_of(LLAMA, arena_format("%s%s", members, more));
        const cJSON *inverse = json_get(c, "inverse");
        CHECK_MSG(f->rope_dim == 2 * cJSON_GetArraySize(inverse), "%s: %d", name, f->rope_dim);
        CHECK_MSG(fabs(f->ropes[0].factor - json_get(c, "factor")->valuedouble) < 1e-12, "%s",
                  name);
        // Of a rope with two tables, the recorded one is that of short sequences.
        const Rope *rope = &f->ropes[0];
        const double *found = rope->short_inverse ? rope->short_inverse : rope->inverse;
        int j = 0;
        for (const cJSON *v = inverse->child; v; v = v->next, j++)
            CHECK_MSG(fabs(found[j] / v->valuedouble - 1) < 1e-12, "%s, %d: %.17g", name, j,
                      found[j]);
        cJSON_free(config);
    }
    // One rope for each kind of layer, and none on some.
    const Facts *two = facts_of("Gemma3ForCausalLM", "\"sliding_window_pattern\": 2, \"rope_parameters\": {\"sliding_attention\": "
                                "{\"rope_theta\": 100}, \"full_attention\": {\"rope_theta\": 10000}}");
    CHECK(two->rope_count == 2 && fabs(two->ropes[0].inverse[64] - 0.1) < 1e-12 &&
          fabs(two->ropes[1].inverse[64] - 0.01) < 1e-12);
    Plan *some = plan_of("SmolLM3ForCausalLM", "\"no_rope_layers\": [1, 0, 1, 1]");
    CHECK(some->layers[0].rope == 0 && some->layers[1].rope == -1 && some->layers[3].rope == 0);
    refused("Gemma3ForCausalLM", "\"sliding_window_pattern\": 2, \"rope_parameters\": {\"full_attention\": 3}",
            "rope_parameters.full_attention is 3, expected an object");
    // Both styles of config, and what has precedence.
    const char *both = "\"rope_theta\": 5000, \"rope_parameters\": {\"rope_theta\": 100, "
                       "\"rope_type\": \"default\"}";
    CHECK(fabs(facts_of(LLAMA, both)->ropes[0].inverse[16] - 0.1) < 1e-12);
    CHECK(fabs(facts_of(LLAMA, "\"rope_theta\": 10000.0")->ropes[0].inverse[16] - 0.01) < 1e-12);
    CHECK(fabs(facts_of(LLAMA, "")->ropes[0].inverse[16] - 0.01) < 1e-12);
    // Keys of another type say nothing.
    CHECK(facts_of(LLAMA, "\"rope_scaling\": {\"type\": \"default\", \"factor\": 8}")
              ->ropes[0]
              .factor == 1);

    refused(LLAMA, "\"rope_scaling\": {\"type\": \"dynamic\", \"factor\": 2}",
            "\"dynamic\"; supported are");
    refused(LLAMA, "\"rope_scaling\": {\"type\": \"__index\"}", "rope_scaling.rope_type");
    refused(LLAMA, "\"rope_scaling\": {\"type\": 3}", "rope_scaling.rope_type is 3");
    refused(LLAMA, "\"rope_scaling\": {\"type\": \"linear\"}", "rope_scaling.factor is missing");
    refused(LLAMA, "\"rope_scaling\": {\"type\": \"linear\", \"factor\": 0}",
            "rope_scaling.factor is 0");
    refused(LLAMA, "\"rope_scaling\": {\"type\": \"yarn\"}", "rope_scaling.factor is missing");
    refused(LLAMA, "\"rope_scaling\": \"linear\"",
            "rope_scaling is \"linear\", expected an object");
    refused(LLAMA, "\"rope_scaling\": [1]", "rope_scaling.1 is not known");
    refused(LLAMA,
            "\"rope_parameters\": {\"rope_type\": \"yarn\", \"factor\": 4, "
            "\"llama_4_scaling_beta\": 0.1}",
            "rope_parameters.llama_4_scaling_beta is not known");
    refused(LLAMA, "\"rope_parameters\": {\"rope_type\": \"yarn\", \"factor\": \"4\"}",
            "rope_parameters.factor is \"4\"");
    refused(LLAMA, "\"rope_parameters\": {\"rope_type\": \"yarn\", \"factor\": 4, \"truncate\": 1}",
            "rope_parameters.truncate is 1");
    refused(LLAMA, "\"rope_parameters\": {\"full_attention\": {\"rope_theta\": 1}}",
            "rope_parameters.full_attention is not known");
    refused(LLAMA,
            "\"rope_scaling\": {\"type\": \"llama3\", \"factor\": 8, \"low_freq_factor\": 4, "
            "\"high_freq_factor\": 4}",
            "low_freq_factor is 4");
    refused(LLAMA,
            "\"rope_scaling\": {\"type\": \"longrope\", \"short_factor\": [1, 2], "
            "\"long_factor\": [1, 2]}",
            "list of 32 positive numbers");
    // The original context counts outside rope_scaling alone; 1 + ln 2 / ln 4096 = 13 / 12.
    const char *scaled = "\"max_position_embeddings\": 8192, \"partial_rotary_factor\": 0.125, "
                         "\"rope_scaling\": {\"type\": \"su\", \"short_factor\": [1, 2, 4, 8], "
                         "\"long_factor\": [2, 4, 8, 16], "
                         "\"original_max_position_embeddings\": 64}";
    const Rope *rope = &facts_of(PHI3, scaled)->ropes[0];
    CHECK(rope->original == 4096 && fabs(rope->factor - sqrt(13 / 12.0)) < 1e-12);
    CHECK(rope->inverse[0] == 0.5 && rope->short_inverse[0] == 1);
    scaled = arena_format("%s, \"original_max_position_embeddings\": 8192", scaled);
    rope = &facts_of(PHI3, scaled)->ropes[0];
    CHECK(rope->original == 8192 && rope->factor == 1);
    refused(PHI3, "\"rope_scaling\": {\"type\": \"linear\", \"factor\": 2}",
            "\"linear\"; supported are default, longrope, su, yarn");
    refused(LLAMA, "\"partial_rotary_factor\": 0.5", "partial_rotary_factor is 0.5");
    refused(LLAMA, "\"rope_theta\": -1", "rope_theta is -1");
    refused(LLAMA, "\"rope_theta\": 1e-300", "inverse frequency");
    refused(LLAMA, "\"rope_theta\": [10000]", "rope_theta is a list");
    refused(LLAMA, "\"head_dim\": 33", "33 channels");
}

// --- windows -------------------------------------------------------------------------------------

// The windows of the four layers must be a, b, c, d.
static void check_windows(const char *architecture, const char *members, int a, int b, int c, int d)
{
    const LayerWeights *w = plan_of(architecture, members)->layers;
    CHECK_MSG(w[0].window == a && w[1].window == b && w[2].window == c && w[3].window == d,
              "%s: %d %d %d %d", members, w[0].window, w[1].window, w[2].window, w[3].window);
}

static void check_window_rules(void)
{
    check_windows(LLAMA, "\"sliding_window\": 16", 0, 0, 0, 0); // Hugging Face ignores it as well
    check_windows(MISTRAL, "\"sliding_window\": 16", 16, 16, 16, 16);
    check_windows(MISTRAL, "\"sliding_window\": null", 0, 0, 0, 0);
    check_windows(MISTRAL, "", 4096, 4096, 4096, 4096);
    const char *qwens[] = {QWEN2, QWEN3};
    for (int i = 0; i < 2; i++) {
        check_windows(qwens[i], "\"sliding_window\": 16", 0, 0, 0, 0);
        check_windows(qwens[i],
                      "\"sliding_window\": 16, \"use_sliding_window\": false, "
                      "\"max_window_layers\": 0",
                      0, 0, 0, 0);
        check_windows(qwens[i], "\"sliding_window\": 16, \"use_sliding_window\": true", 0, 0, 0, 0);
        check_windows(qwens[i],
                      "\"sliding_window\": 16, \"use_sliding_window\": true, "
                      "\"max_window_layers\": 3",
                      0, 0, 0, 16);
        check_windows(qwens[i], "\"use_sliding_window\": true, \"max_window_layers\": 1", 0, 4096,
                      4096, 4096);
        check_windows(qwens[i],
                      "\"sliding_window\": null, \"use_sliding_window\": true, "
                      "\"max_window_layers\": 1",
                      0, 0, 0, 0);
        check_windows(
            qwens[i],
            "\"sliding_window\": 8, \"use_sliding_window\": true, \"max_window_layers\": 1, "
            "\"layer_types\": [\"sliding_attention\", \"full_attention\", "
            "\"sliding_attention\", \"full_attention\"]",
            8, 0, 8, 0);
        refused(qwens[i], "\"layer_types\": [\"full_attention\"]", "layer_types");
        refused(qwens[i], "\"layer_types\": \"full_attention\"", "expected a list of 4 strings");
        refused(qwens[i],
                "\"layer_types\": [\"full_attention\", \"full_attention\", "
                "\"full_attention\", \"linear_attention\"]",
                "layer_types[3] is \"linear_attention\"");
        refused(qwens[i],
                "\"layer_types\": [\"sliding_attention\", \"full_attention\", "
                "\"full_attention\", \"full_attention\"]",
                "no sliding window is set");
        refused(qwens[i], "\"use_sliding_window\": 1", "use_sliding_window is 1");
    }
    refused(MISTRAL, "\"sliding_window\": 0", "sliding_window is 0");
    refused(MISTRAL, "\"sliding_window\": \"16\"", "sliding_window is \"16\"");
}

// --- refused configs -----------------------------------------------------------------------------

static void config_dies(const char *config, const char *words)
{
    check_dies(config, plan_child, (void *)(intptr_t)config, words);
}

static void check_refusals(void)
{
    config_dies("[]", "not a JSON object");
    config_dies("{}", "architectures is missing");
    config_dies("{\"architectures\": []}", "expected a list of one name");
    config_dies("{\"architectures\": [1]}", "expected a list of one name");
    config_dies("{\"architectures\": [\"LlamaForCausalLM\", \"X\"]}",
                "expected a list of one name");
    config_dies("{\"architectures\": [\"GPT2LMHeadModel\"]}",
                "GPT2LMHeadModel is not supported; supported are ApertusForCausalLM, ");
    config_dies("{\"architectures\": [\"LlamaForCausalLM\"]}", "is missing");
    // Python writes infinity as a word, which is fine where it says nothing.
    CHECK(facts_of(LLAMA, "\"time_step_limit\": [-Infinity, Infinity]")->dim == 256);
    refused(LLAMA, "\"rms_norm_eps\": Infinity", "rms_norm_eps is inf, expected a positive number");
    refused(LLAMA, "\"head_dim\": Infinity", "head_dim is inf, expected a whole number");
    refused(LLAMA, "\"hidden_size\": \"256\"", "hidden_size is \"256\", expected a whole number");
    refused(LLAMA, "\"hidden_size\": 0", "hidden_size is 0");
    refused(LLAMA, "\"hidden_size\": 256.5", "hidden_size is 256.5");
    refused(LLAMA, "\"hidden_size\": [256]", "hidden_size is a list");
    refused(LLAMA, "\"num_hidden_layers\": 100000", "num_hidden_layers is 100000");
    refused(LLAMA, "\"num_hidden_layers\": null", "num_hidden_layers is missing");
    refused(LLAMA, "\"rms_norm_eps\": -1e-5", "rms_norm_eps is -1e-05");
    refused(LLAMA, "\"rms_norm_eps\": true", "rms_norm_eps is true");
    refused(LLAMA, "\"num_key_value_heads\": 3", "4 attention heads cannot share 3");
    refused(LLAMA, "\"tie_word_embeddings\": \"yes\"", "tie_word_embeddings is \"yes\"");
    refused(LLAMA, "\"num_attention_heads\": 4096, \"head_dim\": 1024, \"num_key_value_heads\": 1",
            "channels");
    refused(LLAMA, "\"hidden_act\": \"gelu\"", "hidden_act is \"gelu\", expected \"silu\"");
    refused(QWEN3, "\"hidden_act\": \"gelu\"", "hidden_act is \"gelu\"");
    refused(LLAMA, "\"attn_logit_softcapping\": 50", "attn_logit_softcapping is 50");
    refused(LLAMA, "\"residual_multiplier\": 0.5", "residual_multiplier");
    refused(LLAMA, "\"num_local_experts\": 8", "num_local_experts is 8");
    refused(QWEN2, "\"mlp_only_layers\": [1]", "mlp_only_layers is a list");
    refused(LLAMA, "\"no_rope_layers\": [1, 1, 0, 1]", "no_rope_layers");
    refused(LLAMA, "\"layer_types\": [\"full_attention\", \"sliding_attention\"]", "layer_types");
    refused(LLAMA, "\"text_config\": {\"a\": 1}", "text_config is an object");
    refused_weights("\"quantization_config\": {\"quant_method\": \"fp8\"}",
                    "quantization_config.quant_method is \"fp8\"");
    refused_weights("\"quantization_config\": {\"quant_algo\": \"FP8\"}",
                    "quantization_config.quant_method is null");
    refused_weights("\"quantization_config\": 4", "quantization_config.quant_method");
    // Neutral values, and keys that say nothing about the forward pass.
    CHECK(facts_of(LLAMA, "\"attn_logit_softcapping\": null, \"residual_multiplier\": 1.0, "
                          "\"mlp_only_layers\": [], \"no_rope_layers\": [1, 1, 1, 1], "
                          "\"layer_types\": [\"full_attention\"], \"use_qk_norm\": false, "
                          "\"num_experts\": 0, \"pretraining_tp\": 1, \"anything\": {\"a\": []}, "
                          "\"quantization_config\": {\"quant_method\": \"exl3\", \"new\": 1}")
              ->layers == 4);
}

// --- tensors -------------------------------------------------------------------------------------

typedef struct {
    const char *config;
    int head; // format, 0: none
    int quantized_embedding;
    const char *without, *wide; // left out; written with one row more
} Model;

static const char *write_model(const Model *m)
{
    static const char *const linears[] = {
        "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
        "mlp.gate_proj",    "mlp.up_proj",      "mlp.down_proj"};
    static const int in[] = {256, 256, 256, 256, 256, 256, 384};
    static const int out[] = {256, 128, 128, 256, 384, 384, 256};
    static const char *const norms[] = {"input_layernorm", "post_attention_layernorm"};
    const char *dir = make_directory();
    put_text(dir, "config.json", config_of(LLAMA, m->config));
    Shard s = {0};
    for (int l = 0; l < 4; l++) {
        for (int i = 0; i < 7; i++) {
            const char *name = arena_format("model.layers.%d.%s", l, linears[i]);
            if (!m->without || !strstr(name, m->without))
                add_linear(&s, name, l == 3 && i == 2 ? c5 : m2, in[i], out[i]);
        }
        for (int i = 0; i < 2; i++) {
            const char *name = arena_format("model.layers.%d.%s.weight", l, norms[i]);
            add_values(&s, name, "BF16", 256 + (m->wide && strstr(name, m->wide)), 0);
        }
    }
    add_values(&s, "model.norm.weight", "F32", 256, 0);
    add_values(&s, "model.embed_tokens.weight", "BF16", 512, 256);
    if (m->quantized_embedding) add_linear(&s, "model.embed_tokens", m3, 256, 512);
    if (m->head) add_linear(&s, "lm_head", m->head, 256, 512);
    write_shard(&s, dir, "model.safetensors");
    return dir;
}

static void model_child(void *argument)
{
    fuse_ops(trace_arch(read_checkpoint(argument)));
}

static void check_head(const char *config, int head, int quantized_embedding, const char *name,
                       int format)
{
    const char *dir = write_model(
        &(Model){.config = config, .head = head, .quantized_embedding = quantized_embedding});
    const Plan *plan = fuse_ops(trace_arch(read_checkpoint(dir)));
    CHECK_MSG(strcmp(plan->head->name, name) == 0 && plan->head->format == format, "%s, %s: %s %s",
              config, name, plan->head->name, format_text(plan->head->format));
    remove_directory(dir);
}

static void model_dies(const Model *m, const char *words)
{
    const char *dir = write_model(m);
    check_dies(words, model_child, (void *)(intptr_t)dir, words);
    remove_directory(dir);
}

static void check_tensors(void)
{
    check_head("\"tie_word_embeddings\": true", m6, 0, "lm_head", m6);
    check_head("\"tie_word_embeddings\": true", 0, 0, "model.embed_tokens", b16);
    check_head("\"tie_word_embeddings\": true", 0, 1, "model.embed_tokens", m3);
    check_head("\"tie_word_embeddings\": true", f16, 1, "model.embed_tokens", m3);
    check_head("\"tie_word_embeddings\": true", f16, 0, "lm_head", f16);
    check_head("\"tie_word_embeddings\": false", f16, 1, "lm_head", f16);
    model_dies(&(Model){.config = "\"a\": 1"}, "no tensor lm_head.trellis or lm_head.weight");
    model_dies(&(Model){.config = "\"a\": 1", .head = m6, .without = "2.mlp.up_proj"},
               "no tensor model.layers.2.mlp.up_proj.trellis");
    model_dies(&(Model){.config = "\"a\": 1", .head = m6, .wide = "1.input_layernorm"},
               "tensor model.layers.1.input_layernorm.weight has shape (257), expected (256)");
    model_dies(&(Model){.config = "\"vocab_size\": 513", .head = m6},
               "tensor model.embed_tokens.weight has shape (512, 256), expected (513, 256)");

    const char *dir = write_model(&(Model){.config = "\"a\": 1", .head = m6});
    Plan *plan = fuse_ops(trace_arch(read_checkpoint(dir)));
    choose_variants(plan);
    CHECK(plan->run_count == 2 && plan->runs[0].last == 2 && plan->runs[1].first == 3);
    CHECK(plan->runs[1].steps[1].formats[2] == c5 && plan->embed_format == b16);
    remove_directory(dir);
}

// --- architecture files --------------------------------------------------------------------------

static const char *arch_text; // of archs/test.lua

static const char *test_text(const char *name, size_t *bytes)
{
    if (strcmp(name, "archs/test.lua") != 0) return embedded_text(name, bytes);
    *bytes = strlen(arch_text);
    return arch_text;
}

static Graph *trace_text(void)
{
    static const char *const names[] = {"archs/test.lua", NULL};
    const ArchFiles files = {names, test_text};
    return trace_files(checkpoint_of(config_of("Test", "")), &files);
}

static void trace_child(void *argument)
{
    arch_text = argument;
    fuse_ops(trace_text());
}

static void arch_dies(const char *text, const char *words)
{
    check_dies(text, trace_child, (void *)(intptr_t)text, words);
}

#define RELATIVE(more)                                                                             \
    "local llama = require 'llama'\nreturn llama:with { name = 'test', hf = { 'Test' },\n" more "}"

static void check_arch_files(void)
{
    arch_text = RELATIVE("layer = function(m, x) return m.ffn(m.ffn_norm(x)) + x end");
    CHECK(trace_text()->layers[0].count == 8 && fuse_ops(trace_text())->layers[0].step_count == 3);
    arch_dies("return 5 +", "archs/test.lua:1:");
    arch_dies("return 5", "does not return an architecture");
    arch_dies("x()", "archs/test.lua:1: attempt to call a nil value (global 'x')");
    arch_dies("\nwhile true do end", "archs/test.lua:2: runs for too long");
    arch_dies("local s = 'x' while true do s = s .. s end", "not enough memory");
    arch_dies("local function f() return 1 + f() end return f()", "stack overflow");
    arch_dies("return os.execute('true')", "archs/test.lua:1: attempt to index a nil value");
    arch_dies("return io.open('/etc/passwd')", "archs/test.lua:1:");
    arch_dies("return load('return 1')", "archs/test.lua:1:");
    arch_dies("return pcall(error)", "archs/test.lua:1:");
    arch_dies("return require 'nothing'", "archs/test.lua: there is no archs/nothing.lua");
    arch_dies("return require '../compiler/prelude'", "there is no archs/");
    arch_dies("return arch { name = 'test' }", "archs/test.lua: arch needs name and hf");
    arch_dies("return arch { name = 'test', hf = {} }", "arch needs block");
    arch_dies("error({})", "failed without a message");
    arch_dies(RELATIVE("attn = llama.attn:with { r = 1 }"),
              "archs/test.lua:3: attention has no field r");
    arch_dies(RELATIVE("attn = attention { q = 'q' }"), "archs/test.lua:3: attention needs ");
    arch_dies(RELATIVE("dim = cfg(3)"), "archs/test.lua:3: cfg needs the name of a key");
    arch_dies(RELATIVE("dim = false"), "dim is false");
    arch_dies(RELATIVE("rope = rope_config {}"), "archs/test.lua:3: rope_config needs style");
    arch_dies(RELATIVE("layer = function(m, x) return 1 end"), "layer must return");
    arch_dies(RELATIVE("layer = function(m, x) return x + 1 end"),
              "archs/test.lua:3: + needs a value");
    arch_dies(RELATIVE("layer = function(m, x) return m.attn(2) end"),
              "archs/test.lua: m.attn needs");
    arch_dies(RELATIVE("layer = function(m, x) m.attn(x) return x + x end"), "is never used");
    // Two norms of the same x: the second is taken before x changes.
    arch_text = RELATIVE("layer = function(m, x)\n"
                         "return x + m.attn(m.attn_norm(x)) + m.ffn(m.ffn_norm(x)) end");
    Plan *plan = fuse_ops(trace_text());
    CHECK(plan->layers[0].step_count == 6 && strcmp(plan->layers[0].steps[3].name, "up") == 0);
    // One norm for both halves: no step leaves it anywhere.
    arch_dies(RELATIVE("layer = function(m, x) local n = m.attn_norm(x)\n"
                       "return x + m.attn(n) + m.ffn(n) end"),
              "archs/test.lua: layer 0: no step computes norm:rms attn_norm");
    arch_dies(RELATIVE("ffn = llama.ffn:with { act = 'gelu' }"), "act:gelu ffn");
    arch_dies(RELATIVE("attn_norm = layernorm 'input_layernorm'"), "norm rms here and layer in");
    arch_text = RELATIVE("attn_norm = rmsnorm { 'input_layernorm', offset = 1 }");
    plan = fuse_ops(trace_text());
    CHECK(plan->layers[0].attn_norm->tensor_offset == 1 &&
          plan->layers[0].ffn_norm->tensor_offset == 0);
    arch_dies(RELATIVE("expect = { num_hidden_layers = { 2, 3 } }"),
              "num_hidden_layers is 4, expected 2 or 3");
    // The order in which a sum is written does not matter, nor does the branch on the layer.
    arch_text = RELATIVE("layer = function(m, x, l) x = m.attn(m.attn_norm(x)) + x\n"
                         "if l > 1 then return m.ffn(m.ffn_norm(x)) + x end\n"
                         "return x + m.ffn(m.ffn_norm(x)) end");
    CHECK(fuse_ops(trace_text())->layers[3].step_count == 6);
    arch_text =
        RELATIVE("window = windows { size = 5, sliding = function(m, l) return l == 1 end }");
    CHECK(fuse_ops(trace_text())->layers[1].window == 5);
}

// --- delta nets ----------------------------------------------------------------------------------

#define NEXT "Qwen3NextForCausalLM"
#define FIVE "Qwen3_5ForConditionalGeneration"

static void check_delta_nets(void)
{
    // The published 80B model: 36 layers with 32 states of 128 x 128 floats, and 3 tokens of 8,192
    // channels; 12 layers with 2 key-value heads of 256.
    Plan *plan = plan_of(
        NEXT, "\"hidden_size\": 2048, \"num_hidden_layers\": 48, \"num_attention_heads\": 16, "
              "\"num_key_value_heads\": 2, \"head_dim\": 256, \"vocab_size\": 151936, "
              "\"intermediate_size\": 5120");
    const Facts *f = &plan->graph->facts;
    CHECK(f->state_layers == 36 && f->cache_layers == 12 && f->delta_grouped && f->gated_attention);
    CHECK(state_bytes(f) == 36 * 4 * (32 * 128 * 128 + 3 * 8192));
    CHECK(cache_bytes_per_token(plan, 16, 16) == 12 * 2 * 2 * 256 * 2);
    CHECK(f->rope_dim == 64 && f->experts == 512 && f->active == 10 && f->shared_dim == 512);
    CHECK(plan->layers[46].kept == 35 && plan->layers[47].kept == 11 && plan->layers[3].kept == 0);
    CHECK(plan->run_count == 24 && plan->runs[0].group == 2 && plan->runs[0].times == 12);
    CHECK(plan->layers[0].delta_in->out == 12288 && !plan->layers[0].delta_z);
    CHECK(!missing_on_cuda(plan));

    // The first layers dense, as numbers and by steps; other kinds of layers where config says so.
    plan = plan_of(NEXT, "\"mlp_only_layers\": [3], \"decoder_sparse_step\": 2");
    for (int l = 0; l < 4; l++) CHECK(!plan->layers[l].router == (l != 1));
    CHECK(plan->parallel == 0);
    plan = plan_of(NEXT, "\"layer_types\": [\"full_attention\", \"linear_attention\", "
                         "\"linear_attention\", \"linear_attention\"]");
    CHECK(plan->layers[0].q && !plan->layers[0].delta_in && plan->layers[3].delta_in);
    plan = plan_of(NEXT, "\"linear_num_key_heads\": 1, \"linear_key_head_dim\": 45");
    CHECK(missing_on_cuda(plan) && strstr(missing_on_cuda(plan), "1 key heads of 45 channels"));
    CHECK(plan->runs[0].group == 1 && plan->run_count == 2);
    plan = plan_of(NEXT, "\"linear_num_key_heads\": 1, \"linear_num_value_heads\": 1, "
                         "\"linear_value_head_dim\": 45");
    CHECK(missing_on_cuda(plan) && strstr(missing_on_cuda(plan), "1 of 45 for values"));

    plan = plan_of(FIVE, "\"text_config\": {\"hidden_size\": 64, \"num_hidden_layers\": 9, "
                         "\"num_attention_heads\": 4, \"rms_norm_eps\": 1e-6, "
                         "\"full_attention_interval\": 2, \"linear_value_head_dim\": 40}");
    f = &plan->graph->facts;
    CHECK(f->layers == 9 && f->vocab == 248320 && f->ffn_dim == 12288 && !f->delta_grouped);
    CHECK(state_bytes(f) == 5 * 4 * (32 * 128 * 48 + 3 * (2 * 16 * 128 + 32 * 40)));
    CHECK(plan->layers[0].delta_z->out == 32 * 40 && !plan->layers[0].router);
    CHECK(plan->runs[0].group == 2 && plan->runs[0].times == 4 && plan->runs[8].group == 1);

    refused(NEXT, "\"layer_types\": [\"linear_attention\", \"sliding_attention\", 1, 1]",
            "layer_types[1] is \"sliding_attention\", expected \"full_attention\" or "
            "\"linear_attention\"");
    refused(NEXT, "\"linear_num_key_heads\": 3", "32 value heads cannot share 3 key heads");
    refused(NEXT, "\"linear_conv_kernel_dim\": 1", "linear_conv_kernel_dim is 1");
    refused(NEXT, "\"attn_output_gate\": false", "attn_output_gate is false");
    refused(FIVE, "\"mlp_only_layers\": [1]", "mlp_only_layers is a list");
    refused(QWEN3, "\"layer_types\": [\"linear_attention\", 1, 1, 1]",
            "expected \"full_attention\" or \"sliding_attention\"");
}

// Whether the weights of the chosen experts add up to one: what config says, or else the default of
// Hugging Face's configuration.
static void check_normalized(const char *architecture, const char *members, int otherwise)
{
    static const char *const more[] = {"", ", \"norm_topk_prob\": true", ", \"norm_topk_prob\": false"};
    int expected[] = {otherwise, 1, 0};
    for (int i = 0; i < 3; i++) {
        Plan *plan = plan_of(architecture, arena_format("%s%s", members, more[i]));
        CHECK_MSG(plan->graph->facts.router_normalize == expected[i], "%s%s", architecture, more[i]);
    }
}

static void check_routers(void)
{
    const char *routed = "\"n_routed_experts\": 8, \"moe_intermediate_size\": 128, "
                         "\"num_experts_per_tok\": 2";
    check_normalized("Qwen3MoeForCausalLM", "\"num_experts\": 8", 0);
    const Plan *plan = plan_of("Qwen3MoeForCausalLM", "\"num_local_experts\": 8");
    CHECK(plan->graph->facts.experts == 8);
    refused(NEXT, "\"num_local_experts\": 8", "num_local_experts is 8");
    check_normalized(NEXT, "\"num_experts\": 10", 1);
    check_normalized("Dots1ForCausalLM", routed, 0);
    check_normalized("Glm4MoeForCausalLM", routed, 1);
}

// Attention of layers 0 and 3, feed-forwards of layers 0, 1 and 3; layer 2 has neither.
#define BLOCK_CONFIG(group, mult)                                                                  \
    "{\"attention\": {\"n_heads_in_group\": " group "}, \"ffn\": {\"ffn_mult\": " mult "}}"
#define NO_OP "null, \"no_op\": true"
#define DECILM                                                                                     \
    "\"num_key_value_heads\": null, \"intermediate_size\": null, \"block_configs\": ["             \
    BLOCK_CONFIG("2", "1.5") ", " BLOCK_CONFIG(NO_OP, "2.625") ", " BLOCK_CONFIG(NO_OP, NO_OP)      \
    ", " BLOCK_CONFIG("4", "0.5") "]"
#define LATENTS(q, width) TURNED_LATENTS(q, width, "32")
#define TURNED_LATENTS(q, width, turned)                                                           \
    "\"q_lora_rank\": " q ", \"kv_lora_rank\": " width ", \"qk_nope_head_dim\": 32, "                 \
    "\"qk_rope_head_dim\": " turned ", \"v_head_dim\": 32, \"n_routed_experts\": 8, "                 \
    "\"num_experts_per_tok\": 2, \"n_shared_experts\": 1, \"moe_intermediate_size\": 128, "         \
    "\"n_group\": 2, \"topk_group\": 1, \"first_k_dense_replace\": 1"

static void missing(const char *architecture, const char *members, const char *words)
{
    const char *found = missing_on_cuda(plan_of(architecture, members));
    CHECK_MSG(words ? found && strstr(found, words) : !found, "%s: %s", members,
              found ? found : "nothing is missing");
}

// What there are CUDA kernels for, and what they need to know of layers that lack a part.
static void check_cuda(void)
{
    missing(LLAMA, "", NULL);
    missing(LLAMA, "\"head_dim\": 288", "head_dim 288");
    missing("DeciLMForCausalLM", DECILM, NULL);
    missing("DeepseekV3ForCausalLM", LATENTS("64", "64"), NULL);
    missing("DeepseekV3ForCausalLM", LATENTS("64", "48"), "latents of 48 and 32 channels");
    missing("DeepseekV2ForCausalLM", LATENTS("null", "64"), NULL);
    missing("DeepseekV3ForCausalLM", TURNED_LATENTS("64", "512", "64"), NULL);
    missing("DeepseekV3ForCausalLM", TURNED_LATENTS("64", "512", "96"), "and 576 together");
    Plan *plan = plan_of("DeciLMForCausalLM", DECILM);
    static const int parts[] = {0, 2, 3, 3}, before[] = {-1, 0, 1, 1};
    CHECK(plan->skips_parts && !plan->parallel);
    for (int l = 0; l < 4; l++)
        CHECK(plan->layers[l].parts == parts[l] && plan->layers[l].before == before[l]);
    CHECK(!plan_of(LLAMA, "")->skips_parts);
}

// Queries through latents or not; what limits the choice of experts.
static void check_latents(void)
{
    const char *v2 = "DeepseekV2ForCausalLM", *v3 = "DeepseekV3ForCausalLM";
    const Facts *f = &plan_of(v3, LATENTS("64", "64"))->graph->facts;
    CHECK(f->q_latent == 64 && f->router_groups == 2 && f->router_group_best == 2);
    CHECK(f->router_sigmoid && f->router_normalize && f->latent_eps == 1e-6);
    Plan *plan = plan_of(v2, LATENTS("null", "64"));
    f = &plan->graph->facts;
    CHECK(f->q_latent == 0 && plan->layers[0].q_b->in == f->dim && !plan->layers[0].q_a);
    CHECK(strcmp(plan->layers[0].steps[1].name, "latent_direct") == 0);
    CHECK(f->router_groups == 1 && !f->router_sigmoid && !f->router_normalize);
    CHECK(f->router_scale == 1 && plan->layers[0].ffn_dim && plan->layers[1].router);
    plan = plan_of(v2, LATENTS("64", "64") ", \"topk_method\": \"group_limited_greedy\"");
    f = &plan->graph->facts;
    CHECK(f->router_groups == 2 && f->router_top_groups == 1 && f->router_group_best == 1);
    refused(v2, LATENTS("64", "64") ", \"norm_topk_prob\": true", "norm_topk_prob is true");
    refused(v2, LATENTS("64", "64") ", \"topk_method\": \"noaux_tc\"", "topk_method is");
    refused(v3, LATENTS("64", "64") ", \"scoring_func\": \"softmax\"", "scoring_func is");
    refused(v3, LATENTS("64", "64") ", \"moe_layer_freq\": 2", "moe_layer_freq is 2");
}

static const char *print_traced(const cJSON *config)
{
    char *text = NULL;
    size_t bytes = 0;
    Checkpoint *ck = checkpoint_of("{}");
    ck->config = config;
    FILE *out = open_memstream(&text, &bytes);
    print_graph(trace_arch(ck), out);
    fclose(out);
    return text;
}

// How many parameters a bare config has, biases included, and that it says the same when
// transformers has saved it: tests/data/parameters.jsonl, from tests/oracle/record_parameters.py.
static void check_parameters(void)
{
    Buffer file = read_file("tests/data/parameters.jsonl");
    for (char *line = strtok(file.data, "\n"); line; line = strtok(NULL, "\n")) {
        const cJSON *recorded = parse_json("tests/data/parameters.jsonl", line, strlen(line));
        Checkpoint *ck = checkpoint_of("{}");
        ck->config = json_get(recorded, "config");
        uint64_t found = fuse_ops(trace_arch(ck))->parameters;
        uint64_t expected = (uint64_t)json_get(recorded, "parameters")->valuedouble;
        CHECK_MSG(found == expected, "%llu, expected %llu: %s", (unsigned long long)found,
                  (unsigned long long)expected, line);
        const cJSON *saved = json_get(recorded, "saved");
        if (cJSON_IsObject(saved))
            CHECK_MSG(strcmp(print_traced(ck->config), print_traced(saved)) == 0, "%s", line);
    }
    buffer_free(&file);
}

int main(void)
{
    check_parameters();
    check_cuda();
    check_latents();
    check_delta_nets();
    check_routers();
    check_facts();
    check_rope();
    check_window_rules();
    check_refusals();
    check_tensors();
    check_arch_files();
    return check_done();
}

// Writes the generated program: copies templates/, with the contents of their marked regions
// replaced, and beside them the kernels, headers and archive that they need. Same plan, same bytes.
#include "exlc.h"
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static void emit_file(const char *dir, const char *name, const void *data, size_t bytes)
{
    char *path = arena_format("%s/%s", dir, name);
    for (char *p = path + strlen(dir) + 1; (p = strchr(p, '/')); p++) {
        *p = 0;
        mkdir(path, 0777);
        *p = '/';
    }
    write_file(path, data, bytes);
}

// What stands between the two markers of a region is replaced by text; the markers go.
typedef struct {
    const char *region;
    Buffer text;
} Fill;

static void fill_template(const char *dir, const char *name, Fill *fills, int count)
{
    char *from = arena_format("templates/%s", name);
    size_t bytes;
    const char *p = embedded_text(from, &bytes);
    if (!p) die(from, "not carried in this exlc");
    Buffer out = {0};
    int inside = 0;
    for (const char *line = p, *end = p + bytes; line < end;) {
        const char *next = memchr(line, '\n', (size_t)(end - line));
        next = next ? next + 1 : end;
        const char *mark = memmem(line, (size_t)(next - line), "exlc: ", 6);
        if (!mark) {
            if (!inside) buffer_add(&out, line, (size_t)(next - line));
        } else if (strncmp(mark + 6, "end", 3) == 0) {
            inside = 0;
        } else {
            char region[32] = "";
            sscanf(mark, "exlc: begin %31s", region);
            inside = 1;
            int i = 0;
            while (i < count && strcmp(fills[i].region, region) != 0) i++;
            if (i == count) die(from, "region '%s' has no text", region);
            buffer_add(&out, fills[i].text.data, fills[i].text.bytes);
        }
        line = next;
    }
    emit_file(dir, name, out.data, out.bytes);
    buffer_free(&out);
}

// --- formats and numbers as C --------------------------------------------------------------------

static const char *format_name(int format)
{
    if (format == f16) return "f16";
    if (format == b16) return "b16";
    return arena_format("%c%d", "tcm"[FORMAT_CODEBOOK(format)], FORMAT_BITS(format));
}

static const char *upper_case(const char *name)
{
    char *s = arena_copy(name, strlen(name));
    for (char *c = s; *c; c++)
        if (*c >= 'a' && *c <= 'z') *c -= 32;
    return s;
}

// The shortest text that reads back as the same float.
static const char *float_text(double value)
{
    float f = (float)value;
    for (int digits = 1; digits <= 9; digits++) {
        char *s = arena_format("%.*g", digits, (double)f);
        if (strtof(s, NULL) != f) continue;
        return arena_format("%s%sf", s, strpbrk(s, ".ein") ? "" : ".0");
    }
    return arena_format("%.9gf", (double)f);
}

static const char *string_text(const char *s)
{
    Buffer b = {0};
    buffer_add(&b, "\"", 1);
    for (; *s; s++) {
        if (*s == '"' || *s == '\\') buffer_print(&b, "\\%c", *s);
        else if ((unsigned char)*s < 32 || *s == '?') buffer_print(&b, "\\%03o", (unsigned char)*s);
        else buffer_add(&b, s, 1);
    }
    buffer_add(&b, "\"", 1);
    return b.data;
}

// --- regions -------------------------------------------------------------------------------------

static void define(Buffer *b, const char *name, const char *value, const char *comment)
{
    int start = (int)b->bytes;
    buffer_print(b, "#define %s %s", name, value);
    int width = (int)b->bytes - start;
    buffer_print(b, "%*s// %s\n", width < 32 ? 32 - width : 1, "", comment);
}

static void define_int(Buffer *b, const char *name, int value, const char *comment)
{
    define(b, name, arena_format("%d", value), comment);
}

// A constant of features.h, where it is not what that says.
static void define_number(Buffer *b, const char *name, double value, double neutral,
                          const char *comment)
{
    if (value != neutral) define(b, name, float_text(value), comment);
}

static void define_features(Buffer *b, const Plan *plan)
{
    const Facts *f = &plan->graph->facts;
    int sinks = 0, unturned = 0, kv_heads = 1, ffn_dim = 1; // the last two: the same everywhere
    int window, windows = window_layers(plan, &window);
    for (int l = 0; l < f->layers; l++) {
        const LayerWeights *w = &plan->layers[l];
        sinks |= w->sinks != NULL;
        unturned |= w->q && w->rope < 0;
        kv_heads &= !w->kv_heads || w->kv_heads == f->kv_heads;
        ffn_dim &= !w->ffn_dim || w->ffn_dim == f->ffn_dim;
    }
    define_number(b, "EMBED_SCALE", f->embed_scale, 1, "on the rows of the embedding table");
    define_number(b, "RESIDUAL_SCALE", f->residual_scale, 1, "on what is added to x");
    define_number(b, "LOGIT_SCALE", f->logit_scale, 1, "on the logits");
    define_number(b, "LOGIT_SOFTCAP", f->logit_softcap, 0, "c of c tanh(logit / c)");
    define_number(b, "ATTN_SOFTCAP", f->attn_softcap, 0, "c of c tanh(score / c)");
    if (plan->parallel > 0) define_int(b, "PARALLEL", 1, "attention and feed-forward");
    if (plan->post_norms) define_int(b, "POST_NORMS", 1, "norms before sums");
    if (plan->layer_norm) define_int(b, "LAYER_NORM", 1, "norms subtract the mean");
    if (strcmp(plan->head_norms, "HEAD_NORM_SHARED") != 0)
        define(b, "HEAD_NORMS", plan->head_norms, "of q and k");
    if (sinks) define_int(b, "ATTN_SINKS", 1, "a score of each head that has no value");
    if (windows) define_int(b, "WINDOW_LAYERS", windows, "layers that see a window");
    if (f->rope_count > 1) define_int(b, "ROPES", f->rope_count, "tables of angles");
    if (unturned) define_int(b, "ROPE_EVERYWHERE", 0, "some layers do not turn q and k");
    if (f->query_beta) {
        define(b, "QUERY_BETA", float_text(f->query_beta), "of the position");
        define_int(b, "QUERY_FROM", f->query_from, "original_max_position_embeddings");
    }
    if (!kv_heads)
        define(b, "LAYER_KV_HEADS(layer)", "((layer)->kv_heads)", "KV_HEADS is the most");
    if (!ffn_dim) define(b, "LAYER_FFN_DIM(layer)", "((layer)->ffn_dim)", "FFN_DIM is the most");
    if (plan->skips_parts) define_int(b, "SKIPS_PARTS", 1, "some layers lack one");
    if (f->kv_latent) {
        define_int(b, "Q_LATENT", f->q_latent, "q_lora_rank");
        define_int(b, "KV_LATENT", f->kv_latent, "kv_lora_rank");
        define_int(b, "NOPE_DIM", f->nope_dim, "qk_nope_head_dim");
        define_int(b, "VALUE_DIM", f->value_dim, "v_head_dim");
        define(b, "KV_B_FORMAT", format_name(plan->kv_b_format), "of kv_b_proj");
        define_number(b, "LATENT_EPS", f->latent_eps, f->norm_eps, "of the norms of latents");
    }
    if (f->gated_attention) define_int(b, "GATED_ATTENTION", 1, "gates come with the queries");
    if (f->cache_layers != f->layers) {
        define_int(b, "CACHE_LAYERS", f->cache_layers, "with keys and values");
        define_int(b, "STATE_LAYERS", f->state_layers, "with a recurrent state");
    }
    if (f->delta_heads) {
        define_int(b, "DELTA_HEADS", f->delta_heads, "linear_num_value_heads");
        define_int(b, "DELTA_KEY_HEADS", f->delta_key_heads, "linear_num_key_heads");
        define_int(b, "DELTA_KEY_DIM", f->delta_key_dim, "linear_key_head_dim");
        define_int(b, "DELTA_VALUE_DIM", f->delta_value_dim, "linear_value_head_dim");
        define_int(b, "DELTA_TAPS", f->delta_taps, "linear_conv_kernel_dim");
        if (f->delta_grouped) define_int(b, "DELTA_BY_KEYS", 1, "parts of a key head lie together");
    }
    if (f->experts) {
        define_int(b, "EXPERTS", f->experts, "in each routed layer");
        define_int(b, "ACTIVE_EXPERTS", f->active, "that a row passes through");
        define_int(b, "EXPERT_DIM", f->expert_dim, "channels of an expert");
        if (f->shared_dim) define_int(b, "SHARED_DIM", f->shared_dim, "of the expert of all rows");
        if (f->router_sigmoid) define_int(b, "ROUTER_SIGMOID", 1, "scores are independent");
        if (!f->router_normalize) define_int(b, "ROUTER_NORMALIZE", 0, "norm_topk_prob");
        define_number(b, "ROUTER_SCALE", f->router_scale, 1, "on the weights of experts");
        if (f->router_groups > 1) {
            define_int(b, "ROUTER_GROUPS", f->router_groups, "of experts");
            define_int(b, "ROUTER_TOP_GROUPS", f->router_top_groups, "that are chosen from");
            if (f->router_group_best != 2)
                define_int(b, "ROUTER_GROUP_BEST", f->router_group_best, "scores of a group count");
        }
    }
    define_number(b, "ACT_LIMIT", f->act_limit, 0, "swiglu_limit");
    if (strcmp(plan->activation, "silu") != 0)
        define(b, "ACTIVATION", upper_case(plan->activation), "of the feed-forward");
}

// Adds F(format) of a step's weights to a line, once.
static void add_formats(Buffer *b, const Step *step)
{
    for (int i = 0; i < step->format_count; i++) {
        char item[16];
        snprintf(item, sizeof item, " F(%s)", format_name(step->formats[i]));
        if (!b->data || !strstr(b->data, item)) buffer_print(b, "%s", item);
    }
}

// The weight formats of all steps, for code that has a variant for each.
static void define_formats(Buffer *b, const Plan *plan)
{
    Buffer formats = {0};
    for (int r = 0; r < plan->run_count; r++)
        for (int i = 0; i < plan->runs[r].step_count; i++)
            add_formats(&formats, &plan->runs[r].steps[i]);
    add_formats(&formats, &plan->head_step);
    define(b, "MODEL_FORMATS(F)", formats.data + 1, "of the weights");
    buffer_free(&formats);
}

static Buffer constants_region(const Plan *plan, const BuildOptions *options)
{
    const Facts *f = &plan->graph->facts;
    Buffer b = {0};
    define_int(&b, "LAYERS", f->layers, "num_hidden_layers");
    define_int(&b, "DIM", f->dim, "hidden_size");
    define_int(&b, "HEADS", f->heads, "num_attention_heads");
    define_int(&b, "KV_HEADS", f->kv_heads, "num_key_value_heads");
    define_int(&b, "HEAD_DIM", f->head_dim, "head_dim");
    define_int(&b, "FFN_DIM", f->ffn_dim, "intermediate_size");
    define_int(&b, "VOCAB", f->vocab, "vocab_size");
    define(&b, "NORM_EPS", float_text(f->norm_eps), "rms_norm_eps");
    define(&b, "SOFTMAX_SCALE", float_text(f->softmax_scale), "on the products of query and key");
    define(&b, "EMBED_FORMAT", format_name(plan->embed_format), "of the embedding table");
    define_formats(&b, plan);
    define_int(&b, "ROPE_DIM", f->rope_dim, "channels of a head that rotate");
    define_int(&b, "ROPE_INTERLEAVED", f->rope_interleaved,
               "0: pairs (j, j + ROPE_DIM / 2); 1: (2j, 2j + 1)");
    Buffer factors = {0};
    for (int i = 0; i < f->rope_count; i++)
        buffer_print(&factors, "%s%s", i ? ", " : "", float_text(f->ropes[i].factor));
    define(&b, "ROPE_FACTOR", factors.data, "on cosine and sine");
    buffer_free(&factors);
    define_features(&b, plan);
    define_int(&b, "MAX_CONTEXT", options->max_context, "--max-context");
    define_int(&b, "MAX_BATCH", options->max_batch, "--max-batch");
    if (options->cache_bits != 1u << 16) define_int(&b, "QUANTIZED_CACHE", 1, "--cache-bits");
    buffer_print(&b,
                 f->rope_count > 1
                     ? "\n// Radians per position of each rotating pair: ROPES tables of "
                       "ROPE_DIM / 2.\n"
                     : "\n// Radians per position of each rotating pair, ROPE_DIM / 2 of them.\n");
    buffer_print(&b, "#define ROPE_INVERSE \\\n    { \\\n");
    int pairs = f->rope_dim / 2, count = pairs * f->rope_count;
    for (int i = 0; i < count;) {
        char line[256];
        int n = snprintf(line, sizeof line, "       ");
        while (i < count) {
            const Rope *rope = &f->ropes[i / pairs];
            int is_short = rope->short_inverse && options->max_context <= rope->original;
            const char *value =
                float_text((is_short ? rope->short_inverse : rope->inverse)[i % pairs]);
            if (n + (int)strlen(value) + 2 > 96) break;
            n += snprintf(line + n, sizeof line - (size_t)n, " %s,", value);
            i++;
        }
        if (i == count) line[n - 1] = 0;
        buffer_print(&b, "%s \\\n", line);
    }
    buffer_print(&b, "    }\n");
    return b;
}

static void print_step(Buffer *b, const char *indent, const Step *step, const char *last)
{
    int start = (int)b->bytes;
    buffer_print(b, "%sSTEP(%s", indent, step->name);
    for (int i = 0; i < step->format_count; i++)
        buffer_print(b, ", %s", format_name(step->formats[i]));
    if (last) buffer_print(b, ", %s", last);
    buffer_print(b, ")");
    int width = (int)b->bytes - start;
    if (step->comment)
        buffer_print(b, "%*s// %s", width < 39 ? 39 - width : 1, "", step->comment);
    buffer_print(b, "\n");
}

// A run as a loop over its layers. Those of a repeated group count from its first layer, g.
static void print_run(Buffer *b, const char *indent, const Run *run, const char *from, int first)
{
    int start = (int)b->bytes;
    const char *begin = arena_format(*from ? "%s + %d" : "%s%d", from, run->first - first);
    if (*from && run->first == first) begin = from;
    buffer_print(b, "%sfor (int l = %s; l < %s%s%d; l++) {", indent, begin, from,
                 *from ? " + " : "", run->last + 1 - first);
    int width = (int)b->bytes - start;
    if (*from)
        buffer_print(b, "\n");
    else
        buffer_print(b, "%*s// layers %d to %d\n", width < 39 ? 39 - width : 1, "", run->first,
                     run->last);
    for (int i = 0; i < run->step_count; i++)
        print_step(b, arena_format("%s    ", indent), &run->steps[i],
                   strcmp(run->steps[i].name, "keep") == 0 ? "l" : "LAYER(l)");
    buffer_print(b, "%s}\n", indent);
}

static Buffer layers_region(const Plan *plan)
{
    Buffer b = {0};
    for (int r = 0; r < plan->run_count;) {
        const Run *run = &plan->runs[r];
        r += run->group * run->times;
        if (run->group == 1) {
            print_run(&b, "", run, "", 0);
            continue;
        }
        int each = run[run->group].first - run->first, end = run->first + each * run->times;
        buffer_print(&b, "for (int g = %d; g < %d; g += %d) { // layers %d to %d, %d at a time\n",
                     run->first, end, each, run->first, end - 1, each);
        for (int i = 0; i < run->group; i++) print_run(&b, "    ", &run[i], "g", run->first);
        buffer_print(&b, "}\n");
    }
    buffer_print(&b, "\n");
    print_step(&b, "", &plan->head_step, NULL);
    return b;
}

// Adds the line of a step's kernels to the lines of `b`, once.
static void add_kernel(Buffer *b, const Step *step)
{
    if (strcmp(step->name, "moe_shared") == 0) { // two lines: routed experts may be with and without
        Step routed = {.name = "moe", .format_count = 3}, shared = {.name = "shared", .format_count = 3};
        memcpy(routed.formats, step->formats, 3 * sizeof *step->formats);
        memcpy(shared.formats, step->formats + 3, 3 * sizeof *step->formats);
        add_kernel(b, &routed);
        add_kernel(b, &shared);
        return;
    }
    Buffer line = {0};
    buffer_print(&line, "%s(", upper_case(step->name));
    for (int i = 0; i < step->format_count; i++)
        buffer_print(&line, "%s%s", i ? ", " : "", format_name(step->formats[i]));
    buffer_print(&line, ")\n");
    // As a whole line: DELTA_OUT ends with OUT.
    if (!strstr(b->data, arena_format("\n%s", line.data))) buffer_add(b, line.data, line.bytes);
    buffer_free(&line);
}

static Buffer kernels_region(const Plan *plan)
{
    Buffer b = {0};
    buffer_print(&b, "#include \"kernels/cuda/steps.cuh\"\n\n");
    add_kernel(&b, &(Step){.name = "embed", .formats = {plan->embed_format}, .format_count = 1});
    for (int r = 0; r < plan->run_count; r++)
        for (int i = 0; i < plan->runs[r].step_count; i++) add_kernel(&b, &plan->runs[r].steps[i]);
    add_kernel(&b, &plan->head_step);
    add_kernel(&b, &(Step){.name = "sample"});
    buffer_print(&b, "\n");
    return b;
}

static void print_linear(Buffer *b, const char *name, const Linear *l, const char *end)
{
    buffer_print(b, "     .%s = {0x%llx, 0x%llx, 0x%llx, 0x%llx}%s\n", name,
                 (unsigned long long)l->weights, (unsigned long long)l->suh,
                 (unsigned long long)l->svh, (unsigned long long)l->bias, end);
}

// A field that most models leave at 0.
static void print_offset(Buffer *b, const char *name, uint64_t at)
{
    if (at) buffer_print(b, "     .%s = 0x%llx,\n", name, (unsigned long long)at);
}

static void add_tensor(Buffer *b, const LinearWeights *l, int *count)
{
    if (!l) return;
    buffer_print(b, "    {%s, %s, %d, %d},\n", string_text(l->name), format_name(l->format), l->in,
                 l->out);
    ++*count;
}

// A key of config.json, or of the text model inside it.
static const cJSON *config_value(const Checkpoint *ck, const char *key)
{
    const cJSON *value = json_get(ck->config, key);
    return value ? value : json_get(json_get(ck->config, "text_config"), key);
}

// Ids that end a text: generation_config.json first, then config.json.
static void eos_ids(const Plan *plan, Buffer *b, int *count)
{
    const Checkpoint *ck = plan->graph->checkpoint;
    const cJSON *eos = json_get(ck->generation, "eos_token_id");
    const char *where = "generation_config.json";
    if (!eos || cJSON_IsNull(eos)) {
        eos = config_value(ck, "eos_token_id");
        where = "config.json";
    }
    const cJSON *list = cJSON_IsArray(eos) ? eos->child : eos;
    for (*count = 0; list && !cJSON_IsNull(list); list = cJSON_IsArray(eos) ? list->next : NULL) {
        int64_t id = json_whole(where, "eos_token_id", list, 0, INT32_MAX);
        buffer_print(b, "%s%lld", (*count)++ ? ", " : "", (long long)id);
    }
    if (*count == 0) buffer_print(b, "-1");
}

static double generation_number(const Plan *plan, const char *key, double otherwise, double high)
{
    const cJSON *value = json_get(plan->graph->checkpoint->generation, key);
    if (!value || cJSON_IsNull(value)) return otherwise;
    if (!cJSON_IsNumber(value) || !(value->valuedouble >= 0 && value->valuedouble <= high))
        die("generation_config.json", "%s is no number from 0 to %g", key, high);
    return value->valuedouble;
}

static Buffer model_region(const Plan *plan, const Packed *packed, const BuildOptions *options,
                           size_t tokenizer_bytes, size_t templates_bytes, const char *build_id)
{
    const Graph *graph = plan->graph;
    const Checkpoint *ck = graph->checkpoint;
    const Facts *f = &graph->facts;
    int window;
    Buffer b = {0};

    buffer_print(&b, "// Offsets into the weights: {weights, suh, svh, bias}, 0 where there is none.\n"
                     "static const Layer layers[LAYERS] = {\n");
    for (int l = 0; l < f->layers; l++) {
        const Layer *at = &packed->layers[l];
        buffer_print(&b, "    {.attn_norm = 0x%llx, // layer %d\n",
                     (unsigned long long)at->attn_norm, l);
        if (at->kv_b) {
            print_linear(&b, "q_a", &at->q_a, ",");
            print_linear(&b, "q_b", &at->q_b, ",");
            print_linear(&b, "kv_a", &at->kv_a, ",");
            print_offset(&b, "q_a_norm", at->q_a_norm);
            print_offset(&b, "kv_a_norm", at->kv_a_norm);
            print_offset(&b, "kv_b", at->kv_b);
        }
        if (at->delta_in.weights) {
            print_linear(&b, "delta_in", &at->delta_in, ",");
            print_linear(&b, "delta_z", &at->delta_z, ",");
            print_offset(&b, "delta_b", at->delta_b);
            print_offset(&b, "delta_a", at->delta_a);
            print_offset(&b, "a_log", at->a_log);
            print_offset(&b, "dt_bias", at->dt_bias);
            print_offset(&b, "conv", at->conv);
            print_offset(&b, "delta_norm", at->delta_norm);
        }
        print_linear(&b, "q", &at->q, ",");
        print_linear(&b, "k", &at->k, ",");
        print_linear(&b, "v", &at->v, ",");
        buffer_print(&b, "     .q_norm = 0x%llx, .k_norm = 0x%llx,\n",
                     (unsigned long long)at->q_norm, (unsigned long long)at->k_norm);
        print_offset(&b, "sinks", at->sinks);
        print_linear(&b, "o", &at->o, ",");
        print_offset(&b, "attn_post", at->attn_post);
        buffer_print(&b, "     .ffn_norm = 0x%llx,\n", (unsigned long long)at->ffn_norm);
        print_linear(&b, "gate", &at->gate, ",");
        print_linear(&b, "up", &at->up, ",");
        print_linear(&b, "down", &at->down, ",");
        print_offset(&b, "ffn_post", at->ffn_post);
        if (at->router) {
            print_offset(&b, "router", at->router);
            print_offset(&b, "router_bias", at->router_bias);
            print_offset(&b, "choice_bias", at->choice_bias);
            print_offset(&b, "expert_stride", at->expert_stride);
        }
        if (at->shared_gate.weights) {
            print_linear(&b, "shared_gate", &at->shared_gate, ",");
            print_linear(&b, "shared_up", &at->shared_up, ",");
            print_linear(&b, "shared_down", &at->shared_down, ",");
            print_offset(&b, "shared_weight", at->shared_weight);
        }
        if (at->act[0] || at->act[1])
            buffer_print(&b, "     .act = {%s, %s},\n", float_text((double)at->act[0]),
                         float_text((double)at->act[1]));
        if (plan->skips_parts)
            buffer_print(&b, "     .parts = %d, .before = %d,\n", at->parts, at->before);
        buffer_print(&b, "     .window = %d, .rope = %d, .kv_heads = %d, .ffn_dim = %d, "
                         ".kept = %d},\n",
                     at->window, at->rope, at->kv_heads, at->ffn_dim, at->kept);
    }
    buffer_print(&b, "};\n\n");

    int tensors = 0;
    buffer_print(&b, "static const TensorInfo tensors[] = {\n");
    for (int l = 0; l < f->layers; l++) {
        const LayerWeights *w = &plan->layers[l];
        add_tensor(&b, w->q_a, &tensors);
        add_tensor(&b, w->q_b, &tensors);
        add_tensor(&b, w->kv_a, &tensors);
        add_tensor(&b, w->delta_in, &tensors);
        add_tensor(&b, w->delta_z, &tensors);
        add_tensor(&b, w->q, &tensors);
        add_tensor(&b, w->k, &tensors);
        add_tensor(&b, w->v, &tensors);
        add_tensor(&b, w->o, &tensors);
        add_tensor(&b, w->gate, &tensors);
        add_tensor(&b, w->up, &tensors);
        add_tensor(&b, w->down, &tensors);
        const Op *experts[] = {w->expert_gate, w->expert_up, w->expert_down};
        for (int i = 0; i < 3 && w->router; i++)
            for (int e = 0; e < experts[i]->expert_count; e++)
                add_tensor(&b, experts[i]->experts[e], &tensors);
        add_tensor(&b, w->shared_gate, &tensors);
        add_tensor(&b, w->shared_up, &tensors);
        add_tensor(&b, w->shared_down, &tensors);
    }
    add_tensor(&b, plan->head, &tensors);
    buffer_print(&b, "};\n\n");

    int eos_count;
    buffer_print(&b, "static const int32_t eos[] = {");
    eos_ids(plan, &b, &eos_count);
    buffer_print(&b, "};\n\n");

    if (tokenizer_bytes) buffer_print(&b, "EMBED_FILE(tokenizer_tables, \"tokenizer.bin\");\n");
    buffer_print(&b, "EMBED_FILE(template_tables, \"templates.bin\");\n\n");
    if (options->cpu)
        buffer_print(&b, "extern const CpuTarget cpu_avx512, cpu_avx2, cpu_generic;\n"
                         "static const CpuTarget *const cpu_targets[] = {&cpu_avx512, &cpu_avx2, "
                         "&cpu_generic, NULL};\n\n");
    if (options->cuda) {
        buffer_print(&b, "void forward_gpu(Gpu *gpu, const State *s, const Batch *b, int together);\n"
                         "void sample_gpu(Gpu *gpu, const State *s, const Batch *b, const Sampling "
                         "*sampling,\n                int32_t *tokens);\n"
                         "int forward_decode_rows(const Gpu *gpu);\n"
                         "size_t forward_work_bytes(int max_rows, int max_outputs);\n");
        for (int i = 0; i < options->sm_count; i++)
            buffer_print(&b, "EMBED_FILE(image_%d, \"sm_%d.cubin\");\n", options->sms[i],
                         options->sms[i]);
        buffer_print(&b, "static const GpuImage images[] = {\n");
        for (int i = 0; i < options->sm_count; i++)
            buffer_print(&b, "    {%d, image_%d, image_%d_end},\n", options->sms[i],
                         options->sms[i], options->sms[i]);
        buffer_print(&b, "    {0, NULL, NULL},\n};\n\n");
    }
    const cJSON *do_sample = json_get(ck->generation, "do_sample");
    double temperature = generation_number(plan, "temperature", 1, 100);
    if (!cJSON_IsTrue(do_sample)) temperature = 0;
    const cJSON *bos = config_value(ck, "bos_token_id");

    buffer_print(&b, "const ModelInfo model_info = {\n");
    buffer_print(&b, "    .name = %s,\n", string_text(ck->name));
    buffer_print(&b, "    .architecture = %s,\n", string_text(graph->architecture));
    buffer_print(&b, "    .exlc_version = \"%s\",\n    .build_id = \"%s\",\n", EXLC_VERSION, build_id);
    buffer_print(&b, "    .layers = LAYERS, .dim = DIM, .heads = HEADS, .kv_heads = KV_HEADS,\n"
                     "    .head_dim = HEAD_DIM, .ffn_dim = FFN_DIM, .vocab = VOCAB,\n"
                     "    .rope_dim = ROPE_DIM, .max_context = MAX_CONTEXT, .max_batch = MAX_BATCH,\n");
    buffer_print(&b, "    .cache_bits = 0x%x, .ropes = %d, .y_dim = %d, .wide_head_norms = %d,\n",
                 options->cache_bits, f->rope_count, plan->y_dim,
                 strcmp(plan->head_norms, "HEAD_NORM_SHARED") != 0);
    buffer_print(&b, "    .cache_layers = %d, .window_layers = %d, .state_bytes = %llu,\n",
                 f->cache_layers, window_layers(plan, &window), (unsigned long long)state_bytes(f));
    if (options->max_context > f->reach) buffer_print(&b, "    .reach = %d,\n", f->reach);
    if (options->embedding.pooling)
        buffer_print(&b, "    .embedding = %s, .embedding_normal = %d,\n",
                     options->embedding.pooling, options->embedding.normal);
    if (f->gated_attention) buffer_print(&b, "    .gated_attention = 1,\n");
    if (f->delta_heads)
        buffer_print(&b, "    .delta_key_heads = DELTA_KEY_HEADS, .delta_heads = DELTA_HEADS,\n"
                         "    .delta_key_dim = DELTA_KEY_DIM, .delta_value_dim = DELTA_VALUE_DIM,\n"
                         "    .delta_taps = DELTA_TAPS,\n");
    if (f->kv_latent)
        buffer_print(&b, "    .q_latent = Q_LATENT, .kv_latent = KV_LATENT, .nope_dim = NOPE_DIM, "
                         ".value_dim = VALUE_DIM,\n");
    if (f->experts)
        buffer_print(&b,
                     "    .experts = EXPERTS, .active_experts = ACTIVE_EXPERTS,\n"
                     "    .expert_dim = EXPERT_DIM, .shared_dim = %d,\n",
                     f->shared_dim);
    buffer_print(&b, "    .parameters = %llu, .bits = %.4g,\n", (unsigned long long)plan->parameters,
                 plan->bits);
    buffer_print(&b, "    .weights_bytes = %llu, .weights_hash = \"%s\", .random_seed = %lluu,\n",
                 (unsigned long long)packed->bytes, packed->hash,
                 (unsigned long long)ck->random_seed);
    buffer_print(&b, "    .layer_table = layers,\n    .ends = {.embed = 0x%llx, .norm = 0x%llx,\n",
                 (unsigned long long)packed->ends.embed, (unsigned long long)packed->ends.norm);
    print_linear(&b, "head", &packed->ends.head, "},");
    buffer_print(&b, "    .tensors = tensors, .tensor_count = %d,\n", tensors);
    if (tokenizer_bytes)
        buffer_print(&b, "    .tokenizer = tokenizer_tables, .tokenizer_bytes = %zu,\n",
                     tokenizer_bytes);
    buffer_print(&b, "    .templates = template_tables, .templates_bytes = %zu,\n", templates_bytes);
    buffer_print(&b, "    .eos = eos, .eos_count = %d, .bos = %d,\n", eos_count,
                 cJSON_IsNumber(bos) ? bos->valueint : -1);
    buffer_print(&b, "    .temperature = %.9g, .top_k = %d, .top_p = %.9g, .min_p = %.9g,\n",
                 temperature, (int)generation_number(plan, "top_k", 50, 1 << 30),
                 generation_number(plan, "top_p", 1, 1), generation_number(plan, "min_p", 0, 1));
    if (options->cpu) buffer_print(&b, "    .cpu = cpu_targets,\n");
    if (options->cuda)
        buffer_print(&b, "    .driver_min = \"%s\", .images = images, .forward_gpu = forward_gpu,\n"
                         "    .sample_gpu = sample_gpu, .gpu_decode_rows = forward_decode_rows,\n"
                         "    .gpu_work_bytes = forward_work_bytes,\n",
                     options->driver_min);
    buffer_print(&b, "};\n");
    return b;
}

static Buffer variables_region(const Plan *plan, const BuildOptions *options)
{
    Buffer b = {0};
    buffer_print(&b, "NAME = model\n");
    buffer_print(&b, "TARGETS =%s\n", options->cpu ? " avx512 avx2 generic" : "");
    buffer_print(&b, "SM =");
    for (int i = 0; i < options->sm_count; i++) buffer_print(&b, " %d", options->sms[i]);
    buffer_print(&b, "\nCUDA =%s\n", options->cuda ? " 1" : "");
    buffer_print(&b, "SIDE =%s\n",
                 options->embed_weights || plan->graph->checkpoint->random_seed ? ""
                                                                                : " model.weights");
    buffer_print(&b, "EMBEDDED =%s\n",
                 options->embed_weights && !plan->graph->checkpoint->random_seed ? " weights.bin"
                                                                                 : "");
    return b;
}

// The 32 digits that tie a program to its weights.
const char *build_identity(const Plan *plan, const Packed *packed)
{
    if (packed->hash[0]) return packed->hash;
    return arena_format("%016llx%016llx", (unsigned long long)plan->graph->checkpoint->random_seed,
                        (unsigned long long)packed->bytes);
}

void emit_program(const Plan *plan, const Packed *packed, const Buffer *tokenizer,
                  const Buffer *chat_templates, const BuildOptions *options, const char *dir)
{
    const Checkpoint *ck = plan->graph->checkpoint;
    if (tokenizer->bytes) emit_file(dir, "tokenizer.bin", tokenizer->data, tokenizer->bytes);
    emit_file(dir, "templates.bin", chat_templates->data, chat_templates->bytes);

    Fill fills[] = {{.region = "title"},     {.region = "constants"}, {.region = "layers"},
                    {.region = "kernels"},   {.region = "model"},     {.region = "variables"}};
    char *name = arena_copy(ck->name, strlen(ck->name));
    for (char *c = name; *c; c++)
        if ((unsigned char)*c < 32 || *c == '\\') *c = '?'; // it stands in a comment
    buffer_print(&fills[0].text, "// %s (%s), by exlc %s from archs/%s.\n", name,
                 plan->graph->architecture, EXLC_VERSION, plan->graph->arch_file);
    fills[1].text = constants_region(plan, options);
    fills[2].text = layers_region(plan);
    fills[3].text = kernels_region(plan);
    fills[4].text = model_region(plan, packed, options, tokenizer->bytes, chat_templates->bytes,
                                 build_identity(plan, packed));
    fills[5].text = variables_region(plan, options);
    int count = sizeof fills / sizeof *fills;
    static const char *const templates[] = {"constants.h", "model.c", "forward.inc"};
    for (int i = 0; i < 3; i++) fill_template(dir, templates[i], fills, count);
    if (options->cpu) fill_template(dir, "cpu.c", fills, count);
    if (options->cuda) fill_template(dir, "forward.c", fills, count);
    if (options->cuda) fill_template(dir, "forward.cu", fills, count);
    fill_template(dir, "Makefile", fills, count);

    for (const char *const *name = embedded_names(); *name; name++) {
        int wanted = strncmp(*name, "runtime/", 8) == 0 || strcmp(*name, "kernels/types.h") == 0 ||
                     strcmp(*name, "kernels/sampling.h") == 0 ||
                     strcmp(*name, "kernels/features.h") == 0 ||
                     strcmp(*name, "kernels/cache.h") == 0 ||
                     (options->cpu && strncmp(*name, "kernels/cpu/", 12) == 0) ||
                     (options->cuda && strncmp(*name, "kernels/cuda/", 13) == 0);
        size_t bytes;
        const char *text = embedded_text(*name, &bytes);
        if (wanted) emit_file(dir, *name, text, bytes);
    }
    size_t bytes;
    const char *archive = embedded_text("libruntime.a", &bytes);
    if (!archive) die("libruntime.a", "not carried in this exlc");
    emit_file(dir, "libruntime.a", archive, bytes);
    for (int i = 0; i < count; i++) buffer_free(&fills[i].text);
}

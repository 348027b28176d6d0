// Every type and function of the compiler, grouped by file, in pipeline order:
//   read_checkpoint -> trace_arch -> fuse_ops -> choose_variants -> pack_weights -> emit_program
//   -> build_program.
// A pass dies (util.h) with one line on input it does not understand.
#pragma once
#include "../kernels/types.h"
#include "json.h"
#include "template.h"
#include "tokenizer.h"
#include "util.h"
#include <stdint.h>

#define EXLC_VERSION "0.1.0"

// --- checkpoint.c: the index of the weights ------------------------------------------------------

typedef enum { DTYPE_F16, DTYPE_BF16, DTYPE_F32, DTYPE_I16, DTYPE_I32, DTYPE_OTHER } Dtype;

typedef struct {
    const char *name;  // as on disk
    const char *file;  // path of its safetensors file
    Dtype dtype;
    const char *dtype_tag; // "F16", "F8_E4M3", ...
    int rank;
    int64_t shape[8];
    const uint8_t *data; // mapped; any alignment
    uint64_t bytes;
    int64_t stride[2]; // of a part of a larger one: values from a row, and a column, to the next
    const struct LinearWeights *coded; // a table without data: what this EXL3 layer stands for
} Tensor;

// Where linear layers of experts are in a tensor of all of them.
typedef struct {
    const char *weight; // (experts, rows, in)
    const char *bias;   // (experts, rows), or absent
    int rows;
    int first, step; // output i of a layer is row first + i * step
    int transposed;  // the weight is (experts, in, rows)
} Stack;

// What the tensors mcg and mul1 of a linear layer hold: the multipliers of its codebook.
#define MARKER_MCG 0xCBAC1FEDu
#define MARKER_MUL1 0x83DCD12Du

// The weights of one linear layer, W (in, out): EXL3 or plain.
typedef struct LinearWeights {
    const char *name; // "model.layers.0.self_attn.q_proj"
    int format;       // kernels/types.h
    int in, out;      // logical widths, from the architecture
    const Tensor *trellis, *suh, *svh, *su, *sv; // EXL3: trellis and one scale form a side
    const Tensor *weight;                        // plain: (out, in), possibly padded
    const Tensor *bias;                          // or NULL
} LinearWeights;

typedef struct {
    const char *dir;
    const char *name; // base name of dir
    const cJSON *config, *generation; // config.json; generation_config.json or NULL
    Tensor *tensors;  // sorted by name
    size_t count, room;
    int random_format, random_head_format; // --random-weights: formats made up for every linear
    uint64_t random_seed;                  // 0: real weights
} Checkpoint;

// Maps every *.safetensors of the directory and checks their headers.
Checkpoint *read_checkpoint(const char *dir);
// Dies where the config says that the weights are of a quantization that is not read.
void check_quantization(const Checkpoint *ck);
// A directory with only config.json whose weights the program makes at start from `seed`.
Checkpoint *random_checkpoint(const char *dir, uint64_t seed, int format, int head_format);
// Adds the tensors of one file, held in memory; `data` must outlive them. Afterwards sort_tensors.
void parse_header(const char *where, const uint8_t *data, uint64_t bytes, Checkpoint *ck);
void sort_tensors(Checkpoint *ck);
// NULL when absent, and with random weights.
const Tensor *find_tensor(const Checkpoint *ck, const char *name);
// A norm (columns 0) or a table of F16, BF16 or F32; dies when missing or misshapen. With random
// weights, a tensor without data.
const Tensor *find_values(const Checkpoint *ck, const char *name, int64_t rows, int64_t columns);
// The table (rows, columns) that the weights of the linear layer `name` are, which may be EXL3.
const Tensor *find_table(const Checkpoint *ck, const char *name, int64_t rows, int64_t columns);
// The linear layer `name` with logical widths in and out, EXL3 or plain; dies when missing or
// misshapen. With random weights, makes up tensors without data: `made` says of what kind.
enum { MADE_HEAD = 1, MADE_BIASED = 2 };
LinearWeights *find_linear(const Checkpoint *ck, const char *name, int in, int out, int made);
// Output rows first .. first+out-1 of the plain linear layer `name`, which has `rows` of them.
LinearWeights *find_linear_rows(const Checkpoint *ck, const char *name, int in, int rows, int first,
                                int out);
// 1 when a linear of that name exists in some form.
int has_linear(const Checkpoint *ck, const char *name);
// The linear layers `name` with {e} replaced by 0 .. count-1, which must be of one format.
const LinearWeights **find_experts(const Checkpoint *ck, const char *name, int in, int out,
                                   int count, int made);
// The same from a stack, whose weight exists.
const LinearWeights **find_stacked(const Checkpoint *ck, const Stack *stack, int in, int out,
                                   int count);
// 1 when it exists in EXL3 form.
int is_quantized(const Checkpoint *ck, const char *name);

// --- decode.c: EXL3 as plain weights -------------------------------------------------------------

// The weights (out, in) of an EXL3 layer, in fp16; the caller frees them.
uint16_t *decode_linear(const LinearWeights *w);

// --- arch.c, prelude.lua: the architecture, traced -----------------------------------------------

// An op of the traced dataflow; operands are indices of earlier ops.
typedef struct {
    const char *kind;  // "embedding" "norm" "linear" "rope" "attend" "act" "mul" "add" ...
    const char *role;  // part of the architecture it came from: "attn.q", "ffn.gate", "attn_norm"
    int operand[4];    // -1: none
    int width;         // values per row
    int rope;          // of a rope: which
    const LinearWeights *linear;
    const LinearWeights **experts; // of each expert, all like `linear`, the first; or NULL
    int expert_count;
    const Tensor *tensor;
    double tensor_offset; // added to every value of `tensor` when packed (norms stored as w - 1)
    const char *detail;   // "silu"; of a norm "rms", "layer" or "all"
} Op;

typedef struct {
    double factor;         // on cosine and sine
    double *inverse;       // (rope_dim / 2): radians per position
    double *short_inverse; // the same for programs of a context up to `original`, or NULL
    int original;
} Rope;

typedef struct {
    int dim, layers, heads, head_dim, vocab;
    int kv_heads, ffn_dim; // the most of any layer
    int max_position;      // max_position_embeddings
    int reach;             // tokens that the ropes were made for, at least max_position
    double norm_eps, softmax_scale;
    double embed_scale, residual_scale, logit_scale; // 1: none
    double attn_softcap, logit_softcap;              // 0: none
    int rope_dim, rope_interleaved;
    Rope *ropes; // at least one
    int rope_count;
    int experts, active, expert_dim, shared_dim; // of routed layers; 0 experts: there are none
    int router_sigmoid, router_normalize, router_groups, router_top_groups, router_group_best;
    double router_scale;
    double act_limit;                             // of clamped_silu
    int q_latent, kv_latent, nope_dim, value_dim; // of latent attention; 0: there is none
    double latent_eps;                            // of its norms
    int delta_key_heads, delta_heads, delta_key_dim, delta_value_dim; // of delta nets; 0: none
    int delta_taps, delta_grouped;
    int gated_attention;            // queries come with gates
    int cache_layers, state_layers; // with keys and values; with a recurrent state
    double query_beta; // queries grow by 1 + beta ln(1 + floor(position / query_from)); 0: do not
    int query_from;
} Facts;

// The ops of one layer (or of the ends), in execution order.
typedef struct {
    Op *ops;
    size_t count, room;
    int window; // 0: full attention
} OpList;

typedef struct {
    const char *architecture, *arch_file; // "LlamaForCausalLM", "llama.lua"
    const Checkpoint *checkpoint;
    Facts facts;
    int tied_head; // config says that head and embedding are one matrix: counts parameters once
    OpList begin, *layers, end; // embedding; facts.layers lists; final norm and head
} Graph;

// Runs prelude.lua and the architecture file that claims config.architectures[0].
Graph *trace_arch(const Checkpoint *ck);
// The same with other files than the embedded ones: names as "archs/llama.lua", NULL-terminated;
// text gives compiler/prelude.lua too.
typedef struct {
    const char *const *names;
    const char *(*text)(const char *name, size_t *bytes);
} ArchFiles;
Graph *trace_files(const Checkpoint *ck, const ArchFiles *files);

// --- graph.c -------------------------------------------------------------------------------------
// Checks widths and operands; needs: nothing. Prints for --dump=graph.
void check_graph(const Graph *graph);
void print_graph(const Graph *graph, FILE *out);
const char *format_text(int format); // "m4"
// The name of a tensor of layers first .. last: "model.layers.{0..5}.mlp.up_proj".
const char *roll_layers(const char *name, int first, int last);

// --- fuse.c: ops into steps ----------------------------------------------------------------------

typedef struct {
    const char *name;     // of the catalog's row
    int formats[6], format_count;
    const char *comment;  // the tensors it stands for and what it writes
} Step;

// The weights of one layer by role, as kernels/types.h Layer names them; NULL where absent.
typedef struct {
    const Op *attn_norm, *q_norm, *k_norm, *attn_post, *ffn_norm, *ffn_post; // their tensors
    const Op *sinks, *alpha_p, *alpha_n;
    const Op *q_a_norm, *latent_q, *latent_k; // of latent attention: latent_q has kv_b
    const LinearWeights *q_a, *q_b, *kv_a;
    const Op *delta_b, *delta_a, *a_log, *dt_bias, *conv, *delta_norm; // of a gated delta net
    const LinearWeights *delta_in, *delta_z;
    const LinearWeights *q, *k, *v, *o, *gate, *up, *down;
    const Op *router, *router_bias, *choice_bias, *shared_weight;
    const Op *expert_gate, *expert_up, *expert_down; // their experts
    const LinearWeights *shared_gate, *shared_up, *shared_down;
    int window;
    int rope;              // -1: none
    int kv_heads, ffn_dim; // 0 where the layer has no such part
    int kept;              // number among the layers with keys and values, or with a state
    int parts, before;     // as kernels/types.h has them
    Step *steps;
    int step_count;
} LayerWeights;

// Neighbouring layers whose steps are all the same variant.
typedef struct {
    int first, last;
    Step *steps;
    int step_count;
    int group, times; // so many runs from this one on come so often in a row; 1, 1: it stands alone
} Run;

typedef struct {
    const Graph *graph;
    LayerWeights *layers; // (facts.layers)
    const Tensor *embed;
    const Op *norm;
    int layer_norm;         // the norms of the residual stream subtract the mean
    const char *head_norms; // "HEAD_NORM_SHARED", of kernels/features.h
    const char *activation; // "silu"
    int parallel;           // attention and feed-forward read the same x; -1: in some layers
    int post_norms;         // some step norms what it adds to the residual stream
    int skips_parts;        // some layer has no attention, or no feed-forward
    int y_dim;              // of State.y; 0: it is not needed
    int embed_format; // f16, b16; f32 tables are narrowed to f16 when packed
    int kv_b_format;  // the same of every layer's kv_b
    const LinearWeights *head;
    Run *runs;
    int run_count;
    Step embed_step, head_step;
    uint64_t parameters;
    double bits; // average over the layers' linears
} Plan;

Plan *fuse_ops(const Graph *graph); // needs: a checked graph
void choose_variants(Plan *plan);   // fills runs; needs: layers
// What of the model the CUDA kernels do not compute, or NULL; needs: runs.
const char *missing_on_cuda(const Plan *plan);
void print_plan(const Plan *plan, FILE *out, int runs); // --dump=steps (0), --dump=variants (1)

// --- memory.c ------------------------------------------------------------------------------------
#define CACHE_BITS 0x101fc // all: 2 to 8, and 16
// Of the layers that see all tokens.
uint64_t cache_bytes_per_token(const Plan *plan, int key_bits, int value_bits);
// Of the others, for one sequence of so many tokens.
uint64_t window_bytes(const Plan *plan, int tokens, int key_bits, int value_bits);
// Layers whose keys and values are in POOL_WINDOW; *window is the most that one sees.
int window_layers(const Plan *plan, int *window);
#define DEFAULT_CHUNK 2048 // rows of a pass, on CUDA
// What the layers with a recurrent state keep of a sequence.
uint64_t state_bytes(const Facts *facts);
void print_memory(const Plan *plan, FILE *out);

// --- inspect.c -----------------------------------------------------------------------------------
// One page (or JSON) on any model directory; for what is unsupported, one line that names it.
void inspect_model(const char *dir, int json);

// --- pack.c: the weights in the order the program reads them --------------------------------------
typedef struct {
    Layer *layers; // offsets into the packed bytes
    Ends ends;
    uint64_t bytes;
    char hash[33]; // XXH3-128, hexadecimal; empty without a file
} Packed;
// Lays out offsets; with `path`, also writes the packed weights there.
Packed *pack_weights(const Plan *plan, const char *path);

// --- nvrtc.c: device code to cubins --------------------------------------------------------------

typedef struct {
    const char *name; // as #include names it: "kernels/types.h"
    const char *text;
} SourceFile;

// 1 when libnvrtc can be opened (CUDA_HOME, the loader's path, /usr/local/cuda*, pip's folders).
int nvrtc_present(void);
// 1 when this NVRTC compiles for a compute capability (0: PTX).
int nvrtc_knows(int sm);
// The least driver for what this NVRTC makes (CUDA compatibility guide: the minor versions of one
// major version share a driver branch); NULL when there is none.
const char *nvrtc_driver(void);
// Compiles `main` (one of files) for compute capability sm: 80, 86, 89, 90 (means 90a), 100 (100a),
// 120; 0 gives PTX for compute_80. Appends the image to out; dies with the compiler's first error.
// defines is a NULL-terminated list of "NAME=VALUE".
void compile_device(const SourceFile *files, int file_count, const char *main, int sm,
                    const char *const *defines, Buffer *out);

// --- driver.c ------------------------------------------------------------------------------------

// The compute capabilities of the GPUs of this machine; returns their number, or 0 and *why.
#define MAX_GPUS 64
int present_sms(int *sms, const char **why);
// Which of `all` to build for when nobody says: those of the GPUs that are here, or all of them
// where there is no GPU, or one for which none is made. Returns their number.
int choose_sms(const int *all, int count, int *sms);

// --- embedding.c ---------------------------------------------------------------------------------

typedef struct {
    const char *pooling; // "EMBEDDING_LAST", ...; NULL: the model is not made for embeddings
    int normal;          // vectors have length 1
} Embedding;
// What modules.json says; what is not there is a warning, and the model is built without.
Embedding read_embedding(const char *dir);

// --- emit.c: the generated program ---------------------------------------------------------------

typedef struct {
    int cpu, cuda;
    int sms[16], sm_count; // compute capabilities; 0 is PTX
    int max_context, max_batch;
    unsigned cache_bits; // bit b: keys and values can be stored in b bits
    int embed_weights; // 0: beside the program
    const char *driver_min; // NVIDIA driver that the images need
    Embedding embedding;
} BuildOptions;

// Writes the program's sources, the kernels and headers they include, the runtime archive, the
// tables of the tokenizer (of compile_tokenizer; may be empty) and of the chat templates, and a
// Makefile into dir, which exists.
// needs: runs, packed offsets.
void emit_program(const Plan *plan, const Packed *packed, const Buffer *tokenizer,
                  const Buffer *chat_templates, const BuildOptions *options, const char *dir);

// The 32 hex digits that tie a program to its weights.
const char *build_identity(const Plan *plan, const Packed *packed);

// --- build.c -------------------------------------------------------------------------------------

// Compiles and links what emit_program left in dir and attaches dir/weights.bin. The finished
// executable is put together in `work`, a directory beside `path`, and appears at `path` in one
// rename. needs: dir/weights.bin unless weights are random.
void build_program(const Plan *plan, const Packed *packed, const BuildOptions *options,
                   const char *dir, const char *work, const char *path, int verbose);

// --- kernels.c: bench-kernels --------------------------------------------------------------------

typedef struct {
    int value[32], count;
} NumberList;

typedef struct {
    int in, out; // channels
} Shape;

typedef struct {
    const char *dir; // with a config.json, instead of shapes; or NULL
    Shape shapes[16];
    const char *codebooks[3];
    int shape_count, codebook_count, sm, json; // sm 0: that of the GPU
    NumberList bits, batches, contexts, prompts;
} KernelBench;

// Compiles a model of each shape, codebook and bits, with random weights, and prints what its bench
// --steps prints.
void bench_kernels(const KernelBench *k);

// --- embedded files: everything exlc carries -----------------------------------------------------

// Bytes of "archs/llama.lua", "kernels/types.h", "runtime.a" ...; NULL when there is none.
const char *embedded_text(const char *name, size_t *bytes);
// All names, NULL-terminated, sorted.
const char *const *embedded_names(void);

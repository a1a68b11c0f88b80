// What every instruction set's kernels implement: plain argument structs and one table of function pointers.
// No kernel allocates what it returns, none keeps state between calls; scratch comes from the calling thread.
#pragma once

#include <cstddef>
#include <cstdint>

namespace whimbrel {

class ThreadPool;

constexpr int kBlockTokens = 64;   // tokens per cache block
constexpr int kSplitBlocks = 4;    // blocks per attention split: partial results are merged in order, so a row's
                                   // result depends neither on threads nor on the rows computed beside it
constexpr int kRowsPerBlock = 16;  // output rows per weight row block
constexpr int kActivationGroup = 32;

enum class Layout { f32, f16, bf16, q8, q4 };

// One weight matrix [n, k] in row blocks of 16; see formats/packed.py for the bytes.
struct Weight {
  Layout layout;
  int n, k, group;
  const uint8_t* codes;
  size_t code_stride;      // bytes from one row block to the next
  const uint16_t* scales;  // f16 [blocks, k / group, 16], null for dense layouts
  const uint16_t* mins;    // likewise, or null for symmetric codes
  size_t scale_stride;     // f16 elements from one row block to the next, of scales and mins alike
};

// out = epilogue(scale * W norm(x) + bias), for up to three weights side by side.
struct LinearArgs {
  enum class Epilogue { plain, residual, swiglu };
  const float* x;            // [rows, k]
  int rows, k;
  const float* norm_weight;  // [k], or null: no norm
  float eps;
  const Weight* weights[3];  // swiglu: gate and up
  int num_weights;
  const float* bias;         // [sum n] or null
  float scale;
  const float* residual;     // [rows, n], residual epilogue
  bool bf16_activations;     // else 8 bit per group of 32, for quantized weights
  Epilogue epilogue;
  float* out;                // [rows, sum n] ([rows, n] for swiglu)
};

struct EmbeddingArgs {
  const int32_t* ids;
  int rows;
  const Weight* table;
  float scale;
  float* out;  // [rows, k]
};

// The blocks of all sequences: data[block][layer][head] = keys then values of 64 tokens of one head.
// bf16: keys [dim/2][64][2], values [32][dim][2]. q8: the same with int8, then f32 key scales [64], value scales [64].
struct KVPool {
  uint8_t* data;
  int num_blocks, num_layers, num_heads, head_dim;
  bool q8;
  size_t head_bytes, layer_bytes, block_bytes;
  uint8_t* at(int block, int layer, int head) const {
    return data + size_t(block) * block_bytes + size_t(layer) * layer_bytes + size_t(head) * head_bytes;
  }
};

// Which rows belong to which sequence; see attention/inputs.py.
struct Sequences {
  int count, rows, max_blocks;
  const int32_t* cu_seqlens;    // [count + 1]
  const int32_t* kv_lengths;    // [count]
  const int32_t* block_tables;  // [count, max_blocks]
};

struct RotaryArgs {
  const float* qkv;  // [rows, (num_heads + 2 kv) * dim]
  int num_heads;
  const float *cos, *sin;  // [positions, dim / 2]
  const int32_t* positions;
  const float *q_norm, *k_norm;  // [dim] or null
  float eps;
  Sequences sequences;
  const KVPool* pool;
  int layer;
  float* q_out;  // [rows, num_heads, dim]
};

struct AttendArgs {
  const float* q;  // [rows, num_heads, dim]
  int num_heads;
  float scale;
  Sequences sequences;
  const KVPool* pool;
  int layer;
  float* out;  // [rows, num_heads * dim]
};

struct SampleArgs {
  const float* logits;
  int vocab_size;
  float temperature, top_p, min_p, typical_p;
  int top_k;
  double uniform;
  int32_t token;
  float logprob;
};

struct KernelTable {
  const char* name;
  void (*linear)(const LinearArgs&, ThreadPool&);
  void (*embedding)(const EmbeddingArgs&, ThreadPool&);
  void (*rotary_write)(const RotaryArgs&, ThreadPool&);
  void (*attend)(const AttendArgs&, ThreadPool&);
  void (*sample)(SampleArgs&);
};

}  // namespace whimbrel

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

// Semantic kernels of the blocks [first, first + count): averages of 32 keys, 16 tokens apart, 8 bits and a scale each.
// Kernel i (tokens 16 i .. 16 i + 31) ends in 16-token chunk i + 1 and lies with the block that this chunk belongs to:
// block b holds kernels 4 b - 1 .. 4 b + 2 in its slots 0 .. 3 (slot 0 of a sequence's first block is never written).
// Four blocks make a group, whose lines are operands of dot products and of tiles as they lie:
// codes [layer][head][group][kernel_dim / 4][16 kernels][4], each the signed code + 128; scales f32 [layer][head][group][16].
struct KernelExtent {
  int first, count;
  uint8_t* codes;
  float* scales;
};

constexpr int kKernelStride = 16, kKernelTokens = 32, kKernelsPerBlock = 4, kKernelGroup = 16;

// The blocks of all sequences: block(i)[layer][head] = keys then values of 64 tokens of one head.
// bf16: keys [dim/2][64][2], values [32][dim][2]. q8: the same with int8, then f32 key scales [64], value scales [64].
// Blocks may lie anywhere: those of a document on disk are mapped, and read-only.
struct KVPool {
  uint8_t* const* blocks;  // [num_blocks]
  int num_blocks, num_layers, num_heads, head_dim;
  bool q8;
  size_t head_bytes, layer_bytes, block_bytes;
  int kernel_dim;  // head_dim rounded up to 64, or 0 where no semantic kernels are kept
  const KernelExtent* extents;
  int num_extents;
  uint8_t* at(int block, int layer, int head) const {
    return blocks[block] + size_t(layer) * layer_bytes + size_t(head) * head_bytes;
  }
  const KernelExtent& extent_of(int block) const {
    int e = 0;
    while (block - extents[e].first >= extents[e].count) ++e;
    return extents[e];
  }
  // Codes and scales of the group that holds a block; the block's own kernels are its columns 4 (block - first) % 16 ..
  uint8_t* group_codes(const KernelExtent& extent, int block, int layer, int head) const {
    return extent.codes + group_index(extent, block, layer, head) * size_t(kernel_dim) * kKernelGroup;
  }
  float* group_scales(const KernelExtent& extent, int block, int layer, int head) const {
    return extent.scales + group_index(extent, block, layer, head) * kKernelGroup;
  }
  size_t group_index(const KernelExtent& extent, int block, int layer, int head) const {
    const size_t groups = size_t(extent.count + 3) / 4;
    return (size_t(layer) * size_t(num_heads) + size_t(head)) * groups + size_t(block - extent.first) / 4;
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
  const int32_t* blocks;       // [kv heads, rows, list_length] ascending, -1 behind the last; null: everything is attended
  int list_length;
  const uint64_t* tree_masks;  // [rows], or null: see attention/inputs.py
  float* block_mass;           // [sequences, kv heads, max_blocks], added to, or null
  float* out;                  // [rows, num_heads * dim]
};

// Semantic kernels that end in this step.
struct SemanticKernelsArgs {
  Sequences sequences;
  const KVPool* pool;
  int layer;
  const float *cos, *sin;  // [positions, dim / 2] to turn keys back with, or null: rotated keys are averaged
};

// Which blocks each row attends to (ops/select_blocks), or the scores of all (ops/block_scores).
struct SelectArgs {
  const float* q;  // [rows, num_heads, dim]
  int num_heads;
  const int32_t* positions;  // [rows], a row's place in its sequence where the step is a tree
  float scale;
  Sequences sequences;
  const KVPool* pool;
  int layer;
  int init_blocks, local_blocks;
  bool coarse_lse;
  bool tree;       // this step's rows are drafts: no kernel ends in them
  int dense_len;   // rows at positions before dense_len - 1 get empty lists
  int32_t* lists;  // [kv heads, rows, width], or null
  float* scores;   // [kv heads, rows, width], or null
  int width;       // most blocks of a list, or blocks of the longest sequence
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
  void (*semantic_kernels)(const SemanticKernelsArgs&, ThreadPool&);
  void (*select_blocks)(const SelectArgs&, ThreadPool&);
  void (*sample)(SampleArgs&);
};

}  // namespace whimbrel

// The Python module whimbrel._native: names, docstrings and shape checks; no arithmetic.

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>

#if defined(__linux__)
#include <malloc.h>
#include <sys/mman.h>
#endif

#include "bandwidth.h"
#include "bind.h"
#include "kernels.h"
#include "probe.h"
#include "threads.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace whimbrel {

#define WHIMBREL_DECLARE(name) extern const KernelTable kernels_##name;
WHIMBREL_FOR_EACH_TARGET(WHIMBREL_DECLARE)

namespace {

const KernelTable* table_named(const std::string& name) {
#define WHIMBREL_FIND(target) \
  if (name == #target) return &kernels_##target;
  WHIMBREL_FOR_EACH_TARGET(WHIMBREL_FIND)
  return nullptr;
}

std::vector<std::string> available_targets() {
  std::vector<std::string> names;
  for (const auto& name : supported_targets())
    if (table_named(name)) names.push_back(name);
  return names;
}

const KernelTable* kernels = nullptr;
std::unique_ptr<ThreadPool> threads;

void select_isa(const std::string& name) {
  for (const auto& known : available_targets())
    if (known == name) {
      kernels = table_named(name);
      return;
    }
  std::string text;
  for (const auto& known : available_targets()) text += (text.empty() ? "" : ", ") + known;
  throw std::invalid_argument("instruction set '" + name + "' was asked for; this build and processor have: " + text);
}

using Floats = nb::ndarray<const float, nb::c_contig, nb::device::cpu>;
using FloatsOut = nb::ndarray<float, nb::c_contig, nb::device::cpu>;
using Ints = nb::ndarray<const int32_t, nb::c_contig, nb::device::cpu>;
using IntsOut = nb::ndarray<int32_t, nb::c_contig, nb::device::cpu>;
using MaybeFloats = std::optional<Floats>;
using MaybeFloatsOut = std::optional<FloatsOut>;
using MaybeInts = std::optional<Ints>;
using MaybeMasks = std::optional<nb::ndarray<const uint64_t, nb::c_contig, nb::device::cpu>>;

void require(bool condition, const char* message) {
  if (!condition) throw std::invalid_argument(message);
}

// Owns the arrays that a Weight points into.
struct BoundWeight {
  Weight weight;
  nb::object codes, scales, mins;
};

Layout layout_named(const std::string& name) {
  if (name == "f32") return Layout::f32;
  if (name == "f16") return Layout::f16;
  if (name == "bf16") return Layout::bf16;
  if (name == "q8") return Layout::q8;
  if (name == "q4") return Layout::q4;
  throw std::invalid_argument("layout must be one of f32, f16, bf16, q8, q4; got '" + name + "'");
}

// Bytes that one row block of a layout needs for k inputs.
size_t row_block_bytes(Layout layout, size_t k) {
  switch (layout) {
    case Layout::f32: return k * 64;
    case Layout::f16: return k * 32;
    case Layout::bf16: return (k + 1) / 2 * 64;
    case Layout::q8: return k * 16;
    case Layout::q4: return k * 8;
  }
  return 0;
}

using AnyArray = nb::ndarray<nb::ro, nb::device::cpu>;

// First dimension strided, the rest contiguous; returns the stride in bytes.
size_t leading_stride(const AnyArray& array, size_t least_bytes, const char* name) {
  require(array.ndim() >= 1 && array.shape(0) > 0, name);
  const size_t item = array.dtype().bits / 8;
  size_t inner = item;
  for (size_t i = array.ndim(); i-- > 1;) {
    require(array.shape(i) <= 1 || size_t(array.stride(i)) * item == inner, name);
    inner *= array.shape(i);
  }
  require(inner == least_bytes, name);
  return array.shape(0) == 1 ? inner : size_t(array.stride(0)) * item;
}

std::unique_ptr<BoundWeight> make_weight(const std::string& layout, int n, int k, int group, nb::object codes,
                                         nb::object scales, nb::object mins) {
  auto bound = std::make_unique<BoundWeight>();
  const Layout kind = layout_named(layout);
  const bool quantized = kind == Layout::q8 || kind == Layout::q4;
  require(n > 0 && k > 0, "a weight needs n > 0 and k > 0");
  if (quantized) {
    require(group == 16 || group == 32 || group == 64 || group == 128, "group must be 16, 32, 64 or 128");
    require(k % group == 0 && k % 32 == 0, "k must be a multiple of the group and of 32");
  }
  const size_t blocks = size_t(n + kRowsPerBlock - 1) / kRowsPerBlock;
  const auto code_array = nb::cast<AnyArray>(codes);
  require(code_array.shape(0) == blocks, "codes: the first dimension must be ceil(n / 16) row blocks");
  Weight& w = bound->weight;
  w = {kind, n, k, quantized ? group : 0, static_cast<const uint8_t*>(code_array.data()), 0, nullptr, nullptr, 0};
  w.code_stride = leading_stride(code_array, row_block_bytes(kind, size_t(k)), "codes: wrong shape for this layout");
  require(quantized == !scales.is_none(), "scales go with the layouts q8 and q4, and only with them");
  if (quantized) {
    const auto scale_array = nb::cast<AnyArray>(scales);
    require(scale_array.shape(0) == blocks, "scales: the first dimension must be ceil(n / 16) row blocks");
    const size_t bytes = size_t(k / group) * kRowsPerBlock * 2;
    w.scales = static_cast<const uint16_t*>(scale_array.data());
    w.scale_stride = leading_stride(scale_array, bytes, "scales: must be f16 [row blocks, k / group, 16]") / 2;
    if (!mins.is_none()) {
      const auto min_array = nb::cast<AnyArray>(mins);
      require(min_array.shape(0) == blocks, "mins: the first dimension must be ceil(n / 16) row blocks");
      w.mins = static_cast<const uint16_t*>(min_array.data());
      const size_t stride = leading_stride(min_array, bytes, "mins: must be f16 [row blocks, k / group, 16]") / 2;
      require(stride == w.scale_stride, "mins: must have the strides of scales");
    }
  }
  bound->codes = codes, bound->scales = scales, bound->mins = mins;
  return bound;
}

using Bytes = nb::ndarray<nb::ro, uint8_t, nb::c_contig, nb::device::cpu>;

// Bytes that the operating system zeroes when they are first touched: untouched blocks cost no memory.
struct LazyMemory {
  uint8_t* data = nullptr;
  size_t bytes = 0;
  LazyMemory() = default;
  LazyMemory(const LazyMemory&) = delete;
  void reserve(size_t wanted, bool huge_pages) {
    bytes = wanted;
#if defined(__linux__)
    void* found = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (found == MAP_FAILED) throw std::bad_alloc();
    data = static_cast<uint8_t*>(found);
    if (huge_pages) madvise(data, bytes, MADV_HUGEPAGE);
#else
    data = static_cast<uint8_t*>(std::calloc(bytes, 1));
    if (!data) throw std::bad_alloc();
#endif
  }
  ~LazyMemory() {
    if (!data) return;
#if defined(__linux__)
    munmap(data, bytes);
#else
    std::free(data);
#endif
  }
};

// The blocks of a cache, and those of documents that were attached.
struct BoundPool {
  KVPool pool{};
  LazyMemory memory, kernel_memory;
  std::vector<uint8_t*> blocks;
  std::vector<KernelExtent> extents;
  struct Attachment {
    int first;
    std::vector<nb::object> arrays;  // keep the memory alive; none once it was detached
  };
  std::vector<Attachment> attached;
  BoundPool(int num_blocks, int num_layers, int num_heads, int head_dim, const std::string& dtype, bool kernels) {
    require(num_blocks > 0 && num_layers > 0 && num_heads > 0, "a pool needs blocks, layers and heads");
    require(head_dim > 0 && head_dim % 16 == 0 && head_dim <= 256, "head_dim must be a multiple of 16, at most 256");
    require(dtype == "bf16" || dtype == "q8", "dtype must be 'bf16' or 'q8'");
    const bool q8 = dtype == "q8";
    const size_t half = size_t(head_dim) * kBlockTokens;
    pool.num_layers = num_layers, pool.num_heads = num_heads, pool.head_dim = head_dim, pool.q8 = q8;
    pool.head_bytes = q8 ? 2 * half + 512 : 4 * half;
    pool.layer_bytes = pool.head_bytes * size_t(num_heads);
    pool.block_bytes = pool.layer_bytes * size_t(num_layers);
    // One page of slack: a head_dim that is no multiple of 32 lets a tile read past the last values. Huge pages:
    // writing one token touches dim / 2 scattered lines a head, and on small pages most of them miss the TLB as well.
    memory.reserve(pool.block_bytes * size_t(num_blocks) + 4096, true);
    for (int i = 0; i < num_blocks; ++i) blocks.push_back(memory.data + size_t(i) * pool.block_bytes);
    if (kernels) {
      pool.kernel_dim = (head_dim + 63) / 64 * 64;
      const size_t codes = code_bytes(num_blocks);
      kernel_memory.reserve(codes + scale_bytes(num_blocks), true);
      extents.push_back({0, num_blocks, kernel_memory.data, reinterpret_cast<float*>(kernel_memory.data + codes)});
    }
    refresh();
  }
  BoundPool(const BoundPool&) = delete;

  size_t num_groups(int count) const { return size_t(pool.num_layers) * size_t(pool.num_heads) * (size_t(count + 3) / 4); }
  size_t code_bytes(int count) const { return num_groups(count) * size_t(pool.kernel_dim) * kKernelGroup; }
  size_t scale_bytes(int count) const { return num_groups(count) * kKernelGroup * sizeof(float); }
  void refresh() {
    pool.blocks = blocks.data(), pool.num_blocks = int(blocks.size());
    pool.extents = extents.data(), pool.num_extents = int(extents.size());
  }

  // Read-only blocks that lie elsewhere, and their semantic kernels (empty where the pool keeps none); returns the
  // number of the first.
  int attach(const Bytes& data, const Bytes& codes, const Bytes& scales) {
    require(data.size() > 0 && data.size() % pool.block_bytes == 0, "attach: data must be whole blocks of this pool");
    const int first = int(blocks.size()), count = int(data.size() / pool.block_bytes);
    const bool kept = pool.kernel_dim > 0;
    require(codes.size() == (kept ? code_bytes(count) : 0) && scales.size() == (kept ? scale_bytes(count) : 0),
            "attach: kernels must belong to the blocks, and be empty where the pool keeps none");
    // Nobody writes attached blocks: the cache copies what it changes.
    uint8_t* base = const_cast<uint8_t*>(data.data());
    for (int i = 0; i < count; ++i) blocks.push_back(base + size_t(i) * pool.block_bytes);
    const auto* scale = reinterpret_cast<const float*>(scales.data());
    if (kept) extents.push_back({first, count, const_cast<uint8_t*>(codes.data()), const_cast<float*>(scale)});
    attached.push_back({first, {nb::cast(data), nb::cast(codes), nb::cast(scales)}});
    refresh();
    return first;
  }

  // Lets the memory of attached blocks go. Their numbers stay taken until everything attached after them has gone too.
  void detach(int first) {
    for (Attachment& attachment : attached)
      if (attachment.first == first && !attachment.arrays.empty()) {
        attachment.arrays.clear();
        while (!attached.empty() && attached.back().arrays.empty()) {
          blocks.resize(size_t(attached.back().first));
          if (pool.kernel_dim) extents.pop_back();
          attached.pop_back();
        }
        return refresh();
      }
    require(false, "detach: nothing is attached there");
  }

  void copy_block(int from, int to) {
    require(from >= 0 && to >= 0 && from < pool.num_blocks && to < pool.num_blocks, "copy_block: no such block");
    memcpy(pool.at(to, 0, 0), pool.at(from, 0, 0), pool.block_bytes);
    if (!pool.kernel_dim) return;
    const KernelExtent &source = pool.extent_of(from), &target = pool.extent_of(to);
    const size_t at = size_t(from - source.first) % 4 * kKernelsPerBlock, at_target = size_t(to - target.first) % 4 * kKernelsPerBlock;
    for (int layer = 0; layer < pool.num_layers; ++layer)
      for (int head = 0; head < pool.num_heads; ++head) {
        const uint8_t* codes = pool.group_codes(source, from, layer, head) + at * 4;
        uint8_t* copied = pool.group_codes(target, to, layer, head) + at_target * 4;
        for (int d = 0; d < pool.kernel_dim / 4; ++d) memcpy(copied + d * 64, codes + d * 64, 4 * kKernelsPerBlock);
        memcpy(pool.group_scales(target, to, layer, head) + at_target, pool.group_scales(source, from, layer, head) + at,
               kKernelsPerBlock * sizeof(float));
      }
  }

  nb::object view(nb::handle self, uint8_t* data, size_t bytes) {
    size_t shape[1] = {bytes};
    return nb::cast(nb::ndarray<nb::numpy, uint8_t>(data, 1, shape, self));
  }
};

// Releases the interpreter for calls that last; re-taking it costs more than a decode step's op has to spare.
struct MaybeReleased {
  std::optional<nb::gil_scoped_release> release;
  explicit MaybeReleased(size_t rows) {
    if (rows >= 8) release.emplace();
  }
};

LinearArgs linear_args(const Floats& x, const MaybeFloats& norm_weight, float eps, bool bf16_activations, FloatsOut& out) {
  require(x.ndim() == 2 && out.ndim() == 2 && x.shape(0) == out.shape(0), "x and out must be [rows, ...] alike");
  LinearArgs args{};
  args.x = x.data(), args.rows = int(x.shape(0)), args.k = int(x.shape(1));
  if (norm_weight) {
    require(norm_weight->size() == x.shape(1), "norm_weight must be [k]");
    args.norm_weight = norm_weight->data();
  }
  args.eps = eps, args.scale = 1.0f, args.bf16_activations = bf16_activations, args.out = out.data();
  return args;
}

void norm_linear(const Floats& x, const MaybeFloats& norm_weight, const nb::tuple& weights, float eps,
                 const MaybeFloats& bias, float scale, bool bf16_activations, FloatsOut out) {
  LinearArgs args = linear_args(x, norm_weight, eps, bf16_activations, out);
  require(weights.size() >= 1 && weights.size() <= 3, "norm_linear takes one to three weights");
  size_t columns = 0;
  for (nb::handle item : weights) {
    const Weight& w = nb::cast<const BoundWeight&>(item).weight;
    require(w.k == args.k, "x has another number of inputs than the weight");
    columns += size_t(w.n);
    args.weights[args.num_weights++] = &w;
  }
  require(out.shape(1) == columns, "out must have one column per output of the weights");
  require(!bias || bias->size() == columns, "bias must have one value per output of the weights");
  args.bias = bias ? bias->data() : nullptr;
  args.scale = scale;
  MaybeReleased released(x.shape(0));
  kernels->linear(args, *threads);
}

void linear_residual(const Floats& x, const BoundWeight& weight, const Floats& residual, float scale,
                     bool bf16_activations, FloatsOut out) {
  LinearArgs args = linear_args(x, std::nullopt, 0.0f, bf16_activations, out);
  require(weight.weight.k == args.k, "x has another number of inputs than the weight");
  require(out.shape(1) == size_t(weight.weight.n) && residual.size() == out.size(), "residual and out must be [rows, n]");
  args.weights[0] = &weight.weight, args.num_weights = 1;
  args.residual = residual.data(), args.scale = scale, args.epilogue = LinearArgs::Epilogue::residual;
  MaybeReleased released(x.shape(0));
  kernels->linear(args, *threads);
}

void norm_swiglu(const Floats& x, const MaybeFloats& norm_weight, const BoundWeight& gate, const BoundWeight& up,
                 float eps, bool bf16_activations, FloatsOut out) {
  LinearArgs args = linear_args(x, norm_weight, eps, bf16_activations, out);
  require(gate.weight.k == args.k && up.weight.k == args.k, "x has another number of inputs than the weights");
  require(gate.weight.n == up.weight.n && out.shape(1) == size_t(gate.weight.n), "gate, up and out must agree in outputs");
  args.weights[0] = &gate.weight, args.weights[1] = &up.weight, args.num_weights = 2;
  args.epilogue = LinearArgs::Epilogue::swiglu;
  MaybeReleased released(x.shape(0));
  kernels->linear(args, *threads);
}

void embedding(const Ints& ids, const BoundWeight& table, float scale, FloatsOut out) {
  const Weight& w = table.weight;
  require(out.ndim() == 2 && out.shape(0) == ids.size() && out.shape(1) == size_t(w.k), "out must be [ids, k]");
  for (size_t i = 0; i < ids.size(); ++i)
    require(ids.data()[i] >= 0 && ids.data()[i] < w.n, "a token id lies outside the embedding table");
  kernels->embedding({ids.data(), int(ids.size()), &w, scale, out.data()}, *threads);
}

Sequences sequences_of(size_t rows, const Ints& cu_seqlens, const Ints& kv_lengths, const Ints& block_tables, const KVPool& pool) {
  require(block_tables.ndim() == 2 && block_tables.shape(0) == kv_lengths.size(), "block_tables must be [sequences, blocks]");
  require(cu_seqlens.size() == kv_lengths.size() + 1, "cu_seqlens must be [sequences + 1]");
  Sequences s{int(kv_lengths.size()), int(rows), int(block_tables.shape(1)), cu_seqlens.data(), kv_lengths.data(), block_tables.data()};
  require(s.cu_seqlens[0] == 0 && s.cu_seqlens[s.count] == s.rows, "cu_seqlens must run from 0 to the number of rows");
  for (int i = 0; i < s.count; ++i) {
    const int length = s.kv_lengths[i], blocks = (length + kBlockTokens - 1) / kBlockTokens;
    require(length >= s.cu_seqlens[i + 1] - s.cu_seqlens[i] && blocks <= s.max_blocks, "kv_lengths and block_tables do not fit the rows");
    const int32_t* table = s.block_tables + size_t(i) * size_t(s.max_blocks);
    for (int b = 0; b < blocks; ++b) require(table[b] >= 0 && table[b] < pool.num_blocks, "a block table names a block outside the pool");
  }
  return s;
}

void rotary_write(const Floats& qkv, const Floats& cos, const Floats& sin, const Ints& positions, const Ints& cu_seqlens,
                  const Ints& kv_lengths, const Ints& block_tables, BoundPool& pool, int layer, const MaybeFloats& q_norm,
                  const MaybeFloats& k_norm, float eps, FloatsOut q_out) {
  const KVPool& p = pool.pool;
  require(q_out.ndim() == 3 && q_out.shape(2) == size_t(p.head_dim), "q_out must be [rows, heads, head_dim]");
  const size_t rows = q_out.shape(0), width = (q_out.shape(1) + 2 * size_t(p.num_heads)) * size_t(p.head_dim);
  require(qkv.size() == rows * width, "qkv must be [rows, (heads + 2 kv heads) * head_dim]");
  require(positions.size() == rows && layer >= 0 && layer < p.num_layers, "positions must be [rows], layer within the pool");
  require(cos.ndim() == 2 && cos.shape(1) == size_t(p.head_dim / 2) && sin.size() == cos.size(), "cos and sin must be [positions, head_dim / 2]");
  require((!q_norm || q_norm->size() == size_t(p.head_dim)) && (!k_norm || k_norm->size() == size_t(p.head_dim)), "q_norm and k_norm must be [head_dim]");
  for (size_t i = 0; i < rows; ++i)
    require(positions.data()[i] >= 0 && size_t(positions.data()[i]) < cos.shape(0), "a position lies outside the rotary table");
  RotaryArgs args{qkv.data(), int(q_out.shape(1)), cos.data(), sin.data(), positions.data(),
                  q_norm ? q_norm->data() : nullptr, k_norm ? k_norm->data() : nullptr, eps,
                  sequences_of(rows, cu_seqlens, kv_lengths, block_tables, p), &p, layer, q_out.data()};
  MaybeReleased released(rows);
  kernels->rotary_write(args, *threads);
}

void check_lists(const AttendArgs& args) {
  const Sequences& s = args.sequences;
  for (int i = 0; i < s.count; ++i) {
    const int blocks = (s.kv_lengths[i] + kBlockTokens - 1) / kBlockTokens;
    for (int h = 0; h < args.pool->num_heads; ++h)
      for (int row = s.cu_seqlens[i]; row < s.cu_seqlens[i + 1]; ++row) {
        const int32_t* list = args.blocks + (size_t(h) * size_t(s.rows) + size_t(row)) * size_t(args.list_length);
        for (int k = 0, last = -1; k < args.list_length && list[k] >= 0; last = list[k++])
          require(list[k] > last && list[k] < blocks, "a block list must ascend and name blocks of its sequence");
      }
  }
}

void attend(const Floats& q, const Ints& cu_seqlens, const Ints& kv_lengths, const Ints& block_tables, BoundPool& pool,
            int layer, float scale, const MaybeInts& blocks, const MaybeMasks& tree_masks, MaybeFloatsOut block_mass, FloatsOut out) {
  const KVPool& p = pool.pool;
  require(q.ndim() == 3 && q.shape(2) == size_t(p.head_dim) && out.size() == q.size(), "q must be [rows, heads, head_dim], out as large");
  require(q.shape(1) % size_t(p.num_heads) == 0 && layer >= 0 && layer < p.num_layers, "heads must be a multiple of the pool's, layer within it");
  AttendArgs args{q.data(), int(q.shape(1)), scale, sequences_of(q.shape(0), cu_seqlens, kv_lengths, block_tables, p), &p, layer,
                  nullptr, 0, nullptr, nullptr, out.data()};
  if (blocks) {
    require(blocks->ndim() == 3 && blocks->shape(0) == size_t(p.num_heads) && blocks->shape(1) == q.shape(0), "blocks must be [kv heads, rows, length]");
    args.blocks = blocks->data(), args.list_length = int(blocks->shape(2));
    check_lists(args);
  }
  if (tree_masks) {
    require(tree_masks->size() == q.shape(0), "tree_masks must be [rows]");
    for (int s = 0; s < args.sequences.count; ++s)
      require(args.sequences.cu_seqlens[s + 1] - args.sequences.cu_seqlens[s] <= 64, "a tree has at most 64 rows");
    args.tree_masks = tree_masks->data();
  }
  if (block_mass) {
    require(block_mass->size() == kv_lengths.size() * size_t(p.num_heads) * block_tables.shape(1), "block_mass must be [sequences, kv heads, max blocks]");
    args.block_mass = block_mass->data();
  }
  MaybeReleased released(q.shape(0));
  kernels->attend(args, *threads);
}

void semantic_kernels(const Ints& cu_seqlens, const Ints& kv_lengths, const Ints& block_tables, BoundPool& pool, int layer,
                      const MaybeFloats& cos, const MaybeFloats& sin) {
  const KVPool& p = pool.pool;
  require(p.kernel_dim > 0 && layer >= 0 && layer < p.num_layers, "the pool must keep semantic kernels, layer must lie within it");
  require(cos.has_value() == sin.has_value(), "cos and sin go together");
  const size_t rows = cu_seqlens.size() ? size_t(cu_seqlens.data()[cu_seqlens.size() - 1]) : 0;
  SemanticKernelsArgs args{sequences_of(rows, cu_seqlens, kv_lengths, block_tables, p), &p, layer, nullptr, nullptr};
  if (cos) {
    require(cos->ndim() == 2 && cos->shape(1) == size_t(p.head_dim / 2) && sin->size() == cos->size(), "cos and sin must be [positions, head_dim / 2]");
    for (int s = 0; s < args.sequences.count; ++s) require(size_t(args.sequences.kv_lengths[s]) <= cos->shape(0), "a position lies outside the rotary table");
    args.cos = cos->data(), args.sin = sin->data();
  }
  MaybeReleased released(rows);
  kernels->semantic_kernels(args, *threads);
}

SelectArgs select_args(const Floats& q, const Ints& positions, const Ints& cu_seqlens, const Ints& kv_lengths, const Ints& block_tables,
                       BoundPool& pool, int layer, float scale, int init_blocks, int local_blocks, bool coarse_lse, bool tree) {
  const KVPool& p = pool.pool;
  require(q.ndim() == 3 && q.shape(2) == size_t(p.head_dim) && positions.size() == q.shape(0), "q must be [rows, heads, head_dim], positions [rows]");
  require(q.shape(1) % size_t(p.num_heads) == 0 && layer >= 0 && layer < p.num_layers, "heads must be a multiple of the pool's, layer within it");
  require(p.kernel_dim > 0 && init_blocks >= 0 && local_blocks >= 0, "the pool must keep semantic kernels; init and local blocks are not negative");
  return {q.data(), int(q.shape(1)), positions.data(), scale, sequences_of(q.shape(0), cu_seqlens, kv_lengths, block_tables, p),
          &p, layer, init_blocks, local_blocks, coarse_lse, tree, 0, nullptr, nullptr, 0};
}

void select_blocks(const Floats& q, const Ints& positions, const Ints& cu_seqlens, const Ints& kv_lengths, const Ints& block_tables,
                   BoundPool& pool, int layer, float scale, int init_blocks, int local_blocks, bool coarse_lse, bool tree,
                   int dense_len, IntsOut out) {
  SelectArgs args = select_args(q, positions, cu_seqlens, kv_lengths, block_tables, pool, layer, scale, init_blocks, local_blocks, coarse_lse, tree);
  require(out.ndim() == 3 && out.shape(0) == size_t(pool.pool.num_heads) && out.shape(1) == q.shape(0), "out must be [kv heads, rows, length]");
  require(int(out.shape(2)) > init_blocks + local_blocks, "a list must have room for the first and the local blocks");
  args.dense_len = dense_len, args.lists = out.data(), args.width = int(out.shape(2));
  MaybeReleased released(q.shape(0));
  kernels->select_blocks(args, *threads);
}

void block_scores(const Floats& q, const Ints& positions, const Ints& cu_seqlens, const Ints& kv_lengths, const Ints& block_tables,
                  BoundPool& pool, int layer, float scale, int init_blocks, int local_blocks, bool coarse_lse, bool tree, FloatsOut out) {
  SelectArgs args = select_args(q, positions, cu_seqlens, kv_lengths, block_tables, pool, layer, scale, init_blocks, local_blocks, coarse_lse, tree);
  require(out.ndim() == 3 && out.shape(0) == size_t(pool.pool.num_heads) && out.shape(1) == q.shape(0), "out must be [kv heads, rows, blocks]");
  for (int s = 0; s < args.sequences.count; ++s)
    require(size_t(args.sequences.kv_lengths[s] + kBlockTokens - 1) / kBlockTokens <= out.shape(2), "out must have room for the longest sequence");
  args.scores = out.data(), args.width = int(out.shape(2));
  MaybeReleased released(q.shape(0));
  kernels->select_blocks(args, *threads);
}

nb::tuple sample(const Floats& logits, float temperature, int top_k, float top_p, float min_p, float typical_p, double uniform) {
  SampleArgs args{logits.data(), int(logits.size()), temperature, top_p, min_p, typical_p, top_k, uniform, 0, 0.0f};
  kernels->sample(args);
  return nb::make_tuple(args.token, args.logprob);
}

}  // namespace

ThreadPool& thread_pool() { return *threads; }
const Weight& weight_of(nb::handle object) { return nb::cast<const BoundWeight&>(object).weight; }

}  // namespace whimbrel

NB_MODULE(_native, m) {
  using namespace whimbrel;
  m.doc() = "CPU kernels of whimbrel: 4- and 8-bit linear layers, attention over cache blocks, sampling, packing.";
#if defined(__linux__) && defined(__GLIBC__)
  // Activations of a prompt chunk are allocated and freed by every op: keep them in the heap, not in fresh pages.
  mallopt(M_MMAP_THRESHOLD, 32 << 20);
  mallopt(M_TRIM_THRESHOLD, 64 << 20);
#endif
  kernels = table_named(available_targets().front());
  threads = std::make_unique<ThreadPool>(1);

  nb::class_<BoundWeight>(m, "Weight", "One weight matrix in a row-block layout (formats/packed.py), bound to its arrays.")
      .def(nb::new_(&make_weight), "layout"_a, "n"_a, "k"_a, "group"_a, "codes"_a, "scales"_a.none(), "mins"_a.none(),
           "Bind arrays as a weight; raises ValueError where a shape does not fit the layout.")
      .def_prop_ro("shape", [](const BoundWeight& w) { return nb::make_tuple(w.weight.n, w.weight.k); });
  nb::class_<BoundPool>(m, "KVPool", "Blocks of keys and values of all sequences and layers.")
      .def(nb::init<int, int, int, int, const std::string&, bool>(), "num_blocks"_a, "num_layers"_a, "num_key_value_heads"_a,
           "head_dim"_a, "dtype"_a = "bf16", "kernels"_a = false)
      .def_prop_ro("num_blocks", [](const BoundPool& p) { return p.pool.num_blocks; })
      .def_prop_ro("block_bytes", [](const BoundPool& p) { return p.pool.block_bytes; })
      .def("copy_block", &BoundPool::copy_block, "source"_a, "target"_a, "Copy keys, values and semantic kernels of one block, all layers.")
      .def("attach", &BoundPool::attach, "data"_a, "kernel_codes"_a, "kernel_scales"_a,
           "Read-only blocks in memory elsewhere, with their semantic kernels, as uint8 arrays; returns the number of the first.")
      .def("detach", &BoundPool::detach, "first"_a, "Let the memory go that was attached as the blocks from this number on.")
      .def("kernel_sizes", [](const BoundPool& p, int count) { return nb::make_tuple(p.code_bytes(count), p.scale_bytes(count)); },
           "num_blocks"_a, "Bytes of codes and of scales that the semantic kernels of so many blocks take.")
      .def_prop_ro("kernel_dim", [](const BoundPool& p) { return p.pool.kernel_dim; })
      .def("kernels", [](nb::handle self) {
        BoundPool& p = nb::cast<BoundPool&>(self);
        require(p.pool.kernel_dim > 0, "kernels: this pool keeps none");
        const KernelExtent& own = p.extents[0];
        return nb::make_tuple(p.view(self, own.codes, p.code_bytes(own.count)),
                              p.view(self, reinterpret_cast<uint8_t*>(own.scales), p.scale_bytes(own.count)));
      }, "Codes and scales of the semantic kernels of the pool's own blocks, as views of bytes; kernels.h has their order.")
      .def("block", [](nb::handle self, int block) {
        BoundPool& p = nb::cast<BoundPool&>(self);
        require(block >= 0 && block < p.pool.num_blocks, "block: no such block");
        return p.view(self, p.pool.at(block, 0, 0), p.pool.block_bytes);
      }, "block"_a, "The bytes of one block, all layers, as a view.");

  m.def("norm_linear", &norm_linear, "x"_a, "norm_weight"_a.none(), "weights"_a, "eps"_a, "bias"_a.none(), "scale"_a, "bf16_activations"_a, "out"_a);
  m.def("linear_residual", &linear_residual, "x"_a, "weight"_a, "residual"_a, "scale"_a, "bf16_activations"_a, "out"_a);
  m.def("norm_swiglu", &norm_swiglu, "x"_a, "norm_weight"_a.none(), "gate"_a, "up"_a, "eps"_a, "bf16_activations"_a, "out"_a);
  m.def("embedding", &embedding, "token_ids"_a, "table"_a, "scale"_a, "out"_a);
  m.def("rotary_write", &rotary_write, "qkv"_a, "cos"_a, "sin"_a, "positions"_a, "cu_seqlens"_a, "kv_lengths"_a,
        "block_tables"_a, "pool"_a, "layer"_a, "q_norm"_a.none(), "k_norm"_a.none(), "eps"_a, "q_out"_a);
  m.def("attend", &attend, "q"_a, "cu_seqlens"_a, "kv_lengths"_a, "block_tables"_a, "pool"_a, "layer"_a, "scale"_a,
        "blocks"_a.none(), "tree_masks"_a.none(), "block_mass"_a.none(), "out"_a);
  m.def("semantic_kernels", &semantic_kernels, "cu_seqlens"_a, "kv_lengths"_a, "block_tables"_a, "pool"_a, "layer"_a, "cos"_a.none(), "sin"_a.none());
  m.def("select_blocks", &select_blocks, "q"_a, "positions"_a, "cu_seqlens"_a, "kv_lengths"_a, "block_tables"_a, "pool"_a, "layer"_a,
        "scale"_a, "init_blocks"_a, "local_blocks"_a, "coarse_lse"_a, "tree"_a, "dense_len"_a, "out"_a);
  m.def("block_scores", &block_scores, "q"_a, "positions"_a, "cu_seqlens"_a, "kv_lengths"_a, "block_tables"_a, "pool"_a, "layer"_a,
        "scale"_a, "init_blocks"_a, "local_blocks"_a, "coarse_lse"_a, "tree"_a, "out"_a);
  m.def("sample", &sample, "logits"_a, "temperature"_a, "top_k"_a, "top_p"_a, "min_p"_a, "typical_p"_a, "uniform"_a);

  m.def("isa", [] { return std::string(kernels->name); }, "The instruction set in use.");
  m.def("available_isas", &available_targets, "Instruction sets of this build that this processor has, best first.");
  m.def("select_isa", &select_isa, "name"_a, "Use another instruction set; raises ValueError where it is not available.");
  m.def("set_num_threads", [](int n) {
    require(n >= 1 && n <= 1024, "threads must lie between 1 and 1024");
    if (n != threads->size()) threads = std::make_unique<ThreadPool>(n);
  }, "threads"_a);
  m.def("num_threads", [] { return threads->size(); });
  m.def("read_bandwidth", [](size_t bytes) { return read_bandwidth(bytes, *threads); }, "num_bytes"_a,
        nb::call_guard<nb::gil_scoped_release>(), "Bytes per second that the pool's threads read from memory.");
  bind_packing(m);
}

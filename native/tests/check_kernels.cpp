// Compares the kernels of one instruction set with naive loops in double. No Python, so it also runs under an emulator.
// check.sh builds and runs it. Prints one line and returns 0, or one line per difference and 1.
//
// The references round where the kernels are meant to (activations to int8 or bf16), so what is left is the order of
// fp32 additions: 1e-5 of the sum of magnitudes. Attention rounds its scores and weights to bf16: 2% of the values.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "kernels.h"
#include "packing.h"
#include "probe.h"
#include "threads.h"

#define WHIMBREL_STRING_(x) #x
#define WHIMBREL_STRING(x) WHIMBREL_STRING_(x)
#define WHIMBREL_JOIN_(a, b) a##b
#define WHIMBREL_JOIN(a, b) WHIMBREL_JOIN_(a, b)

namespace whimbrel {
extern const KernelTable WHIMBREL_JOIN(kernels_, WHIMBREL_TARGET);
}

namespace {
using namespace whimbrel;
using Floats = std::vector<float>;

const KernelTable& kernels = WHIMBREL_JOIN(kernels_, WHIMBREL_TARGET);
ThreadPool pool(2);
int failures = 0;

void expect(double found, double wanted, double tolerance, const std::string& what, size_t index) {
  if (std::fabs(found - wanted) <= tolerance) return;  // so, a NaN is a failure
  if (++failures <= 40) printf("%s [%zu]: %.8g, expected %.8g +- %.2g\n", what.c_str(), index, found, wanted, tolerance);
}

uint32_t word() {
  static uint64_t state = 0x2545f4914f6cdd1du;
  state ^= state << 13, state ^= state >> 7, state ^= state << 17;
  return uint32_t(state >> 16);
}
Floats numbers(size_t count, float size = 1) {
  Floats x(count);
  for (float& value : x) value = size * float(int32_t(word())) * 0x1p-31f;
  return x;
}
float bf16(float x) {
  uint32_t u;
  memcpy(&u, &x, 4);
  u = (u + 0x7fff + (u >> 16 & 1)) & 0xffff0000;
  memcpy(&x, &u, 4);
  return x;
}
std::string text(int value) { return std::to_string(value); }

// A random weight with its memory, and its values as the layout holds them.
struct Matrix {
  Weight w;
  std::vector<uint8_t> codes;
  std::vector<uint16_t> scales, mins;
  Floats values;  // [n, k]

  Matrix(Layout layout, int n, int k, int group, bool with_mins) {
    const size_t blocks = size_t(n + 15) / 16, wide = size_t(k);
    const size_t bytes[] = {wide * 64, wide * 32, wide * 32, wide * 16, wide * 8};
    const bool quantized = layout == Layout::q8 || layout == Layout::q4;
    const size_t scale_count = quantized ? wide / size_t(group) * 16 : 0;
    codes.resize(blocks * bytes[int(layout)]);
    scales.resize(blocks * scale_count), mins.resize(with_mins ? blocks * scale_count : 0);
    w = {layout, n, k, quantized ? group : 0, codes.data(), bytes[int(layout)], quantized ? scales.data() : nullptr,
         with_mins ? mins.data() : nullptr, scale_count};
    const Floats dense = numbers(size_t(n) * wide);
    const SourceRows rows{Source::f32, reinterpret_cast<const uint8_t*>(dense.data()), wide * 4, nullptr};
    if (!pack_rows(rows, w, 0, n, pool)) expect(1, 0, 0, "pack_rows", 0);
    values.resize(dense.size());
    dequantize_rows(w, 0, n, values.data(), pool);
  }
  std::string name() const {
    const char* names[] = {"f32", "f16", "bf16", "q8", "q4"};
    return std::string(names[int(w.layout)]) + " g" + text(w.group) + (w.mins ? " mins" : "");
  }
};

// Row x [k] as the kernels round it for this weight.
Floats rounded(const float* x, const Weight& w, bool bf16_activations) {
  Floats y(x, x + w.k);
  const bool quantized = w.layout == Layout::q8 || w.layout == Layout::q4;
  if (w.layout == Layout::bf16 || (quantized && bf16_activations)) {
    for (float& value : y) value = bf16(value);
  } else if (quantized) {
    for (int g = 0; g < w.k; g += 32) {
      float largest = 0;
      for (int i = g; i < g + 32; ++i) largest = std::fmax(largest, std::fabs(y[size_t(i)]));
      for (int i = g; i < g + 32; ++i) {
        float& value = y[size_t(i)];
        value = largest > 0 ? std::nearbyint(value * (127.0f / largest)) * (largest / 127.0f) : 0;
      }
    }
  }
  return y;
}
Floats normed(const float* x, const Floats& weight, float eps) {
  double squares = 0;
  for (size_t i = 0; i < weight.size(); ++i) squares += double(x[i]) * x[i];
  const double inverse = 1 / std::sqrt(squares / double(weight.size()) + eps);
  Floats y(weight.size());
  for (size_t i = 0; i < weight.size(); ++i) y[i] = float(double(x[i]) * inverse * weight[i]);
  return y;
}
struct Sum {
  double value = 0, magnitude = 0;
};
Sum dot(const Floats& x, const float* w) {
  Sum sum;
  for (size_t i = 0; i < x.size(); ++i) sum.value += double(x[i]) * w[i], sum.magnitude += std::fabs(double(x[i]) * w[i]);
  return sum;
}

// One linear call with every part in use, or only the epilogue's.
void check_linear(const Matrix& matrix, int rows, bool bf16_activations, LinearArgs::Epilogue epilogue) {
  const Weight& w = matrix.w;
  const size_t n = size_t(w.n), k = size_t(w.k);
  const bool residual = epilogue == LinearArgs::Epilogue::residual, swiglu = epilogue == LinearArgs::Epilogue::swiglu;
  const bool norm = !residual;
  const Floats x = numbers(size_t(rows) * k, 3), norm_weight = numbers(k, 2), bias = numbers(n), old = numbers(size_t(rows) * n);
  const float scale = swiglu ? 1.0f : 0.75f;
  Floats out(size_t(rows) * n + 16, NAN);
  LinearArgs args{};
  args.x = x.data(), args.rows = rows, args.k = w.k, args.eps = 1e-5f, args.scale = scale, args.out = out.data();
  args.norm_weight = norm ? norm_weight.data() : nullptr;
  args.weights[0] = args.weights[1] = &w, args.num_weights = swiglu ? 2 : 1;
  args.bias = epilogue == LinearArgs::Epilogue::plain ? bias.data() : nullptr;
  args.residual = residual ? old.data() : nullptr, args.epilogue = epilogue, args.bf16_activations = bf16_activations;
  kernels.linear(args, pool);
  const std::string what = "linear " + matrix.name() + " rows " + text(rows) + (bf16_activations ? " bf16" : "") + " epilogue " + text(int(epilogue));
  for (size_t r = 0; r < size_t(rows); ++r) {
    const Floats input = norm ? normed(x.data() + r * k, norm_weight, 1e-5f) : Floats(x.begin() + long(r * k), x.begin() + long(r * k + k));
    const Floats y = rounded(input.data(), w, bf16_activations);
    for (size_t i = 0; i < n; ++i) {
      const Sum sum = dot(y, matrix.values.data() + i * k);
      double wanted = sum.value * scale + (args.bias ? bias[i] : 0) + (residual ? old[r * n + i] : 0);
      double tolerance = 1e-5 * sum.magnitude + 1e-6;
      // Rounded activations may fall to the other side of a tie, since the norm's own last bit differs.
      if (norm) tolerance += 2e-3 * sum.magnitude / std::sqrt(double(k));
      if (swiglu) tolerance *= 1 + 2 * std::fabs(sum.value), wanted = sum.value / (1 + std::exp(-sum.value)) * sum.value;
      expect(out[r * n + i], wanted, tolerance, what, r * n + i);
    }
  }
  for (size_t i = size_t(rows) * n; i < out.size(); ++i) expect(std::isnan(out[i]), 1, 0, what + ", behind the end", i);
}

void check_linears(const Matrix& matrix) {
  for (bool bf16_activations : {false, true}) {
    for (int rows : {1, 2, 3, 5, 8, 19}) check_linear(matrix, rows, bf16_activations, LinearArgs::Epilogue::residual);
    check_linear(matrix, 7, bf16_activations, LinearArgs::Epilogue::plain);
    check_linear(matrix, 4, bf16_activations, LinearArgs::Epilogue::swiglu);
  }
}

void check_embedding(const Matrix& matrix) {
  const int32_t ids[5] = {0, matrix.w.n - 1, 3, 17 % matrix.w.n, 3};
  const size_t k = size_t(matrix.w.k);
  Floats out(5 * k);
  kernels.embedding({ids, 5, &matrix.w, 2.0f, out.data()}, pool);
  for (size_t i = 0; i < out.size(); ++i) {
    const double wanted = 2.0 * matrix.values[size_t(ids[i / k]) * k + i % k];
    expect(out[i], wanted, 1e-6 * std::fabs(wanted), "embedding " + matrix.name(), i);
  }
}

// One sequence in a cache whose blocks lie out of order, written in two calls, read by its last `rows` tokens.
struct Cache {
  int heads, kv_heads, dim, tokens;
  std::vector<uint8_t> memory;
  KVPool kv{};
  std::vector<uint8_t*> blocks;
  std::vector<int32_t> table;

  Cache(int heads, int kv_heads, int dim, int tokens, bool q8) : heads(heads), kv_heads(kv_heads), dim(dim), tokens(tokens) {
    const size_t half = size_t(dim) * kBlockTokens;
    const int count = (tokens + kBlockTokens - 1) / kBlockTokens, layers = 2;
    kv.num_layers = layers, kv.num_heads = kv_heads, kv.head_dim = dim, kv.q8 = q8, kv.head_bytes = q8 ? 2 * half + 512 : 4 * half;
    kv.layer_bytes = kv.head_bytes * size_t(kv_heads), kv.block_bytes = kv.layer_bytes * layers;
    memory.assign(kv.block_bytes * size_t(count + 1) + 8192, 0xff);  // NaN where nothing was written
    uint8_t* data = memory.data() + (64 - reinterpret_cast<uintptr_t>(memory.data()) % 64) % 64;
    for (int i = 0; i <= count; ++i) blocks.push_back(data + size_t(i) * kv.block_bytes);
    kv.blocks = blocks.data(), kv.num_blocks = count + 1;
    for (int i = 0; i < count; ++i) table.push_back(count - i);
  }
  std::string name() const {
    return (kv.q8 ? "q8 cache, heads " : "bf16 cache, heads ") + text(heads) + "/" + text(kv_heads) + " dim " + text(dim) + " tokens " + text(tokens);
  }
};

// Rotates the pairs (i, i + dim / 2).
void rotate(float* x, int dim, const float* cosines, const float* sines) {
  for (int i = 0; i < dim / 2; ++i) {
    const double a = x[i], b = x[i + dim / 2];
    x[i] = float(a * cosines[i] - b * sines[i]), x[i + dim / 2] = float(b * cosines[i] + a * sines[i]);
  }
}

struct Rows {
  int32_t cu_seqlens[2], kv_lengths[1];
  Sequences sequences;
  Rows(const Cache& cache, int count, int length) : cu_seqlens{0, count}, kv_lengths{length} {
    sequences = {1, count, int(cache.table.size()), cu_seqlens, kv_lengths, cache.table.data()};
  }
};

// Writes tokens [first, last); q, k and v become what the naive attention uses.
void write(Cache& cache, const Floats& qkv, const Floats& cosines, const Floats& sines, int first, int last, Floats& q_out) {
  const size_t width = size_t(cache.heads + 2 * cache.kv_heads) * size_t(cache.dim);
  std::vector<int32_t> positions;
  for (int i = first; i < last; ++i) positions.push_back(i);
  const Rows rows(cache, last - first, last);
  kernels.rotary_write({qkv.data() + size_t(first) * width, cache.heads, cosines.data(), sines.data(), positions.data(), nullptr, nullptr, 0,
                        rows.sequences, &cache.kv, 1, q_out.data() + size_t(first * cache.heads * cache.dim)}, pool);
}

// Softmax attention of one query over the keys that it sees: their probabilities, and the weighted values.
struct Attention {
  std::vector<double> probabilities, out;
};

Attention naive_attention(const Cache& cache, const Floats& qkv, const float* q, int head, double scale, const std::function<bool(int)>& sees) {
  const size_t dim = size_t(cache.dim), width = size_t(cache.heads + 2 * cache.kv_heads) * dim;
  const size_t kv_head = size_t(head / (cache.heads / cache.kv_heads));
  Attention a{std::vector<double>(size_t(cache.tokens), -1e300), std::vector<double>(dim, 0.0)};
  double largest = -1e300, sum = 0;
  for (size_t t = 0; t < a.probabilities.size(); ++t) {
    if (!sees(int(t))) continue;
    const float* key = qkv.data() + t * width + (size_t(cache.heads) + kv_head) * dim;
    double score = 0;
    for (size_t d = 0; d < dim; ++d) score += double(q[d]) * key[d] * scale;
    a.probabilities[t] = score, largest = std::fmax(largest, score);
  }
  for (double& p : a.probabilities) sum += p = std::exp(p - largest);
  for (size_t t = 0; t < a.probabilities.size(); ++t) {
    a.probabilities[t] /= sum;
    const float* value = qkv.data() + t * width + (size_t(cache.heads + cache.kv_heads) + kv_head) * dim;
    for (size_t d = 0; d < dim; ++d) a.out[d] += a.probabilities[t] * value[d];
  }
  return a;
}

// What the rows of a step see beyond their positions: lists of blocks (an empty one now and then) and a tree of drafts.
struct Sight {
  std::vector<int32_t> lists;  // [kv heads][rows][length]
  std::vector<uint64_t> tree;
  int rows, length, past;

  Sight(const Cache& cache, int rows, bool with_lists, bool with_tree) : rows(rows), length(int(cache.table.size())), past(cache.tokens - rows) {
    if (with_tree)
      for (int r = 0; r < rows; ++r) tree.push_back(uint64_t(1) << r | (r > 0 ? tree[word() % uint32_t(r)] : 0));
    if (with_lists) lists.assign(size_t(cache.kv_heads * rows * length), -1);
    for (int i = 0; i < cache.kv_heads * rows && with_lists; ++i) {
      int32_t* list = lists.data() + i * length;
      const int own = (past + i % rows) / kBlockTokens;
      for (int b = 0; b <= own && i % 5 != 4; ++b)
        if (b == own || word() % 2) *list++ = b;
    }
  }
  bool sees(int kv_head, int row, int token) const {
    if (tree.empty() ? token > past + row : token >= past && !(tree[size_t(row)] >> (token - past) & 1)) return false;
    if (lists.empty()) return true;
    const int32_t* list = lists.data() + (kv_head * rows + row) * length;
    for (int k = 0; k < length; ++k)
      if (list[k] == token / kBlockTokens) return true;
    return list[0] < 0;
  }
};

void check_attention(int heads, int kv_heads, int dim, int tokens, int rows, bool q8, bool lists = false, bool tree = false) {
  Cache cache(heads, kv_heads, dim, tokens, q8);
  const size_t width = size_t(heads + 2 * kv_heads) * size_t(dim);
  Floats qkv = numbers(size_t(tokens) * width, 2), cosines, sines, q(size_t(tokens * heads * dim));
  for (int i = 0; i < tokens * dim / 2; ++i) cosines.push_back(float(std::cos(i * 0.01))), sines.push_back(float(std::sin(i * 0.01)));
  write(cache, qkv, cosines, sines, 0, tokens - rows, q);
  write(cache, qkv, cosines, sines, tokens - rows, tokens, q);
  for (int t = 0; t < tokens; ++t) {
    for (int h = 0; h < heads + kv_heads; ++h) {
      rotate(qkv.data() + size_t(t) * width + size_t(h * dim), dim, cosines.data() + t * dim / 2, sines.data() + t * dim / 2);
    }
    for (int i = 0; i < heads * dim; ++i) {
      expect(q[size_t(t * heads * dim + i)], qkv[size_t(t) * width + size_t(i)], 1e-5, "rotary, " + cache.name(), size_t(i));
    }
  }
  const Rows last(cache, rows, tokens);
  const float scale = 1 / std::sqrt(float(dim));
  const float* queries = q.data() + size_t((tokens - rows) * heads * dim);
  Floats out(size_t(rows * heads * dim), NAN);
  const Sight sight(cache, rows, lists, tree);
  const size_t blocks = cache.table.size();
  Floats mass(size_t(kv_heads) * blocks);
  std::vector<double> wanted_mass(mass.size());
  kernels.attend({queries, heads, scale, last.sequences, &cache.kv, 1, lists ? sight.lists.data() : nullptr, sight.length,
                  tree ? sight.tree.data() : nullptr, mass.data(), out.data()}, pool);
  const std::string what = "attend rows " + text(rows) + (lists ? " lists" : "") + (tree ? " tree" : "") + ", " + cache.name();
  for (int r = 0; r < rows; ++r) {
    for (int h = 0; h < heads; ++h) {
      const size_t at = size_t((r * heads + h) * dim), kv_head = size_t(h / (heads / kv_heads));
      const Attention wanted = naive_attention(cache, qkv, queries + at, h, scale, [&](int t) { return sight.sees(int(kv_head), r, t); });
      for (size_t d = 0; d < wanted.out.size(); ++d) expect(out[at + d], wanted.out[d], 0.02 * 2, what, at + d);
      for (size_t t = 0; t < wanted.probabilities.size() && rows == 1; ++t)
        wanted_mass[kv_head * blocks + t / kBlockTokens] += wanted.probabilities[t];
    }
  }
  for (size_t i = 0; i < mass.size(); ++i) expect(mass[i], wanted_mass[i], 0.02 * heads / kv_heads, what + ", mass", i);
}

void check_sample() {
  Floats logits = numbers(1003, 4);
  logits[701] = 9, logits[702] = 9, logits[5] = -INFINITY;
  double sum = 0;
  for (float x : logits) sum += std::exp(double(x));
  SampleArgs args{};
  args.logits = logits.data(), args.vocab_size = 1003, args.top_p = 1, args.typical_p = 1;
  kernels.sample(args);
  expect(args.token, 701, 0, "sample, greedy", 0);
  expect(double(args.logprob), 9 - std::log(sum), 1e-5, "sample, logprob", 0);
  args.temperature = 1;
  for (int i = 0; i < 100; ++i) {  // the token at which the cumulative probability exceeds the share
    args.uniform = (i + 0.5) / 100;
    kernels.sample(args);
    double before = 0;
    for (int t = 0; t < args.token; ++t) before += std::exp(double(logits[size_t(t)])) / sum;
    const double after = before + std::exp(double(logits[size_t(args.token)])) / sum;
    expect(before <= args.uniform + 1e-6 && args.uniform < after + 1e-6, 1, 0, "sample, share", size_t(i));
  }
  args.top_k = 1, args.uniform = 0.75;  // two equal ones
  kernels.sample(args);
  expect(args.token, 702, 0, "sample, top-k with a tie", 0);
  logits[900] = NAN;
  kernels.sample(args);
  expect(args.token, -1, 0, "sample, NaN", 0);
}

void check_matrices() {
  for (Layout layout : {Layout::f32, Layout::f16, Layout::bf16}) {
    const Matrix odd(layout, 37, 90, 0, false), even(layout, 64, 64, 0, false);
    check_linears(odd), check_linears(even), check_embedding(odd);
  }
  for (Layout layout : {Layout::q8, Layout::q4}) {
    for (int group : {16, 32, 64, 128}) {
      for (bool mins : {false, true}) {
        const Matrix odd(layout, 37, 384, group, mins), even(layout, 96, 128, group, mins);
        check_linears(odd), check_linears(even), check_embedding(odd);
      }
    }
  }
}

void check_attentions() {
  for (bool q8 : {false, true}) {
    check_attention(9, 3, 64, 333, 1, q8), check_attention(9, 3, 64, 700, 2, q8), check_attention(4, 4, 32, 65, 5, q8);
    check_attention(6, 2, 128, 280, 40, q8), check_attention(16, 1, 64, 260, 3, q8), check_attention(2, 1, 80, 300, 129, q8);
    check_attention(3, 1, 16, 64, 63, q8), check_attention(1, 1, 256, 520, 7, q8);
    check_attention(9, 3, 64, 700, 1, q8, true), check_attention(6, 2, 128, 500, 70, q8, true), check_attention(16, 1, 64, 777, 9, q8, true);
    check_attention(2, 1, 80, 300, 129, q8, true), check_attention(3, 1, 96, 290, 30, q8, true), check_attention(1, 1, 32, 400, 40, q8, true);
    check_attention(6, 2, 64, 330, 20, q8, false, true), check_attention(6, 2, 64, 330, 20, q8, true, true);
    check_attention(4, 2, 64, 64, 64, q8, true, true), check_attention(80, 1, 64, 290, 1, q8), check_attention(80, 1, 64, 290, 1, q8, true);
  }
}

}  // namespace

int main() {
  // Also asks the operating system for the tiles of AMX.
  bool supported = false;
  for (const std::string& name : supported_targets()) supported |= name == kernels.name;
  if (!supported) return printf("%s: this processor doesn't have it, not checked\n", kernels.name), 0;
  check_matrices(), check_attentions(), check_sample();
  if (failures) return printf("%s: %d differences\n", kernels.name, failures), 1;
  return printf("%s: every kernel agrees\n", kernels.name), 0;
}

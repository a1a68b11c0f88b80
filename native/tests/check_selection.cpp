// Compares semantic kernels and the choice of blocks with naive loops in double. Runs under an emulator, too; check.sh
// builds it. Prints one line and returns 0, or one line per difference and 1.
//
// Keys are small whole numbers over 8 and queries lie on 127 steps, so that what is left is the kernels' own 8 bits
// (compared with half a step) and fp32 and exp2 (scores from the stored kernels: 5e-4). Lists follow the scores exactly.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "kernels.h"
#include "probe.h"
#include "threads.h"

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
  if (found == wanted || std::fabs(found - wanted) <= tolerance) return;  // so, a NaN is a failure
  if (++failures <= 40) printf("%s [%zu]: %.8g, expected %.8g +- %.2g\n", what.c_str(), index, found, wanted, tolerance);
}
uint32_t word() {
  static uint64_t state = 0x2545f4914f6cdd1du;
  state ^= state << 13, state ^= state >> 7, state ^= state << 17;
  return uint32_t(state >> 16);
}

// One sequence whose blocks lie out of order, or in order from block `shift` on.
struct Cache {
  int kv_heads, dim, tokens, blocks;
  std::vector<uint8_t> memory, codes;
  Floats scales, keys;  // keys [token][head][dim]
  std::vector<uint8_t*> places;
  std::vector<int32_t> table;
  KernelExtent extent{};
  KVPool kv{};

  Cache(int kv_heads, int dim, int tokens, bool in_order) : kv_heads(kv_heads), dim(dim), tokens(tokens) {
    blocks = (tokens + kBlockTokens - 1) / kBlockTokens;
    const int layers = 2, held = blocks + 3;
    kv.num_layers = layers, kv.num_heads = kv_heads, kv.head_dim = dim, kv.kernel_dim = (dim + 63) / 64 * 64;
    kv.head_bytes = size_t(dim) * kBlockTokens * 4, kv.layer_bytes = kv.head_bytes * size_t(kv_heads), kv.block_bytes = kv.layer_bytes * layers;
    memory.assign(kv.block_bytes * size_t(held), 0xff);
    for (int i = 0; i < held; ++i) places.push_back(memory.data() + size_t(i) * kv.block_bytes);
    for (int i = 0; i < blocks; ++i) table.push_back(in_order ? i : blocks + 2 - i);
    const size_t groups = size_t(layers * kv_heads) * size_t((held + 3) / 4);
    codes.assign(groups * size_t(kv.kernel_dim) * kKernelGroup, 0xff), scales.assign(groups * kKernelGroup, NAN);
    extent = {0, held, codes.data(), scales.data()};
    kv.blocks = places.data(), kv.num_blocks = held, kv.extents = &extent, kv.num_extents = 1;
    for (int i = 0; i < tokens * kv_heads * dim; ++i) keys.push_back(float(int(word() % 33) - 16) / 8);
    for (int t = 0; t < tokens; ++t)
      for (int h = 0; h < kv_heads; ++h)
        for (int d = 0; d < dim; ++d) {
          uint32_t bits;
          memcpy(&bits, &key(t, h, d), 4);
          const uint16_t high = uint16_t(bits >> 16);
          uint8_t* head = kv.at(table[size_t(t / kBlockTokens)], 1, h);
          memcpy(head + size_t((d / 2 * kBlockTokens + t % kBlockTokens) * 4 + d % 2 * 2), &high, 2);
        }
  }
  float& key(int t, int h, int d) { return keys[size_t((t * kv_heads + h) * dim + d)]; }
  int num_kernels() const { return tokens < 32 ? 0 : (tokens - 32) / 16 + 1; }
  // Number d of kernel i, as it is stored.
  double kernel(int i, int h, int d, float* scale = nullptr) {
    const int block = table[size_t((i + 1) / 4)], column = block % 4 * 4 + (i + 1) % 4;
    const float step = kv.group_scales(extent, block, 1, h)[column];
    if (scale) *scale = step;
    return double(step) * (int(kv.group_codes(extent, block, 1, h)[d / 4 * 64 + column * 4 + d % 4]) - 128);
  }
  std::string name() const { return "heads " + std::to_string(kv_heads) + " dim " + std::to_string(dim) + " tokens " + std::to_string(tokens); }
};

struct Rows {
  int32_t cu_seqlens[2], kv_lengths[1];
  Sequences sequences;
  Rows(const Cache& cache, int count, int length) : cu_seqlens{0, count}, kv_lengths{length} {
    sequences = {1, count, int(cache.table.size()), cu_seqlens, kv_lengths, cache.table.data()};
  }
};

void check_kernels(Cache& cache, const std::vector<int>& ends) {
  for (size_t i = 1; i < ends.size(); ++i) {
    const Rows rows(cache, ends[i] - ends[i - 1], ends[i]);
    kernels.semantic_kernels({rows.sequences, &cache.kv, 1, nullptr, nullptr}, pool);
  }
  for (int i = 0; i < cache.num_kernels(); ++i)
    for (int h = 0; h < cache.kv_heads; ++h) {
      for (int d = 0; d < cache.kv.kernel_dim; ++d) {
        double mean = 0;
        float scale;
        for (int t = 16 * i; t < 16 * i + 32 && d < cache.dim; ++t) mean += cache.key(t, h, d) / 32.0;
        const double stored = cache.kernel(i, h, d, &scale);
        expect(stored, mean, d < cache.dim ? 0.501 * scale : 0, "kernel " + std::to_string(i) + ", " + cache.name(), size_t(d));
      }
    }
}

// Shares of the softmax over kernels, summed over the heads of a group.
std::vector<double> naive_shares(Cache& cache, const float* q, int head, int group, int position, bool coarse) {
  const int seen = position < 31 ? 0 : (position - 31) / 16 + 1;
  std::vector<double> shares(size_t(seen), 0.0);
  for (int g = 0; g < group; ++g) {
    std::vector<double> scores;
    for (int i = 0; i < seen; ++i) {
      double sum = 0;
      for (int d = 0; d < cache.dim; ++d) sum += double(q[g * cache.dim + d]) * cache.kernel(i, head, d);
      scores.push_back(sum / std::sqrt(double(cache.dim)));
    }
    double total = 0;
    for (int i = 0; i < seen; ++i) {
      if (!coarse) total += std::exp(scores[size_t(i)]);
      else if (i % 4 == 0 && i + 6 < seen) total += std::exp((scores[size_t(i)] + scores[size_t(i + 2)] + scores[size_t(i + 4)] + scores[size_t(i + 6)]) / 4);
    }
    for (int i = 0; i < seen && total > 0; ++i) shares[size_t(i)] += std::exp(scores[size_t(i)]) / total;
  }
  return shares;
}

void check_selection(int heads, int kv_heads, int dim, int tokens, int rows, bool coarse, bool in_order) {
  Cache cache(kv_heads, dim, tokens, in_order);
  check_kernels(cache, {0, tokens / 3, tokens / 3 + 1, tokens});
  const int blocks = cache.blocks, group = heads / kv_heads, width = 9, init = 1, local = 2;
  Floats q(size_t(rows * heads * dim));
  for (size_t i = 0; i < q.size(); ++i) q[i] = i % size_t(dim) == 0 ? 2.0f : 2.0f * float(int(word() % 255) - 127) / 127;
  const Rows step(cache, rows, tokens);
  Floats scores(size_t(kv_heads * rows * blocks), NAN);
  std::vector<int32_t> lists(size_t(kv_heads * rows * width), -7);
  const float scale = 1 / std::sqrt(float(dim));
  SelectArgs args{q.data(), heads, nullptr, scale, step.sequences, &cache.kv, 1, init, local, coarse, false, 0, nullptr, scores.data(), blocks};
  kernels.select_blocks(args, pool);
  args.scores = nullptr, args.lists = lists.data(), args.width = width;
  kernels.select_blocks(args, pool);
  const std::string what = cache.name() + " rows " + std::to_string(rows) + (coarse ? " coarse" : " exact");
  for (int h = 0; h < kv_heads; ++h)
    for (int r = 0; r < rows; ++r) {
      const int position = tokens - rows + r, own = position / 64;
      const float* found = scores.data() + (h * rows + r) * blocks;
      const auto shares = naive_shares(cache, q.data() + (r * heads + h * group) * dim, h, group, position, coarse);
      for (int b = 0; b < blocks; ++b) {
        double wanted = b > own ? -INFINITY : b < init || b >= own - local ? INFINITY : 0;
        for (int i = 4 * b - 1; i <= 4 * b + 3 && wanted >= 0 && std::isfinite(wanted); ++i)
          if (i >= 0 && i < int(shares.size())) wanted = std::max(wanted, shares[size_t(i)]);
        expect(found[b], wanted, std::isfinite(wanted) ? 5e-4 * wanted : 0, "score, " + what, size_t(b));
      }
      std::vector<int> order;
      for (int b = 0; b <= own; ++b) order.push_back(b);
      std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return found[a] > found[b]; });
      order.resize(std::min(order.size(), size_t(width)));
      std::sort(order.begin(), order.end());
      if (own < width) order.clear();
      order.resize(size_t(width), -1);
      for (int k = 0; k < width; ++k) expect(lists[size_t((h * rows + r) * width + k)], order[size_t(k)], 0, "list, " + what, size_t(k));
    }
}

}  // namespace

int main() {
  // Also asks the operating system for the tiles of AMX.
  bool supported = false;
  for (const std::string& name : supported_targets()) supported |= name == kernels.name;
  if (!supported) return printf("%s: this processor doesn't have it, not checked\n", kernels.name), 0;
  for (bool coarse : {true, false}) {
    for (bool in_order : {true, false}) {
      check_selection(9, 3, 64, 1500, 1, coarse, in_order), check_selection(8, 1, 128, 1100, 3, coarse, in_order);
      check_selection(2, 2, 80, 700, 40, coarse, in_order), check_selection(20, 1, 96, 900, 2, coarse, in_order);
    }
    check_selection(1, 1, 16, 9000, 1, coarse, true), check_selection(3, 1, 64, 160, 130, coarse, false);
  }
  if (failures) return printf("%s: %d differences\n", kernels.name, failures), 1;
  return printf("%s: selection agrees\n", kernels.name), 0;
}

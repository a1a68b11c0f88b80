#include "bandwidth.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

#include "threads.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace whimbrel {
namespace {

constexpr int kPasses = 7;
constexpr size_t kPiece = size_t(4) << 20;  // claimed at a time: long enough to stream, short enough to balance
constexpr size_t kHugePage = size_t(2) << 20;

// Sums of eight streams of words: the additions must not limit the reading, nor be optimised away. Two 64-byte lines
// per step with a prefetch 2 KiB ahead, as the linear kernels read.
uint64_t sum_of(const uint64_t* words, size_t count) {
  typedef uint64_t Pair __attribute__((vector_size(16)));
  Pair sums[8] = {};
  for (size_t i = 0; i + 16 <= count; i += 16) {
    __builtin_prefetch(words + i + 256);
    __builtin_prefetch(words + i + 264);
    for (size_t j = 0; j < 8; ++j) {
      Pair pair;
      memcpy(&pair, words + i + 2 * j, sizeof pair);
      sums[j] += pair;
    }
  }
  const Pair total = ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]));
  return total[0] + total[1];
}

struct Free {
  void operator()(void* p) const { std::free(p); }
};
using Buffer = std::unique_ptr<uint8_t, Free>;

Buffer allocate(size_t bytes) {
  Buffer buffer(static_cast<uint8_t*>(std::aligned_alloc(kHugePage, (bytes + kHugePage - 1) / kHugePage * kHugePage)));
  if (!buffer) throw std::bad_alloc();
#if defined(__linux__)
  madvise(buffer.get(), bytes, MADV_HUGEPAGE);  // so that page walks aren't what is measured
#endif
  return buffer;
}

}  // namespace

double read_bandwidth(size_t bytes, ThreadPool& pool) {
  const int pieces = int(std::max<size_t>(bytes / kPiece, 1));
  const size_t size = size_t(pieces) * kPiece;
  const Buffer buffer = allocate(size);
  pool.run(pieces, [&](int i) { memset(buffer.get() + size_t(i) * kPiece, i, kPiece); });

  std::atomic<uint64_t> sum{0};
  double best = 1e30;
  for (int pass = 0; pass < kPasses; ++pass) {
    const auto start = std::chrono::steady_clock::now();
    pool.run(pieces, [&](int i) {
      const uint8_t* piece = buffer.get() + size_t(i) * kPiece;
      sum.fetch_add(sum_of(reinterpret_cast<const uint64_t*>(piece), kPiece / 8), std::memory_order_relaxed);
    });
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return double(size) / best;
}

}  // namespace whimbrel

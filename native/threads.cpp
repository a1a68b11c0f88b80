#include "threads.h"

#include <chrono>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace whimbrel {
namespace {

// A worker spins this long for the next task before it sleeps: ops of one token follow each other within a few
// microseconds, and waking a sleeper costs about five.
constexpr auto kSpin = std::chrono::microseconds(150);

inline void relax() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Spins until ready() holds or the time is over; looks at the clock rarely, since reading it costs 20 ns.
template <class Ready>
bool spin(Ready&& ready) {
  const auto start = std::chrono::steady_clock::now();
  for (;;) {
    for (int i = 0; i < 64; ++i) {
      if (ready()) return true;
      relax();
    }
    if (std::chrono::steady_clock::now() - start > kSpin) return ready();
  }
}

constexpr int kTaskBits = 20;
constexpr uint64_t kTaskMask = (uint64_t(1) << kTaskBits) - 1;

}  // namespace

ThreadPool::ThreadPool(int threads) {
  for (int i = 1; i < threads; ++i) workers_.emplace_back([this] { work(); });
}

ThreadPool::~ThreadPool() {
  quit_ = true;
  round_.fetch_add(1, std::memory_order_release);
  round_.notify_all();
  for (auto& worker : workers_) worker.join();
}

// Claims and runs tasks of whatever round is current until none is left. They are reported together, one atomic
// addition instead of one per task; no other round can begin before that.
void ThreadPool::run_claimed() {
  for (uint32_t finished = 0;;) {
    const uint64_t ticket = ticket_.fetch_add(1, std::memory_order_acq_rel);
    const uint64_t task = ticket & kTaskMask, tasks = (ticket >> kTaskBits) & kTaskMask;
    if (task >= tasks) {
      if (finished > 0) done_.fetch_add(finished, std::memory_order_release);
      return;
    }
    function_(context_, int(task));
    ++finished;
  }
}

void ThreadPool::work() {
  for (uint32_t seen = 0;;) {
    const auto arrived = [&] { return round_.load(std::memory_order_acquire) != seen; };
    if (!spin(arrived)) {
      sleeping_.fetch_add(1);
      while (!arrived()) round_.wait(seen, std::memory_order_acquire);
      sleeping_.fetch_sub(1);
    }
    seen = round_.load(std::memory_order_acquire);
    if (quit_) return;
    run_claimed();
  }
}

void ThreadPool::dispatch(int tasks, Function function, void* context) {
  const std::lock_guard<std::mutex> lock(mutex_);
  function_ = function;
  context_ = context;
  done_.store(0, std::memory_order_relaxed);
  const uint64_t round = round_.load(std::memory_order_relaxed) + 1;
  ticket_.store(round << (2 * kTaskBits) | uint64_t(tasks) << kTaskBits, std::memory_order_release);
  round_.store(uint32_t(round));
  if (sleeping_.load() > 0) round_.notify_all();
  run_claimed();
  const auto finished = [&] { return done_.load(std::memory_order_acquire) == uint32_t(tasks); };
  // Spin first; where the other thread lost its processor in the middle of a task, let it have ours.
  while (!spin(finished)) std::this_thread::yield();
}

}  // namespace whimbrel

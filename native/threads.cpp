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

}  // namespace

ThreadPool::ThreadPool(int threads) {
  for (int i = 1; i < threads; ++i) workers_.emplace_back([this] { work(0); });
}

ThreadPool::~ThreadPool() {
  quit_ = true;
  generation_.fetch_add(1, std::memory_order_release);
  generation_.notify_all();
  for (auto& worker : workers_) worker.join();
}

void ThreadPool::work(uint32_t seen) {
  for (;;) {
    auto arrived = [&] { return generation_.load(std::memory_order_acquire) != seen; };
    if (!spin(arrived)) {
      sleeping_.fetch_add(1);
      while (!arrived()) generation_.wait(seen, std::memory_order_acquire);
      sleeping_.fetch_sub(1);
    }
    ++seen;
    if (quit_) return;
    for (int i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < tasks_;) function_(context_, i);
    active_.fetch_sub(1, std::memory_order_release);
  }
}

void ThreadPool::dispatch(int tasks, Function function, void* context) {
  tasks_ = tasks;
  function_ = function;
  context_ = context;
  next_.store(0, std::memory_order_relaxed);
  active_.store(int(workers_.size()), std::memory_order_relaxed);
  generation_.fetch_add(1);
  if (sleeping_.load() > 0) generation_.notify_all();
  for (int i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < tasks;) function(context, i);
  while (active_.load(std::memory_order_acquire) > 0) {
    // Spin first; where the other thread lost its processor, let it have ours.
    if (!spin([this] { return active_.load(std::memory_order_acquire) == 0; })) std::this_thread::yield();
  }
}

}  // namespace whimbrel

// One pool of threads with dynamic claiming of fixed tasks: a task's result never depends on who runs it.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <thread>
#include <type_traits>
#include <vector>

namespace whimbrel {

class ThreadPool {
 public:
  explicit ThreadPool(int threads);
  ~ThreadPool();
  int size() const { return int(workers_.size()) + 1; }

  // Runs task(i) for i in [0, tasks) on all threads, the caller's included, and returns when all are done. It waits for
  // claimed tasks only: a worker that the operating system keeps off its processor delays nobody.
  template <class Task>
  void run(int tasks, Task&& task) {
    if (tasks <= 1 || workers_.empty()) {
      for (int i = 0; i < tasks; ++i) task(i);
      return;
    }
    dispatch(tasks, [](void* context, int i) { (*static_cast<std::remove_reference_t<Task>*>(context))(i); },
             const_cast<void*>(static_cast<const void*>(&task)));
  }

 private:
  using Function = void (*)(void*, int);
  void dispatch(int tasks, Function function, void* context);
  void run_claimed();
  void work();

  // Round, number of its tasks, next task to claim, in one word: adding 1 claims a task of exactly that round.
  alignas(64) std::atomic<uint64_t> ticket_{0};
  alignas(64) std::atomic<uint32_t> done_{0};
  alignas(64) std::atomic<uint32_t> round_{0};
  alignas(64) std::atomic<int> sleeping_{0};
  Function function_ = nullptr;  // of the current round; a claimed task keeps the round from ending
  void* context_ = nullptr;
  std::mutex mutex_;  // one round at a time, where several Python threads compute
  std::atomic<bool> quit_{false};
  std::vector<std::thread> workers_;
};

}  // namespace whimbrel

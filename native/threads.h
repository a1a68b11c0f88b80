// One pool of threads with dynamic claiming of fixed tasks: a task's result never depends on who runs it.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <type_traits>
#include <vector>

namespace whimbrel {

class ThreadPool {
 public:
  explicit ThreadPool(int threads);
  ~ThreadPool();
  int size() const { return int(workers_.size()) + 1; }

  // Runs task(i) for i in [0, tasks) on all threads, the caller's included, and returns when all are done.
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
  void work(uint32_t seen);

  alignas(64) std::atomic<uint32_t> generation_{0};
  alignas(64) std::atomic<int> next_{0};
  alignas(64) std::atomic<int> active_{0};
  alignas(64) std::atomic<int> sleeping_{0};
  int tasks_ = 0;
  Function function_ = nullptr;
  void* context_ = nullptr;
  std::atomic<bool> quit_{false};
  std::vector<std::thread> workers_;
};

}  // namespace whimbrel

// How fast this machine's memory can be read: the limit of decoding, which reads every weight once per token.
#pragma once

#include <cstddef>

namespace whimbrel {

class ThreadPool;

// Bytes per second that the pool's threads read together from a buffer of so many bytes: the best of several passes,
// since whatever disturbs a pass makes it slower. The buffer must exceed the caches: 256 MiB or more.
double read_bandwidth(size_t bytes, ThreadPool& pool);

}  // namespace whimbrel

// Semantic kernels: averages of 32 neighbouring keys, kept in 8 bits beside the block that they end in.
//
// Kernel c - 1 ends in the sequence's 16-token chunk c and is the mean of the keys of chunks c - 1 and c. Two kernels
// overlap by half, so each chunk is added up once. A kernel is one fixed sequence of fp32 additions, whatever the step.

// 16 keys of one head, from slot `first` of a block on, to fp32 [16][dim].
inline void read_keys(const KVPool& pool, const uint8_t* head, int first, float* keys) {
  const size_t dim = size_t(pool.head_dim), tokens = kBlockTokens;
  const auto* scales = reinterpret_cast<const float*>(head + 2 * dim * tokens);
  for (size_t i = 0; i < dim / 2; ++i) {
    float pairs[32];
    const size_t at = i * tokens + size_t(first);
    for (size_t half = 0; half < 2; ++half) {
      const size_t pair = at + 8 * half;
      store(pairs + 16 * half, pool.q8 ? load_i8(reinterpret_cast<const int8_t*>(head) + 2 * pair)
                                       : load_bf16(reinterpret_cast<const uint16_t*>(head) + 2 * pair));
    }
    for (size_t t = 0; t < kKernelStride; ++t) memcpy(keys + t * dim + 2 * i, pairs + 2 * t, 8);
  }
  if (!pool.q8) return;
  for (size_t t = 0; t < kKernelStride; ++t) {
    const F32 scale = splat(scales[size_t(first) + t]);
    for (size_t d = 0; d < dim; d += 16) store(keys + t * dim + d, mul(load(keys + t * dim + d), scale));
  }
}

// Undoes a rotation of pairs (i, i + dim / 2) by an angle whose cosine and sine may both carry a factor.
inline void turn_back(float* key, const float* cosines, const float* sines, int dim) {
  const int half = dim / 2;
  for (int i = 0; i < half; i += 16) {
    const int n = half - i < 16 ? half - i : 16;
    const F32 a = load_first(key + i, n), b = load_first(key + half + i, n);
    const F32 c = load_first(cosines + i, n), s = load_first(sines + i, n);
    const F32 size = fma(c, c, mul(s, s));
    store_first(key + i, div(fma(a, c, mul(b, s)), size), n);
    store_first(key + half + i, div(sub(mul(b, c), mul(a, s)), size), n);
  }
}

// Sum of the keys of one chunk, [dim].
inline void add_chunk(const SemanticKernelsArgs& args, const int32_t* table, int head, int chunk, float* keys, float* sum) {
  const KVPool& pool = *args.pool;
  const int dim = pool.head_dim, half = dim / 2, first = chunk * kKernelStride;
  read_keys(pool, pool.at(table[first / kBlockTokens], args.layer, head), first % kBlockTokens, keys);
  for (int t = 0; t < kKernelStride; ++t) {
    float* key = keys + t * dim;
    if (args.cos) turn_back(key, args.cos + size_t(first + t) * size_t(half), args.sin + size_t(first + t) * size_t(half), dim);
    for (int d = 0; d < dim; d += 16) store(sum + d, t == 0 ? load(key + d) : add(load(sum + d), load(key + d)));
  }
}

// Puts one kernel into its column of its group.
inline void store_kernel(const KVPool& pool, int layer, int head, int block, int slot, const float* kernel) {
  int8_t codes[256 + 16] = {};
  const KernelExtent& extent = pool.extent_of(block);
  const size_t column = size_t(block - extent.first) % 4 * kKernelsPerBlock + size_t(slot);
  pool.group_scales(extent, block, layer, head)[column] = quantize_vector(kernel, pool.head_dim, codes);
  uint8_t* to = pool.group_codes(extent, block, layer, head) + column * 4;
  for (int d = 0; d < pool.kernel_dim / 4; ++d) {
    uint32_t four;
    memcpy(&four, codes + 4 * d, 4);
    four ^= 0x80808080u;  // code + 128
    memcpy(to + size_t(d) * 64, &four, 4);
  }
}

// Kernels that end in chunks [first, last) of one sequence, of one head.
struct KernelTask {
  int sequence, head, first, last;
};

inline void average_keys(const SemanticKernelsArgs& args, const KernelTask& task) {
  const KVPool& pool = *args.pool;
  const int dim = pool.head_dim;
  const int32_t* table = args.sequences.block_tables + size_t(task.sequence) * size_t(args.sequences.max_blocks);
  alignas(64) float keys[kKernelStride * 256], sums[2][256], mean[256];
  add_chunk(args, table, task.head, task.first - 1, keys, sums[(task.first - 1) % 2]);
  for (int chunk = task.first; chunk < task.last; ++chunk) {
    const float *before = sums[(chunk - 1) % 2], *sum = sums[chunk % 2];
    add_chunk(args, table, task.head, chunk, keys, sums[chunk % 2]);
    for (int d = 0; d < dim; d += 16) store(mean + d, mul(add(load(before + d), load(sum + d)), splat(1.0f / kKernelTokens)));
    store_kernel(pool, args.layer, task.head, table[chunk / kKernelsPerBlock], chunk % kKernelsPerBlock, mean);
  }
}

constexpr int kKernelsPerTask = 32;  // the chunk before the first is added up once more

inline void semantic_kernels(const SemanticKernelsArgs& args, ThreadPool& pool) {
  static thread_local std::vector<KernelTask> planned;
  std::vector<KernelTask>& tasks = planned;
  tasks.clear();
  const Sequences& s = args.sequences;
  for (int i = 0; i < s.count; ++i) {
    const int before = (s.kv_lengths[i] - (s.cu_seqlens[i + 1] - s.cu_seqlens[i])) / kKernelStride;
    const int end = s.kv_lengths[i] / kKernelStride;
    for (int chunk = before > 1 ? before : 1; chunk < end; chunk += kKernelsPerTask) {
      const int last = end - chunk < kKernelsPerTask ? end : chunk + kKernelsPerTask;
      for (int h = 0; h < args.pool->num_heads; ++h) tasks.push_back({i, h, chunk, last});
    }
  }
  const auto run = [&](int i) { average_keys(args, tasks[size_t(i)]); };
  if (s.rows < 32)
    for (int i = 0; i < int(tasks.size()); ++i) run(i);
  else
    pool.run(int(tasks.size()), run);
}

// Rotates queries and keys by position and writes keys and values of this step into the cache's blocks.

// One head's vector, normed where the model does so (Qwen3), rotated by halves: (a, b) -> (a cos - b sin, b cos + a sin).
inline void rotate(const float* x, const float* norm, float eps, const float* cosines, const float* sines, int dim, float* y) {
  alignas(64) float normed[256];
  if (norm) {
    rms_norm(x, norm, eps, dim, normed);
    x = normed;
  }
  const int half = dim / 2;
  for (int i = 0; i < half; i += 16) {
    const int n = half - i < 16 ? half - i : 16;
    const F32 a = load_first(x + i, n), b = load_first(x + half + i, n);
    const F32 c = load_first(cosines + i, n), s = load_first(sines + i, n);
    store_first(y + i, sub(mul(a, c), mul(b, s)), n);
    store_first(y + half + i, fma(b, c, mul(a, s)), n);
  }
}

// Slot `token` of a bf16 head block: keys [dim / 2][64][2], then values [32][dim][2].
inline void write_bf16(uint8_t* head, int token, int dim, const float* key, const float* value) {
  uint16_t bits[256];
  for (int i = 0; i < dim; i += 16) store_bf16(bits + i, load_first(key + i, dim - i));
  uint32_t* keys = reinterpret_cast<uint32_t*>(head);
  for (int i = 0; i < dim / 2; ++i) memcpy(keys + i * kBlockTokens + token, bits + 2 * i, 4);
  for (int i = 0; i < dim; i += 16) store_bf16(bits + i, load_first(value + i, dim - i));
  uint16_t* values = reinterpret_cast<uint16_t*>(head) + size_t(dim) * kBlockTokens + size_t(token / 2) * size_t(dim) * 2;
  for (int i = 0; i < dim; ++i) values[2 * i + token % 2] = bits[i];
}

inline float quantize_vector(const float* x, int dim, int8_t* codes) {
  F32 largest = zero();
  for (int i = 0; i < dim; i += 16) largest = max(largest, abs(load_first(x + i, dim - i)));
  const float top = reduce_max(largest);
  const F32 inverse = splat(top > 0 ? 127.0f / top : 0.0f);
  for (int i = 0; i < dim; i += 16) store_i8(codes + i, round(mul(load_first(x + i, dim - i), inverse)));
  return top / 127.0f;
}

// The same order in int8, then one f32 scale per token for keys and for values.
inline void write_q8(uint8_t* head, int token, int dim, const float* key, const float* value) {
  int8_t codes[256 + 16];
  float* scales = reinterpret_cast<float*>(head + size_t(dim) * 2 * kBlockTokens);
  scales[token] = quantize_vector(key, dim, codes);
  for (int i = 0; i < dim / 2; ++i) memcpy(head + size_t(i * kBlockTokens + token) * 2, codes + 2 * i, 2);
  scales[kBlockTokens + token] = quantize_vector(value, dim, codes);
  uint8_t* values = head + size_t(dim) * kBlockTokens + size_t(token / 2) * size_t(dim) * 2;
  for (int i = 0; i < dim; ++i) values[2 * i + token % 2] = uint8_t(codes[i]);
}

// Slots that are not written yet have weight zero in attention, and zero times a NaN left by an earlier owner of the
// block is NaN: so a block's values start at zero.
inline void clear_values(const KVPool& pool, uint8_t* head) {
  const size_t values = size_t(pool.head_dim) * kBlockTokens * (pool.q8 ? 1 : 2);
  memset(head + values, 0, pool.head_bytes - values);
}

// A key's pairs lie 4 * 64 bytes apart: one token touches dim / 2 cache lines. Asked for early, they arrive together.
inline void fetch_slot(const KVPool& pool, const uint8_t* head, int slot) {
  const size_t word = pool.q8 ? 2 : 4, values = size_t(pool.head_dim) * kBlockTokens * word / 2;
  for (int i = 0; i < pool.head_dim / 2; ++i) prefetch(head + size_t(i * kBlockTokens + slot) * word);
  for (size_t i = 0; i < size_t(pool.head_dim) * word; i += 64) prefetch(head + values + size_t(slot / 2) * size_t(pool.head_dim) * word + i);
}

inline void rotary_row(const RotaryArgs& args, int row, int block, int slot) {
  const KVPool& pool = *args.pool;
  for (int h = 0; h < pool.num_heads; ++h) fetch_slot(pool, pool.at(block, args.layer, h), slot);
  const int dim = pool.head_dim, heads = args.num_heads, kv_heads = pool.num_heads;
  const float* qkv = args.qkv + size_t(row) * size_t((heads + 2 * kv_heads) * dim);
  const float* cosines = args.cos + size_t(args.positions[row]) * size_t(dim / 2);
  const float* sines = args.sin + size_t(args.positions[row]) * size_t(dim / 2);
  float* q_out = args.q_out + size_t(row) * size_t(heads * dim);
  for (int h = 0; h < heads; ++h) rotate(qkv + h * dim, args.q_norm, args.eps, cosines, sines, dim, q_out + h * dim);
  for (int h = 0; h < kv_heads; ++h) {
    alignas(64) float key[256];
    rotate(qkv + (heads + h) * dim, args.k_norm, args.eps, cosines, sines, dim, key);
    const float* value = qkv + (heads + kv_heads + h) * dim;
    uint8_t* head = pool.at(block, args.layer, h);
    if (slot == 0) clear_values(pool, head);
    (pool.q8 ? write_q8 : write_bf16)(head, slot, dim, key, value);
  }
}

// Rows [first, last) of one sequence, all in one block.
struct RotaryTask {
  int first, last, block, slot;
};

// One task per block, so that no two threads write one block.
inline void rotary_write(const RotaryArgs& args, ThreadPool& pool) {
  static thread_local std::vector<RotaryTask> planned;
  std::vector<RotaryTask>& tasks = planned;
  tasks.clear();
  const Sequences& s = args.sequences;
  for (int i = 0; i < s.count; ++i) {
    const int32_t* table = s.block_tables + size_t(i) * size_t(s.max_blocks);
    const int end = s.cu_seqlens[i + 1], offset = s.kv_lengths[i] - end;
    for (int row = s.cu_seqlens[i]; row < end;) {
      const int slot = (row + offset) % kBlockTokens, room = kBlockTokens - slot, last = end - row < room ? end : row + room;
      tasks.push_back({row, last, table[(row + offset) / kBlockTokens], slot});
      row = last;
    }
  }
  const auto run = [&](int i) {
    const RotaryTask& task = tasks[size_t(i)];
    for (int row = task.first; row < task.last; ++row) rotary_row(args, row, task.block, task.slot + row - task.first);
  };
  if (s.rows < 8)
    for (int i = 0; i < int(tasks.size()); ++i) run(i);
  else
    pool.run(int(tasks.size()), run);
}

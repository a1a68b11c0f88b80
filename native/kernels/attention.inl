// Causal attention over the cache's blocks, exact, for decoding, prefill and everything between.
//
// Keys are cut into *splits* of 4 blocks (256 tokens), counted from the start of the sequence. A split gives each query
// row a partial result (largest score, sum, weighted values), computed in one pass: all scores, their maximum, the
// exponentials, the product with the values. Partial results are merged in the order of the splits. So a row's bits do
// not depend on threads, on chunking or on its neighbours, and decoding may spread the splits over threads.
//
// Scores are kept in units of log2: the query carries scale * log2(e), and exp2 replaces exp.

constexpr int kSplitTokens = kSplitBlocks * kBlockTokens;
constexpr float kMinusInfinity = -1e30f;  // finite: inf - inf would be NaN
#ifdef WHIMBREL_AMX
constexpr int kMaxGroupRows = 32;  // query rows that meet a split together: two tiles
#else
constexpr int kMaxGroupRows = 4 * kAttendRows;  // whole register tiles
#endif

// Keys and values of one split: bf16, with scales per token where the cache holds 8 bits.
struct Split {
  int blocks;
  const uint8_t* keys[kSplitBlocks];    // [dim / 2][64][2]
  const uint8_t* values[kSplitBlocks];  // [32][dim][2]
  const float* key_scales[kSplitBlocks];
  const float* value_scales[kSplitBlocks];
};

// Reads the next split's blocks into the cache while this one is computed, a few lines at a time: few query rows wait
// for memory, and the hardware's prefetchers do badly, since blocks lie scattered and a tile's load takes every fourth
// line. In slices between the tiles and into the second-level cache, 20-22 GB/s became 23-25 of the 34 that two cores
// read (SmolLM2 at 8K tokens, Intel Xeon with AMX); a whole block at once, or into the first level, gave nothing.
struct Ahead {
  const uint8_t* blocks[kSplitBlocks];
  int count = 0, block = 0;
  size_t offset = 0, block_bytes = 0;

  void start(const KVPool& pool, int layer, int head, const int32_t* table, int first, int last) {
    count = last - first < kSplitBlocks ? last - first : kSplitBlocks;
    for (int b = 0; b < count; ++b) blocks[b] = pool.at(table[first + b], layer, head);
    block = 0, offset = 0, block_bytes = pool.head_bytes;
  }
  void fetch(int lines) {
    if (block >= count) return;
    for (int i = 0; i < lines; ++i, offset += 64) __builtin_prefetch(blocks[block] + offset, 0, 2);
    if (offset >= block_bytes) ++block, offset = 0;
  }
};

// Partial or total result of one row: largest score, sum of exponentials, weighted sum of values (dim floats follow).
struct Partial {
  float largest, sum;
  float* values;
};

// Query rows that meet a split together, and the room that it takes.
struct Group {
  const uint16_t* q;   // bf16 [rows][stride]
  size_t stride;       // dim, rounded up to 32 and padded with zeros
  int dim, rows;
  const int* visible;  // [rows] tokens of the split that a row may see
  float* scores;       // [rows][kSplitTokens]
  uint16_t* weights;   // [rows][kSplitTokens]
  Partial* out;        // [rows]
  Ahead* ahead;        // null where many rows share the split

  Group from(int row) const {
    Group g = *this;
    g.q += size_t(row) * stride, g.visible += row, g.out += row, g.rows -= row;
    return g;
  }
};

inline void expand_q8(const uint8_t* codes, size_t count, uint8_t* bf16) {
  for (size_t i = 0; i < count; i += 32)
    store_line(bf16 + 2 * i, bf16_from_i8(reinterpret_cast<const int8_t*>(codes) + i));
}

// Points at a split's blocks; 8-bit ones are expanded into `room` (2 * dim * 64 * 2 bytes a block) first.
inline Split open_split(const KVPool& pool, int layer, int head, const int32_t* table, int num_blocks, int split, uint8_t* room) {
  const size_t half = size_t(pool.head_dim) * kBlockTokens;
  Split s{};
  s.blocks = num_blocks - split * kSplitBlocks < kSplitBlocks ? num_blocks - split * kSplitBlocks : kSplitBlocks;
  for (int b = 0; b < s.blocks; ++b) {
    const uint8_t* data = pool.at(table[split * kSplitBlocks + b], layer, head);
    if (pool.q8) {
      expand_q8(data, 2 * half, room);
      s.key_scales[b] = reinterpret_cast<const float*>(data + 2 * half);
      s.value_scales[b] = s.key_scales[b] + kBlockTokens;
      data = room;
      room += 4 * half;
    }
    s.keys[b] = data;
    s.values[b] = data + 2 * half;
  }
  return s;
}

// Scores to probabilities of one row, in place of nothing: reads scores, writes bf16 weights for the values.
inline void softmax_row(const Split& split, float* scores, int visible, uint16_t* weights, Partial& out) {
  const int tokens = split.blocks * kBlockTokens;
  F32 largest = splat(kMinusInfinity);
  for (int t = 0; t < tokens; t += 16) {
    F32 s = load(scores + t);
    if (split.key_scales[0]) s = mul(s, load(split.key_scales[t / kBlockTokens] + t % kBlockTokens));
    if (t + 16 > visible) s = keep_first(s, visible - t, kMinusInfinity);
    store(scores + t, s);
    largest = max(largest, s);
  }
  out.largest = reduce_max(largest);
  const F32 top = splat(out.largest);
  F32 sum = zero();
  for (int t = 0; t < tokens; t += 32) {
    F32 lo = exp2(sub(load(scores + t), top)), hi = exp2(sub(load(scores + t + 16), top));
    sum = add(sum, add(lo, hi));
    if (split.value_scales[0]) {
      const float* scales = split.value_scales[t / kBlockTokens] + t % kBlockTokens;
      lo = mul(lo, load(scales)), hi = mul(hi, load(scales + 16));
    }
    store_bf16_line(weights + t, lo, hi);
  }
  out.sum = reduce_add(sum);
}

// c[r][v] += a[r][0 .. 2 n) * b[n][...]: bf16 pairs, rows of b are row_bytes apart, v counts vectors of 16 columns.
template <int R, int V>
inline void multiply(const uint16_t* a, size_t a_stride, const uint8_t* b, size_t row_bytes, int n, Ahead* ahead, F32 (&c)[R][V]) {
  for (int i = 0; i < n; ++i) {
    Line lines[V];
    for (int v = 0; v < V; ++v) lines[v] = load_line(b + size_t(i) * row_bytes + size_t(v) * 64);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      uint32_t word;
      memcpy(&word, a + size_t(r) * a_stride + size_t(2 * i), 4);
      const Line pair = splat_dword(word);
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) c[r][v] = dot2(c[r][v], lines[v], pair);
    }
    if (ahead) ahead->fetch(V);
  }
}

template <int R, int V>
inline void score_columns(const Split& split, const Group& group, int block, int column) {
  F32 c[R][V];
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v) c[r][v] = zero();
  multiply<R, V>(group.q, group.stride, split.keys[block] + column * 4, kBlockTokens * 4, group.dim / 2, group.ahead, c);
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v) store(group.scores + r * kSplitTokens + block * kBlockTokens + column + 16 * v, c[r][v]);
}

template <int R, int V>
inline void value_columns(const Split& split, const Group& group, int column) {
  F32 c[R][V];
  const size_t row_bytes = size_t(group.dim) * 4;
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v) c[r][v] = zero();
  for (int b = 0; b < split.blocks; ++b)
    multiply<R, V>(group.weights + b * kBlockTokens, kSplitTokens, split.values[b] + size_t(column) * 4, row_bytes,
                   kBlockTokens / 2, group.ahead, c);
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v) store(group.out[r].values + column + 16 * v, c[r][v]);
}

inline void softmax_rows(const Split& split, const Group& group, int rows) {
  for (int r = 0; r < rows; ++r)
    softmax_row(split, group.scores + r * kSplitTokens, group.visible[r], group.weights + r * kSplitTokens, group.out[r]);
}

// The first R rows of a group against one split.
template <int R>
inline void attend_rows(const Split& split, const Group& group) {
  for (int b = 0; b < split.blocks; ++b)
    for (int c = 0; c < kBlockTokens; c += 16 * kAttendVectors) score_columns<R, kAttendVectors>(split, group, b, c);
  softmax_rows(split, group, R);
  int column = 0;
  for (; column + 16 * kAttendVectors <= group.dim; column += 16 * kAttendVectors)
    value_columns<R, kAttendVectors>(split, group, column);
  for (; column < group.dim; column += 16) value_columns<R, 1>(split, group, column);
}

#include "attention_amx.inl"

// Up to kMaxGroupRows rows against one split.
inline void attend_group(const Split& split, const Group& group) {
  if (attend_group_amx(split, group)) return;
  int r = 0;
  for (; r + kAttendRows <= group.rows; r += kAttendRows) attend_rows<kAttendRows>(split, group.from(r));
  if (kAttendRows > 3)
    for (; r + 3 <= group.rows; r += 3) attend_rows<3>(split, group.from(r));
  for (; r < group.rows; ++r) attend_rows<1>(split, group.from(r));
}

// total = total (+) part
inline void merge(Partial& total, const Partial& part, int dim) {
  const float largest = total.largest > part.largest ? total.largest : part.largest;
  const F32 a = exp2(splat(total.largest - largest)), b = exp2(splat(part.largest - largest));
  float pair[16];
  store(pair, fma(splat(total.sum), a, mul(splat(part.sum), b)));
  total.largest = largest, total.sum = pair[0];
  for (int d = 0; d < dim; d += 16) store(total.values + d, fma(load(total.values + d), a, mul(load(part.values + d), b)));
}

inline void finish(const Partial& total, int dim, float* out) {
  const F32 inverse = splat(1.0f / total.sum);
  for (int d = 0; d < dim; d += 16) store(out + d, mul(load(total.values + d), inverse));
}

// Query tokens [first, last) of one sequence against one key/value head; splits [split, split_end).
struct AttendTask {
  int sequence, head, first, last, split, split_end;
  size_t partials;  // index of the first partial row in the shared buffer, where splits are spread over tasks
};

// Scratch of one tile: bf16 queries, scores, weights, 8-bit expansion, partial and total values.
struct Tile {
  uint16_t* q;
  float* scores;
  uint16_t* weights;
  uint8_t* room;
  float *part_values, *total_values;
  Partial *parts, *totals;
  int* visible;
  size_t stride;
};

inline Tile carve_tile(const KVPool& pool, int rows, Carver& carver) {
  const size_t dim = size_t(pool.head_dim), stride = (dim + 31) / 32 * 32, padded = size_t(rows + 31) / 32 * 32;
  Tile t;
  t.stride = stride;
  t.q = carver.take<uint16_t>(padded * stride);
  t.scores = carver.take<float>(kMaxGroupRows * kSplitTokens);
  t.weights = carver.take<uint16_t>(kMaxGroupRows * kSplitTokens);
  t.room = carver.take<uint8_t>(pool.q8 ? kSplitBlocks * dim * kBlockTokens * 4 : 0);
  t.part_values = carver.take<float>(kMaxGroupRows * dim);
  t.total_values = carver.take<float>(padded * dim);
  t.parts = carver.take<Partial>(kMaxGroupRows);
  t.totals = carver.take<Partial>(padded);
  t.visible = carver.take<int>(padded);
  return t;
}

// Scaled bf16 queries of a tile, row = token * group + head within the group.
inline void load_queries(const AttendArgs& args, const AttendTask& task, Tile& tile) {
  const int dim = args.pool->head_dim, group = args.num_heads / args.pool->num_heads;
  const F32 scale = splat(args.scale * 1.44269504f);
  uint16_t* to = tile.q;
  for (int token = task.first; token < task.last; ++token) {
    const float* q = args.q + (size_t(token) * size_t(args.num_heads) + size_t(task.head * group)) * size_t(dim);
    for (int g = 0; g < group; ++g, q += dim, to += tile.stride) {
      for (int d = 0; d < dim; d += 16) store_bf16(to + d, mul(load(q + d), scale));
      for (size_t d = size_t(dim); d < tile.stride; ++d) to[d] = 0;
    }
  }
}

// One tile against its splits in order. Without `shared`, merges them and writes the result; else stores each partial.
inline void attend_tile(const AttendArgs& args, const AttendTask& task, float* shared) {
  static thread_local Scratch scratch;
  const KVPool& pool = *args.pool;
  const Sequences& s = args.sequences;
  const int dim = pool.head_dim, group = args.num_heads / pool.num_heads, rows = (task.last - task.first) * group;
  Carver count;
  carve_tile(pool, rows, count);
  Carver carver{scratch.reserve(count.used + 64)};
  Tile tile = carve_tile(pool, rows, carver);
  load_queries(args, task, tile);
  const int offset = s.kv_lengths[task.sequence] - s.cu_seqlens[task.sequence + 1];  // row + offset = position
  const int num_blocks = (task.last + offset + kBlockTokens - 1) / kBlockTokens;
  const int32_t* table = s.block_tables + size_t(task.sequence) * size_t(s.max_blocks);
  for (int r = 0; r < rows && !shared; ++r) {
    tile.totals[r] = {kMinusInfinity, 0.0f, tile.total_values + size_t(r) * size_t(dim)};
    for (int d = 0; d < dim; d += 16) store(tile.totals[r].values + d, zero());
  }
  Ahead ahead;
  for (int i = task.split; i < task.split_end; ++i) {
    const Split split = open_split(pool, args.layer, task.head, table, num_blocks, i, tile.room);
    ahead.start(pool, args.layer, task.head, table, (i + 1) * kSplitBlocks, i + 1 < task.split_end ? num_blocks : 0);
    for (int r = 0; r < rows; ++r) tile.visible[r] = task.first + r / group + offset + 1 - i * kSplitTokens;
    for (int r0 = 0; r0 < rows; r0 += kMaxGroupRows) {
      const int n = rows - r0 < kMaxGroupRows ? rows - r0 : kMaxGroupRows;
      if (tile.visible[r0 + n - 1] <= 0) continue;
      for (int r = 0; r < n; ++r) {
        float* values = tile.part_values + size_t(r) * size_t(dim);
        if (shared) values = shared + (task.partials + size_t(i - task.split) * size_t(rows) + size_t(r0 + r)) * size_t(dim + 16) + 16;
        tile.parts[r].values = values;
      }
      attend_group(split, {tile.q + size_t(r0) * tile.stride, tile.stride, dim, n, tile.visible + r0, tile.scores,
                           tile.weights, tile.parts, rows <= kMaxGroupRows ? &ahead : nullptr});
      for (int r = 0; r < n; ++r) {
        if (shared) tile.parts[r].values[-16] = tile.parts[r].largest, tile.parts[r].values[-15] = tile.parts[r].sum;
        else if (tile.visible[r0 + r] > 0) merge(tile.totals[r0 + r], tile.parts[r], dim);
      }
    }
  }
  for (int r = 0; r < rows && !shared; ++r) {
    const size_t token = size_t(task.first + r / group), head = size_t(task.head * group + r % group);
    finish(tile.totals[r], dim, args.out + (token * size_t(args.num_heads) + head) * size_t(dim));
  }
}

// Merges the stored partials of one tile and head, in the order of the splits.
inline void merge_tile(const AttendArgs& args, const AttendTask& task, int splits, float* shared) {
  const int dim = args.pool->head_dim, group = args.num_heads / args.pool->num_heads, rows = (task.last - task.first) * group;
  const Sequences& s = args.sequences;
  const int offset = s.kv_lengths[task.sequence] - s.cu_seqlens[task.sequence + 1];
  for (int r = 0; r < rows; ++r) {
    alignas(64) float values[256] = {};
    Partial total{kMinusInfinity, 0.0f, values};
    for (int i = 0; i < splits; ++i) {
      if (task.first + r / group + offset + 1 - i * kSplitTokens <= 0) break;
      float* stored = shared + (task.partials + size_t(i) * size_t(rows) + size_t(r)) * size_t(dim + 16);
      merge(total, Partial{stored[0], stored[1], stored + 16}, dim);
    }
    const size_t token = size_t(task.first + r / group), head = size_t(task.head * group + r % group);
    finish(total, dim, args.out + (token * size_t(args.num_heads) + head) * size_t(dim));
  }
}

// The tasks of one call. Tiles of few rows spread their splits (decoding); long prompts are cut into tiles of tokens.
struct AttendPlan {
  std::vector<AttendTask> whole;    // tile against all its splits
  std::vector<AttendTask> pieces;   // tile against some of its splits, partials stored
  std::vector<AttendTask> merges;   // tile whose partials are to be merged; split_end = number of splits
  size_t partial_rows = 0;
};

inline void plan_sequence(const AttendArgs& args, int sequence, int threads, AttendPlan& plan) {
  const Sequences& s = args.sequences;
  const int group = args.num_heads / args.pool->num_heads, heads = args.pool->num_heads;
  const int first = s.cu_seqlens[sequence], last = s.cu_seqlens[sequence + 1], offset = s.kv_lengths[sequence] - last;
  const int tile = 96 / group > 1 ? 96 / group : 1;
  if ((last - first) * group <= 64) {
    const int splits = (s.kv_lengths[sequence] + kSplitTokens - 1) / kSplitTokens;
    const int wanted = (4 * threads) / (heads * s.count), pieces = wanted < 1 ? 1 : wanted < splits ? wanted : splits;
    const size_t rows = size_t(last - first) * size_t(group);
    for (int h = 0; h < heads; ++h) {
      for (int p = 0; p < pieces; ++p) {
        const int from = p * splits / pieces, to = (p + 1) * splits / pieces;
        plan.pieces.push_back({sequence, h, first, last, from, to, plan.partial_rows + size_t(from) * rows});
      }
      plan.merges.push_back({sequence, h, first, last, 0, splits, plan.partial_rows});
      plan.partial_rows += size_t(splits) * rows;
    }
    return;
  }
  // The last tiles see the most keys: they go first, so that no thread ends alone with a long one.
  for (int t = first + (last - 1 - first) / tile * tile; t >= first; t -= tile)
    for (int h = 0; h < heads; ++h) {
      const int end = t + tile < last ? t + tile : last;
      plan.whole.push_back({sequence, h, t, end, 0, (end + offset + kSplitTokens - 1) / kSplitTokens, 0});
    }
}

inline void attend(const AttendArgs& args, ThreadPool& pool) {
  static thread_local AttendPlan plan;
  static thread_local Scratch scratch;
  plan.whole.clear(), plan.pieces.clear(), plan.merges.clear(), plan.partial_rows = 0;
  for (int s = 0; s < args.sequences.count; ++s) plan_sequence(args, s, pool.size(), plan);
  const AttendPlan& tasks = plan;
  float* shared = reinterpret_cast<float*>(scratch.reserve(tasks.partial_rows * size_t(args.pool->head_dim + 16) * 4 + 64));
  const int whole = int(tasks.whole.size()), pieces = int(tasks.pieces.size());
  pool.run(whole + pieces, [&](int i) {
    if (i < whole) attend_tile(args, tasks.whole[size_t(i)], nullptr);
    else attend_tile(args, tasks.pieces[size_t(i - whole)], shared);
    end_attend_task();
  });
  // Merging a few splits takes less time than waking the other threads.
  const int merges = int(tasks.merges.size());
  const auto merge_one = [&](int i) { merge_tile(args, tasks.merges[size_t(i)], tasks.merges[size_t(i)].split_end, shared); };
  if (tasks.partial_rows < 128)
    for (int i = 0; i < merges; ++i) merge_one(i);
  else
    pool.run(merges, merge_one);
}

// Causal attention over the cache's blocks, exact, for decoding, prefill and everything between: what one group of query
// rows and a few blocks of keys give, and how such partial results are merged. Who meets which blocks is decided in
// attention_dense.inl (rows that see every key), attention_lists.inl (rows with a block list) and attention_plan.inl.
//
// A *split* gives each query row a partial result (largest score, sum, weighted values), computed in one pass: all
// scores, their maximum, the exponentials, the product with the values. The splits of a row that sees every key are 4
// blocks (256 tokens), counted from the start of the sequence; those of a row with a list are the listed blocks, one by
// one. Partial results are merged in the order of the sequence. So a row's bits do not depend on threads, on chunking or
// on its neighbours, and decoding may spread the splits over threads.
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

  // The blocks table[0 .. wanted), at most a split of them.
  void start(const KVPool& pool, int layer, int head, const int32_t* table, int wanted) {
    count = wanted < kSplitBlocks ? wanted : kSplitBlocks;
    for (int b = 0; b < count; ++b) blocks[b] = pool.at(table[b], layer, head);
    block = 0, offset = 0, block_bytes = pool.head_bytes;
  }
  void fetch(int lines) {
    if (block >= count) return;
    for (int i = 0; i < lines; ++i, offset += 64) __builtin_prefetch(blocks[block] + offset, 0, 2);
    if (offset >= block_bytes) ++block, offset = 0;
  }
};

// Partial or total results of consecutive rows: largest score, sum of exponentials, weighted sum of values.
struct Partials {
  float *largest, *sum;  // [rows]
  float* values;         // [rows][dim]
  float* running;        // [rows][kSplitBlocks] the sum up to the end of each block, or null

  Partials from(size_t row, int dim) const {
    return {largest + row, sum + row, values + row * size_t(dim), running ? running + row * kSplitBlocks : nullptr};
  }
};

inline Partials carve_partials(size_t rows, int dim, bool running, Carver& carver) {
  Partials p{};
  p.largest = carver.take<float>(rows), p.sum = carver.take<float>(rows), p.values = carver.take<float>(rows * size_t(dim));
  if (running) p.running = carver.take<float>(rows * kSplitBlocks);
  return p;
}

// Query rows that meet a split together, and the room that it takes.
struct Group {
  const uint16_t* q;     // bf16 [rows][stride]
  size_t stride;         // dim, rounded up to 32 and padded with zeros
  int dim, rows;
  const int* visible;    // [rows] tokens of the split that a row may see
  const uint64_t* tree;  // [rows] bit j: the row sees token tree_first + j of the split; or null. Earlier ones are seen
  int tree_first;
  float* scores;         // [kMaxGroupRows][kSplitTokens]
  uint16_t* weights;     // [kMaxGroupRows][kSplitTokens]
  Partials out;          // room for kMaxGroupRows
  Ahead* ahead;          // null for all groups of a tile but the first

  Group from(int row) const {
    Group g = *this;
    g.q += size_t(row) * stride, g.visible += row, g.out = out.from(size_t(row), dim), g.rows -= row;
    if (tree) g.tree += row;
    return g;
  }
};

// Reads ahead meanwhile: attention over all of an 8-bit cache of 32K tokens got 15 to 20% faster.
inline void expand_q8(const uint8_t* codes, size_t count, uint8_t* bf16, Ahead& ahead) {
  for (size_t i = 0; i < count; i += 32) {
    store_line(bf16 + 2 * i, bf16_from_i8(reinterpret_cast<const int8_t*>(codes) + i));
    if (i % 128 == 0) ahead.fetch(1);
  }
}

// Points at the blocks table[0 .. blocks); 8-bit ones are expanded into `room` (2 * dim * 64 * 2 bytes a block) first.
inline Split open_split(const KVPool& pool, int layer, int head, const int32_t* table, int blocks, uint8_t* room, Ahead& ahead) {
  const size_t half = size_t(pool.head_dim) * kBlockTokens;
  Split s{};
  s.blocks = blocks < kSplitBlocks ? blocks : kSplitBlocks;
  for (int b = 0; b < s.blocks; ++b) {
    const uint8_t* data = pool.at(table[b], layer, head);
    if (pool.q8) {
      expand_q8(data, 2 * half, room, ahead);
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

// Scores of the split's tokens t .. t + 15 without those that the row's tree mask hides.
inline F32 keep_tree(F32 scores, int t, int tree_first, uint64_t mask) {
  float lanes[16];
  store(lanes, scores);
  for (int i = 0; i < 16; ++i) {
    const int j = t + i - tree_first;
    if (j >= 0 && j < 64 && !(mask >> j & 1)) lanes[i] = kMinusInfinity;
  }
  return load(lanes);
}

// Sixteen scores of a row from token t on, as the softmax takes them: scaled, and without what the row doesn't see.
inline F32 seen_scores(const Split& split, const Group& group, int row, int t) {
  F32 s = load(group.scores + row * kSplitTokens + t);
  if (split.key_scales[0]) s = mul(s, load(split.key_scales[t / kBlockTokens] + t % kBlockTokens));
  if (t + 16 > group.visible[row]) s = keep_first(s, group.visible[row] - t, kMinusInfinity);
  if (group.tree && t + 16 > group.tree_first) s = keep_tree(s, t, group.tree_first, group.tree[row]);
  return s;
}

// Stores the bf16 weights of the tokens t .. t + 31 from their exponentials.
inline void store_weights(const Split& split, uint16_t* weights, int t, F32 lo, F32 hi) {
  if (split.value_scales[0]) {
    const float* scales = split.value_scales[t / kBlockTokens] + t % kBlockTokens;
    lo = mul(lo, load(scales)), hi = mul(hi, load(scales + 16));
  }
  store_bf16_line(weights + t, lo, hi);
}

// Scores to probabilities of one row: reads scores, writes bf16 weights for the values. A row that sees nothing of the
// split has the largest score kMinusInfinity.
inline void softmax_row(const Split& split, const Group& group, int row) {
  const int tokens = split.blocks * kBlockTokens;
  float* scores = group.scores + row * kSplitTokens;
  uint16_t* weights = group.weights + row * kSplitTokens;
  F32 largest = splat(kMinusInfinity);
  for (int t = 0; t < tokens; t += 16) {
    const F32 s = seen_scores(split, group, row, t);
    store(scores + t, s);
    largest = max(largest, s);
  }
  group.out.largest[row] = reduce_max(largest);
  const F32 top = splat(group.out.largest[row]);
  F32 sum = zero();
  for (int t = 0; t < tokens; t += 32) {
    const F32 lo = exp2(sub(load(scores + t), top)), hi = exp2(sub(load(scores + t + 16), top));
    sum = add(sum, add(lo, hi));
    store_weights(split, weights, t, lo, hi);
    if (group.out.running && t % kBlockTokens == 32) group.out.running[row * kSplitBlocks + t / kBlockTokens] = reduce_add(sum);
  }
  group.out.sum[row] = reduce_add(sum);
}

// The same for rows against a split of one block, whose scores stay in registers. Plain: bf16, and all rows see all of it.
template <bool Plain>
inline void softmax_block(const Split& split, const Group& group, int rows) {
  for (int r = 0; r < rows; ++r) {
    const float* scores = group.scores + r * kSplitTokens;
    uint16_t* weights = group.weights + r * kSplitTokens;
    F32 s[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) s[i] = Plain ? load(scores + 16 * i) : seen_scores(split, group, r, 16 * i);
    const float largest = reduce_max(max(max(s[0], s[1]), max(s[2], s[3])));
    const F32 top = splat(largest);
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) s[i] = exp2(sub(s[i], top));
    if (Plain) store_bf16_line(weights, s[0], s[1]), store_bf16_line(weights + 32, s[2], s[3]);
    else store_weights(split, weights, 0, s[0], s[1]), store_weights(split, weights, 32, s[2], s[3]);
    group.out.largest[r] = largest, group.out.sum[r] = reduce_add(add(add(s[0], s[1]), add(s[2], s[3])));
    if (!Plain && group.out.running) group.out.running[r * kSplitBlocks] = group.out.sum[r];
  }
}

inline bool is_plain(const Split& split, const Group& group, int rows) {
  bool plain = split.blocks == 1 && !split.key_scales[0] && !group.tree && !group.out.running;
  for (int r = 0; r < rows && plain; ++r) plain = group.visible[r] >= kBlockTokens;
  return plain;
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
    for (int v = 0; v < V; ++v) store(group.out.values + size_t(r) * size_t(group.dim) + size_t(column + 16 * v), c[r][v]);
}

inline void softmax_rows(const Split& split, const Group& group, int rows) {
  if (is_plain(split, group, rows)) return softmax_block<true>(split, group, rows);
  if (split.blocks == 1) return softmax_block<false>(split, group, rows);
  for (int r = 0; r < rows; ++r) softmax_row(split, group, r);
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

// total[rows[i]] = total[rows[i]] (+) part[i]; a part that saw nothing leaves the total alone.
inline void merge_rows(const Partials& part, const int* rows, int count, const Partials& total, int dim) {
  for (int i = 0; i < count; i += 16) {
    const int n = count - i < 16 ? count - i : 16;
    float largest[16], sum[16], keep[16], gain[16];
    for (int j = 0; j < n; ++j) largest[j] = total.largest[rows[i + j]], sum[j] = total.sum[rows[i + j]];
    const F32 before = load_first(largest, n), mine = load_first(part.largest + i, n), top = max(before, mine);
    const F32 a = exp2(sub(before, top)), b = exp2(sub(mine, top));
    store(largest, top), store(keep, a), store(gain, b);
    store(sum, fma(load_first(sum, n), a, mul(load_first(part.sum + i, n), b)));
    for (int j = 0; j < n; ++j) {
      if (part.largest[i + j] <= kMinusInfinity && part.sum[i + j] > 0.0f) continue;  // but a NaN goes on
      const int row = rows[i + j];
      total.largest[row] = largest[j], total.sum[row] = sum[j];
      float* to = total.values + size_t(row) * size_t(dim);
      const float* from = part.values + size_t(i + j) * size_t(dim);
      for (int d = 0; d < dim; d += 16) store(to + d, fma(load(to + d), splat(keep[j]), mul(load(from + d), splat(gain[j]))));
    }
  }
}

inline void clear_rows(const Partials& total, int rows, int dim) {
  for (int r = 0; r < rows; ++r) total.largest[r] = kMinusInfinity, total.sum[r] = 0.0f;
  for (int i = 0; i < rows * dim; i += 16) store(total.values + i, zero());
}

// Value by value, as they were stored: a wider load would wait until all of them have reached the cache.
inline void copy_sums(const Partials& from, int rows, const Partials& to) {
  for (int r = 0; r < rows; ++r) {
    const volatile float *largest = from.largest + r, *sum = from.sum + r;
    to.largest[r] = *largest, to.sum[r] = *sum;
  }
}

inline void copy_rows(const Partials& from, int rows, int dim, const Partials& to) {
  copy_sums(from, rows, to);
  memcpy(to.values, from.values, size_t(rows) * size_t(dim) * 4);
  if (to.running && from.running) memcpy(to.running, from.running, size_t(rows) * kSplitBlocks * 4);
}

// What a row's total makes of a sum of exponentials that was taken with another largest score: a probability.
inline float probability(const Partials& total, int row, float largest, float sum) {
  float factor[16];
  store(factor, exp2(splat(largest - total.largest[row])));
  return sum * factor[0] / total.sum[row];
}

// Query tokens [first, last) of one sequence against one key/value head. Rows are token * group + head of the group.
struct RowRange {
  int sequence, head, first, last;
};

inline int group_size(const AttendArgs& args) { return args.num_heads / args.pool->num_heads; }

inline int group_rows(const AttendArgs& args, const RowRange& range) { return (range.last - range.first) * group_size(args); }

inline const int32_t* block_table(const AttendArgs& args, int sequence) {
  return args.sequences.block_tables + size_t(sequence) * size_t(args.sequences.max_blocks);
}

// Keys that a token may see, but for its tree mask: up to its own position, or all where the step is a tree.
inline int visible_keys(const AttendArgs& args, int sequence, int token) {
  const int length = args.sequences.kv_lengths[sequence];
  return args.tree_masks ? length : length - (args.sequences.cu_seqlens[sequence + 1] - token - 1);
}

// The place of a sequence's first row of this step among its keys.
inline int first_new_key(const AttendArgs& args, int sequence) {
  return args.sequences.kv_lengths[sequence] - (args.sequences.cu_seqlens[sequence + 1] - args.sequences.cu_seqlens[sequence]);
}

// Where a sequence's masses of one key/value head are added up, or null where nobody asked: only a row that is alone
// in its sequence is reported.
inline float* mass_of(const AttendArgs& args, int sequence, int head) {
  const Sequences& s = args.sequences;
  if (!args.block_mass || s.cu_seqlens[sequence + 1] - s.cu_seqlens[sequence] != 1) return nullptr;
  return args.block_mass + (size_t(sequence) * size_t(args.pool->num_heads) + size_t(head)) * size_t(s.max_blocks);
}

// Scaled bf16 queries of a range, [rows][stride], and what its rows may see.
inline void load_queries(const AttendArgs& args, const RowRange& range, size_t stride, uint16_t* to) {
  const int dim = args.pool->head_dim, group = group_size(args);
  const F32 scale = splat(args.scale * 1.44269504f);
  for (int token = range.first; token < range.last; ++token) {
    const float* q = args.q + (size_t(token) * size_t(args.num_heads) + size_t(range.head * group)) * size_t(dim);
    for (int g = 0; g < group; ++g, q += dim, to += stride) {
      for (int d = 0; d < dim; d += 16) store_bf16(to + d, mul(load(q + d), scale));
      for (size_t d = size_t(dim); d < stride; ++d) to[d] = 0;
    }
  }
}

// Totals of a range to the output.
inline void finish(const AttendArgs& args, const RowRange& range, const Partials& total) {
  const int dim = args.pool->head_dim, group = group_size(args), rows = group_rows(args, range);
  for (int r = 0; r < rows; ++r) {
    const size_t token = size_t(range.first + r / group), head = size_t(range.head * group + r % group);
    float* out = args.out + (token * size_t(args.num_heads) + head) * size_t(dim);
    const float* values = total.values + size_t(r) * size_t(dim);
    const F32 inverse = splat(1.0f / total.sum[r]);
    for (int d = 0; d < dim; d += 16) store(out + d, mul(load(values + d), inverse));
  }
}

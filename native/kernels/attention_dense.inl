// Rows that see every key: a tile of query rows against the splits of 4 blocks, in order. Included by target.cpp.

// A tile and the splits [split, split_end) of it.
struct DenseTask {
  RowRange range;
  int split, split_end;
  size_t partials;  // index of the task's first partial row among the shared ones, where splits are spread over tasks
};

// Scratch of one tile.
struct Tile {
  size_t stride;  // of q: dim, rounded up to 32
  uint16_t* q;
  float* scores;
  uint16_t* weights;
  uint8_t* room;  // for 8-bit blocks
  Partials part, total;
  int *visible, *index;
  uint64_t* tree;
};

inline Tile carve_tile(const AttendArgs& args, int rows, bool running, Carver& carver) {
  const KVPool& pool = *args.pool;
  const size_t dim = size_t(pool.head_dim), padded = size_t(rows + 31) / 32 * 32;
  Tile t{};
  t.stride = (dim + 31) / 32 * 32;
  t.q = carver.take<uint16_t>(padded * t.stride);
  t.scores = carver.take<float>(kMaxGroupRows * kSplitTokens);
  t.weights = carver.take<uint16_t>(kMaxGroupRows * kSplitTokens);
  t.room = carver.take<uint8_t>(pool.q8 ? kSplitBlocks * dim * kBlockTokens * 4 : 0);
  t.part = carve_partials(kMaxGroupRows, pool.head_dim, running, carver);
  t.total = carve_partials(padded, pool.head_dim, false, carver);
  t.visible = carver.take<int>(padded), t.index = carver.take<int>(padded);
  if (args.tree_masks) t.tree = carver.take<uint64_t>(padded);
  return t;
}

inline int visible_splits(const AttendArgs& args, const RowRange& range) {
  return (visible_keys(args, range.sequence, range.last - 1) + kSplitTokens - 1) / kSplitTokens;
}

// The first group of a split's rows reads the next split ahead: SmolLM2 at 28K keys, pieces of 512 tokens, 205 -> 186 us a
// token and layer; 32 heads of 128 at 12K 571 -> 532 (Zen 4, two threads). At 3K, where all is in the cache, no difference.
//
// One tile against its splits in order. Without `shared`, merges them and writes the result; else stores each partial.
inline void attend_tile(const AttendArgs& args, const DenseTask& task, const Partials* shared) {
  static thread_local Scratch scratch;
  const KVPool& pool = *args.pool;
  const RowRange& range = task.range;
  const int dim = pool.head_dim, group = group_size(args), rows = group_rows(args, range);
  Carver count;
  carve_tile(args, rows, shared && shared->running, count);
  Carver carver{scratch.reserve(count.used + 64)};
  Tile tile = carve_tile(args, rows, shared && shared->running, carver);
  load_queries(args, range, tile.stride, tile.q);
  if (!shared) clear_rows(tile.total, rows, dim);
  for (int r = 0; r < rows; ++r) tile.index[r] = r;
  for (int r = 0; r < rows && tile.tree; ++r) tile.tree[r] = args.tree_masks[range.first + r / group];
  const int blocks = (visible_keys(args, range.sequence, range.last - 1) + kBlockTokens - 1) / kBlockTokens;
  const int new_keys = first_new_key(args, range.sequence);
  const int32_t* table = block_table(args, range.sequence);
  Ahead ahead;
  for (int i = task.split; i < task.split_end; ++i) {
    const int first = i * kSplitBlocks, next = first + kSplitBlocks;
    ahead.start(pool, args.layer, range.head, table + next, i + 1 < task.split_end ? blocks - next : 0);
    const Split split = open_split(pool, args.layer, range.head, table + first, blocks - first, tile.room, ahead);
    for (int r = 0; r < rows; ++r) tile.visible[r] = visible_keys(args, range.sequence, range.first + r / group) - i * kSplitTokens;
    for (int r0 = 0; r0 < rows; r0 += kMaxGroupRows) {
      const int n = rows - r0 < kMaxGroupRows ? rows - r0 : kMaxGroupRows;
      int hidden = 0;  // the panel's first rows may end before this split
      while (hidden < n && tile.visible[r0 + hidden] <= 0) ++hidden;
      if (hidden == n) continue;
      attend_group(split, {tile.q + size_t(r0) * tile.stride, tile.stride, dim, n, tile.visible + r0,
                           tile.tree ? tile.tree + r0 : nullptr, new_keys - i * kSplitTokens, tile.scores, tile.weights,
                           tile.part, r0 == 0 ? &ahead : nullptr});
      if (shared) copy_rows(tile.part, n, dim, shared->from(task.partials + size_t(i - task.split) * size_t(rows) + size_t(r0), dim));
      else merge_rows(tile.part.from(size_t(hidden), dim), tile.index + r0 + hidden, n - hidden, tile.total, dim);
    }
  }
  if (!shared) finish(args, range, tile.total);
}

// Merges the stored partials of one tile, in the order of the splits.
inline void merge_tile(const AttendArgs& args, const DenseTask& task, const Partials& shared) {
  static thread_local Scratch scratch;
  const RowRange& range = task.range;
  const int dim = args.pool->head_dim, group = group_size(args), rows = group_rows(args, range);
  Carver count;
  carve_partials(size_t(rows), dim, false, count), count.take<int>(size_t(rows));
  Carver carver{scratch.reserve(count.used + 64)};
  const Partials total = carve_partials(size_t(rows), dim, false, carver);
  int* index = carver.take<int>(size_t(rows));
  for (int r = 0; r < rows; ++r) index[r] = r;
  clear_rows(total, rows, dim);
  for (int i = 0; i < task.split_end; ++i) {
    int hidden = 0;
    while (hidden < rows && visible_keys(args, range.sequence, range.first + hidden / group) <= i * kSplitTokens) ++hidden;
    const Partials part = shared.from(task.partials + size_t(i) * size_t(rows) + size_t(hidden), dim);
    merge_rows(part, index + hidden, rows - hidden, total, dim);
  }
  finish(args, range, total);
  float* mass = mass_of(args, range.sequence, range.head);
  for (int i = 0; i < task.split_end && mass; ++i) {
    const int blocks = (visible_keys(args, range.sequence, range.first) + kBlockTokens - 1) / kBlockTokens - i * kSplitBlocks;
    for (int r = 0; r < rows; ++r) {
      const Partials part = shared.from(task.partials + size_t(i) * size_t(rows) + size_t(r), dim);
      const float weight = probability(total, r, part.largest[0], 1.0f);
      for (int b = 0; b < kSplitBlocks && b < blocks; ++b)
        mass[i * kSplitBlocks + b] += weight * (part.running[b] - (b > 0 ? part.running[b - 1] : 0.0f));
    }
  }
}

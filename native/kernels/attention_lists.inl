// Rows with a block list (InfLLM v2, stage 2): a tile of query tokens walks the union of its lists in ascending order.
// Each block meets the rows that list it, packed side by side, and its partial results are merged one by one into the
// rows' totals: what a row computes is the same for every tile that it may stand in. Included by target.cpp.

// A block that the tile visits, and for whom.
struct Visit {
  int block;
  int earlier;      // tokens of all visits before this one
  uint64_t tokens;  // bit i: token i of the tile
};

// A tile and its share of the visits: one of `pieces`, which merges what it can and stores the rest.
struct ListTask {
  RowRange range;
  int piece, pieces;
  size_t partials;  // the tile's shared rows: totals, then partial results; none where one piece does everything
};

constexpr int kMaxListTokens = 64;  // bits of Visit::tokens

// Scratch of one tile.
struct ListTile {
  size_t stride;
  uint16_t *q, *packed;  // all queries; those of the rows that share a block
  float* scores;
  uint16_t* weights;
  uint8_t* room;
  Partials part, total;
  int *limits, *rows, *visible;  // per row of the tile: keys it may see; per row that shares a block: its number, tokens seen
  uint64_t *tree, *members;      // members: one word per block of the sequence
  Visit* visits;
  int num_visits;
};

inline int sequence_blocks(const AttendArgs& args, int sequence) {
  return (args.sequences.kv_lengths[sequence] + kBlockTokens - 1) / kBlockTokens;
}

inline ListTile carve_list_tile(const AttendArgs& args, const RowRange& range, Carver& carver) {
  const KVPool& pool = *args.pool;
  const int dim = pool.head_dim, rows = group_rows(args, range);
  // Panels are read whole, wherever in the tile they begin.
  const size_t padded = size_t(rows + 31) / 32 * 32 + 32, blocks = size_t(sequence_blocks(args, range.sequence));
  ListTile t{};
  t.stride = size_t(dim + 31) / 32 * 32;
  t.q = carver.take<uint16_t>(padded * t.stride), t.packed = carver.take<uint16_t>(kMaxGroupRows * t.stride);
  t.scores = carver.take<float>(kMaxGroupRows * kSplitTokens);
  t.weights = carver.take<uint16_t>(kMaxGroupRows * kSplitTokens);
  t.room = carver.take<uint8_t>(pool.q8 ? size_t(dim) * kBlockTokens * 4 : 0);
  t.part = carve_partials(kMaxGroupRows, dim, false, carver), t.total = carve_partials(padded, dim, false, carver);
  t.limits = carver.take<int>(padded), t.rows = carver.take<int>(padded), t.visible = carver.take<int>(kMaxGroupRows);
  t.tree = carver.take<uint64_t>(args.tree_masks ? kMaxGroupRows : 0);
  t.members = carver.take<uint64_t>(blocks), t.visits = carver.take<Visit>(blocks);
  return t;
}

inline const int32_t* block_list(const AttendArgs& args, int head, int token) {
  return args.blocks + (size_t(head) * size_t(args.sequences.rows) + size_t(token)) * size_t(args.list_length);
}

// Blocks of a token's list that hold keys which it may see.
inline int listed_blocks(const AttendArgs& args, const RowRange& range, int token) {
  const int32_t* list = block_list(args, range.head, token);
  const int end = (visible_keys(args, range.sequence, token) + kBlockTokens - 1) / kBlockTokens;
  int n = 0;
  while (n < args.list_length && list[n] >= 0 && list[n] < end) ++n;
  return n;
}

// The union of the tile's lists in ascending order. A decoding token's list is its own union.
inline void collect_visits(const AttendArgs& args, const RowRange& range, ListTile& tile) {
  const int tokens = range.last - range.first, blocks = sequence_blocks(args, range.sequence);
  tile.num_visits = 0;
  if (tokens == 1) {
    const int32_t* list = block_list(args, range.head, range.first);
    const int n = listed_blocks(args, range, range.first);
    for (int k = 0; k < n; ++k) tile.visits[tile.num_visits++] = {list[k], k, 1};
    return;
  }
  memset(tile.members, 0, size_t(blocks) * sizeof(uint64_t));
  for (int i = 0; i < tokens; ++i) {
    const int32_t* list = block_list(args, range.head, range.first + i);
    const int n = listed_blocks(args, range, range.first + i);
    for (int k = 0; k < n; ++k) tile.members[list[k]] |= uint64_t(1) << i;
  }
  for (int b = 0, earlier = 0; b < blocks; ++b) {
    if (!tile.members[b]) continue;
    tile.visits[tile.num_visits++] = {b, earlier, tile.members[b]};
    earlier += __builtin_popcountll(tile.members[b]);
  }
}

// Numbers of the rows that visit a block, ascending.
inline int visiting_rows(const Visit& visit, int group, int* rows) {
  int n = 0;
  for (uint64_t tokens = visit.tokens; tokens; tokens &= tokens - 1)
    for (int g = 0; g < group; ++g) rows[n++] = __builtin_ctzll(tokens) * group + g;
  return n;
}

// The rows `rows[0 .. n)` of the tile as a group against one block. Rows that follow each other are used as they lie.
inline Group pack_group(const AttendArgs& args, const RowRange& range, const ListTile& tile, int block, const int* rows, int n, Ahead* ahead) {
  const int dim = args.pool->head_dim, group = group_size(args), first_key = block * kBlockTokens;
  const uint16_t* q = tile.q + size_t(rows[0]) * tile.stride;
  if (rows[n - 1] - rows[0] != n - 1) {
    for (int i = 0; i < n; ++i)
      for (size_t d = 0; d < tile.stride; d += 32)
        store_line(tile.packed + size_t(i) * tile.stride + d, load_line(tile.q + size_t(rows[i]) * tile.stride + d));
    q = tile.packed;
  }
  for (int i = 0; i < n; ++i) tile.visible[i] = tile.limits[rows[i]] - first_key;
  for (int i = 0; i < n && args.tree_masks; ++i) tile.tree[i] = args.tree_masks[range.first + rows[i] / group];
  return {q, tile.stride, dim, n, tile.visible, args.tree_masks ? tile.tree : nullptr,
          first_new_key(args, range.sequence) - first_key, tile.scores, tile.weights, tile.part, ahead};
}

inline ListTile open_list_tile(const AttendArgs& args, const RowRange& range, Scratch& scratch) {
  Carver count;
  carve_list_tile(args, range, count);
  Carver carver{scratch.reserve(count.used + 64)};
  ListTile tile = carve_list_tile(args, range, carver);
  collect_visits(args, range, tile);
  return tile;
}

// Adds what a decoding row gives to each listed block, where that was asked for. `stored` has the largest score and the
// sum of every visit and row; sums become probabilities, 16 at a time.
inline void add_list_mass(const AttendArgs& args, const RowRange& range, const ListTile& tile, const Partials& stored, const Partials& total) {
  const int group = group_size(args), count = tile.num_visits * group;
  float* mass = mass_of(args, range.sequence, range.head);
  if (!mass) return;
  float *largest = tile.scores, *inverse = tile.scores + group + 16;  // of the rows, repeated, to be read from any row on
  for (int i = 0; i < group + 16; ++i) largest[i] = total.largest[i % group], inverse[i] = 1.0f / total.sum[i % group];
  for (int i = 0; i < count; i += 16) {
    const F32 factor = exp2(sub(load_first(stored.largest + i, count - i), load(largest + i % group)));
    const F32 share = mul(factor, load(inverse + i % group));
    store_first(stored.sum + i, mul(load_first(stored.sum + i, count - i), share), count - i);
  }
  for (int v = 0; v < tile.num_visits; ++v)
    for (int g = 0; g < group; ++g) mass[tile.visits[v].block] += stored.sum[v * group + g];
}

// A piece of a tile. The first piece merges as it goes; the others begin in the middle of the rows' sequences and store
// their partial results for merge_lists.
inline void attend_lists(const AttendArgs& args, const ListTask& task, const Partials& shared) {
  static thread_local Scratch scratch;
  const KVPool& pool = *args.pool;
  const RowRange& range = task.range;
  const int dim = pool.head_dim, group = group_size(args), rows = group_rows(args, range);
  ListTile tile = open_list_tile(args, range, scratch);
  load_queries(args, range, tile.stride, tile.q);
  for (int r = 0; r < rows; ++r) tile.limits[r] = visible_keys(args, range.sequence, range.first + r / group);
  const bool alone = task.pieces == 1, mass = mass_of(args, range.sequence, range.head);
  const Partials total = alone ? tile.total : shared.from(task.partials, dim);
  const Partials stored = shared.from(task.partials + size_t(rows), dim);
  if (task.piece == 0) clear_rows(total, rows, dim);
  const int32_t* table = block_table(args, range.sequence);
  const int begin = tile.num_visits * task.piece / task.pieces, end = tile.num_visits * (task.piece + 1) / task.pieces;
  for (int v = begin; v < end; ++v) {
    const Visit& visit = tile.visits[v];
    Ahead ahead;  // two or three blocks ahead, or every second line, gave nothing more
    if (v + 1 < end) ahead.start(pool, args.layer, range.head, table + tile.visits[v + 1].block, 1);
    const Split split = open_split(pool, args.layer, range.head, table + visit.block, 1, tile.room, ahead);
    const int n = visiting_rows(visit, group, tile.rows);
    for (int r0 = 0; r0 < n; r0 += kMaxGroupRows) {
      const int count = n - r0 < kMaxGroupRows ? n - r0 : kMaxGroupRows;
      attend_group(split, pack_group(args, range, tile, visit.block, tile.rows + r0, count, &ahead));
      const Partials to = stored.from(size_t(visit.earlier * group + r0), dim);
      if (task.piece > 0) copy_rows(tile.part, count, dim, to);
      else merge_rows(tile.part, tile.rows + r0, count, total, dim);
      if (task.piece == 0 && mass) copy_sums(tile.part, count, to);
    }
  }
  if (!alone) return;
  finish(args, range, total);
  add_list_mass(args, range, tile, stored, total);
}

// The stored partial results of pieces 1 and following into the first piece's totals, in the order of the blocks.
inline void merge_lists(const AttendArgs& args, const ListTask& task, const Partials& shared) {
  static thread_local Scratch scratch;
  const RowRange& range = task.range;
  const int dim = args.pool->head_dim, group = group_size(args), rows = group_rows(args, range);
  const ListTile tile = open_list_tile(args, range, scratch);
  const Partials total = shared.from(task.partials, dim), stored = shared.from(task.partials + size_t(rows), dim);
  for (int v = tile.num_visits / task.pieces; v < tile.num_visits; ++v) {
    const int n = visiting_rows(tile.visits[v], group, tile.rows);
    merge_rows(stored.from(size_t(tile.visits[v].earlier * group), dim), tile.rows, n, total, dim);
  }
  finish(args, range, total);
  add_list_mass(args, range, tile, stored, total);
}

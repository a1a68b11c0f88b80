// The tasks of one attention call. Included by target.cpp.
//
// Rows of one sequence are cut into runs of rows that have lists, or have none (with several key/value heads: each of
// them). Tiles of few rows spread their keys over the threads (decoding); long runs are cut into tiles of tokens.

struct AttendPlan {
  std::vector<DenseTask> whole;       // tile against all its splits
  std::vector<DenseTask> pieces;      // tile against some of its splits, partials stored
  std::vector<DenseTask> merges;      // tile whose partials are to be merged; split_end = number of splits
  std::vector<ListTask> lists;        // tile, or piece of one, against the blocks of its lists
  std::vector<ListTask> list_merges;  // tile whose pieces are to be merged
  size_t partial_rows = 0;
};

constexpr int kFewRows = 64;   // rows of a tile whose keys are spread over tasks
constexpr int kTileRows = 96;  // rows of a tile of a long run that sees every key

inline bool has_list(const AttendArgs& args, int head, int token) {
  return args.blocks && args.list_length > 0 && block_list(args, head, token)[0] >= 0;
}

inline void plan_dense_pieces(const AttendArgs& args, const RowRange& range, int threads, AttendPlan& plan) {
  const int splits = visible_splits(args, range);
  const int wanted = (4 * threads) / (args.pool->num_heads * args.sequences.count);
  const int pieces = wanted < 1 ? 1 : wanted < splits ? wanted : splits;
  const size_t rows = size_t(group_rows(args, range));
  for (int p = 0; p < pieces; ++p) {
    const int from = p * splits / pieces, to = (p + 1) * splits / pieces;
    plan.pieces.push_back({range, from, to, plan.partial_rows + size_t(from) * rows});
  }
  plan.merges.push_back({range, 0, splits, plan.partial_rows});
  plan.partial_rows += size_t(splits) * rows;
}

// As few pieces as give every thread the same number: stored partial results are written and read again.
inline int list_pieces(int tiles, int threads) {
  int pieces = 1;
  while (tiles * pieces % threads != 0 && tiles * pieces < 4 * threads) ++pieces;
  return pieces;
}

inline void plan_list_pieces(const AttendArgs& args, const RowRange& range, int threads, AttendPlan& plan) {
  const int pieces = list_pieces(args.pool->num_heads * args.sequences.count, threads);
  for (int p = 0; p < pieces; ++p) plan.lists.push_back({range, p, pieces, plan.partial_rows});
  if (pieces > 1) plan.list_merges.push_back({range, 0, pieces, plan.partial_rows});
  if (pieces == 1 && !mass_of(args, range.sequence, range.head)) return;
  size_t listed = 0;
  for (int token = range.first; token < range.last; ++token) listed += size_t(listed_blocks(args, range, token));
  plan.partial_rows += size_t(group_rows(args, range)) + listed * size_t(group_size(args));
}

// Tokens of a tile of a long run with lists: 64 instead of 32 take 5 to 14% less time, since neighbours share blocks
// (SmolLM2 with 62 free blocks, 80% of them the neighbour's, 32K and 128K keys), but every thread should get a few tiles.
inline int list_tile_tokens(int tokens, int heads, int threads) {
  int tile = kMaxListTokens;
  while (threads > 1 && tile > 16 && (tokens + tile - 1) / tile * heads < 3 * threads) tile /= 2;
  return tile;
}

// Tokens of a tile of a long run that sees every key. A prompt that is read beside others comes in short pieces: 32
// tokens of 3 key/value heads in tiles of 32 are three tasks, and one of two threads waits half of the time (SmolLM2,
// 28K keys, Zen 4: 268 us a token and layer, with tiles of 8 tokens 188; pieces of 512 tokens take 186). Smaller tiles
// expand 8-bit keys more often.
inline int dense_tile_tokens(const AttendArgs& args, int tokens, int threads) {
  const int group = group_size(args), least = args.pool->q8 ? 2 * kMaxGroupRows : kMaxGroupRows;
  for (int rows = kTileRows;; rows /= 2) {
    const int tile = rows / group > 1 ? rows / group : 1, tasks = (tokens + tile - 1) / tile * args.pool->num_heads;
    const int rounds = (tasks + threads - 1) / threads;
    if (rows / 2 < least || 15 * rounds * threads <= 16 * tasks) return tile;
  }
}

// The last tiles of rows without lists see the most keys: they go first, so that no thread ends alone with a long one.
inline void plan_long_run(const AttendArgs& args, int sequence, int first, int last, int threads, AttendPlan& plan) {
  const int heads = args.pool->num_heads, dense = dense_tile_tokens(args, last - first, threads);
  for (int t = first + (last - 1 - first) / dense * dense; t >= first; t -= dense)
    for (int h = 0; h < heads; ++h) {
      const RowRange range{sequence, h, t, t + dense < last ? t + dense : last};
      if (!has_list(args, h, first)) plan.whole.push_back({range, 0, visible_splits(args, range), 0});
    }
  const int tile = list_tile_tokens(last - first, heads, threads);
  for (int t = first; t < last; t += tile)
    for (int h = 0; h < heads; ++h)
      if (has_list(args, h, first)) plan.lists.push_back({{sequence, h, t, t + tile < last ? t + tile : last}, 0, 1, 0});
}

// Rows [first, last) of a sequence, all of which have lists or have none, for each of the heads.
inline void plan_run(const AttendArgs& args, int sequence, int first, int last, int threads, AttendPlan& plan) {
  if ((last - first) * group_size(args) > kFewRows && last - first > 1) return plan_long_run(args, sequence, first, last, threads, plan);
  for (int h = 0; h < args.pool->num_heads; ++h) {
    const RowRange range{sequence, h, first, last};
    if (has_list(args, h, first)) plan_list_pieces(args, range, threads, plan);
    else plan_dense_pieces(args, range, threads, plan);
  }
}

inline bool same_kind(const AttendArgs& args, int token, int other) {
  bool same = true;
  for (int h = 0; h < args.pool->num_heads && args.blocks; ++h) same = same && has_list(args, h, token) == has_list(args, h, other);
  return same;
}

inline void plan_sequence(const AttendArgs& args, int sequence, int threads, AttendPlan& plan) {
  const int begin = args.sequences.cu_seqlens[sequence];
  for (int last = args.sequences.cu_seqlens[sequence + 1]; last > begin;) {
    int first = last - 1;
    while (first > begin && same_kind(args, first - 1, first)) --first;
    plan_run(args, sequence, first, last, threads, plan);
    last = first;
  }
}

inline void attend(const AttendArgs& args, ThreadPool& pool) {
  static thread_local AttendPlan plan;
  static thread_local Scratch scratch;
  plan.whole.clear(), plan.pieces.clear(), plan.merges.clear(), plan.lists.clear(), plan.list_merges.clear();
  plan.partial_rows = 0;
  for (int s = 0; s < args.sequences.count; ++s) plan_sequence(args, s, pool.size(), plan);
  const AttendPlan& tasks = plan;
  const bool running = args.block_mass && !tasks.pieces.empty();
  Carver count;
  carve_partials(tasks.partial_rows, args.pool->head_dim, running, count);
  Carver carver{scratch.reserve(count.used + 64)};
  const Partials shared = carve_partials(tasks.partial_rows, args.pool->head_dim, running, carver);
  const int whole = int(tasks.whole.size()), pieces = int(tasks.pieces.size()), lists = int(tasks.lists.size());
  pool.run(whole + pieces + lists, [&](int i) {
    if (i < whole) attend_tile(args, tasks.whole[size_t(i)], nullptr);
    else if (i < whole + pieces) attend_tile(args, tasks.pieces[size_t(i - whole)], &shared);
    else attend_lists(args, tasks.lists[size_t(i - whole - pieces)], shared);
    end_attend_task();
  });
  const int merges = int(tasks.merges.size()), list_merges = int(tasks.list_merges.size());
  const auto merge_one = [&](int i) {
    if (i < merges) merge_tile(args, tasks.merges[size_t(i)], shared);
    else merge_lists(args, tasks.list_merges[size_t(i - merges)], shared);
  };
  // Merging a few splits takes less time than waking the other threads.
  if (tasks.partial_rows < 128)
    for (int i = 0; i < merges + list_merges; ++i) merge_one(i);
  else
    pool.run(merges + list_merges, merge_one);
}

// Stage 1 of InfLLM v2: scores of semantic kernels, pooled to blocks, and the best blocks of each row.
//
// A tile is up to 16 query rows (tokens of one sequence times the heads that share a key/value head) against all their
// columns. First each chunk of columns by itself, then, row by row, what needs all of them: the normalisers, the sums
// over heads, pooling and choice. In decoding the chunks are spread over threads.

#include "kernel_scores.inl"
#include "top_blocks.inl"

// Tokens [first, last) of one sequence against one key/value head; chunks [chunk, chunk_end).
struct SelectTask {
  int sequence, head, first, last, chunk, chunk_end;
  size_t room;  // bytes into the shared room, where chunks are spread over tasks
};

struct SelectPlan {
  std::vector<SelectTask> whole;   // a tile, all in one
  std::vector<SelectTask> pieces;  // some chunks of a tile
  std::vector<SelectTask> ends;    // the rest of it
  size_t room = 0;
};

// Place of a row in its sequence, and the columns that it sees: of complete chunks at or before it.
struct RowPlace {
  int position, columns;
};

inline RowPlace place_of(const SelectArgs& args, int sequence, int row) {
  const Sequences& s = args.sequences;
  const int rows = s.cu_seqlens[sequence + 1] - s.cu_seqlens[sequence], length = s.kv_lengths[sequence];
  if (!args.tree) {
    const int position = length - s.cu_seqlens[sequence + 1] + row;
    return {position, (position + 1) / kKernelStride};
  }
  const int position = args.positions[row], known = position + 1 < length - rows ? position + 1 : length - rows;
  return {position, known / kKernelStride};
}

inline bool is_dense(const SelectArgs& args, int position) {
  return args.lists && (position + 1 < args.dense_len || position / kBlockTokens < args.width);
}

inline int most_columns(const SelectArgs& args, const SelectTask& task) {
  int most = 0;
  for (int row = task.first; row < task.last; ++row) {
    const RowPlace place = place_of(args, task.sequence, row);
    if (place.columns > most && !is_dense(args, place.position)) most = place.columns;
  }
  return most;
}

// A tile's queries and what its columns pass through.
struct ScoreRoom {
  ScoreQueries queries;
  ChunkState* states;  // [row]
  int* visible;        // [row] columns
  uint8_t* groups;     // two quads of groups that had to be put together
  int32_t* dots;       // two quads
  size_t group_bytes;
};

inline ScoreRoom carve_room(const KVPool& pool, int rows, Carver& carver) {
  ScoreRoom room;
  ScoreQueries& q = room.queries;
  const size_t padded = size_t(rows + kPanel - 1) / kPanel * kPanel;
  q.rows = rows, q.lines = pool.head_dim / 4, q.stride = size_t(pool.kernel_dim);
  q.codes = carver.take<int8_t>(padded * q.stride + 64);
  q.scales = carver.take<float>(padded), q.offsets = carver.take<float>(padded);
  room.states = carver.take<ChunkState>(padded);
  room.visible = carver.take<int>(padded);
  room.group_bytes = q.stride * kKernelGroup + 64;
  room.groups = carver.take<uint8_t>(8 * room.group_bytes);
  room.dots = carver.take<int32_t>(8 * 256);
  return room;
}

inline void load_rows(const SelectArgs& args, const SelectTask& task, ScoreRoom& room) {
  const int group = args.num_heads / args.pool->num_heads, dim = args.pool->head_dim;
  for (int r = 0; r < room.queries.rows; ++r) {
    const size_t token = size_t(task.first + r / group), head = size_t(task.head * group + r % group);
    const float* q = args.q + (token * size_t(args.num_heads) + head) * size_t(dim);
    quantize_query(q, args.scale * 1.44269504f, dim, room.queries, r);
    room.visible[r] = place_of(args, task.sequence, task.first + r / group).columns;
  }
}

// Opens the groups of a quad, of the first `columns` columns; `which` of the two places in the room.
inline Quad open_quad(const SelectArgs& args, const SelectTask& task, const ScoreRoom& room, int first, int columns, int which) {
  const Sequences& s = args.sequences;
  const int32_t* table = s.block_tables + size_t(task.sequence) * size_t(s.max_blocks);
  const int num_blocks = (s.kv_lengths[task.sequence] + kBlockTokens - 1) / kBlockTokens;
  Quad quad;
  quad.first = first, quad.count = columns - first < kQuad ? (columns - first + kKernelGroup - 1) / kKernelGroup : 4;
  quad.dots = room.dots + which * 4 * 256;
  for (int g = 0; g < quad.count; ++g)
    quad.groups[g] = open_group(*args.pool, args.layer, task.head, table, num_blocks, first / kKernelGroup + g,
                                room.groups + size_t(4 * which + g) * room.group_bytes);
  return quad;
}

// Asks for the quad behind one that lies in order, a part with every row: two ahead of the one that becomes shares. One
// layer of SmolLM2 at 128K tokens, one thread: 67 us instead of 83 (24 GB/s); all at once 73; four or eight ahead, or into
// the second-level cache, 85.
struct Behind {
  const uint8_t* lines;
  size_t count, step;
  void start(const Quad& quad, const ScoreRoom& room, int columns, int rows) {
    const bool together = quad.groups[0].codes >= room.groups && quad.groups[0].codes < room.groups + 8 * room.group_bytes;
    count = together || quad.first + kQuad >= columns ? 0 : kQuad * room.queries.stride / 64;
    lines = quad.groups[0].codes + kQuad * room.queries.stride, step = (count + size_t(rows) - 1) / size_t(rows);
  }
  void fetch() {
    for (size_t i = 0; i < step && count; ++i, --count, lines += 64) prefetch(lines);
  }
};

// One row's chunk once more, relative to its largest score.
template <bool kCoarse>
inline void score_again(const SelectArgs& args, const SelectTask& task, const ScoreRoom& room, int row, int chunk, int columns, const ScoreRows& rows) {
  const int end = columns < (chunk + 1) * kScoreChunk ? columns : (chunk + 1) * kScoreChunk;
  const float reference = rows.tops[rows.at(row, chunk)];
  ChunkState state{splat(kMinusInfinity), splat(kMinusInfinity), zero()};
  for (int column = chunk * kScoreChunk; column < end; column += kQuad) {
    const Quad quad = open_quad(args, task, room, column, columns, 0);
    for (int g = 0; g < quad.count; ++g)
      dot_rows<1>(room.queries, room.queries.codes + size_t(row) * room.queries.stride, quad.groups[g].codes, quad.dots + 256 * g + 16 * (row % kPanel));
    score_row<kCoarse>(room.queries, quad, row, room.visible[row], reference, rows, state);
  }
  keep_chunk<kCoarse>(rows, row, chunk, reference, state);
}

// The rows of one chunk. While one quad's dot products become shares, the next one's are under way in the tiles.
template <bool kCoarse>
inline void score_chunk(const SelectArgs& args, const SelectTask& task, const ScoreRoom& room, int chunk, int columns, const ScoreRows& rows) {
  const int begin = chunk * kScoreChunk, end = columns < begin + kScoreChunk ? columns : begin + kScoreChunk, count = room.queries.rows;
  for (int r = 0; r < count; ++r) room.states[r] = {splat(kMinusInfinity), splat(kMinusInfinity), zero()};
  for (int panel = 0; panel * kPanel < count; ++panel) {
    const int first = panel * kPanel, last = count < first + kPanel ? count : first + kPanel;
    Quad next = open_quad(args, task, room, begin, columns, 0);
    dot_panel(room.queries, panel, next.groups, next.count, next.dots);
    for (int column = begin, which = 1; column < end; column += kQuad, which ^= 1) {
      const Quad quad = next;
      if (column + kQuad < end) {
        next = open_quad(args, task, room, column + kQuad, columns, which);
        dot_panel(room.queries, panel, next.groups, next.count, next.dots);
      }
      Behind behind;
      behind.start(next, room, columns, last - first);
      for (int r = first; r < last; ++r) {
        behind.fetch();
        if (room.visible[r] > column) score_row<kCoarse>(room.queries, quad, r, room.visible[r], 0, rows, room.states[r]);
      }
    }
  }
  for (int r = 0; r < count; ++r)
    if (room.visible[r] > begin && !keep_chunk<kCoarse>(rows, r, chunk, 0, room.states[r]) && room.visible[r] > 1)
      score_again<kCoarse>(args, task, room, r, chunk, columns, rows);
}

// The chunks of a task.
inline void score_chunks(const SelectArgs& args, const SelectTask& task, int columns, const ScoreRows& rows) {
  static thread_local Scratch scratch;
  const int count = (task.last - task.first) * (args.num_heads / args.pool->num_heads);
  Carver counting;
  carve_room(*args.pool, count, counting);
  Carver carver{scratch.reserve(counting.used)};
  ScoreRoom room = carve_room(*args.pool, count, carver);
  load_rows(args, task, room);
  for (int chunk = task.chunk; chunk < task.chunk_end; ++chunk) {
    if (args.coarse_lse) score_chunk<true>(args, task, room, chunk, columns, rows);
    else score_chunk<false>(args, task, room, chunk, columns, rows);
  }
}

// Scores of the blocks that have kernels: the largest share, summed over the heads of the group, among a block's own
// kernels and the first of the next. Returns their number; `scores` has room for 32 more, `firsts` likewise.
inline int pool_shares(const ScoreRows& rows, int row, int group, int columns, const float* factors, float* scores, float* firsts) {
  if (columns < 2) return 0;
  const int quads = (columns + kQuad - 1) / kQuad;
  for (int quad = 0; quad < quads; ++quad) {
    F32 sums[4] = {zero(), zero(), zero(), zero()};
    for (int g = 0; g < group; ++g) {
      const float* shares = rows.shares + size_t(row + g) * rows.stride + size_t(quad * kQuad);
      const F32 factor = splat(factors[size_t(g) * rows.chunks + size_t(quad * kQuad / kScoreChunk)]);
      for (int v = 0; v < 4; ++v) sums[v] = fma(load(shares + 16 * v), factor, sums[v]);
    }
    const Slots slots = deal(sums[0], sums[1], sums[2], sums[3]);
    store(firsts + 16 * quad, slots.slot[0]);
    store(scores + 16 * quad, max(max(slots.slot[0], slots.slot[1]), max(slots.slot[2], slots.slot[3])));
  }
  store(firsts + 16 * quads, zero());
  for (int b = 0; b < 16 * quads; b += 16) store(scores + b, max(load(scores + b), load(firsts + b + 1)));
  return (columns + kKernelsPerBlock - 1) / kKernelsPerBlock;
}

// Forced first and local blocks around the best of the others.
inline void write_list(const SelectArgs& args, const float* scores, int known, int own, const TopRoom& room, int32_t* list) {
  const int first = args.init_blocks, local = own - args.local_blocks;  // width exceeds both: they don't meet
  for (int b = 0; b < first; ++b) list[b] = b;
  const int wanted = args.width - first - (own - local + 1), last = known < local ? known : local;
  int count = first + top_blocks(scores, first, last, wanted, room, list + first);
  for (int b = local; b <= own; ++b) list[count++] = b;
  for (; count < args.width; ++count) list[count] = -1;
}

inline void write_scores(const SelectArgs& args, const float* scores, int known, int own, float* out) {
  for (int b = 0; b < args.width; ++b) {
    const bool forced = b < args.init_blocks || b >= own - args.local_blocks;
    out[b] = b > own ? -INFINITY : forced ? INFINITY : b < known ? scores[b] : -INFINITY;
  }
}

// What needs all chunks of a tile: normalisers, sums over heads, pooling, choice.
inline void choose_blocks(const SelectArgs& args, const SelectTask& task, const ScoreRows& rows) {
  static thread_local Scratch scratch;
  const int group = args.num_heads / args.pool->num_heads;
  const auto carve = [&](Carver& carver, float*& factors, float*& scores, float*& firsts) {
    factors = carver.take<float>(size_t(group) * rows.chunks);
    scores = carver.take<float>(rows.blocks() + 16), firsts = carver.take<float>(rows.blocks() + 16);
    return carve_top(rows.blocks(), carver);
  };
  float *factors, *scores, *firsts;
  Carver count;
  carve(count, factors, scores, firsts);
  Carver carver{scratch.reserve(count.used)};
  const TopRoom room = carve(carver, factors, scores, firsts);
  for (int token = task.first; token < task.last; ++token) {
    const RowPlace place = place_of(args, task.sequence, token);
    const size_t at = (size_t(task.head) * size_t(args.sequences.rows) + size_t(token)) * size_t(args.width);
    if (is_dense(args, place.position)) {
      for (int i = 0; i < args.width; ++i) args.lists[at + size_t(i)] = -1;
      continue;
    }
    const int row = (token - task.first) * group, own = place.position / kBlockTokens;
    for (int g = 0; g < group && place.columns > 1; ++g)
      chunk_factors(rows, row + g, place.columns, args.coarse_lse, factors + size_t(g) * rows.chunks);
    const int known = pool_shares(rows, row, group, place.columns, factors, scores, firsts);
    if (args.lists) write_list(args, scores, known, own, room, args.lists + at);
    else write_scores(args, scores, known, own, args.scores + at);
  }
}

inline void select_tile(const SelectArgs& args, const SelectTask& task) {
  static thread_local Scratch scratch;
  const int rows = (task.last - task.first) * (args.num_heads / args.pool->num_heads), columns = most_columns(args, task);
  Carver count;
  carve_rows(rows, columns, count);
  Carver carver{scratch.reserve(count.used + 64)};
  const ScoreRows room = carve_rows(rows, columns, carver);
  SelectTask all = task;
  all.chunk = 0, all.chunk_end = int(room.chunks);
  score_chunks(args, all, columns, room);
  choose_blocks(args, task, room);
}

// Few tiles are cut into pieces of their columns.
inline void plan_selection(const SelectArgs& args, int threads, SelectPlan& plan) {
  const Sequences& s = args.sequences;
  const int heads = args.pool->num_heads, group = args.num_heads / heads, tile = group < kPanel ? kPanel / group : 1;
  for (int i = 0; i < s.count; ++i) {
    // The last tiles see the most kernels: they go first, so that no thread ends alone with a long one. Head by head,
    // so that the kernels stay in the second-level cache.
    const int first = s.cu_seqlens[i], last = s.cu_seqlens[i + 1];
    for (int h = 0; h < heads; ++h)
      for (int t = first + (last - 1 - first) / tile * tile; t >= first; t -= tile)
        plan.whole.push_back({i, h, t, t + tile < last ? t + tile : last, 0, 0, 0});
  }
  const int tiles = int(plan.whole.size());
  if (threads == 1 || tiles == 0 || tiles >= 4 * threads) return;
  const int wanted = (4 * threads + tiles - 1) / tiles;
  for (SelectTask task : plan.whole) {
    const int rows = (task.last - task.first) * group, columns = most_columns(args, task);
    Carver count;
    const int chunks = int(carve_rows(rows, columns, count).chunks), pieces = wanted < chunks ? wanted : chunks;
    task.room = plan.room;
    plan.room += count.used;
    for (int p = 0; p < pieces; ++p) {
      task.chunk = p * chunks / pieces, task.chunk_end = (p + 1) * chunks / pieces;
      plan.pieces.push_back(task);
    }
    plan.ends.push_back(task);
  }
  plan.whole.clear();
}

inline void select_blocks(const SelectArgs& args, ThreadPool& pool) {
  static thread_local SelectPlan planned;
  static thread_local Scratch scratch;
  planned.whole.clear(), planned.pieces.clear(), planned.ends.clear(), planned.room = 0;
  plan_selection(args, pool.size(), planned);
  const SelectPlan& plan = planned;
  pool.run(int(plan.whole.size()), [&](int i) {
    select_tile(args, plan.whole[size_t(i)]);
    end_score_task();
  });
  if (plan.ends.empty()) return;
  uint8_t* base = scratch.reserve(plan.room);
  const auto rows_of = [&](const SelectTask& task) {
    Carver carver{base + task.room};
    return carve_rows((task.last - task.first) * (args.num_heads / args.pool->num_heads), most_columns(args, task), carver);
  };
  pool.run(int(plan.pieces.size()), [&](int i) {
    const SelectTask& task = plan.pieces[size_t(i)];
    score_chunks(args, task, most_columns(args, task), rows_of(task));
    end_score_task();
  });
  pool.run(int(plan.ends.size()), [&](int i) { choose_blocks(args, plan.ends[size_t(i)], rows_of(plan.ends[size_t(i)])); });
}

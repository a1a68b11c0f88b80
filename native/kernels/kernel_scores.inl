// Scores of query rows and semantic kernels, and the kernels' shares of a row's softmax. Included by selection.inl.
//
// A sequence's kernels are its columns: column c holds kernel c - 1, which ends in 16-token chunk c; column 0 holds none.
// Four logical blocks are 16 columns, a group: a line of a dot product, the B operand of a tile. Rows are token * group
// + head, 16 to a panel. Queries are rounded to 8 bits as well: of the blocks that unrounded kernels choose, 8-bit
// kernels choose 98.6%, with 8-bit queries 98.4% (10 free ones of 128, SmolLM2-135M on 8K tokens of prose).
//
// Every exponential is computed once, before the normaliser is known: exp2 of the score itself, which has no largest
// value to wait for. Where the largest score of 512 columns, a chunk, is out of bounds (fp32 has 2^-126 .. 2^127), the
// chunk is scored again relative to it. A chunk's factor follows when all chunks are known. No bit of a row depends on
// what else was computed.

constexpr int kPanel = 16;        // rows of a tile
constexpr int kScoreChunk = 512;  // columns
constexpr int kQuad = 64;         // columns of four groups: 16 blocks
constexpr float kLeastTop = -30, kMostTop = 90;

// Query rows of one tile: score = kernel's scale * (scale * dot - offset), where dot is over unsigned codes.
struct ScoreQueries {
  int rows, lines;  // lines of four dims
  int8_t* codes;    // [row][stride], rows padded to whole panels
  float *scales, *offsets;
  size_t stride;  // kernel_dim
};

// What is known of each row's columns.
struct ScoreRows {
  size_t chunks, stride;  // floats from row to row: a power of two would put all rows into the same lines of the cache
  float* shares;          // [row][stride] exponentials relative to the chunk's reference
  float* pairs;           // [row][stride / 4] of each block, the scores of its slots 1 and 3 added up; for coarse lse
  float* references;      // [row][chunks]
  float* sums;            // [row][chunks] of the shares; for exact lse
  float* tops;            // [row][chunks] largest score
  float* pair_tops;       // [row][chunks] largest pair

  size_t blocks() const { return stride / kKernelsPerBlock; }
  size_t at(int row, int chunk) const { return size_t(row) * chunks + size_t(chunk); }
};

inline ScoreRows carve_rows(int rows, int columns, Carver& carver) {
  ScoreRows r;
  const size_t count = size_t(rows);
  r.chunks = size_t(columns + kScoreChunk - 1) / kScoreChunk;
  r.stride = r.chunks * kScoreChunk + kQuad;
  r.shares = carver.take<float>(count * r.stride);
  r.pairs = carver.take<float>(count * r.blocks());
  r.references = carver.take<float>(count * r.chunks);
  r.sums = carver.take<float>(count * r.chunks);
  r.tops = carver.take<float>(count * r.chunks);
  r.pair_tops = carver.take<float>(count * r.chunks);
  return r;
}

// One query vector [dim] to 8-bit codes.
inline void quantize_query(const float* q, float factor, int dim, ScoreQueries& queries, int row) {
  int8_t* codes = queries.codes + size_t(row) * queries.stride;
  const float step = quantize_vector(q, dim, codes) * factor;
  for (size_t d = size_t(dim); d < queries.stride; ++d) codes[d] = 0;
  int sum = 0;
  for (int d = 0; d < dim; ++d) sum += codes[d];
  queries.scales[row] = step;
  queries.offsets[row] = -step * float(128 * sum);
}

struct KernelGroup {
  const uint8_t* codes;
  const float* scales;
};

// The group of logical blocks 4 i .. 4 i + 3: as it lies, where they are one group of the pool, else put together in
// `room` (16 kernel_dim + 64 bytes).
inline KernelGroup open_group(const KVPool& pool, int layer, int head, const int32_t* table, int num_blocks, int i, uint8_t* room) {
  const int32_t* blocks = table + 4 * i;
  const int count = num_blocks - 4 * i < 4 ? num_blocks - 4 * i : 4;
  const KernelExtent& extent = pool.extent_of(blocks[0]);
  bool whole = (blocks[0] - extent.first) % 4 == 0 && blocks[0] - extent.first + count <= extent.count;
  for (int b = 1; b < count; ++b) whole &= blocks[b] == blocks[0] + b;
  if (whole) return {pool.group_codes(extent, blocks[0], layer, head), pool.group_scales(extent, blocks[0], layer, head)};
  auto* scales = reinterpret_cast<float*>(room + size_t(pool.kernel_dim) * kKernelGroup);
  for (int b = 0; b < count; ++b) {
    const KernelExtent& from = pool.extent_of(blocks[b]);
    const size_t at = size_t(blocks[b] - from.first) % 4 * kKernelsPerBlock;
    const uint8_t* codes = pool.group_codes(from, blocks[b], layer, head) + at * 4;
    for (int d = 0; d < pool.kernel_dim / 4; ++d) memcpy(room + d * 64 + b * 16, codes + d * 64, 16);
    memcpy(scales + 4 * b, pool.group_scales(from, blocks[b], layer, head) + at, 16);
  }
  return {room, scales};
}

// Dot products of R rows with one group: [rows][16].
template <int R>
inline void dot_rows(const ScoreQueries& queries, const int8_t* codes, const uint8_t* lines, int32_t* dots) {
  I32 sums[R];
  for (int r = 0; r < R; ++r) sums[r] = izero();
  for (int i = 0; i < queries.lines; ++i) {
    const Line line = load_line(lines + size_t(i) * 64);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      uint32_t word;
      memcpy(&word, codes + size_t(r) * queries.stride + size_t(4 * i), 4);
      sums[r] = dot4(sums[r], line, splat_dword(word));
    }
  }
  for (int r = 0; r < R; ++r) store_i32(dots + 16 * r, sums[r]);
}

#include "kernel_scores_amx.inl"

// One panel against `count` groups: dots [group][16 rows][16].
inline void dot_panel(const ScoreQueries& queries, int panel, const KernelGroup* groups, int count, int32_t* dots) {
  if (dot_panel_amx(queries, panel, groups, count, dots)) return;
  const int rows = queries.rows - panel * kPanel < kPanel ? queries.rows - panel * kPanel : kPanel;
  for (int g = 0; g < count; ++g) {
    const auto at = [&](int row) { return queries.codes + size_t(panel * kPanel + row) * queries.stride; };
    int32_t* out = dots + 256 * g;
    int r = 0;
    for (; r + kScoreRows <= rows; r += kScoreRows) dot_rows<kScoreRows>(queries, at(r), groups[g].codes, out + 16 * r);
    if (kScoreRows > 3)
      for (; r + 3 <= rows; r += 3) dot_rows<3>(queries, at(r), groups[g].codes, out + 16 * r);
    for (; r < rows; ++r) dot_rows<1>(queries, at(r), groups[g].codes, out + 16 * r);
  }
}

// Four groups of columns, and the dot products of one panel with them.
struct Quad {
  int first, count;  // first column; groups
  KernelGroup groups[4];
  int32_t* dots;  // [group][16 rows][16]
};

// Running results of one row and chunk.
struct ChunkState {
  F32 top, pair_top, sum;
};

// Scores of one row and quad to shares. `visible` columns of the sequence; kWhole where the quad has no others.
template <bool kCoarse, bool kWhole>
inline void score_quad(const ScoreQueries& queries, const Quad& quad, int row, int visible, float reference, const ScoreRows& rows, ChunkState& state) {
  static const float lanes[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}, no_kernel[16] = {kMinusInfinity};
  const F32 scale = splat(queries.scales[row]), offset = splat(queries.offsets[row]);
  const size_t at = size_t(row) * rows.stride + size_t(quad.first);
  float *shares = rows.shares + at, *pairs = rows.pairs + at / kKernelsPerBlock;
  const int32_t* dots = quad.dots + 16 * (row % kPanel);
  F32 scores[4];
#pragma GCC unroll 4
  for (int g = 0; g < 4; ++g) {
    scores[g] = splat(kMinusInfinity);
    if (!kWhole && g >= quad.count) continue;
    const I32 dot = load_i32(dots + 256 * g);
    scores[g] = mul(load(quad.groups[g].scales), fma(to_float(dot), scale, offset));
    if (!kWhole) scores[g] = keep_first(scores[g], visible - quad.first - 16 * g, kMinusInfinity);
  }
  if (!kWhole && quad.first == 0) scores[0] = add(keep_where(load(lanes), splat(1), scores[0]), load(no_kernel));
  state.top = max(state.top, max(max(scores[0], scores[1]), max(scores[2], scores[3])));
  if (kCoarse) {
    const Slots slots = deal(scores[0], scores[1], scores[2], scores[3]);
    const F32 pair = add(slots.slot[1], slots.slot[3]);
    state.pair_top = max(state.pair_top, pair);
    store(pairs, pair);
  }
#pragma GCC unroll 4
  for (int g = 0; g < 4; ++g) {
    const F32 share = exp2_rough(reference == 0 ? scores[g] : sub(scores[g], splat(reference)));
    store(shares + 16 * g, share);
    if (!kCoarse) state.sum = add(state.sum, share);
  }
}

template <bool kCoarse>
inline void score_row(const ScoreQueries& queries, const Quad& quad, int row, int visible, float reference, const ScoreRows& rows, ChunkState& state) {
  if (quad.first > 0 && visible >= quad.first + kQuad) score_quad<kCoarse, true>(queries, quad, row, visible, reference, rows, state);
  else score_quad<kCoarse, false>(queries, quad, row, visible, reference, rows, state);
}

// What is left of one chunk's state. Returns whether the reference fits.
template <bool kCoarse>
inline bool keep_chunk(const ScoreRows& rows, int row, int chunk, float reference, const ChunkState& state) {
  const size_t at = rows.at(row, chunk);
  const float top = reduce_max(state.top);
  rows.tops[at] = top, rows.references[at] = reference;
  if (kCoarse) rows.pair_tops[at] = reduce_max(state.pair_top);
  else rows.sums[at] = reduce_add(state.sum);
  return top - reference >= kLeastTop && top - reference <= kMostTop;
}

// Chunk factors of one row, [chunks]: share times factor = exp(score - lse). `visible` columns, of which the first
// holds no kernel.
inline void chunk_factors(const ScoreRows& rows, int row, int visible, bool coarse, float* factors) {
  const int chunks = (visible + kScoreChunk - 1) / kScoreChunk, windows = visible / kKernelsPerBlock - 1;
  const size_t at = rows.at(row, 0);
  float sum = 0, largest = kMinusInfinity, pair[16];
  if (coarse) {  // window j is the mean of kernels 4 j + 0, 2, 4, 6: of slots 1 and 3 of blocks j and j + 1
    const float* pairs = rows.pairs + size_t(row) * rows.blocks();
    const auto window = [&](int j) { return mul(add(load(pairs + j), load(pairs + j + 1)), splat(0.25f)); };
    const auto last_window = [&](int j) { return keep_first(window(j), windows - j, kMinusInfinity); };
    const auto add_windows = [&] {
      F32 total = zero();
      int j = 0;
      for (; j + 16 <= windows; j += 16) total = add(total, exp2_rough(sub(window(j), splat(largest))));
      if (j < windows) total = add(total, exp2_rough(sub(last_window(j), splat(largest))));
      return reduce_add(total);
    };
    // No window exceeds the largest half pair; rarely it is so far above all that another look is needed.
    for (int c = 0; c < chunks; ++c) largest = rows.pair_tops[at + size_t(c)] > largest ? rows.pair_tops[at + size_t(c)] : largest;
    largest *= 0.5f;
    if (windows > 0) sum = add_windows();
    if (windows > 0 && sum < 0x1p-60f) {
      F32 top = splat(kMinusInfinity);
      for (int j = 0; j < windows; j += 16) top = max(top, last_window(j));
      largest = reduce_max(top), sum = add_windows();
    }
  } else {
    for (int c = 0; c < chunks; ++c) largest = rows.tops[at + size_t(c)] > largest ? rows.tops[at + size_t(c)] : largest;
    for (int c = 0; c < chunks; ++c) {
      store(pair, exp2(splat(rows.references[at + size_t(c)] - largest)));
      sum += rows.sums[at + size_t(c)] * pair[0];
    }
  }
  // Without a window nothing is normalised, and all shares are 0. 2^100 keeps the sum of all heads finite.
  const F32 inverse = splat(sum > 0 ? 1.0f / sum : 0.0f);
  for (int c = 0; c < chunks; ++c) {
    const float exponent = rows.references[at + size_t(c)] - largest;
    store(pair, mul(exp2(splat(exponent < 100.0f ? exponent : 100.0f)), inverse));
    factors[c] = pair[0];
  }
}

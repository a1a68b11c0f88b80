// Scores of query rows and semantic kernels, and the kernels' shares of a row's softmax. Included by selection.inl.
//
// A sequence's kernels are its columns: column c holds kernel c - 1, which ends in 16-token chunk c; column 0 holds none.
// Four logical blocks are 16 columns, a group: a line of a dot product, the B operand of a tile. Rows are token * group
// + head, 16 to a panel. Queries are two int8 codes a number, coarse and fine: 16 bits for the price of a second row.
//
// Columns are cut into chunks of 256. A chunk gives each row its largest score, the exponentials relative to that, and
// their sum, so every exponential is computed once; a chunk's factor follows when all chunks are known. No bit of a
// row depends on what else was computed.

constexpr int kPanel = 16;        // rows of a tile
constexpr int kScoreChunk = 256;  // columns
constexpr int kQuad = 64;         // columns of four groups: 16 blocks
constexpr int kFine = 254;        // fine codes per coarse one

// Query rows of one tile in two int8 codes: score = kernel's scale * (scale * (254 coarse + fine) - offset), where the
// sums are over unsigned codes.
struct ScoreQueries {
  int rows, lines;  // lines of four dims
  int8_t* codes;    // [panel][coarse, fine][16][kernel_dim]
  float *scales, *offsets;
  size_t stride;  // kernel_dim

  const int8_t* panel(int index) const { return codes + size_t(index) * 2 * kPanel * stride; }
};

// What is known of each row's columns.
struct ScoreRows {
  size_t columns;  // whole chunks
  float* shares;   // [row][columns] scores, then exponentials relative to the chunk's largest
  float* pairs;    // [row][columns / 4 + 16] of each block, the scores of its slots 1 and 3 added up; for coarse lse
  float* tops;     // [row][columns / 256] largest score of each chunk
  float* sums;     // [row][columns / 256] sum of its exponentials

  size_t blocks() const { return columns / kKernelsPerBlock + 16; }
  size_t chunks() const { return columns / kScoreChunk; }
};

inline ScoreRows carve_rows(int rows, int columns, Carver& carver) {
  ScoreRows r;
  const size_t count = size_t(rows);
  r.columns = size_t(columns + kScoreChunk - 1) / kScoreChunk * kScoreChunk;
  r.shares = carver.take<float>(count * r.columns);
  r.pairs = carver.take<float>(count * r.blocks());
  r.tops = carver.take<float>(count * r.chunks());
  r.sums = carver.take<float>(count * r.chunks());
  return r;
}

// One query vector [dim] to coarse codes and, a panel further, fine ones.
inline void quantize_query(const float* q, float factor, int dim, ScoreQueries& queries, int row) {
  int8_t* coarse = queries.codes + (size_t(row / kPanel) * 2 * kPanel + size_t(row % kPanel)) * queries.stride;
  int8_t* fine = coarse + kPanel * queries.stride;
  F32 largest = zero();
  for (int d = 0; d < dim; d += 16) largest = max(largest, abs(load(q + d)));
  const float top = reduce_max(largest);
  const F32 inverse = splat(top > 0 ? 127.0f / top : 0.0f);
  I32 sum = izero(), fine_sum = izero();
  for (int d = 0; d < dim; d += 16) {
    const F32 x = mul(load(q + d), inverse);
    const I32 whole = round(x), rest = round(mul(sub(x, to_float(whole)), splat(float(kFine))));
    store_i8(coarse + d, whole), store_i8(fine + d, rest);
    sum = iadd(sum, whole), fine_sum = iadd(fine_sum, rest);
  }
  for (size_t d = size_t(dim); d < queries.stride; ++d) coarse[d] = fine[d] = 0;
  const float scale = top * factor / (127.0f * kFine);
  queries.scales[row] = scale;
  queries.offsets[row] = -scale * 128.0f * float(kFine * reduce_add(sum) + reduce_add(fine_sum));
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

// Dot products of R rows of a panel with one group: [coarse, fine][16 rows][16].
template <int R>
inline void dot_rows(const ScoreQueries& queries, const int8_t* codes, const uint8_t* lines, int32_t* dots) {
  const int8_t* fines = codes + kPanel * queries.stride;
  I32 coarse[R], fine[R];
  for (int r = 0; r < R; ++r) coarse[r] = izero(), fine[r] = izero();
  for (int i = 0; i < queries.lines; ++i) {
    const Line line = load_line(lines + size_t(i) * 64);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      uint32_t word, rest;
      memcpy(&word, codes + size_t(r) * queries.stride + size_t(4 * i), 4);
      memcpy(&rest, fines + size_t(r) * queries.stride + size_t(4 * i), 4);
      coarse[r] = dot4(coarse[r], line, splat_dword(word)), fine[r] = dot4(fine[r], line, splat_dword(rest));
    }
  }
  for (int r = 0; r < R; ++r) store_i32(dots + 16 * r, coarse[r]), store_i32(dots + 256 + 16 * r, fine[r]);
}

#include "kernel_scores_amx.inl"

// One panel against `count` groups: dots [group][coarse, fine][16 rows][16].
inline void dot_panel(const ScoreQueries& queries, int panel, const KernelGroup* groups, int count, int32_t* dots) {
  if (dot_panel_amx(queries, panel, groups, count, dots)) return;
  const int rows = queries.rows - panel * kPanel < kPanel ? queries.rows - panel * kPanel : kPanel;
  for (int g = 0; g < count; ++g) {
    const auto at = [&](int row) { return queries.panel(panel) + size_t(row) * queries.stride; };
    int32_t* out = dots + 512 * g;
    int r = 0;
    for (; r + kScoreRows <= rows; r += kScoreRows) dot_rows<kScoreRows>(queries, at(r), groups[g].codes, out + 16 * r);
    if (kScoreRows > 3)
      for (; r + 3 <= rows; r += 3) dot_rows<3>(queries, at(r), groups[g].codes, out + 16 * r);
    for (; r < rows; ++r) dot_rows<1>(queries, at(r), groups[g].codes, out + 16 * r);
  }
}

// Dot products to scores of one row, in units of log2.
inline void scale_row(const ScoreQueries& queries, int row, const KernelGroup* groups, int count, const int32_t* dots, float* scores) {
  const F32 scale = splat(queries.scales[row]), offset = splat(queries.offsets[row]), fine = splat(float(kFine));
  for (int g = 0; g < count; ++g) {
    const int32_t* dot = dots + 512 * g + 16 * (row % kPanel);
    const F32 sum = fma(to_float(load_i32(dot)), fine, to_float(load_i32(dot + 256)));
    store(scores + 16 * g, mul(load(groups[g].scales), fma(sum, scale, offset)));
  }
}

// Scores of one row in one chunk to exponentials relative to the largest of the first `visible` columns.
inline void finish_chunk(const ScoreRows& rows, int row, int chunk, int visible, bool coarse) {
  static const float lanes[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}, no_kernel[16] = {kMinusInfinity};
  const size_t r = size_t(row), c = size_t(chunk);
  float* scores = rows.shares + r * rows.columns + c * kScoreChunk;
  float* pairs = rows.pairs + r * rows.blocks() + c * (kScoreChunk / kKernelsPerBlock);
  const int columns = visible < kScoreChunk ? visible : kScoreChunk, vectors = (columns + kQuad - 1) / kQuad * 4;
  for (int t = 0; t < vectors; ++t)
    if (16 * t + 16 > columns) store(scores + 16 * t, keep_first(load(scores + 16 * t), columns - 16 * t, kMinusInfinity));
  if (chunk == 0) store(scores, add(keep_where(load(lanes), splat(1), load(scores)), load(no_kernel)));
  F32 largest = splat(kMinusInfinity);
  for (int t = 0; t < vectors; t += 4) {
    const float* s = scores + 16 * t;
    const F32 s0 = load(s), s1 = load(s + 16), s2 = load(s + 32), s3 = load(s + 48);
    largest = max(largest, max(max(s0, s1), max(s2, s3)));
    if (!coarse) continue;
    const Slots slots = deal(s0, s1, s2, s3);
    store(pairs + 4 * t, add(slots.slot[1], slots.slot[3]));
  }
  const float top = reduce_max(largest);
  rows.tops[r * rows.chunks() + c] = top;
  F32 sum = zero();
  for (int t = 0; t < vectors; ++t) {
    const F32 share = exp2_rough(sub(load(scores + 16 * t), splat(top)));
    store(scores + 16 * t, share);
    sum = add(sum, share);
  }
  rows.sums[r * rows.chunks() + c] = reduce_add(sum);
}

// Chunk factors of one row, [chunks]: exponential times factor = exp(score - lse). `visible` columns, of which the first
// holds no kernel.
inline void chunk_factors(const ScoreRows& rows, int row, int visible, bool coarse, float* factors) {
  const size_t r = size_t(row);
  const float* tops = rows.tops + r * rows.chunks();
  const int chunks = (visible + kScoreChunk - 1) / kScoreChunk, windows = visible / kKernelsPerBlock - 1;
  float sum = 0, largest = kMinusInfinity, pair[16];
  if (coarse) {  // window j is the mean of kernels 4 j + 0, 2, 4, 6: of slots 1 and 3 of blocks j and j + 1
    const float* pairs = rows.pairs + r * rows.blocks();
    const auto window = [&](int j) {
      return keep_first(mul(add(load(pairs + j), load(pairs + j + 1)), splat(0.25f)), windows - j, kMinusInfinity);
    };
    F32 top = splat(kMinusInfinity), total = zero();
    for (int j = 0; j < windows; j += 16) top = max(top, window(j));
    largest = reduce_max(top);
    for (int j = 0; j < windows; j += 16) total = add(total, exp2_rough(sub(window(j), splat(largest))));
    sum = reduce_add(total);
  } else {
    for (int c = 0; c < chunks; ++c) largest = tops[c] > largest ? tops[c] : largest;
    for (int c = 0; c < chunks; ++c) {
      store(pair, exp2(splat(tops[c] - largest)));
      sum += rows.sums[r * rows.chunks() + size_t(c)] * pair[0];
    }
  }
  // Without a window nothing is normalised, and all shares are 0. 2^100 keeps the sum of all heads finite.
  const F32 inverse = splat(sum > 0 ? 1.0f / sum : 0.0f);
  for (int c = 0; c < chunks; ++c) {
    const float exponent = tops[c] - largest;
    store(pair, mul(exp2(splat(exponent < 100.0f ? exponent : 100.0f)), inverse));
    factors[c] = pair[0];
  }
}

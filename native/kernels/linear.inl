// y = epilogue(scale * W norm(x) + bias): the linear layers of the network, for every weight layout.
//
// Work is cut by row blocks of 16 outputs; each row block is computed whole by one thread, each (row, output) always
// by the same sequence of fp32 operations, whatever the tile it falls into: results depend neither on the number of
// threads nor on the other rows of the batch.
//
// Decoding reads a row block as one stream: two at once reached 11 GB/s where one reaches 16-25 (one Zen 4 core,
// K = 576). It prefetches 4 KiB ahead: SmolLM2's layers on two cores of an Intel Xeon with AMX come at 30, 34, 37 and 37 GB/s
// with 1, 2, 4 and 8 KiB. With more rows it is compute-bound: tiles of up to kLinearRows rows of two row blocks, or of
// kTallRows of one, fetch the blocks that come next while they pass over one again and again (Zen 4, 16 rows of
// SmolLM2's gate and up: 147 us without, 119 with; 8 bit in tall tiles: its head 1.73 ms, in pairs 1.95).

// What a code of zero stands for, as a multiple to add: value = scale * code + this.
template <Layout L>
inline F32 offset_of(F32 scale, const uint16_t* mins) {
  if constexpr (L == Layout::q4) return mins ? load_f16(mins) : mul(scale, splat(-8.0f));
  else return mins ? fma(scale, splat(-128.0f), load_f16(mins)) : mul(scale, splat(-128.0f));
}

// What a tile fetches for later: for each of its runs of inputs `lines` lines, from `offset` bytes behind its codes on.
struct Fetch {
  size_t offset;
  int lines;
};

// sums[b][m] = rows m0 .. m0 + M of the activations times row blocks b, 8-bit integer dot products per run of inputs.
// Meanwhile codes are fetched that are wanted soon.
template <Layout L, int M, int B>
inline void tile_int8(const Weight& w, RowBlock (&blocks)[B], const Activations& a, int m0, Fetch ahead,
                      F32 (&sums)[B][M]) {
  constexpr int kInputsPerLine = L == Layout::q4 ? 8 : 4;
  const int run = w.group < kActivationGroup ? w.group : kActivationGroup;
  const size_t k = size_t(a.k);
  const int8_t* x = a.codes + size_t(m0) * k;
  const float* scales = a.scales + size_t(m0) * (k / 32);
  const float* run_sums = run == 32 ? a.sums32 + size_t(m0) * (k / 32) : a.sums16 + size_t(m0) * (k / 16);
  const size_t sums_stride = k / size_t(run);
  const int group_shift = w.group / run == 1 ? 0 : w.group / run == 2 ? 1 : 2;
  for (int b = 0; b < B; ++b)
    for (int m = 0; m < M; ++m) sums[b][m] = zero();
  const uint8_t* fetched[B];
  for (int b = 0; b < B; ++b) fetched[b] = blocks[b].codes + ahead.offset;
  for (int r = 0; r * run < a.k; ++r) {
    for (int b = 0; b < B; ++b, fetched[b - 1] += 64 * ahead.lines)
      for (int line = 0; line < ahead.lines; ++line) prefetch(fetched[b] + 64 * line);
    I32 dots[B][M];
    for (int b = 0; b < B; ++b)
      for (int m = 0; m < M; ++m) dots[b][m] = izero();
    for (int i = 0; i < run; i += kInputsPerLine) {
      Line lines[B];
      for (int b = 0; b < B; ++b) {
        lines[b] = load_line(blocks[b].codes);
        blocks[b].codes += 64;
      }
#pragma GCC unroll 8
      for (int m = 0; m < M; ++m) {
        uint32_t word[2];
        memcpy(word, x + size_t(m) * k + size_t(r * run + i), kInputsPerLine);
        const Line x0 = splat_dword(word[0]);
#pragma GCC unroll 2
        for (int b = 0; b < B; ++b)
          dots[b][m] = L == Layout::q4 ? dot4_nibbles(dots[b][m], low_nibbles(lines[b]), x0) : dot4(dots[b][m], lines[b], x0);
        if constexpr (L == Layout::q4) {
          const Line x1 = splat_dword(word[1]);
#pragma GCC unroll 2
          for (int b = 0; b < B; ++b) dots[b][m] = dot4_nibbles(dots[b][m], high_nibbles(lines[b]), x1);
        }
      }
    }
    const size_t g = size_t(r >> group_shift), ag = size_t(r * run / 32);
#pragma GCC unroll 2
    for (int b = 0; b < B; ++b) {
      const F32 scale = load_f16(blocks[b].scales + g * 16);
      const F32 offset = offset_of<L>(scale, blocks[b].mins ? blocks[b].mins + g * 16 : nullptr);
#pragma GCC unroll 8
      for (int m = 0; m < M; ++m) {
        const F32 both = mul(scale, splat(scales[size_t(m) * (k / 32) + ag]));
        sums[b][m] = fma(to_float(dots[b][m]), both, sums[b][m]);
        sums[b][m] = fma(offset, splat(run_sums[size_t(m) * sums_stride + size_t(r)]), sums[b][m]);
      }
    }
  }
}

// The same with bf16 activations, in runs of 16 inputs: weight-only quantization.
template <Layout L, int M>
inline void tile_bf16_activations(const Weight& w, RowBlock block, const Activations& a, int m0, F32 (&sums)[1][M]) {
  const size_t k = size_t(a.k);
  for (int m = 0; m < M; ++m) sums[0][m] = zero();
  for (int i = 0; i < a.k; i += 16) {
    F32 dots[M];
    for (int m = 0; m < M; ++m) dots[m] = zero();
    for (int j = 0; j < 16; j += L == Layout::q4 ? 8 : 4) {
      const Line line = load_line(block.codes);
      prefetch(block.codes + 2048);
      block.codes += 64;
#pragma GCC unroll 4
      for (int p = 0; p < 4; ++p) {
        if constexpr (L == Layout::q4) {
          const Line pairs = nibble_pairs(line, p);
          for (int m = 0; m < M; ++m) {
            uint32_t word;
            memcpy(&word, a.shuffled + size_t(m0 + m) * k + size_t(i + j + 2 * p), 4);
            dots[m] = dot2(dots[m], pairs, splat_dword(word));
          }
        } else {
          const F32 codes = byte_lanes(line, p);
          for (int m = 0; m < M; ++m)
            dots[m] = fma(codes, splat(from_bf16(a.bf16[size_t(m0 + m) * (k + k % 2) + size_t(i + j + p)])), dots[m]);
        }
      }
    }
    const size_t g = size_t(i / w.group);
    const F32 scale = load_f16(block.scales + g * 16);
    const F32 offset = offset_of<L>(scale, block.mins ? block.mins + g * 16 : nullptr);
    for (int m = 0; m < M; ++m) {
      sums[0][m] = fma(dots[m], scale, sums[0][m]);
      sums[0][m] = fma(offset, splat(a.bf16_sums[size_t(m0 + m) * ((k + 15) / 16) + size_t(i / 16)]), sums[0][m]);
    }
  }
}

// Dense weights: fp32 activations for f32 and f16, bf16 ones for bf16. Two chains each hide the latency of the adds.
template <Layout L, int M>
inline void tile_dense(const float* x, RowBlock block, const Activations& a, int m0, F32 (&sums)[1][M]) {
  const size_t k = size_t(a.k);
  F32 chains[2][M];
  for (int m = 0; m < M; ++m) chains[0][m] = chains[1][m] = zero();
  if constexpr (L == Layout::bf16) {
    for (int i = 0; i < (a.k + 1) / 2; ++i, block.codes += 64) {
      const Line line = load_line(block.codes);
      prefetch(block.codes + 2048);
      for (int m = 0; m < M; ++m) {
        uint32_t word;
        memcpy(&word, a.bf16 + size_t(m0 + m) * (k + k % 2) + size_t(2 * i), 4);
        chains[i % 2][m] = dot2(chains[i % 2][m], line, splat_dword(word));
      }
    }
  } else {
    for (int i = 0; i < a.k; ++i, block.codes += L == Layout::f32 ? 64 : 32) {
      F32 weights;
      if constexpr (L == Layout::f32) weights = load(reinterpret_cast<const float*>(block.codes));
      else weights = load_f16(reinterpret_cast<const uint16_t*>(block.codes));
      if (L == Layout::f32 || i % 2 == 0) prefetch(block.codes + 2048);
      for (int m = 0; m < M; ++m)
        chains[i % 2][m] = fma(weights, splat(x[size_t(m0 + m) * k + size_t(i)]), chains[i % 2][m]);
    }
  }
  for (int m = 0; m < M; ++m) sums[0][m] = add(chains[0][m], chains[1][m]);
}

inline F32 silu(F32 x) { return div(x, add(splat(1.0f), exp2(mul(x, splat(-1.44269504f))))); }

// Everything a task needs to know of one linear call.
struct LinearJob {
  const LinearArgs& args;
  const Activations& activations;
  const float* x;  // fp32 rows, normed
  int out_stride;
};

// Writes 16 outputs of one row: column `first_row` of weight `index` (whose outputs start at `column`).
inline void emit(const LinearJob& job, const Weight& w, int column, int first_row, int m, F32 sum) {
  const LinearArgs& args = job.args;
  const int n = w.n - first_row < kRowsPerBlock ? w.n - first_row : kRowsPerBlock;
  const size_t at = size_t(m) * size_t(job.out_stride) + size_t(column + first_row);
  F32 value = mul(sum, splat(args.scale));
  if (args.bias) value = add(value, load_first(args.bias + column + first_row, n));
  if (args.epilogue == LinearArgs::Epilogue::residual) value = add(value, load_first(args.residual + at, n));
  if (n == kRowsPerBlock) store(args.out + at, value);
  else store_first(args.out + at, value, n);
}

inline void emit_swiglu(const LinearJob& job, const Weight& w, int first_row, int m, F32 gate, F32 up) {
  const int n = w.n - first_row < kRowsPerBlock ? w.n - first_row : kRowsPerBlock;
  const size_t at = size_t(m) * size_t(job.out_stride) + size_t(first_row);
  const F32 value = mul(silu(gate), up);
  if (n == kRowsPerBlock) store(job.args.out + at, value);
  else store_first(job.args.out + at, value, n);
}

// Lines of codes in one run of 32 inputs (or of 16, where scales come so often).
template <Layout L>
inline int lines_of_run(const Weight& w) {
  return (w.group < kActivationGroup ? w.group : kActivationGroup) / (L == Layout::q4 ? 8 : 4);
}

// One or two rows read a row block as one stream.
template <Layout L, int M>
inline Fetch ahead_of_one(const Weight& w) {
  return M <= 2 ? Fetch{4096, lines_of_run<L>(w)} : Fetch{0, 0};
}

// Further rows pass over a block in tiles of at most `height`; with each of them an equal part of the block that lies
// `blocks` on comes in. (The processor's own prefetch begins anew with each block of 5 KB.)
template <Layout L>
inline Fetch ahead_of_tile(int rows, int height, const Weight& w, int blocks, int m0) {
  const int tiles = (rows + height - 1) / height, tile = m0 * tiles / rows, lines = lines_of_run<L>(w);
  const int each = (lines + tiles - 1) / tiles;
  if (tile * each >= lines) return {0, 0};
  const int runs = w.k / (lines * (L == Layout::q4 ? 8 : 4));
  return {size_t(blocks) * w.code_stride + size_t(tile * runs * each) * 64, each};
}

// M rows of one row block, any layout.
template <int M>
inline void tile_one(const LinearJob& job, const Weight& w, int block, int m0, F32 (&sums)[1][M]) {
  RowBlock blocks[1] = {row_block(w, block)};
  const Activations& a = job.activations;
  switch (w.layout) {
    case Layout::f32: return tile_dense<Layout::f32, M>(job.x, blocks[0], a, m0, sums);
    case Layout::f16: return tile_dense<Layout::f16, M>(job.x, blocks[0], a, m0, sums);
    case Layout::bf16: return tile_dense<Layout::bf16, M>(job.x, blocks[0], a, m0, sums);
    case Layout::q8:
      if (job.args.bf16_activations) return tile_bf16_activations<Layout::q8, M>(w, blocks[0], a, m0, sums);
      return tile_int8<Layout::q8, M, 1>(w, blocks, a, m0, ahead_of_one<Layout::q8, M>(w), sums);
    case Layout::q4:
      if (job.args.bf16_activations) return tile_bf16_activations<Layout::q4, M>(w, blocks[0], a, m0, sums);
      return tile_int8<Layout::q4, M, 1>(w, blocks, a, m0, ahead_of_one<Layout::q4, M>(w), sums);
  }
}

template <int M>
inline void rows_of_block(const LinearJob& job, int index, int column, int block, int m0) {
  F32 sums[1][M];
  const Weight& w = *job.args.weights[index];
  tile_one<M>(job, w, block, m0, sums);
  if (job.args.epilogue == LinearArgs::Epilogue::swiglu) {
    F32 up[1][M];
    tile_one<M>(job, *job.args.weights[1], block, m0, up);
    for (int m = 0; m < M; ++m) emit_swiglu(job, w, block * kRowsPerBlock, m0 + m, sums[0][m], up[0][m]);
  } else {
    for (int m = 0; m < M; ++m) emit(job, w, column, block * kRowsPerBlock, m0 + m, sums[0][m]);
  }
}

// Two row blocks at once: neighbours of one weight, or the same block of gate and up.
// A function of its own for each height, so that each gets all registers.
template <Layout L, int M>
[[gnu::noinline]] static void rows_of_two(const LinearJob& job, int index, int column, int block, int m0) {
  F32 sums[2][M];
  const Weight& w = *job.args.weights[index];
  const bool swiglu = job.args.epilogue == LinearArgs::Epilogue::swiglu;
  RowBlock blocks[2] = {row_block(w, block), swiglu ? row_block(*job.args.weights[1], block) : row_block(w, block + 1)};
  const Fetch ahead = ahead_of_tile<L>(job.args.rows, kLinearRows, w, swiglu ? 1 : 2, m0);
  tile_int8<L, M, 2>(w, blocks, job.activations, m0, ahead, sums);
  for (int m = 0; m < M; ++m) {
    if (swiglu) {
      emit_swiglu(job, w, block * kRowsPerBlock, m0 + m, sums[0][m], sums[1][m]);
    } else {
      emit(job, w, column, block * kRowsPerBlock, m0 + m, sums[0][m]);
      emit(job, w, column, (block + 1) * kRowsPerBlock, m0 + m, sums[1][m]);
    }
  }
}

// One row block, 8-bit activations; of a swiglu the other one after it.
template <Layout L, int M>
[[gnu::noinline]] static void tall_rows(const LinearJob& job, int index, int column, int block, int m0) {
  const bool swiglu = job.args.epilogue == LinearArgs::Epilogue::swiglu;
  F32 sums[2][1][M];
  for (int i = 0; i <= int(swiglu); ++i) {
    const Weight& w = *job.args.weights[index + i];
    RowBlock blocks[1] = {row_block(w, block)};
    tile_int8<L, M, 1>(w, blocks, job.activations, m0, ahead_of_tile<L>(job.args.rows, kTallRows, w, 1, m0), sums[i]);
  }
  const Weight& w = *job.args.weights[index];
  for (int m = 0; m < M; ++m) {
    if (swiglu) emit_swiglu(job, w, block * kRowsPerBlock, m0 + m, sums[0][0][m], sums[1][0][m]);
    else emit(job, w, column, block * kRowsPerBlock, m0 + m, sums[0][0][m]);
  }
}

// `rows` rows from m0 on, at most M: of two row blocks, or tall.
template <Layout L, int M, bool two>
inline void tile_of(const LinearJob& job, int index, int column, int block, int m0, int rows) {
  if (rows < M) {
    if constexpr (M > 1) tile_of<L, M - 1, two>(job, index, column, block, m0, rows);
  } else if constexpr (two) {
    rows_of_two<L, M>(job, index, column, block, m0);
  } else {
    tall_rows<L, M>(job, index, column, block, m0);
  }
}

// All rows, in tiles of nearly the same height: 16 rows as 6 + 5 + 5.
template <Layout L, int height, bool two>
inline void all_rows(const LinearJob& job, int index, int column, int block) {
  const int rows = job.args.rows;
  int m = 0;
  for (int tiles = (rows + height - 1) / height; tiles > 0; --tiles) {
    const int count = (rows - m + tiles - 1) / tiles;
    tile_of<L, height, two>(job, index, column, block, m, count);
    m += count;
  }
}

inline bool quantized_int8(const LinearArgs& args, const Weight& w) {
  return !args.bf16_activations && (w.layout == Layout::q4 || w.layout == Layout::q8);
}

inline bool same_codes(const Weight& a, const Weight& b) { return a.layout == b.layout && a.group == b.group; }

#include "linear_amx.inl"

// All rows of one row block (or of two; returns how many were done).
inline int compute_block(const LinearJob& job, int index, int column, int block, int last_block) {
  const LinearArgs& args = job.args;
  const Weight& w = *args.weights[index];
  const bool swiglu = args.epilogue == LinearArgs::Epilogue::swiglu;
  int m = 0;
  if (quantized_int8(args, w)) {
    if (block_by_amx(job, index, column, block)) return 1;
    const bool alike = !swiglu || same_codes(w, *args.weights[1]);
    if (kLinearBlocks == 2 && w.layout == Layout::q4 && alike && args.rows >= kLinearRows && (swiglu || block + 1 < last_block)) {
      all_rows<Layout::q4, kLinearRows, true>(job, index, column, block);
      return swiglu ? 1 : 2;
    }
    if (kTallRows > kFloatRows && alike && args.rows > kFloatRows) {
      if (w.layout == Layout::q4) all_rows<Layout::q4, kTallRows, false>(job, index, column, block);
      else all_rows<Layout::q8, kTallRows, false>(job, index, column, block);
      return 1;
    }
  }
  for (; m + kFloatRows <= args.rows; m += kFloatRows) rows_of_block<kFloatRows>(job, index, column, block, m);
  for (; m + 2 <= args.rows; m += 2) rows_of_block<2>(job, index, column, block, m);
  for (; m < args.rows; ++m) rows_of_block<1>(job, index, column, block, m);
  return 1;
}

inline void linear(const LinearArgs& args, ThreadPool& pool) {
  static thread_local Scratch scratch;
  const Needs needs = needs_of(args);
  Activations a{};
  a.rows = args.rows, a.k = args.k;
  Carver count;
  carve(a, needs, count);
  Carver carver{scratch.reserve(count.used + 64)};
  carve(a, needs, carver);

  const int row_tasks = args.rows < 16 ? 1 : (args.rows + 7) / 8;
  pool.run(row_tasks, [&](int task) {
    const int first = task * args.rows / row_tasks, last = (task + 1) * args.rows / row_tasks;
    for (int row = first; row < last; ++row) encode_row(args, a, needs, row);
  });

  const bool swiglu = args.epilogue == LinearArgs::Epilogue::swiglu;
  int blocks[4] = {0}, columns[4] = {0};
  const int num_weights = swiglu ? 1 : args.num_weights;
  for (int i = 0; i < num_weights; ++i) {
    blocks[i + 1] = blocks[i] + (args.weights[i]->n + kRowsPerBlock - 1) / kRowsPerBlock;
    columns[i + 1] = columns[i] + args.weights[i]->n;
  }
  const LinearJob job{args, a, args.norm_weight ? a.normed : args.x, columns[num_weights]};
  // Claiming a task costs a cache line's trip between cores: with few rows, 8 tasks a thread took 7% longer than 3.
  // Tasks begin at even blocks where two are computed at a time: an odd one at the end would take nearly as long as two.
  const int unit = kLinearBlocks == 2 && args.rows >= kLinearRows && !swiglu ? 2 : 1;
  const int wanted = (args.rows < 16 ? 3 : 8) * pool.size(), total = blocks[num_weights], units = (total + unit - 1) / unit;
  const int tasks = units < wanted ? units : wanted;
  pool.run(tasks, [&](int task) {
    const int first = unit * int(int64_t(task) * units / tasks), end = unit * int(int64_t(task + 1) * units / tasks);
    const int last = end < total ? end : total;
    for (int i = 0; i < num_weights; ++i) {
      const int from = first > blocks[i] ? first : blocks[i], to = last < blocks[i + 1] ? last : blocks[i + 1];
      for (int block = from; block < to;)
        block += compute_block(job, i, columns[i], block - blocks[i], to - blocks[i]);
    }
    end_task();
  });
}

// out[row] = scale * table[ids[row]].
inline void embedding(const EmbeddingArgs& args, ThreadPool& pool) {
  const Weight& w = *args.table;
  pool.run((args.rows + 3) / 4, [&](int task) {
    const int last = (task + 1) * 4 < args.rows ? (task + 1) * 4 : args.rows;
    for (int row = task * 4; row < last; ++row) {
      const int id = args.ids[row], lane = id % kRowsPerBlock;
      const RowBlock block = row_block(w, id / kRowsPerBlock);
      for (int k = 0; k < w.k; ++k) args.out[size_t(row) * size_t(w.k) + size_t(k)] = args.scale * value_at(w, block, lane, k);
    }
  });
}

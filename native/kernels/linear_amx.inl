// 8-bit linear by AMX tiles: 16 rows x 16 outputs x 32 inputs per instruction. Included by linear.inl.
//
// A row block is unpacked once to bytes (the B operand: lines of 16 outputs x 4 inputs) and meets all rows. After every
// 32 inputs the int32 tile goes through memory to be scaled in fp32, with the very operations of tile_int8, so both
// give the same bits. That scaling, not the tile product, is the bound: 64 vector operations per 8,192 products, where
// the tile product itself would take a fifth of the time. With weights and rows in the cache 235 billion products a
// second and core, the AVX-512 tile 130 (Intel Xeon with AMX, K = 576, 512 rows).

#ifdef WHIMBREL_AMX

// tiles 0-3: int32 results; 4, 5: activations 16 x 32 bytes; 6, 7: weights, 8 lines.
inline void configure_linear() {
  TileConfig config;
  for (int t = 0; t < 4; ++t) config.rows[t] = 16, config.bytes_per_row[t] = 64;
  for (int t = 4; t < 6; ++t) config.rows[t] = 16, config.bytes_per_row[t] = 32;
  for (int t = 6; t < 8; ++t) config.rows[t] = 8, config.bytes_per_row[t] = 64;
  tile_configure(config);
}

struct TaskState {
  bool configured = false;
  Scratch scratch;
};
inline TaskState& task_state() {
  static thread_local TaskState state;
  return state;
}

inline void end_task() {
  TaskState& state = task_state();
  if (state.configured) tile_release();
  state.configured = false;
}

// Codes of one row block as bytes, [k / 4][64].
inline const uint8_t* unpack(const Weight& w, const RowBlock& block, int k, uint8_t* bytes) {
  if (w.layout == Layout::q8) return block.codes;
  for (int i = 0; i < k / 8; ++i) {
    const Line line = load_line(block.codes + size_t(i) * 64);
    store_line(bytes + size_t(i) * 128, low_nibbles(line));
    store_line(bytes + size_t(i) * 128 + 64, high_nibbles(line));
  }
  return bytes;
}

// Scales N tiles of 16 x 16 int32 (runs r .. r + N) and adds them to the sums, run after run as tile_int8 does.
template <Layout L, int N>
inline void scale_tiles(const int32_t* tiles, const RowBlock& block, size_t r, int group_shift, const float* scales,
                        const float* run_sums, F32 (&sums)[16]) {
  F32 weight_scales[N], offsets[N];
  for (size_t i = 0; i < N; ++i) {
    const size_t g = (r + i) >> group_shift;
    weight_scales[i] = load_f16(block.scales + g * 16);
    offsets[i] = offset_of<L>(weight_scales[i], block.mins ? block.mins + g * 16 : nullptr);
  }
  for (int m = 0; m < 16; ++m) {
    F32 sum = sums[m];
#pragma GCC unroll 4
    for (int i = 0; i < N; ++i) {
      const F32 both = mul(weight_scales[i], splat(scales[16 * i + m]));
      sum = fma(to_float(load_i32(tiles + 256 * i + 16 * m)), both, sum);
      sum = fma(offsets[i], splat(run_sums[16 * i + m]), sum);
    }
    sums[m] = sum;
  }
}

template <int C, int A, int B>
inline void tile_run(const int8_t* x, const uint8_t* bytes) {
  tile_zero<C>();
  tile_load<A>(x, 32), tile_load<B>(bytes, 64);
  tile_dot_bytes<C, A, B>();
}

// sums[m] = the 16 rows of a panel times one row block. Four runs of 32 inputs are in flight, and while the tiles
// compute four, the vectors scale the four before: a load soon after the tile's store would wait for it.
template <Layout L>
inline void tile_amx(const Weight& w, const RowBlock& block, const uint8_t* bytes, const Activations& a, int panel,
                     int32_t* tiles, F32 (&sums)[16]) {
  const size_t runs = size_t(a.k) / 32, fours = runs / 4 * 4;
  const int8_t* x = a.codes + size_t(panel) * runs * 512;
  const float* scales = a.scales + size_t(panel) * runs * 16;
  const float* run_sums = a.sums32 + size_t(panel) * runs * 16;
  const int group_shift = w.group == 32 ? 0 : w.group == 64 ? 1 : 2;
  for (int m = 0; m < 16; ++m) sums[m] = zero();
  for (size_t r = 0; r < fours; r += 4) {
    int32_t* room = tiles + r % 8 * 256;
    tile_run<0, 4, 6>(x + r * 512, bytes + r * 512);
    tile_run<1, 5, 7>(x + r * 512 + 512, bytes + r * 512 + 512);
    tile_run<2, 4, 6>(x + r * 512 + 1024, bytes + r * 512 + 1024);
    tile_run<3, 5, 7>(x + r * 512 + 1536, bytes + r * 512 + 1536);
    tile_store<0>(room, 64), tile_store<1>(room + 256, 64);
    tile_store<2>(room + 512, 64), tile_store<3>(room + 768, 64);
    if (r > 0)
      scale_tiles<L, 4>(tiles + (r - 4) % 8 * 256, block, r - 4, group_shift, scales + (r - 4) * 16,
                        run_sums + (r - 4) * 16, sums);
  }
  if (fours > 0)
    scale_tiles<L, 4>(tiles + (fours - 4) % 8 * 256, block, fours - 4, group_shift, scales + (fours - 4) * 16,
                      run_sums + (fours - 4) * 16, sums);
  for (size_t r = fours; r < runs; ++r) {
    int32_t* room = tiles + (r - fours) * 256;
    tile_run<0, 4, 6>(x + r * 512, bytes + r * 512);
    tile_store<0>(room, 64);
    scale_tiles<L, 1>(room, block, r, group_shift, scales + r * 16, run_sums + r * 16, sums);
  }
}

inline void panel_amx(const Weight& w, const RowBlock& block, const uint8_t* bytes, const Activations& a, int panel,
                      int32_t* tiles, F32 (&sums)[16]) {
  if (w.layout == Layout::q4) tile_amx<Layout::q4>(w, block, bytes, a, panel, tiles, sums);
  else tile_amx<Layout::q8>(w, block, bytes, a, panel, tiles, sums);
}

// All rows of one row block, where the activations are in panels; returns false where they are not.
inline bool block_by_amx(const LinearJob& job, int index, int column, int block) {
  const LinearArgs& args = job.args;
  const Activations& a = job.activations;
  if (!a.panels) return false;
  const Weight &w = *args.weights[index], &up = *args.weights[1];
  const bool swiglu = args.epilogue == LinearArgs::Epilogue::swiglu;
  TaskState& state = task_state();
  if (!state.configured) configure_linear(), state.configured = true;
  Carver carver{state.scratch.reserve(size_t(args.k) * 32 + 16384)};
  int32_t* tiles = carver.take<int32_t>(2048);
  const RowBlock blocks[2] = {row_block(w, block), swiglu ? row_block(up, block) : RowBlock{}};
  const uint8_t* bytes[2] = {unpack(w, blocks[0], args.k, carver.take<uint8_t>(size_t(args.k) * 16)), nullptr};
  if (swiglu) bytes[1] = unpack(up, blocks[1], args.k, carver.take<uint8_t>(size_t(args.k) * 16));
  for (int panel = 0; panel * 16 < args.rows; ++panel) {
    const int m0 = panel * 16, rows = args.rows - m0 < 16 ? args.rows - m0 : 16;
    F32 sums[16];
    panel_amx(w, blocks[0], bytes[0], a, panel, tiles, sums);
    if (swiglu) {
      F32 ups[16];
      panel_amx(up, blocks[1], bytes[1], a, panel, tiles, ups);
      for (int m = 0; m < rows; ++m) emit_swiglu(job, w, block * kRowsPerBlock, m0 + m, sums[m], ups[m]);
    } else {
      for (int m = 0; m < rows; ++m) emit(job, w, column, block * kRowsPerBlock, m0 + m, sums[m]);
    }
  }
  return true;
}

#else

inline bool block_by_amx(const LinearJob&, int, int, int) { return false; }
inline void end_task() {}

#endif

// Attention's two products by AMX bf16 tiles: 16 x 16 results x 32 products per instruction. Included by attention.inl.
//
// The cache's layout is the B operand as it lies: keys [dim / 2][64][2] are tiles of 16 pairs x 16 tokens, values
// [32][dim][2] tiles of 16 token pairs x 16 columns. Used for all row counts, decoding too: a tile sums even and odd
// products apart, so its bits differ from the AVX-512 dot's, and one engine must not mix the two.

#ifdef WHIMBREL_AMX

// All eight tiles 16 rows x 64 bytes: 0-3 results, 4-5 queries or weights, 6-7 keys or values.
inline void configure_attention() {
  TileConfig config;
  for (int t = 0; t < 8; ++t) config.rows[t] = 16, config.bytes_per_row[t] = 64;
  tile_configure(config);
}

inline bool& attention_configured() {
  static thread_local bool configured = false;
  return configured;
}

inline void end_attend_task() {
  if (attention_configured()) tile_release();
  attention_configured() = false;
}

// c[16 M][16 N] = sum over steps of a tiles times b tiles; `address` of a step gives both operands.
template <int M, int N, class Address>
inline void multiply_tiles(int steps, size_t a_stride, size_t b_stride, float* c, size_t c_stride, Ahead* ahead, Address&& address) {
  static_assert((M == 1 && N <= 4) || (M == 2 && N <= 2));
  tile_zero<0>(), tile_zero<1>(), tile_zero<2>(), tile_zero<3>();
  for (int i = 0; i < steps; ++i) {
    const auto [a, b] = address(i);
    tile_load<4>(a, a_stride), tile_load<6>(b, b_stride), tile_dot_bf16<0, 4, 6>();
    if (N > 1) tile_load<7>(b + 64, b_stride), tile_dot_bf16<1, 4, 7>();
    if (M == 1 && N > 2) tile_load<5>(b + 128, b_stride), tile_dot_bf16<2, 4, 5>();
    if (M == 1 && N > 3) tile_load<6>(b + 192, b_stride), tile_dot_bf16<3, 4, 6>();
    if (M == 2) tile_load<5>(a + 16 * a_stride, a_stride), tile_dot_bf16<2, 5, 6>();
    if (M == 2 && N > 1) tile_dot_bf16<3, 5, 7>();
    if (ahead) ahead->fetch(16 * N);
  }
  const size_t bytes = c_stride * 4;
  float* third = M == 2 ? c + 16 * c_stride : c + 32;
  tile_store<0>(c, bytes);
  if (N > 1) tile_store<1>(c + 16, bytes);
  if (M == 2 || N > 2) tile_store<2>(third, bytes);
  if ((M == 2 && N > 1) || N > 3) tile_store<3>(third + 16, bytes);
}

struct Operands {
  const uint8_t *a, *b;
};

template <int M, int N>
inline void score_tiles(const Split& split, const Group& group, int block, int column) {
  const auto* q = reinterpret_cast<const uint8_t*>(group.q);
  float* scores = group.scores + block * kBlockTokens + column;
  multiply_tiles<M, N>(int(group.stride / 32), group.stride * 2, kBlockTokens * 4, scores, kSplitTokens, group.ahead, [&](int i) {
    return Operands{q + i * 64, split.keys[block] + i * 16 * kBlockTokens * 4 + column * 4};
  });
}

template <int M, int N>
inline void value_tiles(const Split& split, const Group& group, int column) {
  const auto* weights = reinterpret_cast<const uint8_t*>(group.weights);
  const size_t row_bytes = size_t(group.dim) * 4;
  multiply_tiles<M, N>(2 * split.blocks, kSplitTokens * 2, row_bytes, group.out.values + column, size_t(group.dim), group.ahead, [&](int i) {
    return Operands{weights + i * 64, split.values[i / 2] + size_t(i % 2) * 16 * row_bytes + size_t(column) * 4};
  });
}

// M * 16 rows, of which group.rows count. One panel of rows reads four tiles side by side: whole 256-byte rows, in the
// order of memory. Two panels need the tiles for their results.
template <int M>
inline void attend_tiles(const Split& split, const Group& group) {
  constexpr int N = M == 1 ? 4 : 2;
  for (int b = 0; b < split.blocks; ++b)
    for (int c = 0; c < kBlockTokens; c += 16 * N) score_tiles<M, N>(split, group, b, c);
  softmax_rows(split, group, group.rows);
  int c = 0;
  for (; c + 16 * N <= group.dim; c += 16 * N) value_tiles<M, N>(split, group, c);
  for (; c < group.dim; c += 16) value_tiles<M, 1>(split, group, c);
}

inline bool attend_group_amx(const Split& split, const Group& group) {
  if (!attention_configured()) configure_attention(), attention_configured() = true;
  if (group.rows > 16) attend_tiles<2>(split, group);
  else attend_tiles<1>(split, group);
  return true;
}

#else

inline bool attend_group_amx(const Split&, const Group&) { return false; }
inline void end_attend_task() {}

#endif

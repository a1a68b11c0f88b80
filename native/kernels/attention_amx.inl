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

// c[16 M][32] = sum over steps of a tiles times b tiles; `address` of a step gives both operands. N: column tiles, 1 or 2.
template <int M, int N, class Step>
inline void multiply_tiles(int steps, size_t a_stride, size_t b_stride, float* c, size_t c_stride, Step&& address) {
  tile_zero<0>();
  if (N > 1) tile_zero<1>();
  if (M > 1) tile_zero<2>();
  if (M > 1 && N > 1) tile_zero<3>();
  for (int i = 0; i < steps; ++i) {
    const auto [a, b] = address(i);
    tile_load<4>(a, a_stride), tile_load<6>(b, b_stride), tile_dot_bf16<0, 4, 6>();
    if (N > 1) tile_load<7>(b + 64, b_stride), tile_dot_bf16<1, 4, 7>();
    if (M > 1) tile_load<5>(a + 16 * a_stride, a_stride), tile_dot_bf16<2, 5, 6>();
    if (M > 1 && N > 1) tile_dot_bf16<3, 5, 7>();
  }
  const size_t bytes = c_stride * 4;
  tile_store<0>(c, bytes);
  if (N > 1) tile_store<1>(c + 16, bytes);
  if (M > 1) tile_store<2>(c + 16 * c_stride, bytes);
  if (M > 1 && N > 1) tile_store<3>(c + 16 * c_stride + 16, bytes);
}

struct Operands {
  const uint8_t *a, *b;
};

template <int M>
inline void attend_tiles(const Split& split, const uint16_t* q, size_t stride, int dim, int rows, const int* visible, float* scores, uint16_t* weights, Partial* out, float* values) {
  const auto* qb = reinterpret_cast<const uint8_t*>(q);
  const auto* wb = reinterpret_cast<const uint8_t*>(weights);
  for (int b = 0; b < split.blocks; ++b) {
    fetch_ahead(split, dim, b);
    for (int c = 0; c < kBlockTokens; c += 32)
      multiply_tiles<M, 2>(int(stride / 32), stride * 2, kBlockTokens * 4, scores + b * kBlockTokens + c, kSplitTokens, [&](int i) {
        return Operands{qb + i * 64, split.keys[b] + i * 16 * kBlockTokens * 4 + c * 4};
      });
  }
  for (int r = 0; r < rows; ++r) softmax_row(split, scores + r * kSplitTokens, visible[r], weights + r * kSplitTokens, out[r]);
  for (int c = 0; c < dim; c += 32) {
    const auto address = [&](int i) {
      return Operands{wb + i * 64, split.values[i / 2] + size_t(i % 2) * 16 * size_t(dim) * 4 + size_t(c) * 4};
    };
    const size_t strides[3] = {kSplitTokens * 2, size_t(dim) * 4, size_t(dim)};
    if (c + 32 <= dim) multiply_tiles<M, 2>(2 * split.blocks, strides[0], strides[1], values + c, strides[2], address);
    else multiply_tiles<M, 1>(2 * split.blocks, strides[0], strides[1], values + c, strides[2], address);
  }
}

inline bool attend_group_amx(const Split& split, const uint16_t* q, size_t stride, int dim, int rows, const int* visible, float* scores, uint16_t* weights, Partial* out) {
  static thread_local Scratch scratch;
  if (!attention_configured()) configure_attention(), attention_configured() = true;
  float* values = reinterpret_cast<float*>(scratch.reserve(size_t(kMaxGroupRows) * size_t(dim) * 4));
  if (rows > 16) attend_tiles<2>(split, q, stride, dim, rows, visible, scores, weights, out, values);
  else attend_tiles<1>(split, q, stride, dim, rows, visible, scores, weights, out, values);
  for (int r = 0; r < rows; ++r)
    for (int d = 0; d < dim; d += 16) store(out[r].values + d, load(values + size_t(r) * size_t(dim) + d));
  return true;
}

#else

inline bool attend_group_amx(const Split&, const uint16_t*, size_t, int, int, const int*, float*, uint16_t*, Partial*) { return false; }
inline void end_attend_task() {}

#endif

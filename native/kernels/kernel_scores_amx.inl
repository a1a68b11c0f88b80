// Dot products of queries and semantic kernels by AMX tiles: 16 rows x 16 kernels x 64 dims per instruction, exact
// integers as with dot4. Included by kernel_scores.inl.

#ifdef WHIMBREL_AMX

// Rows that the tiles are configured for, or 0.
inline int& score_tile_rows() {
  static thread_local int rows = 0;
  return rows;
}

inline void end_score_task() {
  if (score_tile_rows()) tile_release();
  score_tile_rows() = 0;
}

// Tiles 0-3 results, 4 queries: as many rows as there are, since each takes its time; 6-7 kernels.
inline void configure_scores(int rows) {
  if (score_tile_rows() == rows) return;
  TileConfig config;
  for (int t = 0; t < 8; ++t) config.rows[t] = uint8_t(t < 5 ? rows : 16), config.bytes_per_row[t] = 64;
  tile_configure(config);
  score_tile_rows() = rows;
}

template <int C, int B>
inline void dot_group_amx(const ScoreQueries& queries, const int8_t* codes, const uint8_t* lines, int32_t* dots) {
  tile_zero<C>();
  for (size_t d = 0; d < queries.stride; d += 64) {
    if (queries.stride > 64) tile_load<4>(codes + d, queries.stride);
    tile_load<B>(lines + d * kKernelGroup, 64), tile_dot_bytes<C, 4, B>();
  }
  tile_store<C>(dots, 64);
}

inline bool dot_panel_amx(const ScoreQueries& queries, int panel, const KernelGroup* groups, int count, int32_t* dots) {
  const int rows = queries.rows - panel * kPanel;
  configure_scores(rows < kPanel ? rows : kPanel);
  const int8_t* codes = queries.codes + size_t(panel * kPanel) * queries.stride;
  if (queries.stride == 64) tile_load<4>(codes, 64);
  dot_group_amx<0, 6>(queries, codes, groups[0].codes, dots);
  if (count > 1) dot_group_amx<1, 7>(queries, codes, groups[1].codes, dots + 256);
  if (count > 2) dot_group_amx<2, 6>(queries, codes, groups[2].codes, dots + 512);
  if (count > 3) dot_group_amx<3, 7>(queries, codes, groups[3].codes, dots + 768);
  return true;
}

#else

inline bool dot_panel_amx(const ScoreQueries&, int, const KernelGroup*, int, int32_t*) { return false; }
inline void end_score_task() {}

#endif

// The best blocks of one row: an exact choice without sorting. Included by selection.inl.

inline float from_bits(uint32_t bits) {
  float x;
  memcpy(&x, &bits, 4);
  return x;
}

// The largest threshold that at least `wanted` of values [count] reach; values are >= 0 or -infinity, padded likewise to
// a multiple of 16. Searches the bits of the float, which ascend as it does, by quarters: three counts at a time cost
// little more than one. Stops early where a threshold separates `wanted` .. `wanted + slack` values from the others.
inline float threshold_of(const float* values, int count, int wanted, int slack) {
  F32 largest = zero();
  for (int i = 0; i < count; i += 16) largest = max(largest, load(values + i));
  const float top = reduce_max(largest);
  uint32_t below = 0, above;
  memcpy(&above, &top, 4);
  above = above < 0x7f800000u ? above + 1 : 0x7f800001u;
  while (above - below > 1) {
    uint32_t cuts[3];
    F32 at[3], reached[3];
    for (uint32_t k = 0; k < 3; ++k) {
      cuts[k] = below + uint32_t(uint64_t(above - below) * (k + 1) / 4);
      at[k] = splat(from_bits(cuts[k])), reached[k] = zero();
    }
    for (int i = 0; i < count; i += 16) {
      const F32 x = load(values + i);
      for (int k = 0; k < 3; ++k) reached[k] = add(reached[k], keep_where(x, at[k], splat(1)));
    }
    uint32_t low = below, high = above;
    for (int k = 0; k < 3; ++k) {
      const int n = int(reduce_add(reached[k]));
      if (n >= wanted && n <= wanted + slack) return from_bits(cuts[k]);
      if (n >= wanted) low = cuts[k];
      else if (cuts[k] < high) high = cuts[k];
    }
    below = low, above = high;
  }
  return from_bits(below);
}

// Room for choosing among so many blocks.
struct TopRoom {
  float* values;
  int32_t* blocks;
};

inline TopRoom carve_top(size_t blocks, Carver& carver) {
  TopRoom room;
  room.values = carver.take<float>(blocks + 32);
  room.blocks = carver.take<int32_t>(blocks + 32);
  return room;
}

// A threshold that at least `wanted` scores reach, and few others: that of the largest in each of a number of sets of
// scores, which are so many different ones. 0 where there are too few.
inline float rough_threshold(const float* scores, int first, int last, int wanted, float* buckets) {
  const int least = (2 * wanted + 15) / 16 * 16, width = last - first >= 8 * least ? 2 * least : least;
  if (2 * (last - first) < 3 * least) return 0;
  for (int i = 0; i < width; i += 16) store(buckets + i, load(scores + first + i));
  for (int from = first + width; from < last; from += width)
    for (int i = 0; i < width && from + i + 16 <= last; i += 16) store(buckets + i, max(load(buckets + i), load(scores + from + i)));
  return threshold_of(buckets, width, wanted, wanted / 8);
}

// The `wanted` blocks of [first, last) with the highest scores, ties to the lower; ascending. Fewer where fewer have a
// score. Returns their number; `out` has room for one more. Of 2,048 blocks some 80 pass the rough threshold, so that
// most are looked at twice.
inline int top_blocks(const float* scores, int first, int last, int wanted, const TopRoom& room, int32_t* out) {
  if (wanted <= 0) return 0;
  const F32 rough = splat(rough_threshold(scores, first, last, wanted, room.values));
  int count = 0, b = first;
  for (; b + 16 <= last; b += 16) count += pack_reached(load(scores + b), rough, b, room.values + count, room.blocks + count);
  if (b < last) count += pack_reached(keep_first(load(scores + b), last - b, -1), rough, b, room.values + count, room.blocks + count);
  store(room.values + count, splat(-1));
  const float threshold = threshold_of(room.values, count, wanted, 0);
  int ties = wanted, chosen = 0;
  for (int i = 0; i < count; ++i) ties -= room.values[i] > threshold;
  for (int i = 0; i < count; ++i) {  // without branches: a third are taken, in no order
    const int above = room.values[i] > threshold, equal = room.values[i] == threshold;
    out[chosen] = room.blocks[i];
    chosen += above | (equal & int(ties > 0));
    ties -= equal;
  }
  return chosen;
}

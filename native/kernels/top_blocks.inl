// The best blocks of one row: an exact choice without sorting. Included by selection.inl.

// The largest threshold that at least `wanted` of values [count] reach; values are >= 0 or -infinity, padded likewise to
// a multiple of 16. Bisects the bits of the float, which ascend as it does. Stops early where a threshold separates
// `wanted` .. `wanted + slack` values from the others.
inline float threshold_of(const float* values, int count, int wanted, int slack) {
  F32 largest = zero();
  for (int i = 0; i < count; i += 16) largest = max(largest, load(values + i));
  const float top = reduce_max(largest);
  uint32_t below = 0, above;
  memcpy(&above, &top, 4);
  above = above < 0x7f800000u ? above + 1 : 0x7f800001u;
  while (above - below > 1) {
    const uint32_t middle = below + (above - below) / 2;
    float x;
    memcpy(&x, &middle, 4);
    F32 reached = zero();
    for (int i = 0; i < count; i += 16) reached = add(reached, keep_where(load(values + i), splat(x), splat(1)));
    const int n = int(reduce_add(reached));
    if (n >= wanted && n <= wanted + slack) return x;
    (n > wanted ? below : above) = middle;
  }
  float x;
  memcpy(&x, &below, 4);
  return x;
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

// A threshold that at least `wanted` scores reach, and few others: that of the largest in each of `buckets` sets of
// scores, which are so many different ones. 0 where there are too few.
inline float rough_threshold(const float* scores, int first, int last, int wanted, float* buckets) {
  int width = 64;
  while (width < 4 * wanted) width *= 2;
  if (last - first < 2 * width) return 0;
  for (int i = 0; i < width; i += 16) store(buckets + i, load(scores + first + i));
  int at = first + width;
  for (; at + width <= last; at += width)
    for (int i = 0; i < width; i += 16) store(buckets + i, max(load(buckets + i), load(scores + at + i)));
  return threshold_of(buckets, width, wanted, wanted / 8);
}

// The `wanted` blocks of [first, last) with the highest scores, ties to the lower; ascending. Fewer where fewer have a
// score. Returns their number. Of 2,048 blocks some 80 pass the rough threshold, so that most are looked at twice.
inline int top_blocks(const float* scores, int first, int last, int wanted, const TopRoom& room, int32_t* out) {
  if (wanted <= 0) return 0;
  const F32 rough = splat(rough_threshold(scores, first, last, wanted, room.values));
  int count = 0;
  for (int b = first; b < last; b += 16) {
    unsigned bits = greater_equal(load(scores + b), rough);
    if (last - b < 16) bits &= (1u << (last - b)) - 1;
    for (; bits; bits &= bits - 1) {
      const int block = b + __builtin_ctz(bits);
      room.values[count] = scores[block], room.blocks[count++] = block;
    }
  }
  store(room.values + count, splat(-1));
  const float threshold = threshold_of(room.values, count, wanted, 0);
  int ties = wanted, chosen = 0;
  for (int i = 0; i < count; ++i) ties -= room.values[i] > threshold;
  for (int i = 0; i < count && chosen < wanted; ++i)
    if (room.values[i] > threshold || (room.values[i] == threshold && ties-- > 0)) out[chosen++] = room.blocks[i];
  return chosen;
}

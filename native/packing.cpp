#include "packing.h"

#include <atomic>
#include <cmath>
#include <cstring>

#include "threads.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace whimbrel {
namespace {

// One-time work, so the lanes that every processor has are enough: SmolLM2-135M (96 MB of Q4_1 and Q8_0) takes 45 ms of
// one core plus 15 of page faults, 160 in numpy; dense rows are rounded at 0.3 billion weights per second and core.
#include "vec/baseline.h"

using vec::F32;
using vec::Word4;

constexpr int kChunk = 256;     // inputs taken apart at a time: the longest block of a source, and 16 rows of it fit L1
constexpr int kMaxGroups = 16;  // groups of 16 in a chunk

uint16_t load_half(const uint8_t* p) { return vec::read<uint16_t>(p); }
float to_float(uint16_t half) { return vec::widen_f16(Word4{half, 0, 0, 0})[0]; }
uint16_t to_half(float x) { return uint16_t(vec::narrow_f16(vec::Float4{x, 0, 0, 0})[0]); }
bool finite_half(uint16_t half) { return (half & 0x7c00) != 0x7c00; }

// One row of a chunk on its way: a code per input as the layout stores it, scales and minimums in fp16.
struct CodeRow {
  uint8_t codes[kChunk];
  uint16_t scales[kMaxGroups], mins[kMaxGroups];
};

// Blocks of GGUF. Each says how one block becomes codes, scales and minimums; zeros are shifted to those of q4 (8, or 0
// with minimums) and q8 (128).

void split_nibbles(const uint8_t* packed, int count, uint8_t* low, uint8_t* high) {
  for (int i = 0; i < count; ++i) low[i] = packed[i] & 15, high[i] = packed[i] >> 4;
}

struct Q4_0 {
  static constexpr SourceFormat format = {"Q4_0", Source::q4_0, 32, 18, Layout::q4, 32, false};
  static void split(const uint8_t* block, uint8_t* codes, uint16_t* scales, uint16_t*) {
    scales[0] = load_half(block);
    split_nibbles(block + 2, 16, codes, codes + 16);
  }
};
struct Q4_1 {
  static constexpr SourceFormat format = {"Q4_1", Source::q4_1, 32, 20, Layout::q4, 32, true};
  static void split(const uint8_t* block, uint8_t* codes, uint16_t* scales, uint16_t* mins) {
    scales[0] = load_half(block), mins[0] = load_half(block + 2);
    split_nibbles(block + 4, 16, codes, codes + 16);
  }
};
// Bit i of a word is the fifth bit of code i; `zero` moves the codes to q8's zero.
void add_fifth_bits(const uint8_t* bits, uint8_t zero, uint8_t* codes) {
  const uint32_t word = vec::read<uint32_t>(bits);
  for (int i = 0; i < 32; ++i) codes[i] = uint8_t((codes[i] | (word >> i & 1) << 4) + zero);
}
struct Q5_0 {
  static constexpr SourceFormat format = {"Q5_0", Source::q5_0, 32, 22, Layout::q8, 32, false};
  static void split(const uint8_t* block, uint8_t* codes, uint16_t* scales, uint16_t*) {
    scales[0] = load_half(block);
    split_nibbles(block + 6, 16, codes, codes + 16);
    add_fifth_bits(block + 2, 128 - 16, codes);
  }
};
struct Q5_1 {
  static constexpr SourceFormat format = {"Q5_1", Source::q5_1, 32, 24, Layout::q8, 32, true};
  static void split(const uint8_t* block, uint8_t* codes, uint16_t* scales, uint16_t* mins) {
    scales[0] = load_half(block), mins[0] = load_half(block + 2);
    split_nibbles(block + 8, 16, codes, codes + 16);
    add_fifth_bits(block + 4, 128, codes);
  }
};
struct Q8_0 {
  static constexpr SourceFormat format = {"Q8_0", Source::q8_0, 32, 34, Layout::q8, 32, false};
  static void split(const uint8_t* block, uint8_t* codes, uint16_t* scales, uint16_t*) {
    scales[0] = load_half(block);
    for (int i = 0; i < 32; ++i) codes[i] = block[2 + i] ^ 0x80;
  }
};

// 12 bytes hold eight 6-bit scales and eight 6-bit minimums: bytes 0 .. 3 scales 0 .. 3 and the top bits of scales
// 4 .. 7, bytes 4 .. 7 the same of the minimums, bytes 8 .. 11 the low nibbles of scales 4 .. 7 and of minimums 4 .. 7.
void split_six_bits(const uint8_t* packed, float* scales, float* mins) {
  for (int i = 0; i < 4; ++i) {
    const uint8_t first = packed[i], second = packed[4 + i], third = packed[8 + i];
    scales[i] = float(first & 63), scales[4 + i] = float((third & 15) | first >> 6 << 4);
    mins[i] = float(second & 63), mins[4 + i] = float(third >> 4 | second >> 6 << 4);
  }
}
// The 16-byte head of Q4_K and Q5_K. Their minimums are subtracted, ours added.
void split_head(const uint8_t* block, uint16_t* scales, uint16_t* mins) {
  const float scale = to_float(load_half(block)), min = to_float(load_half(block + 2));
  float products[16];
  split_six_bits(block + 4, products, products + 8);
  for (int i = 0; i < 8; ++i) products[i] *= scale, products[8 + i] = -(products[8 + i] * min);
  uint16_t halves[16];
  vec::store_f16(halves, vec::load(products));
  memcpy(scales, halves, 16), memcpy(mins, halves + 8, 16);
}
struct Q4_K {
  static constexpr SourceFormat format = {"Q4_K", Source::q4_k, 256, 144, Layout::q4, 32, true};
  static void split(const uint8_t* block, uint8_t* codes, uint16_t* scales, uint16_t* mins) {
    split_head(block, scales, mins);
    for (int i = 0; i < 4; ++i) split_nibbles(block + 16 + 32 * i, 32, codes + 64 * i, codes + 64 * i + 32);
  }
};
struct Q5_K {
  static constexpr SourceFormat format = {"Q5_K", Source::q5_k, 256, 176, Layout::q8, 32, true};
  static void split(const uint8_t* block, uint8_t* codes, uint16_t* scales, uint16_t* mins) {
    split_head(block, scales, mins);
    const uint8_t* fifth = block + 16;  // bit s of byte i belongs to weight i of the s-th 32
    for (int i = 0; i < 4; ++i) split_nibbles(block + 48 + 32 * i, 32, codes + 64 * i, codes + 64 * i + 32);
    for (int s = 0; s < 8; ++s) {
      for (int i = 0; i < 32; ++i) codes[32 * s + i] = uint8_t((codes[32 * s + i] | (fifth[i] >> s & 1) << 4) + 128);
    }
  }
};
struct Q6_K {
  static constexpr SourceFormat format = {"Q6_K", Source::q6_k, 256, 210, Layout::q8, 16, false};
  static void split(const uint8_t* block, uint8_t* codes, uint16_t* scales, uint16_t*) {
    // Two halves of 128 weights: 64 bytes of low nibbles, and 32 bytes with two top bits for each of four 32s.
    for (int half = 0; half < 2; ++half, codes += 128) {
      const uint8_t *low = block + 64 * half, *tops = block + 128 + 32 * half;
      split_nibbles(low, 64, codes, codes + 64);
      for (int s = 0; s < 4; ++s) {
        for (int i = 0; i < 32; ++i) codes[32 * s + i] = uint8_t((codes[32 * s + i] | (tops[i] >> 2 * s & 3) << 4) + 96);
      }
    }
    const float scale = to_float(load_half(block + 208));
    vec::store_f16(scales, vec::mul(vec::load_i8(reinterpret_cast<const int8_t*>(block) + 192), vec::splat(scale)));
  }
};

// A whole number of blocks to codes.
template <class Format>
void split_blocks(const uint8_t* source, int inputs, CodeRow& row) {
  constexpr SourceFormat f = Format::format;
  constexpr int groups = f.weights / f.group;
  for (int i = 0, g = 0; i < inputs; i += f.weights, g += groups, source += f.bytes) {
    Format::split(source, row.codes + i, row.scales + g, row.mins + g);
  }
}

// Dense rows to fp32. Whole vectors are written; nothing is read beyond the row.
void widen(Source source, const uint8_t* from, int inputs, float* to) {
  if (source == Source::f32) return void(memcpy(to, from, size_t(inputs) * 4));
  const auto load = source == Source::f16 ? vec::load_f16 : vec::load_bf16;
  uint16_t halves[16] = {};
  for (int i = 0; i < inputs; i += 16) {
    memcpy(halves, from + 2 * i, inputs - i < 16 ? size_t(inputs - i) * 2 : 32);
    vec::store(to + i, load(halves));
  }
}

// Rounding a group of fp32 to codes: step * (code - zero) + min, nearest code to each value with the step as stored.

struct Extent {
  float low, high, largest;  // largest magnitude
  bool finite;
};
Extent extent_of(const float* x, int count) {
  F32 low = vec::load(x), high = low, nothing = vec::zero();
  for (int i = 0; i < count; i += 16) {
    const F32 v = vec::load(x + i);
    low = vec::min(v, low), high = vec::max(v, high);
    nothing = vec::fma(v, vec::zero(), nothing);  // NaN if any value is infinite or NaN
  }
  float lanes[16];
  vec::store(lanes, low);
  float least = lanes[0];
  for (float lane : lanes) least = lane < least ? lane : least;
  const float most = vec::reduce_max(high);
  return {least, most, std::fabs(most > -least ? most : least), vec::reduce_add(nothing) == 0};
}
void encode(const float* x, int count, float min, float step, int zero, int least, int most, uint8_t* codes) {
  const F32 divisor = vec::splat(step), shift = vec::splat(min), centre = vec::splat(float(zero));
  const F32 low = vec::splat(float(least)), high = vec::splat(float(most));
  for (int i = 0; i < count; i += 16) {
    const F32 exact = step == 0 ? vec::zero() : vec::div(vec::sub(vec::load(x + i), shift), divisor);
    const F32 steps = vec::min(vec::max(exact, vec::splat(-1000.0f)), vec::splat(1000.0f));  // round() has its limits
    const F32 rounded = vec::to_float(vec::round(steps));
    const F32 code = vec::min(vec::max(vec::add(rounded, centre), low), high);
    vec::store_i8(reinterpret_cast<int8_t*>(codes) + i, vec::round(code));
  }
}
// The first value of the largest magnitude.
float extreme_of(const float* x, float largest) {
  for (int i = 0;; i += 16) {
    const unsigned bits = vec::greater_equal(vec::abs(vec::load(x + i)), vec::splat(largest));
    if (bits) return x[i + __builtin_ctz(bits)];
  }
}

// Each returns whether the group could be encoded.
using Rounding = bool (*)(const float* x, int count, uint8_t* codes, uint16_t* scale, uint16_t* min);

bool finish(const float* x, int count, float min, uint16_t scale, int zero, int least, int most, uint8_t* codes) {
  if (!finite_half(scale)) return false;
  encode(x, count, min, to_float(scale), zero, least, most, codes);
  return true;
}
// The value of the largest magnitude becomes -8 steps, whatever its sign: no code is wasted.
bool round_q4(const float* x, int count, uint8_t* codes, uint16_t* scale, uint16_t*) {
  const Extent extent = extent_of(x, count);
  if (!extent.finite) return false;
  *scale = to_half(extreme_of(x, extent.largest) / -8.0f);
  return finish(x, count, 0.0f, *scale, 8, 0, 15, codes);
}
bool round_q4_mins(const float* x, int count, uint8_t* codes, uint16_t* scale, uint16_t* min) {
  const Extent extent = extent_of(x, count);
  *min = to_half(extent.low);
  if (!extent.finite || !finite_half(*min)) return false;
  *scale = to_half((extent.high - to_float(*min)) / 15.0f);
  return finish(x, count, to_float(*min), *scale, 0, 0, 15, codes);
}
bool round_q8(const float* x, int count, uint8_t* codes, uint16_t* scale, uint16_t*) {
  const Extent extent = extent_of(x, count);
  if (!extent.finite) return false;
  *scale = to_half(extent.largest / 127.0f);
  return finish(x, count, 0.0f, *scale, 128, 1, 255, codes);
}
bool round_q8_mins(const float* x, int count, uint8_t* codes, uint16_t* scale, uint16_t* min) {
  const Extent extent = extent_of(x, count);
  *min = to_half(extent.low / 2 + extent.high / 2);
  if (!extent.finite || !finite_half(*min)) return false;
  const float middle = to_float(*min), above = extent.high - middle, below = middle - extent.low;
  *scale = to_half((above > below ? above : below) / 127.0f);
  return finish(x, count, middle, *scale, 128, 1, 255, codes);
}
Rounding rounding_for(const Weight& w) {
  if (w.layout == Layout::q4) return w.mins ? round_q4_mins : round_q4;
  return w.mins ? round_q8_mins : round_q8;
}

// One row of a chunk of dense weights to codes.
bool round_chunk(const Weight& w, Source source, const uint8_t* from, int inputs, CodeRow& row) {
  alignas(64) float values[kChunk];
  widen(source, from, inputs, values);
  const Rounding round = rounding_for(w);
  for (int i = 0, g = 0; i < inputs; i += w.group, ++g) {
    if (!round(values + i, w.group, row.codes + i, row.scales + g, row.mins + g)) return false;
  }
  return true;
}

// Lines: dword j of 16 rows lies together.

// Lanes A .. D of x (0 .. 3) and y (4 .. 7).
template <int A, int B, int C, int D>
Word4 lanes_of(Word4 x, Word4 y) {
#if defined(__clang__)
  return __builtin_shufflevector(x, y, A, B, C, D);
#else
  return __builtin_shuffle(x, y, Word4{A, B, C, D});
#endif
}
void transpose(Word4 (&x)[4]) {
  const Word4 a = lanes_of<0, 4, 1, 5>(x[0], x[1]), b = lanes_of<0, 4, 1, 5>(x[2], x[3]);
  const Word4 c = lanes_of<2, 6, 3, 7>(x[0], x[1]), d = lanes_of<2, 6, 3, 7>(x[2], x[3]);
  x[0] = lanes_of<0, 1, 4, 5>(a, b), x[1] = lanes_of<2, 3, 6, 7>(a, b);
  x[2] = lanes_of<0, 1, 4, 5>(c, d), x[3] = lanes_of<2, 3, 6, 7>(c, d);
}
// Row r of four dwords from `words(r, i)`, i counting dwords; writes `count` lines.
template <class Words>
void store_lines(uint8_t* lines, int count, Words words) {
  for (int i = 0; i < count; i += 4) {
    const int n = count - i < 4 ? count - i : 4;
    for (int r = 0; r < kRowsPerBlock; r += 4) {
      Word4 square[4] = {words(r, i), words(r + 1, i), words(r + 2, i), words(r + 3, i)};
      transpose(square);
      for (int j = 0; j < n; ++j) memcpy(lines + size_t(i + j) * 64 + size_t(r) * 4, &square[j], 16);
    }
  }
}

void store_codes(Layout layout, const CodeRow (&rows)[kRowsPerBlock], int inputs, uint8_t* lines) {
  if (layout == Layout::q8) {
    return store_lines(lines, inputs / 4, [&](int r, int i) { return vec::read<Word4>(rows[r].codes + 4 * i); });
  }
  store_lines(lines, inputs / 8, [&](int r, int i) {
    // Eight inputs are two dwords of codes; the second goes above the first.
    const Word4 x = vec::read<Word4>(rows[r].codes + 8 * i), y = vec::read<Word4>(rows[r].codes + 8 * i + 16);
    return lanes_of<0, 2, 4, 6>(x, y) | lanes_of<1, 3, 5, 7>(x, y) << 4;
  });
}
// Returns whether all are finite.
bool store_scales(const CodeRow (&rows)[kRowsPerBlock], int groups, uint16_t* scales, uint16_t* mins) {
  bool finite = true;
  for (int r = 0; r < kRowsPerBlock; ++r) {
    for (int g = 0; g < groups; ++g) {
      scales[g * kRowsPerBlock + r] = rows[r].scales[g];
      finite &= finite_half(rows[r].scales[g]);
    }
    for (int g = 0; mins && g < groups; ++g) {
      mins[g * kRowsPerBlock + r] = rows[r].mins[g];
      finite &= finite_half(rows[r].mins[g]);
    }
  }
  return finite;
}
void clear(CodeRow& row, Layout layout) {
  memset(&row, 0, sizeof row);
  memset(row.codes, layout == Layout::q4 ? 8 : 128, kChunk);
}

using Splitter = void (*)(const uint8_t* source, int inputs, CodeRow& row);
struct Entry {
  SourceFormat format;
  Splitter split;
};
constexpr Entry kEntries[] = {
    {{"F32", Source::f32, 1, 4, Layout::f32, 0, false}, nullptr},
    {{"F16", Source::f16, 1, 2, Layout::f16, 0, false}, nullptr},
    {{"BF16", Source::bf16, 1, 2, Layout::bf16, 0, false}, nullptr},
    {Q4_0::format, split_blocks<Q4_0>}, {Q4_1::format, split_blocks<Q4_1>}, {Q5_0::format, split_blocks<Q5_0>},
    {Q5_1::format, split_blocks<Q5_1>}, {Q8_0::format, split_blocks<Q8_0>}, {Q4_K::format, split_blocks<Q4_K>},
    {Q5_K::format, split_blocks<Q5_K>}, {Q6_K::format, split_blocks<Q6_K>},
};
const Entry& entry_of(Source source) { return kEntries[int(source)]; }

// The rows of one row block; those beyond `count` are padding.
struct BlockRows {
  const uint8_t* rows[kRowsPerBlock];
  int count;
};

bool fill_quantized(const Weight& w, int block, Source source, const BlockRows& from) {
  const Entry& entry = entry_of(source);
  const int line_inputs = w.layout == Layout::q4 ? 8 : 4;
  uint8_t* lines = const_cast<uint8_t*>(w.codes) + size_t(block) * w.code_stride;
  uint16_t* scales = const_cast<uint16_t*>(w.scales) + size_t(block) * w.scale_stride;
  uint16_t* mins = w.mins ? const_cast<uint16_t*>(w.mins) + size_t(block) * w.scale_stride : nullptr;
  CodeRow rows[kRowsPerBlock];
  for (int r = from.count; r < kRowsPerBlock; ++r) clear(rows[r], w.layout);
  bool good = true;
  for (int start = 0; start < w.k && good; start += kChunk) {
    const int inputs = w.k - start < kChunk ? w.k - start : kChunk;
    const size_t offset = size_t(start / entry.format.weights) * size_t(entry.format.bytes);
    for (int r = 0; r < from.count && good; ++r) {
      if (entry.split) entry.split(from.rows[r] + offset, inputs, rows[r]);
      else good = round_chunk(w, source, from.rows[r] + offset, inputs, rows[r]);
    }
    store_codes(w.layout, rows, inputs, lines + size_t(start / line_inputs) * 64);
    const size_t group = size_t(start / w.group) * kRowsPerBlock;
    good = good && store_scales(rows, inputs / w.group, scales + group, mins ? mins + group : nullptr);
  }
  return good;
}

// fp32 to bf16 bits; a NaN stays one.
uint16_t bf16_of(float x) {
  const uint32_t u = vec::bits_as<uint32_t>(x);
  return x == x ? uint16_t((u + 0x7fff + (u >> 16 & 1)) >> 16) : uint16_t(u >> 16 | 0x40);
}

// One row of a chunk of dense weights in the layout's own type.
void convert_chunk(Layout layout, Source source, const uint8_t* from, int inputs, uint8_t* to) {
  const bool same = (layout == Layout::f32 && source == Source::f32) || (layout == Layout::f16 && source == Source::f16) ||
                    (layout == Layout::bf16 && source == Source::bf16);
  const size_t size = layout == Layout::f32 ? 4 : 2;
  if (same) return void(memcpy(to, from, size_t(inputs) * size));
  alignas(64) float values[kChunk];
  widen(source, from, inputs, values);
  if (layout == Layout::f32) return void(memcpy(to, values, size_t(inputs) * size));
  uint16_t halves[kChunk];
  if (layout == Layout::f16) {
    for (int i = 0; i < inputs; i += 16) vec::store_f16(halves + i, vec::load_first(values + i, inputs - i));
  } else {
    for (int i = 0; i < inputs; ++i) halves[i] = bf16_of(values[i]);
  }
  memcpy(to, halves, size_t(inputs) * size);
}

void fill_dense(const Weight& w, int block, Source source, const BlockRows& from) {
  const size_t source_size = size_t(entry_of(source).format.bytes), line = w.layout == Layout::f16 ? 32 : 64;
  uint8_t* lines = const_cast<uint8_t*>(w.codes) + size_t(block) * w.code_stride;
  alignas(64) uint8_t rows[kRowsPerBlock][kChunk * 4 + 16] = {};
  for (int start = 0; start < w.k; start += kChunk) {
    const int inputs = w.k - start < kChunk ? w.k - start : kChunk;
    for (int r = 0; r < from.count; ++r) convert_chunk(w.layout, source, from.rows[r] + size_t(start) * source_size, inputs, rows[r]);
    uint8_t* to = lines + size_t(w.layout == Layout::bf16 ? start / 2 : start) * line;
    if (w.layout == Layout::f16) {
      for (int i = 0; i < inputs; ++i) {
        for (int r = 0; r < kRowsPerBlock; ++r) memcpy(to + size_t(i) * line + size_t(r) * 2, rows[r] + 2 * i, 2);
      }
    } else {
      const int dwords = w.layout == Layout::f32 ? inputs : inputs / 2;
      store_lines(to, dwords, [&](int r, int i) { return vec::read<Word4>(rows[r] + 4 * i); });
    }
  }
}

// Row blocks [0, blocks) in tasks of about the same size, several per thread.
template <class Block>
void for_each_block(int blocks, ThreadPool& pool, Block fill) {
  const int wanted = 8 * pool.size(), tasks = blocks < wanted ? blocks : wanted;
  pool.run(tasks, [&](int task) {
    const int last = int(int64_t(task + 1) * blocks / tasks);
    for (int block = int(int64_t(task) * blocks / tasks); block < last; ++block) fill(block);
  });
}

// Four inputs of 16 rows in fp32: values[i] is input first + i.
void load_values(const Weight& w, const uint8_t* lines, const uint16_t* scales, const uint16_t* mins, int first, F32 (&values)[4]) {
  const size_t i = size_t(first);
  switch (w.layout) {
    case Layout::f32:
      for (int j = 0; j < 4 && first + j < w.k; ++j) values[j] = vec::read<F32>(lines + (i + size_t(j)) * 64);
      return;
    case Layout::f16:
      for (int j = 0; j < 4 && first + j < w.k; ++j) {
        values[j] = vec::load_f16(reinterpret_cast<const uint16_t*>(lines) + (i + size_t(j)) * 16);
      }
      return;
    case Layout::bf16:
      for (int j = 0; j < 4 && first + j < w.k; ++j) {
        const vec::Line pairs = vec::load_line(lines + (i + size_t(j)) / 2 * 64);
        for (int q = 0; q < 4; ++q) values[j].v[q] = (vec::Float4)(j % 2 ? pairs.v[q] & 0xffff0000u : pairs.v[q] << 16);
      }
      return;
    case Layout::q8:
    case Layout::q4: break;
  }
  const bool q8 = w.layout == Layout::q8;
  vec::Line line = vec::load_line(lines + (q8 ? i / 4 : i / 8) * 64);
  if (!q8) line = first % 8 ? vec::high_nibbles(line) : vec::low_nibbles(line);
  const size_t group = size_t(first / w.group) * kRowsPerBlock;
  const F32 zero = vec::splat(q8 ? 128.0f : mins ? 0.0f : 8.0f), scale = vec::load_f16(scales + group);
  for (int j = 0; j < 4; ++j) {
    values[j] = vec::mul(vec::sub(vec::byte_lanes(line, j), zero), scale);
    if (mins) values[j] = vec::add(values[j], vec::load_f16(mins + group));
  }
}

// Rows [first, last) of one row block, out pointing at the row `first`.
void dequantize_block(const Weight& w, int block, int first, int last, float* out) {
  const uint8_t* lines = w.codes + size_t(block) * w.code_stride;
  const uint16_t* scales = w.scales ? w.scales + size_t(block) * w.scale_stride : nullptr;
  const uint16_t* mins = w.mins ? w.mins + size_t(block) * w.scale_stride : nullptr;
  for (int i = 0; i < w.k; i += 4) {
    F32 values[4] = {};
    load_values(w, lines, scales, mins, i, values);
    const size_t bytes = w.k - i < 4 ? size_t(w.k - i) * 4 : 16;
    for (int quad = 0; quad < 4; ++quad) {
      Word4 square[4];
      for (int j = 0; j < 4; ++j) square[j] = (Word4)values[j].v[quad];
      transpose(square);
      for (int j = 0; j < 4; ++j) {
        const int row = 4 * quad + j;
        if (row >= first && row < last) memcpy(out + size_t(row - first) * size_t(w.k) + size_t(i), &square[j], bytes);
      }
    }
  }
}

}  // namespace

const SourceFormat* source_format(const char* name) {
  for (const Entry& entry : kEntries)
    if (!strcmp(entry.format.name, name)) return &entry.format;
  return nullptr;
}
const SourceFormat& source_format(Source source) { return entry_of(source).format; }

bool pack_rows(const SourceRows& source, const Weight& weight, int first_row, int rows, ThreadPool& pool) {
  const bool quantized = weight.layout == Layout::q8 || weight.layout == Layout::q4;
  std::atomic<bool> good{true};
  for_each_block((rows + kRowsPerBlock - 1) / kRowsPerBlock, pool, [&](int block) {
    const int first = block * kRowsPerBlock;
    BlockRows from{{}, rows - first < kRowsPerBlock ? rows - first : kRowsPerBlock};
    for (int r = 0; r < from.count; ++r) {
      const int64_t row = source.order ? source.order[first + r] : first + r;
      from.rows[r] = source.data + size_t(row) * source.stride;
    }
    const int target = first_row / kRowsPerBlock + block;
    if (!quantized) return fill_dense(weight, target, source.source, from);
    if (!fill_quantized(weight, target, source.source, from)) good.store(false, std::memory_order_relaxed);
  });
  return good;
}

void dequantize_rows(const Weight& weight, int first_row, int rows, float* out, ThreadPool& pool) {
  const int first_block = first_row / kRowsPerBlock, last = first_row + rows;
  for_each_block((last + kRowsPerBlock - 1) / kRowsPerBlock - first_block, pool, [&](int index) {
    const int block = first_block + index, start = block * kRowsPerBlock;
    const int from = first_row > start ? first_row : start, to = last < start + kRowsPerBlock ? last : start + kRowsPerBlock;
    dequantize_block(weight, block, from - start, to - start, out + size_t(from - first_row) * size_t(weight.k));
  });
}

}  // namespace whimbrel

// Lane operations on any processor: four vectors of 16 bytes in the compiler's vector extensions, which it maps to
// SSE2, to NEON, or to scalars. See vec/README.md for the list. For old machines and for one-time work (packing), so
// only the integer dot product goes further where SSE2 is at hand.
#pragma once

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include <cstdint>
#include <cstring>

namespace vec {

typedef float Float4 __attribute__((vector_size(16)));
typedef int32_t Int4 __attribute__((vector_size(16)));
typedef uint32_t Word4 __attribute__((vector_size(16)));
typedef uint16_t Half4 __attribute__((vector_size(8)));
typedef int8_t Byte4 __attribute__((vector_size(4)));

struct F32 { Float4 v[4]; };   // 16 floats
struct I32 { Int4 v[4]; };     // 16 int32
struct Line { Word4 v[4]; };   // 64 bytes: 16 dwords of 4 bytes, or of 2 bf16

// 16 registers of four lanes: 2 x 1 accumulators take half of them.
constexpr int kLinearRows = 2, kLinearBlocks = 1, kTallRows = 1, kFloatRows = 2, kAttendRows = 2, kAttendVectors = 1, kScoreRows = 1;

// Same bits, another type.
template <class To, class From>
inline To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From), "bits are kept");
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}
template <class T>
inline T read(const void* p) {
  T value;
  memcpy(&value, p, sizeof value);
  return value;
}
inline Float4 four(float x) { return Float4{x, x, x, x}; }
inline Word4 four(uint32_t x) { return Word4{x, x, x, x}; }
// mask ? a : b, where a lane of mask is all ones or zero
inline Word4 pick(Int4 mask, Word4 a, Word4 b) { return ((Word4)mask & a) | (~(Word4)mask & b); }
inline Float4 pick(Int4 mask, Float4 a, Float4 b) { return (Float4)pick(mask, (Word4)a, (Word4)b); }

template <class Operation>
inline F32 each(F32 a, Operation operation) {
  return {{operation(a.v[0]), operation(a.v[1]), operation(a.v[2]), operation(a.v[3])}};
}
template <class Operation>
inline F32 each(F32 a, F32 b, Operation operation) {
  return {{operation(a.v[0], b.v[0]), operation(a.v[1], b.v[1]), operation(a.v[2], b.v[2]), operation(a.v[3], b.v[3])}};
}
template <class Operation>
inline Line each(Line a, Operation operation) {
  return {{operation(a.v[0]), operation(a.v[1]), operation(a.v[2]), operation(a.v[3])}};
}

inline F32 splat(float x) { return {{four(x), four(x), four(x), four(x)}}; }
inline F32 zero() { return splat(0); }
inline F32 load(const float* p) { return read<F32>(p); }
inline void store(float* p, F32 x) { memcpy(p, &x, sizeof x); }
inline int clamped(int n) { return n < 0 ? 0 : n > 16 ? 16 : n; }
inline F32 load_first(const float* p, int n) {
  F32 x = zero();
  memcpy(&x, p, sizeof(float) * size_t(clamped(n)));
  return x;
}
inline void store_first(float* p, F32 x, int n) { memcpy(p, &x, sizeof(float) * size_t(clamped(n))); }
inline F32 add(F32 a, F32 b) { return each(a, b, [](Float4 x, Float4 y) { return x + y; }); }
inline F32 sub(F32 a, F32 b) { return each(a, b, [](Float4 x, Float4 y) { return x - y; }); }
inline F32 mul(F32 a, F32 b) { return each(a, b, [](Float4 x, Float4 y) { return x * y; }); }
inline F32 div(F32 a, F32 b) { return each(a, b, [](Float4 x, Float4 y) { return x / y; }); }
inline F32 max(F32 a, F32 b) { return each(a, b, [](Float4 x, Float4 y) { return pick(x > y, x, y); }); }
inline F32 min(F32 a, F32 b) { return each(a, b, [](Float4 x, Float4 y) { return pick(x < y, x, y); }); }
inline F32 abs(F32 a) { return each(a, [](Float4 x) { return (Float4)((Word4)x & four(0x7fffffffu)); }); }
inline F32 fma(F32 a, F32 b, F32 c) { return add(mul(a, b), c); }  // a * b + c, rounded once or twice
inline float reduce_add(F32 a) {
  const Float4 sum = (a.v[0] + a.v[2]) + (a.v[1] + a.v[3]);
  return (sum[0] + sum[2]) + (sum[1] + sum[3]);
}
inline float reduce_max(F32 a) {
  const Float4 lower = pick(a.v[0] > a.v[1], a.v[0], a.v[1]), upper = pick(a.v[2] > a.v[3], a.v[2], a.v[3]);
  const Float4 all = pick(lower > upper, lower, upper);
  const float x = all[0] > all[1] ? all[0] : all[1], y = all[2] > all[3] ? all[2] : all[3];
  return x > y ? x : y;
}
// Lanes at or beyond n become fill.
inline F32 keep_first(F32 x, int n, float fill) {
  for (int i = 0; i < 4; ++i) x.v[i] = pick(Int4{0, 1, 2, 3} + 4 * i < n, x.v[i], four(fill));
  return x;
}
// Bit i of the result: a[i] >= b[i].
inline unsigned greater_equal(F32 a, F32 b) {
  unsigned bits = 0;
  for (int i = 0; i < 4; ++i) {
    const Int4 mask = a.v[i] >= b.v[i];
#if defined(__SSE2__)
    bits |= unsigned(_mm_movemask_ps((__m128)mask)) << (4 * i);
#else
    const Int4 place = mask & Int4{1, 2, 4, 8};
    bits |= unsigned(place[0] | place[1] | place[2] | place[3]) << (4 * i);
#endif
  }
  return bits;
}
// Packs the lanes of x that reach a threshold, and their numbers counted from `first`; returns how many. Writes up to
// 16 of both.
inline int pack_reached(F32 x, F32 threshold, int first, float* values, int32_t* numbers) {
  float lanes[16];
  store(lanes, x);
  int count = 0;
  for (unsigned bits = greater_equal(x, threshold); bits; bits &= bits - 1) {
    const int lane = __builtin_ctz(bits);
    values[count] = lanes[lane], numbers[count++] = first + lane;
  }
  return count;
}
// x where a >= b, else 0.
inline F32 keep_where(F32 a, F32 b, F32 x) {
  for (int i = 0; i < 4; ++i) x.v[i] = (Float4)((Word4)(a.v[i] >= b.v[i]) & (Word4)x.v[i]);
  return x;
}

// 2^x of four lanes. Below -127 the exponent's bits are 0 and so is the result; from 128 on they are infinity's.
inline Float4 exp2_4(Float4 x) {
  x = pick(x < four(-127.0f), four(-127.0f), x);  // so, a NaN stays
  x = pick(x > four(128.0f), four(128.0f), x);
  // Adding 1.5 * 2^23 leaves no bits for a fraction. Not a conversion: of a NaN it would be undefined.
  const Float4 shifted = x + four(12582912.0f), nearest = shifted - four(12582912.0f);
  const Int4 above = nearest > x, whole = (Int4)shifted - 0x4b400000 + above;
  const Float4 f = x - nearest + (Float4)((Word4)above & 0x3f800000);
  Float4 p = four(1.8775767e-3f);
  p = p * f + four(8.9893397e-3f);
  p = p * f + four(5.5826318e-2f);
  p = p * f + four(2.4015361e-1f);
  p = p * f + four(6.9315308e-1f);
  p = p * f + four(9.9999994e-1f);
  return p * (Float4)((Word4)(whole + 127) << 23);
}
// 2^x, relative error below 4e-6 (degree 5 on [0, 1)); 0 far below the normal range.
inline F32 exp2(F32 x) { return each(x, exp2_4); }
// The relative error may be 1e-4: as exp2.
inline F32 exp2_rough(F32 x) { return exp2(x); }

struct Slots { F32 slot[4]; };
// Lane i of slot[k] is element 4 i + k of a, b, c, d one after the other.
inline Slots deal(F32 a, F32 b, F32 c, F32 d) {
  Slots out;
  const F32* from[4] = {&a, &b, &c, &d};
  for (int k = 0; k < 4; ++k)
    for (int i = 0; i < 4; ++i)
      out.slot[k].v[i] = Float4{from[i]->v[0][k], from[i]->v[1][k], from[i]->v[2][k], from[i]->v[3][k]};
  return out;
}

inline I32 izero() { return {}; }
inline I32 iadd(I32 a, I32 b) { return {{a.v[0] + b.v[0], a.v[1] + b.v[1], a.v[2] + b.v[2], a.v[3] + b.v[3]}}; }
inline int reduce_add(I32 a) {
  const Int4 sum = (a.v[0] + a.v[1]) + (a.v[2] + a.v[3]);
  return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}
inline F32 to_float(I32 a) {
  F32 x;
  for (int i = 0; i < 4; ++i) x.v[i] = __builtin_convertvector(a.v[i], Float4);
  return x;
}
inline I32 load_i32(const int32_t* p) { return read<I32>(p); }
inline void store_i32(int32_t* p, I32 a) { memcpy(p, &a, sizeof a); }
// To nearest, ties to even: adding 1.5 * 2^23 leaves no bits for a fraction. For |x| < 2^22.
inline I32 round(F32 a) {
  I32 whole;
  for (int i = 0; i < 4; ++i) whole.v[i] = (Int4)(a.v[i] + four(12582912.0f)) - 0x4b400000;
  return whole;
}
// The low byte of each lane.
inline void store_i8(int8_t* p, I32 a) {
  for (int i = 0; i < 4; ++i) {
    const Byte4 bytes = __builtin_convertvector(a.v[i], Byte4);
    memcpy(p + 4 * i, &bytes, 4);
  }
}
inline F32 load_i8(const int8_t* p) {
  F32 x;
  for (int i = 0; i < 4; ++i) {
    x.v[i] = __builtin_convertvector(__builtin_convertvector(read<Byte4>(p + 4 * i), Int4), Float4);
  }
  return x;
}

inline Word4 load_half4(const uint16_t* p) { return __builtin_convertvector(read<Half4>(p), Word4); }
inline void store_half4(uint16_t* p, Word4 x) {
  const Half4 halves = __builtin_convertvector(x, Half4);
  memcpy(p, &halves, sizeof halves);
}
// fp16 bits to fp32, exact. The multiplication moves the exponent's bias from 15 to 127 and normalizes small numbers;
// infinity and NaN need their exponent filled up.
inline Float4 widen_f16(Word4 half) {
  const Word4 magnitude = (half & 0x7fff) << 13;
  const Word4 scaled = (Word4)((Float4)magnitude * four(0x1p112f));
  const Word4 special = (Word4)(magnitude >= 0x0f800000u) & 0x7f800000u;
  return (Float4)(scaled | special | (half & 0x8000) << 16);
}
// fp32 to fp16 bits, to nearest even.
inline Word4 narrow_f16(Float4 x) {
  const Word4 u = (Word4)x, magnitude = u & 0x7fffffff;
  // Below 2^-14: 0.5 + x is in units of 2^-24, fp16's smallest step, so the addition rounds.
  const Word4 small = (Word4)((Float4)magnitude + four(0.5f)) - 0x3f000000u;
  const Word4 rounded = (magnitude - (112u << 23) + 0xfff + ((magnitude >> 13) & 1)) >> 13;
  const Word4 finite = pick(magnitude < 0x38800000u, small, rounded);
  const Word4 too_large = (Word4)(magnitude >= 0x477ff000u);  // 65520
  const Word4 nan = (Word4)(magnitude > 0x7f800000u);
  return ((finite & ~too_large) | (too_large & 0x7c00) | (nan & 0x0200)) | ((u >> 16) & 0x8000);
}
inline Word4 narrow_bf16(Float4 x) {
  const Word4 u = (Word4)x;
  return (u + ((u >> 16) & 1) + 0x7fff) >> 16;
}
inline F32 load_f16(const uint16_t* p) {
  return {{widen_f16(load_half4(p)), widen_f16(load_half4(p + 4)), widen_f16(load_half4(p + 8)),
           widen_f16(load_half4(p + 12))}};
}
inline void store_f16(uint16_t* p, F32 x) {
  for (int i = 0; i < 4; ++i) store_half4(p + 4 * i, narrow_f16(x.v[i]));
}
inline F32 load_bf16(const uint16_t* p) {
  F32 x;
  for (int i = 0; i < 4; ++i) x.v[i] = (Float4)(load_half4(p + 4 * i) << 16);
  return x;
}
inline void store_bf16(uint16_t* p, F32 x) {
  for (int i = 0; i < 4; ++i) store_half4(p + 4 * i, narrow_bf16(x.v[i]));
}

inline Line load_line(const void* p) { return read<Line>(p); }
inline void store_line(void* p, Line x) { memcpy(p, &x, sizeof x); }
inline Line splat_dword(uint32_t x) { return {{four(x), four(x), four(x), four(x)}}; }
inline Line low_nibbles(Line x) { return each(x, [](Word4 w) { return w & 0x0f0f0f0f; }); }
inline Line high_nibbles(Line x) { return each(x, [](Word4 w) { return (w >> 4) & 0x0f0f0f0f; }); }
#if defined(__SSE2__)
inline Int4 dot4_4(Int4 acc, Word4 a, Word4 b) {
  // Bytes 0 and 2, then 1 and 3, as int16: pmaddwd adds their products exactly.
  const __m128i x = (__m128i)a, y = (__m128i)b;
  const __m128i even = _mm_madd_epi16((__m128i)(a & 0x00ff00ff), _mm_srai_epi16(_mm_slli_epi16(y, 8), 8));
  const __m128i odd = _mm_madd_epi16(_mm_srli_epi16(x, 8), _mm_srai_epi16(y, 8));
  return acc + (Int4)_mm_add_epi32(even, odd);
}
#else
inline Int4 dot4_4(Int4 acc, Word4 a, Word4 b) {
  for (int i = 0; i < 4; ++i) acc += (Int4)((a >> (8 * i)) & 255) * ((Int4)(b << (24 - 8 * i)) >> 24);
  return acc;
}
#endif
// acc + sum of 4 products, unsigned bytes of a times signed bytes of b.
inline I32 dot4(I32 acc, Line a, Line b) {
  for (int i = 0; i < 4; ++i) acc.v[i] = dot4_4(acc.v[i], a.v[i], b.v[i]);
  return acc;
}
// dot4 where no byte of a exceeds 127.
inline I32 dot4_nibbles(I32 acc, Line a, Line b) { return dot4(acc, a, b); }
// acc + the two products of bf16 pairs.
inline F32 dot2(F32 acc, Line a, Line b) {
  for (int i = 0; i < 4; ++i) {
    const Float4 even = (Float4)(a.v[i] << 16) * (Float4)(b.v[i] << 16);
    acc.v[i] += even + (Float4)(a.v[i] & 0xffff0000u) * (Float4)(b.v[i] & 0xffff0000u);
  }
  return acc;
}
// The nibbles at bits 4i and 4i + 16 of each dword as a pair of bf16 (0 .. 15).
inline Line nibble_pairs(Line x, int i) {
  return each(x, [i](Word4 w) {
    const Word4 nibbles = w >> (4 * i);
    // Floats up to 15 have nothing below bit 16.
    const Word4 even = (Word4) __builtin_convertvector((Int4)(nibbles & 15), Float4);
    const Word4 odd = (Word4) __builtin_convertvector((Int4)((nibbles >> 16) & 15), Float4);
    return (even >> 16) | odd;
  });
}
// Byte i of each dword as float.
inline F32 byte_lanes(Line x, int i) {
  F32 lanes;
  for (int j = 0; j < 4; ++j) lanes.v[j] = __builtin_convertvector((Int4)((x.v[j] >> (8 * i)) & 255), Float4);
  return lanes;
}
// 32 consecutive floats to 32 consecutive bf16.
inline void store_bf16_line(uint16_t* p, F32 lo, F32 hi) { store_bf16(p, lo), store_bf16(p + 16, hi); }
// 32 int8 as 32 bf16, exact.
inline Line bf16_from_i8(const int8_t* p) {
  uint16_t line[32];
  store_bf16_line(line, load_i8(p), load_i8(p + 16));
  return load_line(line);
}
inline void prefetch(const void* p) { __builtin_prefetch(p); }

}  // namespace vec

// Lane operations on AVX2 with FMA and F16C (AVX-VNNI where compiled with it). See vec/README.md for the list.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace vec {

struct F32 { __m256 lo, hi; };   // 16 floats
struct I32 { __m256i lo, hi; };  // 16 int32
struct Line { __m256i lo, hi; }; // 64 bytes: 16 dwords of 4 bytes, or of 2 bf16

// 16 registers: a row of accumulators takes two, so 4 x 1 leave eight for the line's halves and what is multiplied. Of 2,
// 3, 4 and 6 rows, 4 is the fastest or within 5% of it for every layout (3072 x 576, 64 rows, one core).
constexpr int kLinearRows = 4, kLinearBlocks = 1, kTallRows = 1, kFloatRows = 4, kAttendRows = 4, kAttendVectors = 1, kScoreRows = 2;

inline F32 zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
inline F32 splat(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
inline F32 load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline void store(float* p, F32 x) { _mm256_storeu_ps(p, x.lo), _mm256_storeu_ps(p + 8, x.hi); }
// All ones in lanes below n.
inline I32 first(int n) {
  const __m256i count = _mm256_set1_epi32(n);
  return {_mm256_cmpgt_epi32(count, _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)),
          _mm256_cmpgt_epi32(count, _mm256_setr_epi32(8, 9, 10, 11, 12, 13, 14, 15))};
}
inline F32 load_first(const float* p, int n) {
  const I32 mask = first(n);
  return {_mm256_maskload_ps(p, mask.lo), _mm256_maskload_ps(p + 8, mask.hi)};
}
inline void store_first(float* p, F32 x, int n) {
  const I32 mask = first(n);
  _mm256_maskstore_ps(p, mask.lo, x.lo), _mm256_maskstore_ps(p + 8, mask.hi, x.hi);
}
inline F32 add(F32 a, F32 b) { return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)}; }
inline F32 sub(F32 a, F32 b) { return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)}; }
inline F32 mul(F32 a, F32 b) { return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)}; }
inline F32 div(F32 a, F32 b) { return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)}; }
inline F32 max(F32 a, F32 b) { return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)}; }
inline F32 min(F32 a, F32 b) { return {_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)}; }
inline F32 abs(F32 a) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return {_mm256_andnot_ps(sign, a.lo), _mm256_andnot_ps(sign, a.hi)};
}
inline F32 fma(F32 a, F32 b, F32 c) {  // a * b + c
  return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}
inline float reduce_add(F32 a) {
  const __m256 eight = _mm256_add_ps(a.lo, a.hi);
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
inline float reduce_max(F32 a) {
  const __m256 eight = _mm256_max_ps(a.lo, a.hi);
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}
// Lanes at or beyond n become fill.
inline F32 keep_first(F32 x, int n, float fill) {
  const I32 mask = first(n);
  const __m256 other = _mm256_set1_ps(fill);
  return {_mm256_blendv_ps(other, x.lo, _mm256_castsi256_ps(mask.lo)),
          _mm256_blendv_ps(other, x.hi, _mm256_castsi256_ps(mask.hi))};
}
// Bit i of the result: a[i] >= b[i].
inline unsigned greater_equal(F32 a, F32 b) {
  return unsigned(_mm256_movemask_ps(_mm256_cmp_ps(a.lo, b.lo, _CMP_GE_OQ))) |
         unsigned(_mm256_movemask_ps(_mm256_cmp_ps(a.hi, b.hi, _CMP_GE_OQ))) << 8;
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
  return {_mm256_and_ps(_mm256_cmp_ps(a.lo, b.lo, _CMP_GE_OQ), x.lo),
          _mm256_and_ps(_mm256_cmp_ps(a.hi, b.hi, _CMP_GE_OQ), x.hi)};
}

// 2^x of eight lanes. Below -127 the exponent's bits are 0 and so is the result; from 128 on they are infinity's.
inline __m256 exp2_8(__m256 x) {
  // The second operand of max and min survives a NaN.
  x = _mm256_min_ps(_mm256_set1_ps(128.0f), _mm256_max_ps(_mm256_set1_ps(-127.0f), x));
  const __m256 whole = _mm256_floor_ps(x);
  const __m256 f = _mm256_sub_ps(x, whole);
  __m256 p = _mm256_set1_ps(1.8775767e-3f);
  p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(8.9893397e-3f));
  p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(5.5826318e-2f));
  p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(2.4015361e-1f));
  p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(6.9315308e-1f));
  p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(9.9999994e-1f));
  const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(whole), _mm256_set1_epi32(127));
  return _mm256_mul_ps(p, _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23)));
}
// 2^x, relative error below 4e-6 (degree 5 on [0, 1)); 0 far below the normal range.
inline F32 exp2(F32 x) { return {exp2_8(x.lo), exp2_8(x.hi)}; }
inline __m256 exp2_rough_8(__m256 x) {
  x = _mm256_min_ps(_mm256_set1_ps(128.0f), _mm256_max_ps(_mm256_set1_ps(-127.0f), x));
  const __m256 whole = _mm256_floor_ps(x);
  const __m256 f = _mm256_sub_ps(x, whole);
  __m256 p = _mm256_set1_ps(7.8024521e-2f);
  p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(2.26067156e-1f));
  p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(6.95833564e-1f));
  p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(9.99925196e-1f));
  const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(whole), _mm256_set1_epi32(127));
  return _mm256_mul_ps(p, _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23)));
}
// The same with a relative error below 1e-4 (degree 3).
inline F32 exp2_rough(F32 x) { return {exp2_rough_8(x.lo), exp2_rough_8(x.hi)}; }

struct Slots { F32 slot[4]; };
struct Slots8 { __m256 slot[4]; };
inline Slots8 deal_8(__m256 a, __m256 b, __m256 c, __m256 d) {
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  const __m256d ab = _mm256_castps_pd(_mm256_unpacklo_ps(a, b)), ab2 = _mm256_castps_pd(_mm256_unpackhi_ps(a, b));
  const __m256d cd = _mm256_castps_pd(_mm256_unpacklo_ps(c, d)), cd2 = _mm256_castps_pd(_mm256_unpackhi_ps(c, d));
  const auto put = [order](__m256d x) { return _mm256_permutevar8x32_ps(_mm256_castpd_ps(x), order); };
  return {{put(_mm256_unpacklo_pd(ab, cd)), put(_mm256_unpackhi_pd(ab, cd)), put(_mm256_unpacklo_pd(ab2, cd2)),
           put(_mm256_unpackhi_pd(ab2, cd2))}};
}
// Lane i of slot[k] is element 4 i + k of a, b, c, d one after the other.
inline Slots deal(F32 a, F32 b, F32 c, F32 d) {
  const Slots8 lo = deal_8(a.lo, a.hi, b.lo, b.hi), hi = deal_8(c.lo, c.hi, d.lo, d.hi);
  return {{{lo.slot[0], hi.slot[0]}, {lo.slot[1], hi.slot[1]}, {lo.slot[2], hi.slot[2]}, {lo.slot[3], hi.slot[3]}}};
}

inline I32 izero() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
inline I32 iadd(I32 a, I32 b) { return {_mm256_add_epi32(a.lo, b.lo), _mm256_add_epi32(a.hi, b.hi)}; }
inline int reduce_add(I32 a) {
  const __m256i eight = _mm256_add_epi32(a.lo, a.hi);
  const __m128i four = _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
  const __m128i two = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 0xb1)));
}
inline F32 to_float(I32 a) { return {_mm256_cvtepi32_ps(a.lo), _mm256_cvtepi32_ps(a.hi)}; }
inline I32 load_i32(const int32_t* p) {
  return {_mm256_loadu_si256((const __m256i*)p), _mm256_loadu_si256((const __m256i*)(p + 8))};
}
inline void store_i32(int32_t* p, I32 a) {
  _mm256_storeu_si256((__m256i*)p, a.lo), _mm256_storeu_si256((__m256i*)(p + 8), a.hi);
}
inline I32 round(F32 a) { return {_mm256_cvtps_epi32(a.lo), _mm256_cvtps_epi32(a.hi)}; }  // to nearest, ties to even
// The low byte of each lane.
inline void store_i8(int8_t* p, I32 a) {
  // Each 128-bit half gathers its four low bytes in its first dword, the permutation puts the dwords together.
  const __m256i low = _mm256_setr_epi8(0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1,
                                       0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1);
  const __m256i both = _mm256_unpacklo_epi32(_mm256_shuffle_epi8(a.lo, low), _mm256_shuffle_epi8(a.hi, low));
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 0, 0, 0, 0);
  _mm_storeu_si128((__m128i*)p, _mm256_castsi256_si128(_mm256_permutevar8x32_epi32(both, order)));
}
inline F32 load_i8(const int8_t* p) {
  const __m128i bytes = _mm_loadu_si128((const __m128i*)p);
  return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)),
          _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(bytes, 8)))};
}

inline F32 load_f16(const uint16_t* p) {
  return {_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)),
          _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(p + 8)))};
}
inline void store_f16(uint16_t* p, F32 x) {
  _mm_storeu_si128((__m128i*)p, _mm256_cvtps_ph(x.lo, _MM_FROUND_TO_NEAREST_INT));
  _mm_storeu_si128((__m128i*)(p + 8), _mm256_cvtps_ph(x.hi, _MM_FROUND_TO_NEAREST_INT));
}
inline __m256 widen_bf16(__m128i halves) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
}
inline F32 load_bf16(const uint16_t* p) {
  return {widen_bf16(_mm_loadu_si128((const __m128i*)p)), widen_bf16(_mm_loadu_si128((const __m128i*)(p + 8)))};
}
// bf16 bits, to nearest even, in the low half of each dword.
inline __m256i narrow_bf16(__m256 x) {
  const __m256i u = _mm256_castps_si256(x);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
  return _mm256_srli_epi32(_mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
}
inline void store_bf16(uint16_t* p, F32 x) {
  // packus works within 128-bit halves: the four quarters come out as 0 2 1 3.
  const __m256i mixed = _mm256_packus_epi32(narrow_bf16(x.lo), narrow_bf16(x.hi));
  _mm256_storeu_si256((__m256i*)p, _mm256_permute4x64_epi64(mixed, 0xd8));
}

inline Line load_line(const void* p) {
  return {_mm256_loadu_si256((const __m256i*)p), _mm256_loadu_si256((const __m256i*)p + 1)};
}
inline void store_line(void* p, Line x) {
  _mm256_storeu_si256((__m256i*)p, x.lo), _mm256_storeu_si256((__m256i*)p + 1, x.hi);
}
inline Line splat_dword(uint32_t x) { return {_mm256_set1_epi32(int(x)), _mm256_set1_epi32(int(x))}; }
inline Line low_nibbles(Line x) {
  const __m256i mask = _mm256_set1_epi8(15);
  return {_mm256_and_si256(x.lo, mask), _mm256_and_si256(x.hi, mask)};
}
inline Line high_nibbles(Line x) {
  return low_nibbles({_mm256_srli_epi16(x.lo, 4), _mm256_srli_epi16(x.hi, 4)});
}
#ifdef __AVXVNNI__
inline I32 dot4(I32 acc, Line a, Line b) {
  return {_mm256_dpbusd_avx_epi32(acc.lo, a.lo, b.lo), _mm256_dpbusd_avx_epi32(acc.hi, a.hi, b.hi)};
}
inline I32 dot4_nibbles(I32 acc, Line a, Line b) { return dot4(acc, a, b); }
#else
inline __m256i dot4_8(__m256i acc, __m256i a, __m256i b) {
  // vpmaddubsw saturates its sums of two at 16 bits, so the codes go in halves: 127 * 128 * 2 and 128 * 128 * 2 (only
  // negative) both fit. The split of a is shared by all rows that the compiler unrolls.
  const __m256i ones = _mm256_set1_epi16(1), top = _mm256_set1_epi8(-128);
  const __m256i low = _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_andnot_si256(top, a), b), ones);
  const __m256i high = _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_and_si256(top, a), b), ones);
  return _mm256_add_epi32(acc, _mm256_add_epi32(low, high));
}
// acc + sum of 4 products, unsigned bytes of a times signed bytes of b.
inline I32 dot4(I32 acc, Line a, Line b) { return {dot4_8(acc.lo, a.lo, b.lo), dot4_8(acc.hi, a.hi, b.hi)}; }
// dot4 where no byte of a exceeds 127: two thirds of the instructions less.
inline I32 dot4_nibbles(I32 acc, Line a, Line b) {
  const __m256i ones = _mm256_set1_epi16(1);
  return {_mm256_add_epi32(acc.lo, _mm256_madd_epi16(_mm256_maddubs_epi16(a.lo, b.lo), ones)),
          _mm256_add_epi32(acc.hi, _mm256_madd_epi16(_mm256_maddubs_epi16(a.hi, b.hi), ones))};
}
#endif
// The first (low) or second bf16 of each dword as float.
inline __m256 even_bf16(__m256i x) { return _mm256_castsi256_ps(_mm256_slli_epi32(x, 16)); }
inline __m256 odd_bf16(__m256i x) {
  return _mm256_castsi256_ps(_mm256_and_si256(x, _mm256_set1_epi32(int(0xffff0000))));
}
inline __m256 dot2_8(__m256 acc, __m256i a, __m256i b) {
  return _mm256_fmadd_ps(odd_bf16(a), odd_bf16(b), _mm256_fmadd_ps(even_bf16(a), even_bf16(b), acc));
}
// acc + the two products of bf16 pairs.
inline F32 dot2(F32 acc, Line a, Line b) { return {dot2_8(acc.lo, a.lo, b.lo), dot2_8(acc.hi, a.hi, b.hi)}; }
inline __m256i nibble_pairs_8(__m256i x, int i) {
  // bf16(n) byte by byte from two tables; an index of 0 gives 0 in both, so the empty high bytes do no harm.
  const __m256i low = _mm256_setr_epi8(0, -128, 0, 64, -128, -96, -64, -32, 0, 16, 32, 48, 64, 80, 96, 112,
                                       0, -128, 0, 64, -128, -96, -64, -32, 0, 16, 32, 48, 64, 80, 96, 112);
  const __m256i high = _mm256_setr_epi8(0, 63, 64, 64, 64, 64, 64, 64, 65, 65, 65, 65, 65, 65, 65, 65,
                                        0, 63, 64, 64, 64, 64, 64, 64, 65, 65, 65, 65, 65, 65, 65, 65);
  const __m256i index = _mm256_and_si256(_mm256_srli_epi32(x, 4 * i), _mm256_set1_epi32(0x000f000f));
  return _mm256_or_si256(_mm256_shuffle_epi8(low, index), _mm256_slli_epi16(_mm256_shuffle_epi8(high, index), 8));
}
// The nibbles at bits 4i and 4i + 16 of each dword as a pair of bf16 (0 .. 15).
inline Line nibble_pairs(Line x, int i) { return {nibble_pairs_8(x.lo, i), nibble_pairs_8(x.hi, i)}; }
inline __m256 byte_lanes_8(__m256i x, int i) {
  return _mm256_cvtepi32_ps(_mm256_and_si256(_mm256_srli_epi32(x, 8 * i), _mm256_set1_epi32(255)));
}
// Byte i of each dword as float.
inline F32 byte_lanes(Line x, int i) { return {byte_lanes_8(x.lo, i), byte_lanes_8(x.hi, i)}; }
// 32 consecutive floats to 32 consecutive bf16.
inline void store_bf16_line(uint16_t* p, F32 lo, F32 hi) { store_bf16(p, lo), store_bf16(p + 16, hi); }
// 32 int8 as 32 bf16, exact.
inline Line bf16_from_i8(const int8_t* p) {
  alignas(32) uint16_t line[32];
  store_bf16_line(line, load_i8(p), load_i8(p + 16));
  return load_line(line);
}
inline void prefetch(const void* p) { _mm_prefetch((const char*)p, _MM_HINT_T0); }

}  // namespace vec

// Lane operations on AVX-512 (F, BW, VL, DQ, VNNI; BF16 where compiled with it). See vec/README.md for the list.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace vec {

struct F32 { __m512 v; };   // 16 floats
struct I32 { __m512i v; };  // 16 int32
struct Line { __m512i v; }; // 64 bytes: 16 dwords of 4 bytes, or of 2 bf16

// Register tiles of the kernels: rows x row blocks of the 8-bit linear, query rows of attention.
// 6 x 2 accumulators twice (int32 and fp32) and 4 unpacked lines fill the 32 registers.
constexpr int kLinearRows = 6, kLinearBlocks = 2, kTallRows = 8, kFloatRows = 4, kAttendRows = 6, kAttendVectors = 4, kScoreRows = 8;

inline F32 zero() { return {_mm512_setzero_ps()}; }
inline F32 splat(float x) { return {_mm512_set1_ps(x)}; }
inline F32 load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline void store(float* p, F32 x) { _mm512_storeu_ps(p, x.v); }
inline __mmask16 first(int n) { return n >= 16 ? 0xffff : n <= 0 ? 0 : __mmask16((1u << n) - 1); }
inline F32 load_first(const float* p, int n) { return {_mm512_maskz_loadu_ps(first(n), p)}; }
inline void store_first(float* p, F32 x, int n) { _mm512_mask_storeu_ps(p, first(n), x.v); }
inline F32 add(F32 a, F32 b) { return {_mm512_add_ps(a.v, b.v)}; }
inline F32 sub(F32 a, F32 b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline F32 mul(F32 a, F32 b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline F32 div(F32 a, F32 b) { return {_mm512_div_ps(a.v, b.v)}; }
inline F32 max(F32 a, F32 b) { return {_mm512_max_ps(a.v, b.v)}; }
inline F32 min(F32 a, F32 b) { return {_mm512_min_ps(a.v, b.v)}; }
inline F32 abs(F32 a) { return {_mm512_abs_ps(a.v)}; }
inline F32 fma(F32 a, F32 b, F32 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }  // a * b + c
inline float reduce_add(F32 a) { return _mm512_reduce_add_ps(a.v); }
inline float reduce_max(F32 a) { return _mm512_reduce_max_ps(a.v); }
// Lanes at or beyond n become fill.
inline F32 keep_first(F32 x, int n, float fill) { return {_mm512_mask_mov_ps(_mm512_set1_ps(fill), first(n), x.v)}; }
// Bit i of the result: a[i] >= b[i].
inline unsigned greater_equal(F32 a, F32 b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_GE_OQ); }
// Packs the lanes of x that reach a threshold, and their numbers counted from `first`; returns how many. Writes up to
// 16 of both.
inline int pack_reached(F32 x, F32 threshold, int first, float* values, int32_t* numbers) {
  const __mmask16 reached = _mm512_cmp_ps_mask(x.v, threshold.v, _CMP_GE_OQ);
  const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  _mm512_storeu_ps(values, _mm512_maskz_compress_ps(reached, x.v));
  _mm512_storeu_si512(numbers, _mm512_maskz_compress_epi32(reached, _mm512_add_epi32(lanes, _mm512_set1_epi32(first))));
  return __builtin_popcount(reached);
}
// x where a >= b, else 0.
inline F32 keep_where(F32 a, F32 b, F32 x) {
  return {_mm512_maskz_mov_ps(_mm512_cmp_ps_mask(a.v, b.v, _CMP_GE_OQ), x.v)};
}

// 2^x, relative error below 2e-7 (degree 5 on [0, 1), exact at integers); 0 far below the normal range.
inline F32 exp2(F32 x) {
  const __m512 f = _mm512_reduce_ps(x.v, 1);  // x - floor(x)
  __m512 p = _mm512_set1_ps(1.86713005e-3f);
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(9.01703071e-3f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(5.57999127e-2f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(2.40164444e-1f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(6.93151295e-1f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.0f));
  return {_mm512_scalef_ps(p, x.v)};  // scalef multiplies by 2^floor(x)
}
// The same with a relative error below 1e-4 (degree 3).
inline F32 exp2_rough(F32 x) {
  const __m512 f = _mm512_reduce_ps(x.v, 1);
  __m512 p = _mm512_set1_ps(7.8024521e-2f);
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(2.26067156e-1f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(6.95833564e-1f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(9.99925196e-1f));
  return {_mm512_scalef_ps(p, x.v)};
}

struct Slots { F32 slot[4]; };
// Lane i of slot[k] is element 4 i + k of a, b, c, d one after the other.
inline Slots deal(F32 a, F32 b, F32 c, F32 d) {
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  const __m512d ab = _mm512_castps_pd(_mm512_unpacklo_ps(a.v, b.v)), ab2 = _mm512_castps_pd(_mm512_unpackhi_ps(a.v, b.v));
  const __m512d cd = _mm512_castps_pd(_mm512_unpacklo_ps(c.v, d.v)), cd2 = _mm512_castps_pd(_mm512_unpackhi_ps(c.v, d.v));
  const auto put = [order](__m512d x) { return F32{_mm512_permutexvar_ps(order, _mm512_castpd_ps(x))}; };
  return {{put(_mm512_unpacklo_pd(ab, cd)), put(_mm512_unpackhi_pd(ab, cd)), put(_mm512_unpacklo_pd(ab2, cd2)),
           put(_mm512_unpackhi_pd(ab2, cd2))}};
}

inline I32 izero() { return {_mm512_setzero_si512()}; }
inline I32 iadd(I32 a, I32 b) { return {_mm512_add_epi32(a.v, b.v)}; }
inline int reduce_add(I32 a) { return _mm512_reduce_add_epi32(a.v); }
inline F32 to_float(I32 a) { return {_mm512_cvtepi32_ps(a.v)}; }
inline I32 load_i32(const int32_t* p) { return {_mm512_loadu_si512(p)}; }
inline void store_i32(int32_t* p, I32 a) { _mm512_storeu_si512(p, a.v); }
inline I32 round(F32 a) { return {_mm512_cvtps_epi32(a.v)}; }  // to nearest, ties to even
inline void store_i8(int8_t* p, I32 a) { _mm_storeu_si128((__m128i*)p, _mm512_cvtepi32_epi8(a.v)); }
inline F32 load_i8(const int8_t* p) {
  return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p)))};
}

inline F32 load_f16(const uint16_t* p) { return {_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p))}; }
inline void store_f16(uint16_t* p, F32 x) {
  _mm256_storeu_si256((__m256i*)p, _mm512_cvtps_ph(x.v, _MM_FROUND_TO_NEAREST_INT));
}
inline F32 load_bf16(const uint16_t* p) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)), 16))};
}
inline void store_bf16(uint16_t* p, F32 x) {
#ifdef __AVX512BF16__
  _mm256_storeu_si256((__m256i*)p, (__m256i)_mm512_cvtneps_pbh(x.v));
#else
  const __m512i u = _mm512_castps_si512(x.v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
  const __m512i r = _mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  _mm256_storeu_si256((__m256i*)p, _mm512_cvtepi32_epi16(_mm512_srli_epi32(r, 16)));
#endif
}

inline Line load_line(const void* p) { return {_mm512_loadu_si512(p)}; }
inline void store_line(void* p, Line x) { _mm512_storeu_si512(p, x.v); }
inline Line splat_dword(uint32_t x) { return {_mm512_set1_epi32(int(x))}; }
inline Line low_nibbles(Line x) { return {_mm512_and_si512(x.v, _mm512_set1_epi8(15))}; }
inline Line high_nibbles(Line x) { return {_mm512_and_si512(_mm512_srli_epi16(x.v, 4), _mm512_set1_epi8(15))}; }
// acc + sum of 4 products, unsigned bytes of a times signed bytes of b.
inline I32 dot4(I32 acc, Line a, Line b) { return {_mm512_dpbusd_epi32(acc.v, a.v, b.v)}; }
// dot4 where no byte of a exceeds 127; cheaper on AVX2.
inline I32 dot4_nibbles(I32 acc, Line a, Line b) { return dot4(acc, a, b); }
// acc + the two products of bf16 pairs.
inline F32 dot2(F32 acc, Line a, Line b) {
#ifdef __AVX512BF16__
  return {_mm512_dpbf16_ps(acc.v, (__m512bh)a.v, (__m512bh)b.v)};
#else
  const __m512i high = _mm512_set1_epi32(int(0xffff0000));
  const __m512 a0 = _mm512_castsi512_ps(_mm512_slli_epi32(a.v, 16)), b0 = _mm512_castsi512_ps(_mm512_slli_epi32(b.v, 16));
  const __m512 a1 = _mm512_castsi512_ps(_mm512_and_si512(a.v, high)), b1 = _mm512_castsi512_ps(_mm512_and_si512(b.v, high));
  return {_mm512_fmadd_ps(a1, b1, _mm512_fmadd_ps(a0, b0, acc.v))};
#endif
}
// The nibbles at bits 4i and 4i + 16 of each dword as a pair of bf16 (0 .. 15).
inline Line nibble_pairs(Line x, int i) {
  alignas(64) static constexpr uint16_t table[32] = {
      0x0000, 0x3f80, 0x4000, 0x4040, 0x4080, 0x40a0, 0x40c0, 0x40e0, 0x4100, 0x4110, 0x4120,
      0x4130, 0x4140, 0x4150, 0x4160, 0x4170, 0x0000, 0x3f80, 0x4000, 0x4040, 0x4080, 0x40a0,
      0x40c0, 0x40e0, 0x4100, 0x4110, 0x4120, 0x4130, 0x4140, 0x4150, 0x4160, 0x4170};
  const __m512i index = _mm512_and_si512(_mm512_srli_epi32(x.v, unsigned(4 * i)), _mm512_set1_epi32(0x000f000f));
  return {_mm512_permutexvar_epi16(index, _mm512_load_si512(table))};
}
// Byte i of each dword as float.
inline F32 byte_lanes(Line x, int i) {
  return {_mm512_cvtepi32_ps(_mm512_and_si512(_mm512_srli_epi32(x.v, unsigned(8 * i)), _mm512_set1_epi32(255)))};
}
// 32 consecutive floats to 32 consecutive bf16.
inline void store_bf16_line(uint16_t* p, F32 lo, F32 hi) {
#ifdef __AVX512BF16__
  _mm512_storeu_si512(p, (__m512i)_mm512_cvtne2ps_pbh(hi.v, lo.v));
#else
  store_bf16(p, lo), store_bf16(p + 16, hi);
#endif
}
// 32 int8 as 32 bf16, exact.
inline Line bf16_from_i8(const int8_t* p) {
  const __m512 lo = load_i8(p).v, hi = load_i8(p + 16).v;
#ifdef __AVX512BF16__
  return {(__m512i)_mm512_cvtne2ps_pbh(hi, lo)};
#else
  const __m256i a = _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_castps_si512(lo), 16));
  const __m256i b = _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_castps_si512(hi), 16));
  return {_mm512_inserti64x4(_mm512_castsi256_si512(a), b, 1)};
#endif
}
inline void prefetch(const void* p) { _mm_prefetch((const char*)p, _MM_HINT_T0); }

}  // namespace vec

// Lane operations on arm64 with the dot-product extension (bf16 and i8mm where compiled with them). See vec/README.md
// for the list.
#pragma once

#include <arm_neon.h>

#include <cstdint>
#include <cstring>

namespace vec {

struct F32 { float32x4_t v[4]; };  // 16 floats
struct I32 { int32x4_t v[4]; };    // 16 int32
struct Line { uint32x4_t v[4]; };  // 64 bytes: 16 dwords of 4 bytes, or of 2 bf16

// 32 registers: a row of accumulators takes four, 3 x 1 of int32 and of fp32 leave eight for the line's nibbles.
constexpr int kLinearRows = 3, kLinearBlocks = 1, kTallRows = 1, kFloatRows = 4, kAttendRows = 4, kAttendVectors = 1, kScoreRows = 3;

template <class Lanes, class Operation>
inline Lanes each(Lanes a, Operation operation) {
  return {{operation(a.v[0]), operation(a.v[1]), operation(a.v[2]), operation(a.v[3])}};
}
template <class Lanes, class Operation>
inline Lanes each(Lanes a, Lanes b, Operation operation) {
  return {{operation(a.v[0], b.v[0]), operation(a.v[1], b.v[1]), operation(a.v[2], b.v[2]), operation(a.v[3], b.v[3])}};
}

inline F32 splat(float x) {
  const float32x4_t four = vdupq_n_f32(x);
  return {{four, four, four, four}};
}
inline F32 zero() { return splat(0); }
inline F32 load(const float* p) { return {{vld1q_f32(p), vld1q_f32(p + 4), vld1q_f32(p + 8), vld1q_f32(p + 12)}}; }
inline void store(float* p, F32 x) {
  for (int i = 0; i < 4; ++i) vst1q_f32(p + 4 * i, x.v[i]);
}
inline int clamped(int n) { return n < 0 ? 0 : n > 16 ? 16 : n; }
inline F32 load_first(const float* p, int n) {
  float lanes[16] = {};
  memcpy(lanes, p, sizeof(float) * size_t(clamped(n)));
  return load(lanes);
}
inline void store_first(float* p, F32 x, int n) {
  float lanes[16];
  store(lanes, x);
  memcpy(p, lanes, sizeof(float) * size_t(clamped(n)));
}
inline F32 add(F32 a, F32 b) { return each(a, b, [](float32x4_t x, float32x4_t y) { return vaddq_f32(x, y); }); }
inline F32 sub(F32 a, F32 b) { return each(a, b, [](float32x4_t x, float32x4_t y) { return vsubq_f32(x, y); }); }
inline F32 mul(F32 a, F32 b) { return each(a, b, [](float32x4_t x, float32x4_t y) { return vmulq_f32(x, y); }); }
inline F32 div(F32 a, F32 b) { return each(a, b, [](float32x4_t x, float32x4_t y) { return vdivq_f32(x, y); }); }
inline F32 max(F32 a, F32 b) { return each(a, b, [](float32x4_t x, float32x4_t y) { return vmaxq_f32(x, y); }); }
inline F32 min(F32 a, F32 b) { return each(a, b, [](float32x4_t x, float32x4_t y) { return vminq_f32(x, y); }); }
inline F32 abs(F32 a) { return each(a, [](float32x4_t x) { return vabsq_f32(x); }); }
inline F32 fma(F32 a, F32 b, F32 c) {  // a * b + c
  for (int i = 0; i < 4; ++i) c.v[i] = vfmaq_f32(c.v[i], a.v[i], b.v[i]);
  return c;
}
inline float reduce_add(F32 a) {
  return vaddvq_f32(vaddq_f32(vaddq_f32(a.v[0], a.v[2]), vaddq_f32(a.v[1], a.v[3])));
}
inline float reduce_max(F32 a) {
  return vmaxvq_f32(vmaxq_f32(vmaxq_f32(a.v[0], a.v[2]), vmaxq_f32(a.v[1], a.v[3])));
}
inline int32x4_t lane_numbers(int i) {
  static const int32_t numbers[4] = {0, 1, 2, 3};
  return vaddq_s32(vld1q_s32(numbers), vdupq_n_s32(4 * i));
}
// Lanes at or beyond n become fill.
inline F32 keep_first(F32 x, int n, float fill) {
  for (int i = 0; i < 4; ++i) x.v[i] = vbslq_f32(vcltq_s32(lane_numbers(i), vdupq_n_s32(n)), x.v[i], vdupq_n_f32(fill));
  return x;
}
// Bit i of the result: a[i] >= b[i].
inline unsigned greater_equal(F32 a, F32 b) {
  static const uint32_t places[4] = {1, 2, 4, 8};
  uint32x4_t bits = vdupq_n_u32(0);
  for (int i = 0; i < 4; ++i) {
    const uint32x4_t place = vshlq_u32(vld1q_u32(places), vdupq_n_s32(4 * i));
    bits = vorrq_u32(bits, vandq_u32(vcgeq_f32(a.v[i], b.v[i]), place));
  }
  return vaddvq_u32(bits);
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
  for (int i = 0; i < 4; ++i) {
    x.v[i] = vreinterpretq_f32_u32(vandq_u32(vcgeq_f32(a.v[i], b.v[i]), vreinterpretq_u32_f32(x.v[i])));
  }
  return x;
}

// 2^x of four lanes. Below -127 the exponent's bits are 0 and so is the result; from 128 on they are infinity's.
inline float32x4_t exp2_4(float32x4_t x) {
  x = vminq_f32(vdupq_n_f32(128.0f), vmaxq_f32(vdupq_n_f32(-127.0f), x));
  const float32x4_t whole = vrndmq_f32(x), f = vsubq_f32(x, whole);
  float32x4_t p = vdupq_n_f32(1.8775767e-3f);
  p = vfmaq_f32(vdupq_n_f32(8.9893397e-3f), p, f);
  p = vfmaq_f32(vdupq_n_f32(5.5826318e-2f), p, f);
  p = vfmaq_f32(vdupq_n_f32(2.4015361e-1f), p, f);
  p = vfmaq_f32(vdupq_n_f32(6.9315308e-1f), p, f);
  p = vfmaq_f32(vdupq_n_f32(9.9999994e-1f), p, f);
  const int32x4_t exponent = vaddq_s32(vcvtq_s32_f32(whole), vdupq_n_s32(127));
  return vmulq_f32(p, vreinterpretq_f32_s32(vshlq_n_s32(exponent, 23)));
}
// 2^x, relative error below 4e-6 (degree 5 on [0, 1)); 0 far below the normal range.
inline F32 exp2(F32 x) { return each(x, exp2_4); }
inline float32x4_t exp2_rough_4(float32x4_t x) {
  x = vminq_f32(vdupq_n_f32(128.0f), vmaxq_f32(vdupq_n_f32(-127.0f), x));
  const float32x4_t whole = vrndmq_f32(x), f = vsubq_f32(x, whole);
  float32x4_t p = vdupq_n_f32(7.8024521e-2f);
  p = vfmaq_f32(vdupq_n_f32(2.26067156e-1f), p, f);
  p = vfmaq_f32(vdupq_n_f32(6.95833564e-1f), p, f);
  p = vfmaq_f32(vdupq_n_f32(9.99925196e-1f), p, f);
  const int32x4_t exponent = vaddq_s32(vcvtq_s32_f32(whole), vdupq_n_s32(127));
  return vmulq_f32(p, vreinterpretq_f32_s32(vshlq_n_s32(exponent, 23)));
}
// The same with a relative error below 1e-4 (degree 3).
inline F32 exp2_rough(F32 x) { return each(x, exp2_rough_4); }

struct Slots { F32 slot[4]; };
// Lane i of slot[k] is element 4 i + k of a, b, c, d one after the other.
inline Slots deal(F32 a, F32 b, F32 c, F32 d) {
  Slots out;
  const F32* from[4] = {&a, &b, &c, &d};
  for (int i = 0; i < 4; ++i) {
    const float32x4_t* v = from[i]->v;
    const float32x4_t even = vuzp1q_f32(v[0], v[1]), odd = vuzp2q_f32(v[0], v[1]);
    const float32x4_t even2 = vuzp1q_f32(v[2], v[3]), odd2 = vuzp2q_f32(v[2], v[3]);
    out.slot[0].v[i] = vuzp1q_f32(even, even2), out.slot[2].v[i] = vuzp2q_f32(even, even2);
    out.slot[1].v[i] = vuzp1q_f32(odd, odd2), out.slot[3].v[i] = vuzp2q_f32(odd, odd2);
  }
  return out;
}

inline I32 izero() { return {{vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0)}}; }
inline I32 iadd(I32 a, I32 b) { return each(a, b, [](int32x4_t x, int32x4_t y) { return vaddq_s32(x, y); }); }
inline int reduce_add(I32 a) {
  return vaddvq_s32(vaddq_s32(vaddq_s32(a.v[0], a.v[1]), vaddq_s32(a.v[2], a.v[3])));
}
inline F32 to_float(I32 a) {
  return {{vcvtq_f32_s32(a.v[0]), vcvtq_f32_s32(a.v[1]), vcvtq_f32_s32(a.v[2]), vcvtq_f32_s32(a.v[3])}};
}
inline I32 load_i32(const int32_t* p) {
  return {{vld1q_s32(p), vld1q_s32(p + 4), vld1q_s32(p + 8), vld1q_s32(p + 12)}};
}
inline void store_i32(int32_t* p, I32 a) {
  for (int i = 0; i < 4; ++i) vst1q_s32(p + 4 * i, a.v[i]);
}
inline I32 round(F32 a) {  // to nearest, ties to even
  return {{vcvtnq_s32_f32(a.v[0]), vcvtnq_s32_f32(a.v[1]), vcvtnq_s32_f32(a.v[2]), vcvtnq_s32_f32(a.v[3])}};
}
// The low byte of each lane.
inline void store_i8(int8_t* p, I32 a) {
  const int16x8_t low = vcombine_s16(vmovn_s32(a.v[0]), vmovn_s32(a.v[1]));
  const int16x8_t high = vcombine_s16(vmovn_s32(a.v[2]), vmovn_s32(a.v[3]));
  vst1q_s8(p, vcombine_s8(vmovn_s16(low), vmovn_s16(high)));
}
inline F32 load_i8(const int8_t* p) {
  const int8x16_t bytes = vld1q_s8(p);
  const int16x8_t low = vmovl_s8(vget_low_s8(bytes)), high = vmovl_s8(vget_high_s8(bytes));
  return to_float({{vmovl_s16(vget_low_s16(low)), vmovl_s16(vget_high_s16(low)), vmovl_s16(vget_low_s16(high)),
                    vmovl_s16(vget_high_s16(high))}});
}

inline F32 load_f16(const uint16_t* p) {
  F32 x;
  for (int i = 0; i < 4; ++i) x.v[i] = vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + 4 * i)));
  return x;
}
inline void store_f16(uint16_t* p, F32 x) {
  for (int i = 0; i < 4; ++i) vst1_u16(p + 4 * i, vreinterpret_u16_f16(vcvt_f16_f32(x.v[i])));
}
inline F32 load_bf16(const uint16_t* p) {
  F32 x;
  for (int i = 0; i < 4; ++i) x.v[i] = vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p + 4 * i), 16));
  return x;
}
// bf16 bits, to nearest even, in the low half of each dword.
inline uint32x4_t narrow_bf16(float32x4_t x) {
  const uint32x4_t u = vreinterpretq_u32_f32(x);
  const uint32x4_t odd = vandq_u32(vshrq_n_u32(u, 16), vdupq_n_u32(1));
  return vshrq_n_u32(vaddq_u32(u, vaddq_u32(odd, vdupq_n_u32(0x7fff))), 16);
}
inline void store_bf16(uint16_t* p, F32 x) {
  for (int i = 0; i < 4; ++i) vst1_u16(p + 4 * i, vmovn_u32(narrow_bf16(x.v[i])));
}

inline Line load_line(const void* p) {
  const uint8_t* bytes = static_cast<const uint8_t*>(p);
  Line x;
  for (int i = 0; i < 4; ++i) x.v[i] = vreinterpretq_u32_u8(vld1q_u8(bytes + 16 * i));
  return x;
}
inline void store_line(void* p, Line x) {
  uint8_t* bytes = static_cast<uint8_t*>(p);
  for (int i = 0; i < 4; ++i) vst1q_u8(bytes + 16 * i, vreinterpretq_u8_u32(x.v[i]));
}
inline Line splat_dword(uint32_t x) {
  const uint32x4_t four = vdupq_n_u32(x);
  return {{four, four, four, four}};
}
inline Line low_nibbles(Line x) {
  return each(x, [](uint32x4_t w) { return vandq_u32(w, vdupq_n_u32(0x0f0f0f0f)); });
}
inline Line high_nibbles(Line x) {
  return each(x, [](uint32x4_t w) { return vreinterpretq_u32_u8(vshrq_n_u8(vreinterpretq_u8_u32(w), 4)); });
}
// dot4 where no byte of a exceeds 127.
inline I32 dot4_nibbles(I32 acc, Line a, Line b) {
  for (int i = 0; i < 4; ++i) {
    acc.v[i] = vdotq_s32(acc.v[i], vreinterpretq_s8_u32(a.v[i]), vreinterpretq_s8_u32(b.v[i]));
  }
  return acc;
}
// acc + sum of 4 products, unsigned bytes of a times signed bytes of b.
#ifdef __ARM_FEATURE_MATMUL_INT8
inline I32 dot4(I32 acc, Line a, Line b) {
  for (int i = 0; i < 4; ++i) {
    acc.v[i] = vusdotq_s32(acc.v[i], vreinterpretq_u8_u32(a.v[i]), vreinterpretq_s8_u32(b.v[i]));
  }
  return acc;
}
#else
inline I32 dot4(I32 acc, Line a, Line b) {
  // sdot takes signed bytes only: (a - 128) b, minus -128 b. The latter is one instruction for all of a splat.
  for (int i = 0; i < 4; ++i) {
    const int8x16_t factors = vreinterpretq_s8_u32(b.v[i]);
    const int32x4_t excess = vdotq_s32(vdupq_n_s32(0), vdupq_n_s8(-128), factors);
    const int8x16_t codes = vreinterpretq_s8_u32(veorq_u32(a.v[i], vdupq_n_u32(0x80808080)));
    acc.v[i] = vdotq_s32(vsubq_s32(acc.v[i], excess), codes, factors);
  }
  return acc;
}
#endif
// acc + the two products of bf16 pairs.
inline F32 dot2(F32 acc, Line a, Line b) {
#ifdef __ARM_FEATURE_BF16_VECTOR_ARITHMETIC
  for (int i = 0; i < 4; ++i) {
    acc.v[i] = vbfdotq_f32(acc.v[i], vreinterpretq_bf16_u32(a.v[i]), vreinterpretq_bf16_u32(b.v[i]));
  }
#else
  const uint32x4_t high = vdupq_n_u32(0xffff0000);
  const auto even = [](uint32x4_t w) { return vreinterpretq_f32_u32(vshlq_n_u32(w, 16)); };
  const auto odd = [high](uint32x4_t w) { return vreinterpretq_f32_u32(vandq_u32(w, high)); };
  for (int i = 0; i < 4; ++i) {
    acc.v[i] = vfmaq_f32(acc.v[i], even(a.v[i]), even(b.v[i]));
    acc.v[i] = vfmaq_f32(acc.v[i], odd(a.v[i]), odd(b.v[i]));
  }
#endif
  return acc;
}
// The nibbles at bits 4i and 4i + 16 of each dword as a pair of bf16 (0 .. 15).
inline Line nibble_pairs(Line x, int i) {
  // bf16(n) byte by byte from two tables; an index of 0 gives 0 in both, so the empty high bytes do no harm.
  static const uint8_t low[16] = {0, 128, 0, 64, 128, 160, 192, 224, 0, 16, 32, 48, 64, 80, 96, 112};
  static const uint8_t high[16] = {0, 63, 64, 64, 64, 64, 64, 64, 65, 65, 65, 65, 65, 65, 65, 65};
  const uint8x16_t lows = vld1q_u8(low), highs = vld1q_u8(high);
  return each(x, [=](uint32x4_t w) {
    const uint32x4_t nibbles = vandq_u32(vshlq_u32(w, vdupq_n_s32(-4 * i)), vdupq_n_u32(0x000f000f));
    const uint8x16_t index = vreinterpretq_u8_u32(nibbles);
    const uint16x8_t upper = vshlq_n_u16(vreinterpretq_u16_u8(vqtbl1q_u8(highs, index)), 8);
    return vreinterpretq_u32_u16(vorrq_u16(vreinterpretq_u16_u8(vqtbl1q_u8(lows, index)), upper));
  });
}
// Byte i of each dword as float.
inline F32 byte_lanes(Line x, int i) {
  F32 lanes;
  for (int j = 0; j < 4; ++j) {
    lanes.v[j] = vcvtq_f32_u32(vandq_u32(vshlq_u32(x.v[j], vdupq_n_s32(-8 * i)), vdupq_n_u32(255)));
  }
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

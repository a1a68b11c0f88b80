// Compares every operation of one vec/ header with a scalar loop. Stands alone: no threads, no Python, so it also runs
// under an emulator. check.sh builds and runs it. Prints one line and returns 0, or one line per difference and 1.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <limits>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace {
#include WHIMBREL_VEC

int failures = 0;

void expect(bool good, const char* what, int lane, double found, double wanted) {
  if (good) return;
  if (++failures <= 40) printf("%s, lane %d: %.9g, expected %.9g\n", what, lane, found, wanted);
}
void same(const char* what, int lane, double found, double wanted) {
  expect(found == wanted || (std::isnan(found) && std::isnan(wanted)), what, lane, found, wanted);
}
void near(const char* what, int lane, double found, double wanted, double relative) {
  const bool good = std::isfinite(wanted) ? std::fabs(found - wanted) <= relative * std::fabs(wanted) : found == wanted;
  expect(good, what, lane, found, wanted);
}

// A fixed sequence of pseudorandom words (xorshift).
uint32_t word() {
  static uint64_t state = 0x9e3779b97f4a7c15u;
  state ^= state << 13, state ^= state >> 7, state ^= state << 17;
  return uint32_t(state >> 16);
}
float number() { return float(int32_t(word())) * 0x1p-28f; }  // -8 .. 8

struct Floats {
  float at[16];
  vec::F32 lanes() const { return vec::load(at); }
};
Floats numbers() {
  Floats x;
  for (float& lane : x.at) lane = number();
  return x;
}
Floats floats(vec::F32 x) {
  Floats out;
  vec::store(out.at, x);
  return out;
}
struct Ints {
  int32_t at[16];
};
Ints ints(vec::I32 x) {
  // vec has no store of int32; in memory the lanes lie in order.
  static_assert(sizeof x == 64, "16 lanes of 4 bytes");
  Ints out;
  memcpy(out.at, &x, sizeof out.at);
  return out;
}
struct Bytes {
  alignas(64) uint8_t at[64];
  vec::Line line() const { return vec::load_line(at); }
};
Bytes bytes() {
  Bytes x;
  for (uint8_t& byte : x.at) byte = uint8_t(word());
  return x;
}
Bytes bytes(vec::Line x) {
  Bytes out;
  vec::store_line(out.at, x);
  return out;
}
uint32_t dword(const Bytes& x, int i) {
  uint32_t value;
  memcpy(&value, x.at + 4 * i, 4);
  return value;
}
uint16_t half(const Bytes& x, int i) {
  uint16_t value;
  memcpy(&value, x.at + 2 * i, 2);
  return value;
}

float from_bf16(uint16_t bits) {
  const uint32_t u = uint32_t(bits) << 16;
  float x;
  memcpy(&x, &u, 4);
  return x;
}
uint16_t to_bf16(float x) {
  uint32_t u;
  memcpy(&u, &x, 4);
  return uint16_t((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}
double from_f16(uint16_t bits) {
  const int exponent = (bits >> 10) & 31, fraction = bits & 1023;
  const double sign = bits & 0x8000 ? -1 : 1;
  if (exponent == 31) return fraction ? std::nan("") : sign * HUGE_VAL;
  return sign * (exponent ? std::ldexp(1024 + fraction, exponent - 25) : std::ldexp(fraction, -24));
}

void check_arithmetic() {
  const Floats a = numbers(), b = numbers(), c = numbers();
  const Floats sum = floats(vec::add(a.lanes(), b.lanes())), difference = floats(vec::sub(a.lanes(), b.lanes()));
  const Floats product = floats(vec::mul(a.lanes(), b.lanes())), ratio = floats(vec::div(a.lanes(), b.lanes()));
  const Floats larger = floats(vec::max(a.lanes(), b.lanes())), smaller = floats(vec::min(a.lanes(), b.lanes()));
  const Floats size = floats(vec::abs(a.lanes())), fused = floats(vec::fma(a.lanes(), b.lanes(), c.lanes()));
  const Floats kept = floats(vec::keep_where(a.lanes(), b.lanes(), c.lanes()));
  const unsigned bits = vec::greater_equal(a.lanes(), b.lanes());
  double total = 0, magnitude = 0;
  float largest = a.at[0];
  for (int i = 0; i < 16; ++i) {
    same("add", i, sum.at[i], a.at[i] + b.at[i]);
    same("sub", i, difference.at[i], a.at[i] - b.at[i]);
    same("mul", i, product.at[i], a.at[i] * b.at[i]);
    same("div", i, ratio.at[i], a.at[i] / b.at[i]);
    same("max", i, larger.at[i], a.at[i] > b.at[i] ? a.at[i] : b.at[i]);
    same("min", i, smaller.at[i], a.at[i] < b.at[i] ? a.at[i] : b.at[i]);
    same("abs", i, size.at[i], std::fabs(a.at[i]));
    const double exact = double(a.at[i]) * b.at[i] + c.at[i];
    expect(std::fabs(fused.at[i] - exact) <= 8e-6, "fma", i, fused.at[i], exact);
    same("greater_equal", i, bits >> i & 1, a.at[i] >= b.at[i]);
    same("keep_where", i, kept.at[i], a.at[i] >= b.at[i] ? c.at[i] : 0);
    total += a.at[i], magnitude += std::fabs(a.at[i]);
    largest = a.at[i] > largest ? a.at[i] : largest;
  }
  same("greater_equal of equals", 0, vec::greater_equal(a.lanes(), a.lanes()), 0xffff);
  expect(std::fabs(vec::reduce_add(a.lanes()) - total) <= 1e-6 * magnitude, "reduce_add", 0, vec::reduce_add(a.lanes()), total);
  same("reduce_max", 0, vec::reduce_max(a.lanes()), largest);
  const float scalar = number();
  for (int i = 0; i < 16; ++i) {
    same("splat", i, floats(vec::splat(scalar)).at[i], scalar);
    same("zero", i, floats(vec::zero()).at[i], 0);
  }
}

void check_parts_of_vectors() {
  const Floats a = numbers();
  for (int n = -1; n <= 17; ++n) {
    const Floats loaded = floats(vec::load_first(a.at, n)), kept = floats(vec::keep_first(a.lanes(), n, -1e30f));
    float stored[17];
    for (float& lane : stored) lane = 99;
    vec::store_first(stored, a.lanes(), n);
    for (int i = 0; i < 16; ++i) {
      same("load_first", i, loaded.at[i], i < n ? a.at[i] : 0);
      same("keep_first", i, kept.at[i], i < n ? a.at[i] : -1e30f);
      same("store_first", i, stored[i], i < n ? a.at[i] : 99);
    }
    same("store_first, behind", 16, stored[16], 99);
  }
}

void check_deal() {
  Floats x[4];
  for (int i = 0; i < 64; ++i) x[i / 16].at[i % 16] = float(i);
  const vec::Slots slots = vec::deal(x[0].lanes(), x[1].lanes(), x[2].lanes(), x[3].lanes());
  for (int k = 0; k < 4; ++k)
    for (int i = 0; i < 16; ++i) same("deal", i, floats(slots.slot[k]).at[i], 4 * i + k);
}

void check_pack_reached() {
  Floats x = numbers();
  x.at[3] = 0.5f, x.at[7] = NAN;
  float values[16];
  int32_t lanes[16];
  const int count = vec::pack_reached(x.lanes(), vec::splat(0.5f), 100, values, lanes);
  int n = 0;
  for (int i = 0; i < 16; ++i) {
    if (!(x.at[i] >= 0.5f)) continue;
    same("pack_reached", n, values[n], x.at[i]), same("pack_reached, numbers", n, lanes[n], 100 + i);
    ++n;
  }
  same("pack_reached, count", 0, count, n);
}

void check_exp2_of(Floats x) {
  const Floats y = floats(vec::exp2(x.lanes())), rough = floats(vec::exp2_rough(x.lanes()));
  for (int i = 0; i < 16; ++i) {
    const double exact = std::exp2(double(x.at[i]));
    const bool tiny = x.at[i] < -126;
    expect(tiny ? y.at[i] >= 0 && y.at[i] <= 0x1p-126 : std::fabs(y.at[i] - exact) <= 4e-6 * exact, "exp2", i, y.at[i], exact);
    expect(tiny ? rough.at[i] >= 0 && rough.at[i] <= 1.0001 * 0x1p-126 : std::fabs(rough.at[i] - exact) <= 1e-4 * exact, "exp2_rough", i, rough.at[i], exact);
  }
}
void check_exp2() {
  Floats x;
  for (float start = -140; start < 127; start += 1.37f) {
    for (int i = 0; i < 16; ++i) x.at[i] = start + float(i) * 0.0773f;
    check_exp2_of(x);
  }
  const float infinity = std::numeric_limits<float>::infinity();
  const float edges[16] = {0, -0.0f, 1, -1, 127, -126, -200, -1e4f, -1e30f, -3e38f, -infinity, 129, 1e30f, infinity, NAN, 0.5f};
  const float wanted[16] = {1, 1, 2, 0.5, 0x1p127f, 0x1p-126f, 0, 0, 0, 0, 0, infinity, infinity, infinity, NAN, 1.4142135f};
  const Floats y = floats(vec::exp2(vec::load(edges))), rough = floats(vec::exp2_rough(vec::load(edges)));
  for (int i = 0; i < 16; ++i) {
    if (wanted[i] < 1e38f) expect(std::fabs(rough.at[i] - wanted[i]) <= 1e-4 * wanted[i], "exp2_rough, edge", i, rough.at[i], wanted[i]);
    const bool exact = wanted[i] == 0 || std::isnan(wanted[i]);
    exact ? same("exp2, edge", i, y.at[i], wanted[i]) : near("exp2, edge", i, y.at[i], wanted[i], 4e-6);
  }
}

void check_integers() {
  int32_t a[16], b[16];
  Floats fractions;
  for (int i = 0; i < 16; ++i) {
    a[i] = int32_t(word()) >> 4, b[i] = int32_t(word()) >> 4;
    fractions.at[i] = i % 2 ? number() * 100 : float(i) - 7.5f;  // ties too
  }
  const Ints sum = ints(vec::iadd(vec::load_i32(a), vec::load_i32(b))), nothing = ints(vec::izero());
  const Ints rounded = ints(vec::round(fractions.lanes()));
  const Floats as_float = floats(vec::to_float(vec::load_i32(a)));
  int8_t small[17], again[16];
  small[16] = 99;
  vec::store_i8(small, vec::load_i32(a));
  int32_t copy[16];
  vec::store_i32(copy, vec::load_i32(a));
  int64_t total = 0;
  for (int i = 0; i < 16; ++i) {
    same("iadd", i, sum.at[i], a[i] + b[i]);
    same("izero", i, nothing.at[i], 0);
    same("round", i, rounded.at[i], std::nearbyint(fractions.at[i]));
    same("to_float", i, as_float.at[i], float(a[i]));
    same("store_i8", i, small[i], int8_t(a[i]));
    same("store_i32", i, copy[i], a[i]);
    total += a[i];
    again[i] = int8_t(word());
  }
  same("store_i8, behind", 16, small[16], 99);
  same("reduce_add int32", 0, vec::reduce_add(vec::load_i32(a)), int32_t(total));
  const Floats widened = floats(vec::load_i8(again));
  for (int i = 0; i < 16; ++i) same("load_i8", i, widened.at[i], again[i]);
}

void check_all_halves() {
  uint16_t bits[16], back[16];
  for (unsigned start = 0; start < 65536; start += 16) {
    for (unsigned i = 0; i < 16; ++i) bits[i] = uint16_t(start + i);
    const Floats f16 = floats(vec::load_f16(bits)), bf16 = floats(vec::load_bf16(bits));
    for (int i = 0; i < 16; ++i) {
      same("load_f16", bits[i], f16.at[i], from_f16(bits[i]));
      same("load_bf16", bits[i], bf16.at[i], from_bf16(bits[i]));
    }
    vec::store_f16(back, f16.lanes());
    for (int i = 0; i < 16; ++i) {
      const bool nan = std::isnan(from_f16(bits[i]));
      expect(nan ? std::isnan(from_f16(back[i])) : back[i] == bits[i], "store_f16 of what was f16", bits[i], back[i], bits[i]);
    }
  }
}
// Every fp16 number, half a step above it, and one step of fp32 to either side: nearest, ties to even.
void check_rounding_to_f16() {
  for (unsigned low = 0; low < 0x7c00; low += 1) {
    const double below = from_f16(uint16_t(low)), above = low == 0x7bff ? 65536 : from_f16(uint16_t(low + 1));
    const float middle = float((below + above) / 2);
    const uint16_t even = uint16_t(low & 1 ? low + 1 : low);
    const float x[16] = {middle, -middle, std::nextafterf(middle, 0), std::nextafterf(middle, 1e9f), float(below), float(above)};
    const unsigned wanted[6] = {even, even | 0x8000u, low, low + 1, low, low + 1};
    uint16_t found[16];
    vec::store_f16(found, vec::load(x));
    for (int i = 0; i < 6; ++i) same("store_f16", i, found[i], wanted[i]);
  }
  const float infinity = std::numeric_limits<float>::infinity();
  const float far[16] = {1e30f, -1e30f, infinity, -infinity, 70000, 0x1p-26f, -0x1p-26f, 0x1p-140f, NAN};
  const unsigned wanted[8] = {0x7c00, 0xfc00, 0x7c00, 0xfc00, 0x7c00, 0, 0x8000, 0};
  uint16_t found[16];
  vec::store_f16(found, vec::load(far));
  for (int i = 0; i < 8; ++i) same("store_f16, far", i, found[i], wanted[i]);
  same("store_f16, NaN", 8, from_f16(found[8]), NAN);
}

void check_bf16() {
  const Floats a = numbers(), b = numbers();
  uint16_t narrow[16], consecutive[32];
  vec::store_bf16(narrow, a.lanes());
  vec::store_bf16_line(consecutive, a.lanes(), b.lanes());
  for (int i = 0; i < 16; ++i) {
    const unsigned first = to_bf16(a.at[i]), second = to_bf16(b.at[i]);
    same("store_bf16", i, narrow[i], first);
    same("store_bf16_line", i, consecutive[i], first);
    same("store_bf16_line", i + 16, consecutive[i + 16], second);
  }
  int8_t small[32];
  for (int8_t& x : small) x = int8_t(word());
  const Bytes wide = bytes(vec::bf16_from_i8(small));
  for (int i = 0; i < 32; ++i) same("bf16_from_i8", i, from_bf16(half(wide, i)), small[i]);
  const float ties[16] = {1.00390625f, 1.01171875f, -1.00390625f, std::numeric_limits<float>::infinity(), 3.4e38f, 0};
  const unsigned wanted[6] = {0x3f80, 0x3f82, 0xbf80, 0x7f80, 0x7f80, 0};
  vec::store_bf16(narrow, vec::load(ties));
  for (int i = 0; i < 6; ++i) same("store_bf16, ties", i, narrow[i], wanted[i]);
}

void check_nibbles() {
  const Bytes x = bytes();
  const Bytes low = bytes(vec::low_nibbles(x.line())), high = bytes(vec::high_nibbles(x.line()));
  for (int i = 0; i < 64; ++i) {
    same("low_nibbles", i, low.at[i], x.at[i] & 15);
    same("high_nibbles", i, high.at[i], x.at[i] >> 4);
  }
  for (int shift = 0; shift < 4; ++shift) {
    const Bytes pairs = bytes(vec::nibble_pairs(x.line(), shift));
    const Floats lanes = floats(vec::byte_lanes(x.line(), shift));
    for (int i = 0; i < 16; ++i) {
      same("nibble_pairs, even", i, from_bf16(half(pairs, 2 * i)), dword(x, i) >> (4 * shift) & 15);
      same("nibble_pairs, odd", i, from_bf16(half(pairs, 2 * i + 1)), dword(x, i) >> (4 * shift + 16) & 15);
      same("byte_lanes", i, lanes.at[i], x.at[4 * i + shift]);
    }
  }
  const uint32_t value = word();
  for (int i = 0; i < 16; ++i) same("splat_dword", i, dword(bytes(vec::splat_dword(value)), i), value);
}

int dot4_of(const Bytes& a, const Bytes& b, int lane) {
  int sum = 0;
  for (int i = 4 * lane; i < 4 * lane + 4; ++i) sum += int(a.at[i]) * int8_t(b.at[i]);
  return sum;
}
void check_dot4(const Bytes& codes, const Bytes& b) {
  int32_t start[16];
  for (int32_t& lane : start) lane = int32_t(word()) >> 8;
  const Ints dots = ints(vec::dot4(vec::load_i32(start), codes.line(), b.line()));
  for (int i = 0; i < 16; ++i) same("dot4", i, dots.at[i], start[i] + dot4_of(codes, b, i));
  Bytes a = codes;
  for (uint8_t& byte : a.at) byte &= 127;
  const Ints small = ints(vec::dot4_nibbles(vec::load_i32(start), a.line(), b.line()));
  for (int i = 0; i < 16; ++i) same("dot4_nibbles", i, small.at[i], start[i] + dot4_of(a, b, i));
}
void check_dots() {
  check_dot4(bytes(), bytes());
  Bytes most, plus, minus;  // where 16-bit sums saturate
  memset(most.at, 255, 64), memset(plus.at, 127, 64), memset(minus.at, 128, 64);
  check_dot4(most, plus), check_dot4(most, minus);

  Bytes a, b;
  const Floats start = numbers();
  for (int i = 0; i < 32; ++i) {
    const uint16_t x = to_bf16(number()), y = to_bf16(number());
    memcpy(a.at + 2 * i, &x, 2), memcpy(b.at + 2 * i, &y, 2);
  }
  const Floats dots = floats(vec::dot2(start.lanes(), a.line(), b.line()));
  for (int i = 0; i < 16; ++i) {
    double exact = start.at[i];
    for (int j = 2 * i; j < 2 * i + 2; ++j) exact += double(from_bf16(half(a, j))) * from_bf16(half(b, j));
    expect(std::fabs(dots.at[i] - exact) <= 2e-5, "dot2", i, dots.at[i], exact);
  }
}

}  // namespace

int main() {
  for (int repetition = 0; repetition < 50; ++repetition) {
    check_arithmetic(), check_integers(), check_bf16(), check_nibbles(), check_dots(), check_pack_reached();
  }
  check_parts_of_vectors(), check_deal(), check_exp2(), check_all_halves(), check_rounding_to_f16();
  if (failures) return printf("%s: %d differences\n", WHIMBREL_VEC, failures), 1;
  return printf("%s: every operation agrees\n", WHIMBREL_VEC), 0;
}

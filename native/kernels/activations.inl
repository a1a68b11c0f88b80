// What a linear op does to its input rows before the dot products: RMSNorm, then one or more encodings of the result.

// Rows in the encodings that the weights of one call need; unused pointers stay null.
//
// 8-bit codes come per run of 32 inputs with their scale, in one of two orders. By rows: codes [row][k],
// scales [row][run]. In panels of 16 rows, as AMX tiles want them: codes [panel][run][16][32], scales [panel][run][16].
struct Activations {
  int rows, k;
  bool panels;
  float* normed;       // f32 [row][k]
  int8_t* codes;       // round(x / scale)
  float* scales;       // largest magnitude of the run / 127
  float* sums32;       // scale * sum of the run's codes, for zero points and minimums
  float* sums16;       // [row][k / 16] the same by 16 (weights in groups of 16)
  uint16_t* bf16;      // natural order, for dense bf16 and q8 weights
  uint16_t* shuffled;  // bf16, each 8 inputs in the order 0 2 4 6 1 3 5 7 of q4's nibble pairs
  float* bf16_sums;    // [k / 16] sums of the rounded values
};

// From so many rows on a target with tiles reads panels; below, its tiles would be mostly empty.
#ifdef WHIMBREL_AMX
constexpr int kPanelRows = 8;
#else
constexpr int kPanelRows = 1 << 30;
#endif

struct Needs {
  bool int8 = false, sums16 = false, panels = false, bf16 = false, shuffled = false;
};

inline Needs needs_of(const LinearArgs& args) {
  Needs needs;
  for (int i = 0; i < args.num_weights; ++i) {
    const Weight& w = *args.weights[i];
    const bool quantized = w.layout == Layout::q4 || w.layout == Layout::q8;
    if (quantized && !args.bf16_activations) needs.int8 = true, needs.sums16 |= w.group < kActivationGroup;
    else if (w.layout == Layout::q4) needs.shuffled = true;
    else if (w.layout == Layout::q8 || w.layout == Layout::bf16) needs.bf16 = true;
  }
  needs.panels = needs.int8 && !needs.sums16 && args.rows >= kPanelRows;
  return needs;
}

// Rows are padded to 16: the tiles of AMX always read that many.
inline void carve(Activations& a, const Needs& needs, Carver& carver) {
  const size_t rows = size_t(a.rows + 15) / 16 * 16, k = size_t(a.k);
  a.panels = needs.panels;
  a.normed = carver.take<float>(rows * k);
  a.codes = needs.int8 ? carver.take<int8_t>(rows * k) : nullptr;
  a.scales = needs.int8 ? carver.take<float>(rows * (k / 32)) : nullptr;
  a.sums32 = needs.int8 ? carver.take<float>(rows * (k / 32)) : nullptr;
  a.sums16 = needs.sums16 ? carver.take<float>(rows * (k / 16)) : nullptr;
  a.bf16 = needs.bf16 ? carver.take<uint16_t>(rows * (k + 1)) : nullptr;
  a.shuffled = needs.shuffled ? carver.take<uint16_t>(rows * k) : nullptr;
  a.bf16_sums = needs.bf16 || needs.shuffled ? carver.take<float>(rows * (k / 16 + 1)) : nullptr;
}

// y = x / sqrt(mean(x^2) + eps) * weight, in fp32.
inline void rms_norm(const float* x, const float* weight, float eps, int k, float* y) {
  F32 squares = zero();
  int i = 0;
  for (; i + 16 <= k; i += 16) squares = fma(load(x + i), load(x + i), squares);
  if (i < k) squares = fma(load_first(x + i, k - i), load_first(x + i, k - i), squares);
  const F32 inverse = splat(1.0f / std::sqrt(reduce_add(squares) / float(k) + eps));
  for (i = 0; i + 16 <= k; i += 16) store(y + i, mul(mul(load(x + i), inverse), load(weight + i)));
  if (i < k) {
    const int n = k - i;
    store_first(y + i, mul(mul(load_first(x + i, n), inverse), load_first(weight + i, n)), n);
  }
}

// One scale per 32 inputs: one scale per token costs 3% of perplexity, this 0.3% (SmolLM2-135M).
// Strides from run to run: code_step bytes, scale_step floats.
inline void quantize_row(const float* x, int k, int8_t* codes, size_t code_step, float* scales, float* sums32,
                         size_t scale_step, float* sums16) {
  for (int run = 0; run < k / 32; ++run) {
    const F32 lo = load(x + 32 * run), hi = load(x + 32 * run + 16);
    const float largest = reduce_max(max(abs(lo), abs(hi)));
    const float scale = largest / 127.0f;
    const F32 inverse = splat(largest > 0 ? 127.0f / largest : 0.0f);
    const I32 a = round(mul(lo, inverse)), b = round(mul(hi, inverse));
    store_i8(codes, a);
    store_i8(codes + 16, b);
    *scales = scale;
    *sums32 = scale * float(reduce_add(iadd(a, b)));
    if (sums16) sums16[2 * run] = scale * float(reduce_add(a)), sums16[2 * run + 1] = scale * float(reduce_add(b));
    codes += code_step, scales += scale_step, sums32 += scale_step;
  }
}

inline void quantize_row_into(const float* x, Activations& a, const Needs& needs, int row) {
  const size_t k = size_t(a.k), runs = k / 32, r = size_t(row);
  if (a.panels) {
    const size_t at = r / 16 * runs * 16 + r % 16;
    quantize_row(x, a.k, a.codes + r / 16 * runs * 512 + r % 16 * 32, 512, a.scales + at, a.sums32 + at, 16, nullptr);
  } else {
    float* sums16 = needs.sums16 ? a.sums16 + r * (k / 16) : nullptr;
    quantize_row(x, a.k, a.codes + r * k, 32, a.scales + r * runs, a.sums32 + r * runs, 1, sums16);
  }
}

inline float from_bf16(uint16_t bits) {
  const uint32_t word = uint32_t(bits) << 16;
  float value;
  memcpy(&value, &word, 4);
  return value;
}

inline void round_row(const float* x, int k, uint16_t* natural, uint16_t* shuffled, float* sums) {
  constexpr int order[8] = {0, 2, 4, 6, 1, 3, 5, 7};
  uint16_t buffer[16];
  for (int i = 0; i < k; i += 16) {
    const int n = k - i < 16 ? k - i : 16;
    store_bf16(buffer, load_first(x + i, n));
    float sum = 0;
    for (int j = 0; j < n; ++j) sum += from_bf16(buffer[j]);
    sums[i / 16] = sum;
    if (natural) memcpy(natural + i, buffer, size_t(n) * 2);
    if (shuffled)
      for (int j = 0; j < n; ++j) shuffled[i + j] = buffer[j / 8 * 8 + order[j % 8]];
  }
  if (natural && k % 2) natural[k] = 0;
}

inline void encode_row(const LinearArgs& args, Activations& a, const Needs& needs, int row) {
  const size_t k = size_t(a.k), r = size_t(row);
  const float* x = args.x + r * k;
  if (args.norm_weight) {
    rms_norm(x, args.norm_weight, args.eps, a.k, a.normed + r * k);
    x = a.normed + r * k;
  }
  if (needs.int8) quantize_row_into(x, a, needs, row);
  if (needs.bf16 || needs.shuffled)
    round_row(x, a.k, needs.bf16 ? a.bf16 + r * (k + k % 2) : nullptr, needs.shuffled ? a.shuffled + r * k : nullptr,
              a.bf16_sums + r * ((k + 15) / 16));
}

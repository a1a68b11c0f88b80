// A row block of a weight, and one element of it: embedding rows lie scattered over a row block.

// Where one row block's codes, scales and minimums lie.
struct RowBlock {
  const uint8_t* codes;
  const uint16_t *scales, *mins;
};

inline RowBlock row_block(const Weight& w, int block) {
  return {w.codes + size_t(block) * w.code_stride, w.scales ? w.scales + size_t(block) * w.scale_stride : nullptr,
          w.mins ? w.mins + size_t(block) * w.scale_stride : nullptr};
}

inline float half_to_float(uint16_t bits) {
  uint16_t lanes[16] = {bits};
  float out[16];
  store(out, load_f16(lanes));
  return out[0];
}

inline float value_at(const Weight& w, const RowBlock& block, int lane, int k) {
  const uint8_t* codes = block.codes;
  switch (w.layout) {
    case Layout::f32: return reinterpret_cast<const float*>(codes)[size_t(k) * 16 + size_t(lane)];
    case Layout::f16: return half_to_float(reinterpret_cast<const uint16_t*>(codes)[size_t(k) * 16 + size_t(lane)]);
    case Layout::bf16: return from_bf16(reinterpret_cast<const uint16_t*>(codes)[size_t(k / 2) * 32 + size_t(lane * 2 + k % 2)]);
    case Layout::q8:
    case Layout::q4: break;
  }
  const size_t g = size_t(k / w.group) * 16 + size_t(lane);
  const float scale = half_to_float(block.scales[g]);
  const float min = block.mins ? half_to_float(block.mins[g]) : 0.0f;
  if (w.layout == Layout::q8) return scale * float(int(codes[size_t(k / 4) * 64 + size_t(lane * 4 + k % 4)]) - 128) + min;
  const uint8_t byte = codes[size_t(k / 8) * 64 + size_t(lane * 4 + k % 4)];
  const int code = k % 8 < 4 ? byte & 15 : byte >> 4;
  return block.mins ? scale * float(code) + min : scale * float(code - 8);
}

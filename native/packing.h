// Filling the row blocks of a weight, and reading them back: from dense rows (rounded to nearest) and from the
// quantized rows of GGUF files (codes kept). The layouts are described in src/whimbrel/formats/packed.py, the types of
// GGUF in src/whimbrel/formats/ggml_types.py, whose numpy versions are what this is tested against, bit for bit.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels.h"

namespace whimbrel {

enum class Source { f32, f16, bf16, q4_0, q4_1, q5_0, q5_1, q8_0, q4_k, q5_k, q6_k };

// What a type of source consists of, and the only quantized weight it becomes. For the float types `weights` is 1 and
// the weight's layout is free.
struct SourceFormat {
  const char* name;
  Source source;
  int weights, bytes;  // per block
  Layout layout;
  int group;
  bool mins;
};
const SourceFormat* source_format(const char* name);  // null for a type that can't be read
const SourceFormat& source_format(Source source);

struct SourceRows {
  Source source;
  const uint8_t* data;
  size_t stride;         // bytes from one row to the next
  const int64_t* order;  // row i of the weight is row order[i] of the source; null: row i
};

// Writes rows [first_row, first_row + rows) of a weight, whose memory must be writable; first_row is a multiple of 16,
// and the rows behind the last one of its row block become padding. False if a scale or minimum is not finite in fp16.
bool pack_rows(const SourceRows& source, const Weight& weight, int first_row, int rows, ThreadPool& pool);

// out[i] = row first_row + i in fp32, [rows, k].
void dequantize_rows(const Weight& weight, int first_row, int rows, float* out, ThreadPool& pool);

}  // namespace whimbrel

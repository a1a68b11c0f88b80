// The Python side of packing.h: checks, and the interpreter released while the pool works.

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <optional>
#include <stdexcept>
#include <string>

#include "bind.h"
#include "packing.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace whimbrel {
namespace {

using Bytes = nb::ndarray<const uint8_t, nb::ndim<2>, nb::device::cpu>;
using Order = nb::ndarray<const int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Dense = nb::ndarray<nb::ro, nb::ndim<2>, nb::device::cpu>;
using Output = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

void require(bool condition, const std::string& message) {
  if (!condition) throw std::invalid_argument(message);
}

bool quantized(const Weight& w) { return w.layout == Layout::q8 || w.layout == Layout::q4; }

const char* name_of(Layout layout) {
  constexpr const char* names[] = {"f32", "f16", "bf16", "q8", "q4"};
  return names[int(layout)];
}

void check_rows(const Weight& w, int64_t first_row, int64_t rows) {
  require(first_row >= 0 && rows >= 0 && first_row + rows <= w.n,
          "rows " + std::to_string(first_row) + " to " + std::to_string(first_row + rows) + " were asked for, the weight has " + std::to_string(w.n));
}
void check_block_of_rows(const Weight& w, int64_t first_row, int64_t rows) {
  check_rows(w, first_row, rows);
  require(first_row % kRowsPerBlock == 0 && ((first_row + rows) % kRowsPerBlock == 0 || first_row + rows == w.n),
          "rows are packed in whole blocks of 16: first_row and the row behind the last must be multiples of 16, or the end");
}

void run(const SourceRows& source, const Weight& w, int64_t first_row, int64_t rows) {
  bool good;
  {
    nb::gil_scoped_release release;
    good = pack_rows(source, w, int(first_row), int(rows), thread_pool());
  }
  require(good, "a group of weights is not finite or exceeds what an fp16 scale can hold (65504 steps); load this tensor as f32 or bf16");
}

void repack_gguf(const std::string& type, const Bytes& rows, nb::handle weight, const std::optional<Order>& row_order, int64_t first_row) {
  const Weight& w = weight_of(weight);
  const SourceFormat* format = source_format(type.c_str());
  require(format, "tensor type " + type + " can't be repacked");
  if (quantized(w) && format->weights > 1) {
    require(w.layout == format->layout && w.group == format->group && (w.mins != nullptr) == format->mins,
            type + " becomes " + name_of(format->layout) + " in groups of " + std::to_string(format->group) +
                (format->mins ? " with mins" : " without mins") + ", another weight was given");
  }
  require(quantized(w) || format->weights == 1, type + " is quantized, the weight's layout " + name_of(w.layout) + " is not");
  const size_t row_bytes = size_t(w.k / format->weights) * size_t(format->bytes);
  require(w.k % format->weights == 0 && rows.shape(1) == row_bytes && (row_bytes <= 1 || rows.stride(1) == 1),
          "a row of " + std::to_string(w.k) + " " + type + " weights has " + std::to_string(row_bytes) + " bytes, not " + std::to_string(rows.shape(1)));
  const int64_t count = int64_t(row_order ? row_order->shape(0) : rows.shape(0));
  check_block_of_rows(w, first_row, count);
  for (int64_t i = 0; row_order && i < count; ++i) {
    require(row_order->data()[i] >= 0 && row_order->data()[i] < int64_t(rows.shape(0)), "row_order names a row that does not exist");
  }
  require(rows.shape(0) <= 1 || rows.stride(0) >= 0, "rows must not run backwards");
  run({format->source, rows.data(), size_t(rows.stride(0)), row_order ? row_order->data() : nullptr}, w, first_row, count);
}

Source type_of(const Dense& dense) {
  if (dense.dtype() == nb::dtype<float>()) return Source::f32;
  if (dense.dtype() == nb::dtype<uint16_t>()) return Source::bf16;
  require(dense.dtype().code == uint8_t(nb::dlpack::dtype_code::Float) && dense.dtype().bits == 16,
          "dense rows must be float32, float16, or uint16 with bf16 bits");
  return Source::f16;
}

void pack_dense(const Dense& dense, nb::handle weight, int64_t first_row) {
  const Weight& w = weight_of(weight);
  const Source source = type_of(dense);
  require(dense.shape(1) == size_t(w.k) && (w.k == 1 || dense.stride(1) == 1),
          "dense rows must be contiguous and have the weight's number of inputs, " + std::to_string(w.k));
  require(dense.shape(0) <= 1 || dense.stride(0) >= 0, "rows must not run backwards");
  check_block_of_rows(w, first_row, int64_t(dense.shape(0)));
  const size_t stride = size_t(dense.stride(0)) * size_t(source_format(source).bytes);
  run({source, static_cast<const uint8_t*>(dense.data()), stride, nullptr}, w, first_row, int64_t(dense.shape(0)));
}

void dequantize(nb::handle weight, Output out, int64_t first_row) {
  const Weight& w = weight_of(weight);
  require(out.shape(1) == size_t(w.k), "out must have the weight's number of inputs, " + std::to_string(w.k));
  check_rows(w, first_row, int64_t(out.shape(0)));
  nb::gil_scoped_release release;
  dequantize_rows(w, int(first_row), int(out.shape(0)), out.data(), thread_pool());
}

}  // namespace

void bind_packing(nb::module_& m) {
  m.def("repack_gguf", &repack_gguf, "type"_a, "rows"_a, "weight"_a, "row_order"_a = nb::none(), "first_row"_a = 0,
        "Move rows of a GGUF tensor, uint8 [R, row bytes], into rows [first_row, ...) of a Weight: row i comes from row\n"
        "row_order[i] (int64; None: i). Quantized types keep their codes. Raises ValueError where types or shapes don't fit,\n"
        "or a scale is not finite.");
  m.def("pack_dense", &pack_dense, "dense"_a, "weight"_a, "first_row"_a = 0,
        "Round dense rows [R, K] (float32, float16, or uint16 with bf16 bits) into rows [first_row, ...) of a Weight of any\n"
        "layout. Raises ValueError where shapes don't fit, or a group's scale is not finite in fp16.");
  m.def("dequantize", &dequantize, "weight"_a, "out"_a, "first_row"_a = 0,
        "Write rows [first_row, ...) of a Weight as float32 into out [R, K].");
}

}  // namespace whimbrel

// All kernels for one instruction set. CMake compiles this file once per target with WHIMBREL_TARGET set to its name.
// Everything lives in a namespace of the target, and no standard template is instantiated with its flags except
// std::vector of our own types: an inline function compiled for AVX-512 must never be the one that the linker keeps
// for everyone.

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include <vector>

#include "kernels.h"
#include "threads.h"

#define WHIMBREL_STRING_(x) #x
#define WHIMBREL_STRING(x) WHIMBREL_STRING_(x)
#define WHIMBREL_JOIN_(a, b) a##b
#define WHIMBREL_JOIN(a, b) WHIMBREL_JOIN_(a, b)

namespace whimbrel::WHIMBREL_TARGET {

#if defined(__AVX512F__)
#include "vec/avx512.h"
#elif defined(__AVX2__)
#include "vec/avx2.h"
#elif defined(WHIMBREL_NEON)
#include "vec/neon.h"
#else
#include "vec/baseline.h"
#endif

using namespace vec;

#include "kernels/scratch.inl"
#include "kernels/activations.inl"
#include "kernels/value.inl"
#include "kernels/tiles.inl"
#include "kernels/linear.inl"
#include "kernels/rotary.inl"
#include "kernels/attention.inl"
#include "kernels/attention_dense.inl"
#include "kernels/attention_lists.inl"
#include "kernels/attention_plan.inl"
#include "kernels/semantic.inl"
#include "kernels/selection.inl"
#include "kernels/sample.inl"

}  // namespace whimbrel::WHIMBREL_TARGET

namespace whimbrel {

extern const KernelTable WHIMBREL_JOIN(kernels_, WHIMBREL_TARGET);
const KernelTable WHIMBREL_JOIN(kernels_, WHIMBREL_TARGET) = {
    WHIMBREL_STRING(WHIMBREL_TARGET), WHIMBREL_TARGET::linear,       WHIMBREL_TARGET::embedding,
    WHIMBREL_TARGET::rotary_write,    WHIMBREL_TARGET::attend,       WHIMBREL_TARGET::semantic_kernels,
    WHIMBREL_TARGET::select_blocks,          WHIMBREL_TARGET::sample,
};

}  // namespace whimbrel

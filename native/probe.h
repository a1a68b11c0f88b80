// Which instruction sets this processor and its operating system support. Built without instruction-set flags and
// without link-time optimisation, so that the probe itself runs on every processor.
#pragma once

#include <string>
#include <vector>

namespace whimbrel {

// Names of the compiled targets that can run here, best first: e.g. {"amx", "avx512bf16", "avx512", "avx2", "baseline"}.
std::vector<std::string> supported_targets();

}  // namespace whimbrel

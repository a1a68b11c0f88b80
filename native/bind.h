// What the files that bind functions to Python share.
#pragma once

#include <nanobind/nanobind.h>

#include "kernels.h"
#include "threads.h"

namespace whimbrel {

ThreadPool& thread_pool();                                  // the module's one pool
const Weight& weight_of(nanobind::handle object);           // of a whimbrel._native.Weight
void bind_packing(nanobind::module_& m);

}  // namespace whimbrel

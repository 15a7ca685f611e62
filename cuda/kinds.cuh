// The types that a layer is computed in; runtime/cuda/kernel_source.py names them.
#pragma once

namespace masktools {

constexpr int FLOAT32 = 0;  // ordinary units
constexpr int TF32 = 1;     // float32 in memory, tensor cores, sums in float32
constexpr int FLOAT16 = 2;  // tensor cores, sums in float32

}  // namespace masktools

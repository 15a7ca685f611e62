// Activations, compiled once for all kernels: inlined into each they would be most of its code.
#pragma once

#include <cstdint>

#include "simd/activation.h"
#include "simd/vector.h"

namespace masktools {

Vector activate(const Activation& activation, Vector x);

// y[i] = activation(y[i]) for i < n.
void activate(const Activation& activation, float* y, std::int64_t n);

}  // namespace masktools

// Activations of arrays.
#pragma once

#include <cstdint>

#include "simd/activation.h"

namespace masktools {

// y[i] = activation(y[i]) for i < n.
void activate(const Activation& activation, float* y, std::int64_t n);

}  // namespace masktools

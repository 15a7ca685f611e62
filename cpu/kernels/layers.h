// Makes the layers with weights: each packed layer becomes an operation of a program. Here nothing
// depends on how wide vectors are, so that who includes this is compiled once for all variants.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "kernels/grouped/layer.h"
#include "kernels/nonzeros/rows.h"
#include "kernels/unfold.h"
#include "kernels/winograd.h"
#include "program/arena.h"
#include "program/operation.h"
#include "simd/bfloat16.h"

namespace masktools {

// All throw std::invalid_argument, naming what is wrong, if an array is inconsistent or an item
// would read or write outside the arena.
std::unique_ptr<const Operation> make_convolution(const Layer& layer);
std::unique_ptr<const Operation> make_narrow(const Layer& layer);
std::unique_ptr<const Operation> make_rows(const RowsLayer& layer);
std::unique_ptr<const Operation> make_winograd(const WinogradLayer& layer);

// The same layer on an arena of bfloat16, by the product kernel of that name. Throws as above, also
// where this build or processor has no such kernel.
std::unique_ptr<const Operation> make_bfloat16_convolution(const Layer& layer,
                                                           Array<Bfloat16> weights,
                                                           const std::string& kernel);

// As `Unfold` takes them. T, the element of the arena: float or Bfloat16.
template <class T>
std::unique_ptr<const Operation> make_unfold(const Unfolding& unfolding, std::int64_t rows,
                                             std::int64_t offset, std::int64_t arena_elements);

}  // namespace masktools

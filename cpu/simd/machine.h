// What the processor is, what the kernels were compiled for, and how fast they can be at best.
#pragma once

#include <map>
#include <string>

namespace masktools {

// What the kernels were compiled for: portable, avx2 or avx512, and the floats of a vector.
struct Variant {
  const char* isa;
  int lanes;
};
Variant variant();

// Whether the processor, and the system under it, has each instruction set that a variant needs, by
// name: avx2, fma, f16c, avx512f, avx512bw, avx512dq, avx512vl, avx512_bf16, amx_tile, amx_bf16,
// neon.
std::map<std::string, bool> processor_features();

// Multiply-adds a second that one thread does on registers alone, in the variant's widest vectors;
// measured for about `seconds`: the median of many short spells.
double multiply_adds_per_second(double seconds);

}  // namespace masktools

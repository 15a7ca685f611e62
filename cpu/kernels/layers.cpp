#include "kernels/layers.h"

#include <stdexcept>

#include "kernels/bfloat16/convolution.h"
#include "kernels/bfloat16/product.h"
#include "kernels/grouped/convolution.h"
#include "kernels/grouped/narrow.h"

namespace masktools {
namespace {

// Unfold has no scratch, and works on any element.
template <class T>
class UnfoldOperation final : public Operation {
 public:
  UnfoldOperation(const Unfolding& unfolding, std::int64_t rows, std::int64_t offset,
                  std::int64_t arena_elements)
      : kernel_(unfolding, rows, offset, arena_elements) {}
  std::int64_t items() const override { return kernel_.items(); }
  void execute(std::int64_t item, const Buffers& buffers, std::byte*) const override {
    kernel_.execute(item, reinterpret_cast<T*>(buffers.arena));
  }

 private:
  const Unfold kernel_;
};

}  // namespace

std::unique_ptr<const Operation> make_convolution(const Layer& layer) {
  return std::make_unique<KernelOperation<Convolution>>(layer);
}

std::unique_ptr<const Operation> make_narrow(const Layer& layer) {
  return std::make_unique<KernelOperation<Narrow>>(layer);
}

std::unique_ptr<const Operation> make_rows(const RowsLayer& layer) {
  return std::make_unique<KernelOperation<Rows>>(layer);
}

std::unique_ptr<const Operation> make_winograd(const WinogradLayer& layer) {
  return std::make_unique<KernelOperation<Winograd>>(layer);
}

std::unique_ptr<const Operation> make_bfloat16_convolution([[maybe_unused]] const Layer& layer,
                                                           [[maybe_unused]] Array<Bfloat16> weights,
                                                           const std::string& name) {
#ifdef __AVX512BW__
  for (const ProductKernel* kernel : product_kernels()) {
    if (kernel->name == name) return std::make_unique<Bfloat16Convolution>(layer, weights, *kernel);
  }
#endif
  throw std::invalid_argument("there is no kernel '" + name + "' for bfloat16 here");
}

template <class T>
std::unique_ptr<const Operation> make_unfold(const Unfolding& unfolding, std::int64_t rows,
                                             std::int64_t offset, std::int64_t arena_elements) {
  return std::make_unique<UnfoldOperation<T>>(unfolding, rows, offset, arena_elements);
}

template std::unique_ptr<const Operation> make_unfold<float>(const Unfolding&, std::int64_t,
                                                             std::int64_t, std::int64_t);
template std::unique_ptr<const Operation> make_unfold<Bfloat16>(const Unfolding&, std::int64_t,
                                                                std::int64_t, std::int64_t);

}  // namespace masktools

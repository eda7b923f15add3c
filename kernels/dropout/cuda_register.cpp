// Registers `fpm::dropout` for CUDA.
#include "cuda.h"

#include "../common/cuda_tensors.h"

namespace fpm {
namespace {

Tensor dropout(const Tensor& x, double probability, int64_t seed, int64_t stream) {
    check_contiguous(x, "x");
    const OnDevice device(x);
    Tensor out = output_like(x);
    DropoutArguments a{};
    a.type = element_type(x);
    a.count = x.numel();
    a.x = x.data_ptr();
    a.out = out.data_ptr();
    a.dropout = probability;
    a.seed = static_cast<uint64_t>(seed);
    a.stream = stream;
    device.launch(fpm_cuda_dropout, a);
    return out;
}

}  // namespace
}  // namespace fpm

STABLE_TORCH_LIBRARY_IMPL(fpm, CUDA, m) {
    m.impl("dropout", TORCH_BOX(&fpm::dropout));
}

// Registers `fpm::dropout` for the CPU.
#include "cpu.h"
#include "tensors.h"

namespace fpm {
namespace {

Tensor dropout(const Tensor& x, double probability, int64_t seed, int64_t stream) {
    check_contiguous(x, "x");
    Tensor out = output_like(x);
    DropoutArguments a{};
    a.type = element_type(x);
    a.x = x.data_ptr();
    a.out = out.data_ptr();
    a.dropout = probability;
    a.seed = static_cast<uint64_t>(seed);
    a.stream = static_cast<uint32_t>(stream);
    const DropoutKernels& kernels = FPM_PICK(dropout);
    const int64_t count = x.numel(), chunks = (count + kElementsPerThread - 1) / kElementsPerThread;
    torch::stable::parallel_for(0, chunks, 1, [&](int64_t begin, int64_t end) {
        const int64_t last = end * kElementsPerThread;
        kernels.forward(a, begin * kElementsPerThread, last < count ? last : count);
    });
    return out;
}

}  // namespace
}  // namespace fpm

STABLE_TORCH_LIBRARY_IMPL(fpm, CPU, m) {
    m.impl("dropout", TORCH_BOX(&fpm::dropout));
}

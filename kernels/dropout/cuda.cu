// dropout(x): four elements for each call of Philox and for each thread.
#include "cuda.h"

#include "../common/dropout.cuh"
#include "../common/launch.cuh"

namespace fpm {
namespace {

constexpr int kThreads = 256;
constexpr int kGroup = 4;

struct Elements {
    DropoutArguments tensors;
    Dropout dropout;
    bool aligned;
};

template <typename T>
__global__ __launch_bounds__(kThreads) void dropout_kernel(Elements arguments) {
    const DropoutArguments& tensors = arguments.tensors;
    const int64_t first = (int64_t{blockIdx.x} * kThreads + threadIdx.x) * kGroup;
    if (first >= tensors.count) return;
    const int64_t rest = tensors.count - first;
    const int count = rest < kGroup ? static_cast<int>(rest) : kGroup;
    const bool vector = arguments.aligned && count == kGroup;
    float x[kGroup];
    load_group(x, static_cast<const T*>(tensors.x) + first, count, vector);
    apply_dropout(x, arguments.dropout, static_cast<uint64_t>(first));
    store_group(static_cast<T*>(tensors.out) + first, x, count, vector);
}

}  // namespace
}  // namespace fpm

using namespace fpm;

extern "C" int fpm_cuda_dropout(const DropoutArguments* arguments, void* stream) {
    const DropoutArguments& a = *arguments;
    return with_type(a.type, [&](auto type) {
        using T = typename decltype(type)::type;
        const bool aligned = are_aligned(kGroup * sizeof(T), a.x, a.out);
        const Elements elements{a, make_dropout(a.dropout, a.seed, a.stream), aligned};
        return launch(dropout_kernel<T>, ceil_divide(a.count, kThreads * kGroup), kThreads, 0,
                      static_cast<cudaStream_t>(stream), elements);
    });
}

// Dropout of a tensor; its gradient is the same function of the gradient. See README.md.
#include "cpu.h"

#include "rows.h"

namespace fpm {
namespace {

template <typename T>
void forward(const DropoutArguments& a, int64_t first, int64_t end) {
    const DropoutKeys keys = dropout_keys(a.dropout, a.seed, a.stream);
    const T* x = static_cast<const T*>(a.x) + first;
    T* out = static_cast<T*>(a.out) + first;
    for_row_with_dropout(keys, first, end - first, [&](int64_t j, int64_t count, i32 kept) {
        store_up_to(out + j, kept ? load_up_to(x + j, count) * keys.scale : f32{}, count);
    });
}

void forward_any(const DropoutArguments& a, int64_t first, int64_t end) {
    FPM_FOR_TYPE(a.type, forward, a, first, end);
}

}  // namespace

const DropoutKernels FPM_ISA_NAME(dropout) = {forward_any};

}  // namespace fpm

// What the files that register the CPU operators with torch share: torch's stable ABI only.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <tuple>
#include <vector>

#include "cpu_dispatch.h"

namespace fpm {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;

inline ElementType element_type(const Tensor& x) {
    switch (x.scalar_type()) {
        case ScalarType::Float: return ElementType::kFloat32;
        case ScalarType::BFloat16: return ElementType::kBfloat16;
        case ScalarType::Half: return ElementType::kFloat16;
        default: STD_TORCH_CHECK(false, "fpm: expected float32, bfloat16 or float16");
    }
}

inline Tensor output(const std::vector<int64_t>& sizes, int32_t dtype) {
    std::vector<int64_t> strides(sizes.size());
    int64_t stride = 1;
    for (size_t i = sizes.size(); i-- > 0;) {
        strides[i] = stride;
        stride *= sizes[i] > 1 ? sizes[i] : 1;
    }
    AtenTensorHandle handle;
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(
        sizes.size(), sizes.data(), strides.data(), dtype, aoti_torch_device_type_cpu(), 0, &handle));
    return Tensor(handle);
}

inline int32_t dtype_of(const Tensor& x) {
    int32_t dtype;
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(x.get(), &dtype));
    return dtype;
}

inline Tensor output_like(const Tensor& x) {
    const auto sizes = x.sizes();
    return output(std::vector<int64_t>(sizes.begin(), sizes.end()), dtype_of(x));
}

inline Tensor float_output(const std::vector<int64_t>& sizes) {
    return output(sizes, aoti_torch_dtype_float32());
}

inline const void* data_or_null(const OptionalTensor& x) {
    return x.has_value() ? x->data_ptr() : nullptr;
}

inline void check_contiguous(const Tensor& x, const char* name) {
    STD_TORCH_CHECK(x.is_cpu() && x.is_contiguous(), "fpm: ", name, " must be contiguous and on the CPU");
}

// A vector of `count` elements and of `like`'s dtype, if it is there.
inline void check_vector(const OptionalTensor& x, int64_t count, const Tensor& like, const char* name) {
    if (!x.has_value()) return;
    check_contiguous(*x, name);
    STD_TORCH_CHECK(x->dim() == 1 && x->numel() == count, "fpm: ", name, " must have ", count, " elements");
    STD_TORCH_CHECK(x->scalar_type() == like.scalar_type(), "fpm: ", name, " must have the input's dtype");
}

inline void check_same_shape(const Tensor& x, const Tensor& like, const char* name) {
    check_contiguous(x, name);
    STD_TORCH_CHECK(
        x.scalar_type() == like.scalar_type() && x.dim() == like.dim(), "fpm: ", name, " has another dtype or rank");
    for (int64_t i = 0; i < x.dim(); ++i) {
        STD_TORCH_CHECK(x.size(i) == like.size(i), "fpm: ", name, " has another shape");
    }
}

// Rows are worked on in blocks whose number depends on the shape alone, so that sums over rows have the same
// bits for any number of threads.
struct RowBlocks {
    int64_t rows, rows_per_block, count;

    explicit RowBlocks(int64_t num_rows) : rows(num_rows) {
        rows_per_block = num_rows / 64 > 16 ? (num_rows + 63) / 64 : 16;
        count = (num_rows + rows_per_block - 1) / rows_per_block;
    }

    // f(block, first row, end row) for every block, over torch's threads.
    template <typename F>
    void run(int64_t width, const F& f) const {
        const int64_t grain = kElementsPerThread / (rows_per_block * width + 1) + 1;
        const auto range = [&](int64_t begin, int64_t end) {
            for (int64_t block = begin; block < end; ++block) {
                const int64_t first = block * rows_per_block;
                const int64_t last = first + rows_per_block;
                f(block, first, last < rows ? last : rows);
            }
        };
        if (count <= grain) {
            range(0, count);
        } else {
            torch::stable::parallel_for(0, count, grain, range);
        }
    }
};

// Memory for sums, kept by the calling thread between calls: asking the system for it costs page faults.
inline float* scratch(size_t num_floats) {
    thread_local std::vector<float> memory;
    if (memory.size() < num_floats) memory.resize(num_floats);
    return memory.data();
}

}  // namespace fpm

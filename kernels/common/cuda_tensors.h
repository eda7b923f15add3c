// What the files that register the CUDA operators with torch share: torch's stable ABI only, and no CUDA header.
#pragma once

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>

#include <initializer_list>
#include <optional>
#include <tuple>
#include <vector>

namespace fpm {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;

// The number of the element type in `ElementType` of common/launch.cuh.
inline int64_t element_type(const Tensor& x) {
    switch (x.scalar_type()) {
        case ScalarType::Float: return 0;
        case ScalarType::BFloat16: return 1;
        case ScalarType::Half: return 2;
        default: STD_TORCH_CHECK(false, "fpm: expected float32, bfloat16 or float16");
    }
}

inline int32_t dtype_of(const Tensor& x) {
    int32_t dtype;
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(x.get(), &dtype));
    return dtype;
}

// A contiguous tensor, not initialised, on the device of `like`.
inline Tensor output(const std::vector<int64_t>& sizes, int32_t dtype, const Tensor& like) {
    std::vector<int64_t> strides(sizes.size());
    int64_t stride = 1;
    for (size_t i = sizes.size(); i-- > 0;) {
        strides[i] = stride;
        stride *= sizes[i] > 1 ? sizes[i] : 1;
    }
    AtenTensorHandle handle;
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(
        sizes.size(), sizes.data(), strides.data(), dtype, aoti_torch_device_type_cuda(), like.get_device_index(),
        &handle));
    return Tensor(handle);
}

inline Tensor output_like(const Tensor& x) {
    const auto sizes = x.sizes();
    return output(std::vector<int64_t>(sizes.begin(), sizes.end()), dtype_of(x), x);
}

inline Tensor float_output(const std::vector<int64_t>& sizes, const Tensor& like) {
    return output(sizes, aoti_torch_dtype_float32(), like);
}

inline void* data_or_null(const OptionalTensor& x) { return x.has_value() ? x->data_ptr() : nullptr; }

inline void check_contiguous(const Tensor& x, const char* name) {
    STD_TORCH_CHECK(x.is_cuda() && x.is_contiguous(), "fpm: ", name, " must be contiguous and on a GPU");
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
    for (int64_t i = 0; i < x.dim(); ++i)
        STD_TORCH_CHECK(x.size(i) == like.size(i), "fpm: ", name, " has another shape");
}

// Makes the tensor's GPU the current one for as long as it lives, and gives the stream on which torch works there.
class OnDevice {
   public:
    explicit OnDevice(const Tensor& x) : index_(x.get_device_index()), guard_(index_) {}

    // Launches `launcher(arguments, stream)`.
    template <typename Arguments>
    void launch(int (*launcher)(const Arguments*, void*), const Arguments& arguments) const {
        const int error =
            launcher(&arguments, torch::stable::accelerator::getCurrentStream(index_).nativeHandle());
        STD_TORCH_CHECK(error == 0, "fpm: the launch of a CUDA kernel failed with cudaError_t ", error);
    }

   private:
    int32_t index_;
    torch::stable::accelerator::DeviceGuard guard_;
};

}  // namespace fpm

// What the bindings of all kernels share: from PyTorch's tensors to pointers, sizes and strides.
//
// Shapes and dtypes were checked when the kernel was chosen for a graph node; only what may change from call to call
// (strides) is handled here.
#pragma once

#include <ATen/Parallel.h>
#include <torch/library.h>

#include "kernels.h"
#include "tape.h"

namespace autodeploy {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

template <class T>
T* pointer(const Tensor& x) {
    return static_cast<T*>(x.data_ptr());
}

template <class T>
T* pointer_or_null(const Tensor& x) {
    return x.defined() ? pointer<T>(x) : nullptr;
}

// The distance between consecutive rows when dimensions [0, last) are one run of rows; -1 when they are not.
inline int64_t row_stride(const Tensor& x, int64_t last) {
    int64_t stride = -1, expected = -1;
    for (int64_t i = last - 1; i >= 0; --i) {
        if (x.size(i) == 1) continue;
        if (stride < 0) stride = expected = x.stride(i);
        if (x.stride(i) != expected) return -1;
        expected *= x.size(i);
    }
    return stride < 0 ? x.size(-1) : stride;
}

// x itself, or a copy of it where its last dimension has gaps or its rows are not evenly spaced.
inline Tensor evenly_spaced(const Tensor& x) {
    bool dense = x.size(-1) == 1 || x.stride(-1) == 1;
    return dense_unless(dense && row_stride(x, x.dim() - 1) >= 0, x);
}

inline Tensor dense(const Tensor& x) { return dense_unless(x.is_contiguous(), x); }

// A plain pointer to an optional vector; `held` keeps a dense copy alive where one was needed.
template <class T>
const T* dense(OptionalTensor& held) {
    if (!held) return nullptr;
    held = dense(*held);
    return pointer<const T>(*held);
}

template <class T>
Rows<const T> rows(const Tensor& x) {
    const int64_t width = x.size(-1);
    return {pointer<const T>(x), width ? x.numel() / width : 0, width, row_stride(x, x.dim() - 1)};
}

template <class T>
Rows<const T> rows_or_none(const Tensor& x) {
    return x.defined() ? rows<T>(x) : Rows<const T>{};
}

inline Tensor like(const Tensor& x) { return allocate(x.sizes(), x.options()); }

// The result of a projection of x to `width` columns.
inline Tensor projected(const Tensor& x, int64_t width, at::ScalarType dtype) {
    c10::SmallVector<int64_t, 4> shape(x.sizes().begin(), x.sizes().end());
    shape.back() = width;
    return allocate(shape, x.options().dtype(dtype));
}

// Waking a second thread costs more than a few thousand elements.
inline int threads_for(int64_t work) { return work < 32768 ? 1 : at::get_num_threads(); }

template <class Run>
void by_dtype(const Tensor& x, const char* name, Run run) {
    if (x.scalar_type() == at::kFloat) return run(float{});
    if (x.scalar_type() == at::kBFloat16) return run(bf16{});
    TORCH_CHECK(false, "autodeploy_native::", name, " takes float32 or bfloat16, not ", x.scalar_type());
}

inline Activation activation(c10::string_view kind) {
    using A = Activation;
    static constexpr std::pair<const char*, A> kinds[] = {
        {"silu", A::silu}, {"gelu", A::gelu}, {"gelu_tanh", A::gelu_tanh}, {"gelu_quick", A::gelu_quick},
        {"relu", A::relu}, {"relu_squared", A::relu_squared}, {"sigmoid", A::sigmoid}};
    for (const auto& [name, value] : kinds)
        if (kind == name) return value;
    TORCH_CHECK(false, "autodeploy_native knows no activation named ", kind);
}

}  // namespace autodeploy

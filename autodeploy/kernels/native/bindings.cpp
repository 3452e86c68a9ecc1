// The kernels as implementations of torch.ops.autodeploy_native.*; Python has defined the schemas.
//
// Shapes and dtypes were checked when the kernel was chosen for a graph node; only what may change from call to call
// (strides) is handled here.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include "kernels.h"

namespace {

using at::Tensor;
using autodeploy::Rows;
using autodeploy::bf16;
using OptionalTensor = std::optional<Tensor>;

template <class T>
T* pointer(const Tensor& x) {
    return static_cast<T*>(x.data_ptr());
}

// The distance between consecutive rows when dimensions [0, last) are one run of rows; -1 when they are not.
int64_t row_stride(const Tensor& x, int64_t last) {
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
Tensor evenly_spaced(const Tensor& x) {
    bool dense = x.size(-1) == 1 || x.stride(-1) == 1;
    return dense && row_stride(x, x.dim() - 1) >= 0 ? x : x.contiguous();
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

template <class T>
T* pointer_or_null(const Tensor& x) {
    return x.defined() ? pointer<T>(x) : nullptr;
}

Tensor like(const Tensor& x) { return at::empty(x.sizes(), x.options()); }

// Waking a second thread costs more than a few thousand elements.
int threads_for(int64_t work) { return work < 32768 ? 1 : at::get_num_threads(); }

template <class Run>
void by_dtype(const Tensor& x, const char* name, Run run) {
    if (x.scalar_type() == at::kFloat) return run(float{});
    if (x.scalar_type() == at::kBFloat16) return run(bf16{});
    TORCH_CHECK(false, "autodeploy_native::", name, " takes float32 or bfloat16, not ", x.scalar_type());
}

autodeploy::Activation activation(c10::string_view kind) {
    using A = autodeploy::Activation;
    static constexpr std::pair<const char*, A> kinds[] = {
        {"silu", A::silu}, {"gelu", A::gelu}, {"gelu_tanh", A::gelu_tanh}, {"gelu_quick", A::gelu_quick},
        {"relu", A::relu}, {"relu_squared", A::relu_squared}, {"sigmoid", A::sigmoid}};
    for (const auto& [name, value] : kinds)
        if (kind == name) return value;
    TORCH_CHECK(false, "autodeploy_native knows no activation named ", kind);
}

// A plain pointer to an optional vector; `held` keeps a dense copy alive where one was needed.
template <class T>
const T* dense(OptionalTensor& held) {
    if (!held) return nullptr;
    if (!held->is_contiguous()) held = held->contiguous();
    return pointer<const T>(*held);
}

Tensor project(const Tensor& x_, const Tensor& weight_, OptionalTensor bias, std::optional<c10::string_view> kind) {
    Tensor x = evenly_spaced(x_), weight = evenly_spaced(weight_);
    c10::SmallVector<int64_t, 4> shape(x.sizes().begin(), x.sizes().end());
    shape.back() = weight.size(0);
    Tensor out = at::empty(shape, x.options());
    by_dtype(x, "linear", [&](auto element) {
        using T = decltype(element);
        autodeploy::Then<T> then = kind ? autodeploy::activation_of<T>(activation(*kind)) : nullptr;
        autodeploy::linear<T>(rows<T>(x), rows<T>(weight), dense<T>(bias), then, pointer<T>(out),
                              threads_for(weight.numel()));
    });
    return out;
}

Tensor linear(const Tensor& x, const Tensor& weight, OptionalTensor bias) {
    return project(x, weight, bias, std::nullopt);
}

Tensor linear_activation(const Tensor& x, const Tensor& weight, OptionalTensor bias, c10::string_view kind) {
    return project(x, weight, bias, kind);
}

// The norm of x, or of x + residual, and that sum.
std::pair<Tensor, Tensor> rms_norms(const Tensor& x_, const Tensor* residual_, OptionalTensor weight, double eps,
                                    double offset, bool scale_in_float32) {
    Tensor x = evenly_spaced(x_), out = like(x_), residual, total;
    if (residual_) residual = evenly_spaced(*residual_), total = like(x_);
    by_dtype(x, "rms_norm", [&](auto element) {
        using T = decltype(element);
        autodeploy::rms_norm<T>(rows<T>(x), rows_or_none<T>(residual), dense<T>(weight), eps, offset, scale_in_float32,
                                pointer<T>(out), pointer_or_null<T>(total), threads_for(x.numel()));
    });
    return {out, total};
}

std::pair<Tensor, Tensor> layer_norms(const Tensor& x_, const Tensor* residual_, OptionalTensor weight,
                                      OptionalTensor bias, double eps) {
    Tensor x = evenly_spaced(x_), out = like(x_), residual, total;
    if (residual_) residual = evenly_spaced(*residual_), total = like(x_);
    by_dtype(x, "layer_norm", [&](auto element) {
        using T = decltype(element);
        autodeploy::layer_norm<T>(rows<T>(x), rows_or_none<T>(residual), dense<T>(weight), dense<T>(bias), eps,
                                  pointer<T>(out), pointer_or_null<T>(total), threads_for(x.numel()));
    });
    return {out, total};
}

Tensor rms_norm(const Tensor& x, OptionalTensor weight, double eps, double offset, bool scale_in_float32) {
    return rms_norms(x, nullptr, weight, eps, offset, scale_in_float32).first;
}

std::tuple<Tensor, Tensor> add_rms_norm(const Tensor& x, const Tensor& residual, OptionalTensor weight, double eps,
                                        double offset, bool scale_in_float32) {
    return rms_norms(x, &residual, weight, eps, offset, scale_in_float32);
}

Tensor layer_norm(const Tensor& x, OptionalTensor weight, OptionalTensor bias, double eps) {
    return layer_norms(x, nullptr, weight, bias, eps).first;
}

std::tuple<Tensor, Tensor> add_layer_norm(const Tensor& x, const Tensor& residual, OptionalTensor weight,
                                          OptionalTensor bias, double eps) {
    return layer_norms(x, &residual, weight, bias, eps);
}

Tensor soft_cap(const Tensor& x_, double cap, double scale) {
    Tensor x = evenly_spaced(x_), out = like(x_);
    by_dtype(x, "soft_cap", [&](auto element) {
        using T = decltype(element);
        autodeploy::soft_cap<T>(rows<T>(x), cap, scale, pointer<T>(out), threads_for(x.numel()));
    });
    return out;
}

Tensor activate(const Tensor& x_, c10::string_view kind) {
    Tensor x = evenly_spaced(x_), out = like(x_);
    by_dtype(x, "activate", [&](auto element) {
        using T = decltype(element);
        autodeploy::activate<T>(activation(kind), rows<T>(x), {}, pointer<T>(out), threads_for(x.numel()));
    });
    return out;
}

Tensor gated_activation(const Tensor& gate_, const Tensor& up_, c10::string_view kind) {
    Tensor gate = evenly_spaced(gate_), up = evenly_spaced(up_), out = like(gate_);
    by_dtype(gate, "gated_activation", [&](auto element) {
        using T = decltype(element);
        autodeploy::activate<T>(activation(kind), rows<T>(gate), rows<T>(up), pointer<T>(out),
                                threads_for(gate.numel()));
    });
    return out;
}

// cos or sin, one dense row for every token of x.
Tensor per_token(const Tensor& angles, const Tensor& x) {
    if (angles.numel() * x.size(-2) * x.size(-1) == x.numel() * angles.size(-1) && angles.is_contiguous())
        return angles;
    c10::SmallVector<int64_t, 4> shape(x.sizes().begin(), x.sizes().end() - 1);
    shape.back() = angles.size(-1);
    return angles.expand(shape).contiguous();
}

Tensor rope(const Tensor& x_, const Tensor& cosines_, const Tensor& sines_, bool interleaved) {
    const bool usable = x_.stride(-1) == 1 && row_stride(x_, x_.dim() - 2) >= 0;
    Tensor x = usable ? x_ : x_.contiguous(), out = like(x_);
    Tensor cosines = per_token(cosines_, x), sines = per_token(sines_, x);
    const int64_t heads = x.size(-2), width = x.size(-1), row = heads * width;
    int64_t token_stride = row_stride(x, x.dim() - 2);
    auto run = [&](auto element, auto angle) {
        using T = decltype(element);
        using C = decltype(angle);
        autodeploy::rope<T, C>(pointer<const T>(x), row ? x.numel() / row : 0, heads, width, token_stride,
                               x.stride(-2), pointer<const C>(cosines), pointer<const C>(sines), cosines.size(-1),
                               interleaved, pointer<T>(out), threads_for(x.numel()));
    };
    by_dtype(x, "rope", [&](auto element) {
        if (cosines.scalar_type() == at::kFloat) return run(element, float{});
        if constexpr (std::is_same_v<decltype(element), bf16>) return run(element, bf16{});
        TORCH_CHECK(false, "autodeploy_native::rope: cos and sin are narrower than x");
    });
    return out;
}

// Heads and elements are dense; rows may be apart, as the parts of a joined projection are.
Tensor dense_rows(const Tensor& x) {
    return x.stride(2) == 1 && x.stride(1) == x.size(2) ? x : x.contiguous();
}

Tensor paged_attention(const Tensor& q_, const Tensor& k_, const Tensor& v_, const Tensor& key_pages,
                       const Tensor& value_pages, const Tensor& query_start, const Tensor& context_len,
                       const Tensor& page_table, const Tensor& slots, double scale, std::optional<int64_t> window,
                       std::optional<double> softcap, OptionalTensor sinks, OptionalTensor alibi_slopes,
                       OptionalTensor key_scale, OptionalTensor value_scale) {
    TORCH_CHECK(!key_scale && !value_scale, "autodeploy_native::paged_attention: the cache must be of q's dtype");
    TORCH_CHECK(key_pages.is_contiguous() && value_pages.is_contiguous() && query_start.is_contiguous() &&
                    context_len.is_contiguous() && page_table.is_contiguous() && slots.is_contiguous(),
                "autodeploy_native::paged_attention: the cache and the batch's tables must be contiguous");
    Tensor q = dense_rows(q_), k = dense_rows(k_), v = dense_rows(v_);
    Tensor out = at::empty({q.size(0), q.size(1), v.size(2)}, q.options());
    by_dtype(q, "paged_attention", [&](auto element) {
        using T = decltype(element);
        const autodeploy::Attention<T> step{
            pointer<T>(q), pointer<T>(k), pointer<T>(v), q.stride(0), k.stride(0), v.stride(0),
            pointer<T>(key_pages), pointer<T>(value_pages), query_start.data_ptr<int32_t>(),
            context_len.data_ptr<int32_t>(), page_table.data_ptr<int32_t>(), slots.data_ptr<int64_t>(),
            pointer<T>(out), dense<T>(sinks), dense<float>(alibi_slopes), q.size(0), context_len.size(0), q.size(1), k.size(1), q.size(2),
            v.size(2), key_pages.size(2), page_table.size(1), float(scale), float(softcap.value_or(0.0)),
            window.value_or(0)};
        autodeploy::paged_attention<T>(step, at::get_num_threads());
    });
    return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(autodeploy_native, CPU, m) {
    m.impl("linear", TORCH_FN(linear));
    m.impl("rms_norm", TORCH_FN(rms_norm));
    m.impl("layer_norm", TORCH_FN(layer_norm));
    m.impl("linear_activation", TORCH_FN(linear_activation));
    m.impl("add_rms_norm", TORCH_FN(add_rms_norm));
    m.impl("add_layer_norm", TORCH_FN(add_layer_norm));
    m.impl("soft_cap", TORCH_FN(soft_cap));
    m.impl("activate", TORCH_FN(activate));
    m.impl("gated_activation", TORCH_FN(gated_activation));
    m.impl("rope", TORCH_FN(rope));
    m.impl("paged_attention", TORCH_FN(paged_attention));
}

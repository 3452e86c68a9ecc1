// Norms, activations and rotary embedding as implementations of torch.ops.autodeploy_native.*.
#include "arguments.h"

namespace autodeploy {
namespace {

// The norm of x, or of x + residual, and that sum.
std::tuple<Tensor, Tensor> rms_norms(const Tensor& x_, const Tensor* residual_, OptionalTensor weight, double eps,
                                     double offset, bool scale_in_float32) {
    Tensor x = evenly_spaced(x_), out = like(x_), residual, total;
    if (residual_) residual = evenly_spaced(*residual_), total = like(x_);
    by_dtype(x, "rms_norm", [&](auto element) {
        using T = decltype(element);
        launch(threads_for(x.numel()),
               [x = rows<T>(x), residual = rows_or_none<T>(residual), weight = dense<T>(weight), eps = float(eps),
                offset = float(offset), scale_in_float32, out = pointer<T>(out),
                total = pointer_or_null<T>(total)](const Team& team) {
                   rms_norm<T>(team, x, residual, weight, eps, offset, scale_in_float32, out, total);
               });
    });
    return {out, total};
}

std::tuple<Tensor, Tensor> layer_norms(const Tensor& x_, const Tensor* residual_, OptionalTensor weight,
                                       OptionalTensor bias, double eps) {
    Tensor x = evenly_spaced(x_), out = like(x_), residual, total;
    if (residual_) residual = evenly_spaced(*residual_), total = like(x_);
    by_dtype(x, "layer_norm", [&](auto element) {
        using T = decltype(element);
        launch(threads_for(x.numel()),
               [x = rows<T>(x), residual = rows_or_none<T>(residual), weight = dense<T>(weight),
                bias = dense<T>(bias), eps = float(eps), out = pointer<T>(out),
                total = pointer_or_null<T>(total)](const Team& team) {
                   layer_norm<T>(team, x, residual, weight, bias, eps, out, total);
               });
    });
    return {out, total};
}

Tensor rms_norm_(const Tensor& x, OptionalTensor weight, double eps, double offset, bool scale_in_float32) {
    return std::get<0>(rms_norms(x, nullptr, weight, eps, offset, scale_in_float32));
}

std::tuple<Tensor, Tensor> add_rms_norm(const Tensor& x, const Tensor& residual, OptionalTensor weight, double eps,
                                        double offset, bool scale_in_float32) {
    return rms_norms(x, &residual, weight, eps, offset, scale_in_float32);
}

Tensor layer_norm_(const Tensor& x, OptionalTensor weight, OptionalTensor bias, double eps) {
    return std::get<0>(layer_norms(x, nullptr, weight, bias, eps));
}

std::tuple<Tensor, Tensor> add_layer_norm(const Tensor& x, const Tensor& residual, OptionalTensor weight,
                                          OptionalTensor bias, double eps) {
    return layer_norms(x, &residual, weight, bias, eps);
}

Tensor soft_cap_(const Tensor& x_, double cap, double scale) {
    Tensor x = evenly_spaced(x_), out = like(x_);
    by_dtype(x, "soft_cap", [&](auto element) {
        using T = decltype(element);
        launch(threads_for(x.numel()),
               [x = rows<T>(x), cap = float(cap), scale = float(scale), out = pointer<T>(out)](const Team& team) {
                   soft_cap<T>(team, x, cap, scale, out);
               });
    });
    return out;
}

// kind(gate) * up, or kind(gate) where up is not defined.
Tensor activated(const Tensor& gate, const Tensor& up, c10::string_view kind) {
    Tensor out = like(gate);
    by_dtype(gate, "activate", [&](auto element) {
        using T = decltype(element);
        launch(threads_for(gate.numel()), [kind = activation(kind), gate = rows<T>(gate), up = rows_or_none<T>(up),
                                           out = pointer<T>(out)](const Team& team) {
            activate<T>(team, kind, gate, up, out);
        });
    });
    return out;
}

Tensor activate_(const Tensor& x, c10::string_view kind) { return activated(evenly_spaced(x), Tensor(), kind); }

Tensor gated_activation(const Tensor& gate, const Tensor& up, c10::string_view kind) {
    return activated(evenly_spaced(gate), evenly_spaced(up), kind);
}

TORCH_LIBRARY_IMPL(autodeploy_native, CPU, m) {
    m.impl("rms_norm", TORCH_FN(rms_norm_));
    m.impl("layer_norm", TORCH_FN(layer_norm_));
    m.impl("add_rms_norm", TORCH_FN(add_rms_norm));
    m.impl("add_layer_norm", TORCH_FN(add_layer_norm));
    m.impl("soft_cap", TORCH_FN(soft_cap_));
    m.impl("activate", TORCH_FN(activate_));
    m.impl("gated_activation", TORCH_FN(gated_activation));
}

}  // namespace
}  // namespace autodeploy

// Projections as implementations of torch.ops.autodeploy_native.*; Python has defined the schemas.
#include "arguments.h"

namespace autodeploy {
namespace {

// An activation of every element, or the gating of the second half by the first.
struct After {
    std::optional<c10::string_view> then, gate;
};

Tensor project(const Tensor& x_, const Tensor& weight_, OptionalTensor bias, After after) {
    Tensor x = evenly_spaced(x_), weight = evenly_spaced(weight_);
    Tensor out = projected(x, weight.size(0) / (after.gate ? 2 : 1), x.scalar_type());
    by_dtype(x, "linear", [&](auto element) {
        using T = decltype(element);
        launch(threads_for(weight.numel()),
               [x = rows<T>(x), weight = rows<T>(weight), bias = dense<T>(bias),
                then = after.then ? activation_of<T>(activation(*after.then)) : nullptr,
                gate = after.gate ? gate_of<T>(activation(*after.gate)) : nullptr,
                out = pointer<T>(out)](const Team& team) { linear<T>(team, x, weight, bias, then, gate, out); });
    });
    return out;
}

Tensor linear_(const Tensor& x, const Tensor& weight, OptionalTensor bias) { return project(x, weight, bias, {}); }

Tensor linear_activation(const Tensor& x, const Tensor& weight, OptionalTensor bias, c10::string_view kind) {
    return project(x, weight, bias, {.then = kind});
}

Tensor gated_linear(const Tensor& x, const Tensor& weight, OptionalTensor bias, c10::string_view kind) {
    return project(x, weight, bias, {.gate = kind});
}

TORCH_LIBRARY_IMPL(autodeploy_native, CPU, m) {
    m.impl("linear", TORCH_FN(linear_));
    m.impl("linear_activation", TORCH_FN(linear_activation));
    m.impl("gated_linear", TORCH_FN(gated_linear));
}

}  // namespace
}  // namespace autodeploy

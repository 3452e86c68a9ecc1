// Projections as implementations of torch.ops.autodeploy_native.*; Python has defined the schemas.
#include "arguments.h"

namespace autodeploy {
namespace {

Tensor project(const Tensor& x_, const Tensor& weight_, OptionalTensor bias, std::optional<c10::string_view> kind) {
    Tensor x = evenly_spaced(x_), weight = evenly_spaced(weight_), out = projected(x, weight.size(0));
    by_dtype(x, "linear", [&](auto element) {
        using T = decltype(element);
        launch(threads_for(weight.numel()),
               [x = rows<T>(x), weight = rows<T>(weight), bias = dense<T>(bias),
                then = kind ? activation_of<T>(activation(*kind)) : nullptr,
                out = pointer<T>(out)](const Team& team) { linear<T>(team, x, weight, bias, then, out); });
    });
    return out;
}

Tensor linear(const Tensor& x, const Tensor& weight, OptionalTensor bias) {
    return project(x, weight, bias, std::nullopt);
}

Tensor linear_activation(const Tensor& x, const Tensor& weight, OptionalTensor bias, c10::string_view kind) {
    return project(x, weight, bias, kind);
}

Tensor gated_linear(const Tensor& x_, const Tensor& weight_, OptionalTensor bias, c10::string_view kind) {
    Tensor x = evenly_spaced(x_), weight = evenly_spaced(weight_), out = projected(x, weight.size(0) / 2);
    by_dtype(x, "gated_linear", [&](auto element) {
        using T = decltype(element);
        launch(threads_for(weight.numel()),
               [x = rows<T>(x), weight = rows<T>(weight), bias = dense<T>(bias), gate = gate_of<T>(activation(kind)),
                out = pointer<T>(out)](const Team& team) { gated_linear<T>(team, x, weight, bias, gate, out); });
    });
    return out;
}

TORCH_LIBRARY_IMPL(autodeploy_native, CPU, m) {
    m.impl("linear", TORCH_FN(linear));
    m.impl("linear_activation", TORCH_FN(linear_activation));
    m.impl("gated_linear", TORCH_FN(gated_linear));
}

}  // namespace
}  // namespace autodeploy

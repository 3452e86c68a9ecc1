// Projections by weights in 8 or 4 bits as implementations of torch.ops.autodeploy_native.*.
#include "arguments.h"

namespace autodeploy {
namespace {

constexpr long kBlock = 128;  // the edge of a block of fp8 or int8 weights that share a scale

// `numbers [S0, S1]` for a matrix [rows, columns]; a dimension of one is every row's or column's.
Scales scales_of(const Tensor& numbers, long rows, long columns, bool in_blocks) {
    using Kind = Scales::Kind;
    Scales result;
    result.data = numbers.data_ptr();
    result.kind = numbers.scalar_type() == at::kFloat      ? Kind::float32
                  : numbers.scalar_type() == at::kBFloat16 ? Kind::bfloat16
                                                           : Kind::uint8;
    result.groups = numbers.size(1);
    result.stride = result.groups;
    result.rows_each = numbers.size(0) == rows ? 1 : numbers.size(0) == 1 ? std::max(1L, rows) : kBlock;
    result.width = result.groups == 1 ? columns : in_blocks ? kBlock : columns / result.groups;
    return result;
}

Codes::Format format_of(c10::string_view name) {
    if (name == "int8") return Codes::Format::int8;
    if (name == "int4") return Codes::Format::int4;
    if (name == "fp8") return Codes::Format::fp8;
    TORCH_CHECK(false, "autodeploy_native::packed_linear knows no format named ", name);
}

Codes codes_of(const Tensor& weight, const Tensor& scale, const Tensor& zero, Codes::Format format) {
    const long columns = weight.size(1) * (format == Codes::Format::int4 ? 2 : 1);
    Codes codes{(const uint8_t*)weight.data_ptr(), format, weight.size(0), columns, weight.size(1), {}, {}};
    codes.scale = scales_of(scale, codes.count, columns, format == Codes::Format::fp8);
    if (zero.defined()) codes.zero = scales_of(zero, codes.count, columns, false);
    return codes;
}

Tensor project_packed(const Tensor& x_, const Tensor& weight_, const Tensor& scale_, OptionalTensor zero_,
                      OptionalTensor bias, c10::string_view format, std::optional<c10::string_view> gate) {
    Tensor x = evenly_spaced(x_), weight = dense(weight_), scale = dense(scale_), zero;
    if (zero_) zero = dense(*zero_);
    Tensor out = projected(x, weight.size(0) / (gate ? 2 : 1), x.scalar_type());
    by_dtype(x, "packed_linear", [&](auto element) {
        using T = decltype(element);
        launch(threads_for(weight.numel()),
               [x = rows<T>(x), codes = codes_of(weight, scale, zero, format_of(format)), bias = dense<T>(bias),
                gate = gate ? gate_of<T>(activation(*gate)) : nullptr, out = pointer<T>(out)](const Team& team) {
                   packed_linear<T>(team, x, codes, bias, gate, out);
               });
    });
    return out;
}

Tensor packed_linear_(const Tensor& x, const Tensor& weight, const Tensor& scale, OptionalTensor zero,
                      OptionalTensor global_scale, OptionalTensor bias, c10::string_view format) {
    return project_packed(x, weight, scale, zero, bias, format, std::nullopt);
}

Tensor packed_gated_linear(const Tensor& x, const Tensor& weight, const Tensor& scale, OptionalTensor zero,
                           OptionalTensor global_scale, OptionalTensor bias, c10::string_view format,
                           c10::string_view kind) {
    return project_packed(x, weight, scale, zero, bias, format, kind);
}

Tensor project_scaled(const Tensor& x_, const Tensor& x_scale_, const Tensor& weight_, const Tensor& weight_scale_,
                      OptionalTensor bias, at::ScalarType dtype, std::optional<c10::string_view> gate) {
    Tensor x = evenly_spaced(x_), weight = dense(weight_), weight_scale = dense(weight_scale_);
    Tensor x_scale = dense(x_scale_), out = projected(x, weight.size(0) / (gate ? 2 : 1), dtype);
    const Rows<const int8_t> x_rows = rows<int8_t>(x);
    Codes codes = codes_of(weight, weight_scale, Tensor(), Codes::Format::int8);
    codes.scale = scales_of(weight_scale, codes.count, codes.width, /*in_blocks=*/true);
    const long groups = x_scale.dim() ? x_scale.size(-1) : 1;
    Scales of_x = scales_of(x_scale.view({-1, groups}), x_rows.count, x_rows.width, false);
    by_dtype(out, "scaled_linear", [&](auto element) {
        using T = decltype(element);
        launch(threads_for(weight.numel()), [x_rows, of_x, codes, bias = dense<T>(bias),
                                             gate = gate ? gate_of<T>(activation(*gate)) : nullptr,
                                             out = pointer<T>(out)](const Team& team) {
            scaled_linear<T>(team, x_rows, of_x, codes, bias, gate, out);
        });
    });
    return out;
}

Tensor scaled_linear_(const Tensor& x, const Tensor& x_scale, const Tensor& weight, const Tensor& weight_scale,
                      OptionalTensor bias, at::ScalarType dtype) {
    return project_scaled(x, x_scale, weight, weight_scale, bias, dtype, std::nullopt);
}

Tensor scaled_gated_linear(const Tensor& x, const Tensor& x_scale, const Tensor& weight, const Tensor& weight_scale,
                           OptionalTensor bias, at::ScalarType dtype, c10::string_view kind) {
    return project_scaled(x, x_scale, weight, weight_scale, bias, dtype, kind);
}

TORCH_LIBRARY_IMPL(autodeploy_native, CPU, m) {
    m.impl("packed_linear", TORCH_FN(packed_linear_));
    m.impl("packed_gated_linear", TORCH_FN(packed_gated_linear));
    m.impl("scaled_linear", TORCH_FN(scaled_linear_));
    m.impl("scaled_gated_linear", TORCH_FN(scaled_gated_linear));
}

}  // namespace
}  // namespace autodeploy

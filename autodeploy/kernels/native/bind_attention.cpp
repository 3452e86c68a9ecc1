// Rotary embedding and attention as implementations of torch.ops.autodeploy_native.*.
#include "arguments.h"

namespace autodeploy {
namespace {

// cos or sin, one dense row for every token of x.
Tensor per_token(const Tensor& angles, const Tensor& x) {
    if (angles.numel() * x.size(-2) * x.size(-1) == x.numel() * angles.size(-1) && angles.is_contiguous())
        return angles;
    c10::SmallVector<int64_t, 4> shape(x.sizes().begin(), x.sizes().end() - 1);
    shape.back() = angles.size(-1);
    return dense_unless(false, angles.expand(shape));
}

Tensor rope_(const Tensor& x_, const Tensor& cosines_, const Tensor& sines_, bool interleaved) {
    Tensor x = dense_unless(x_.stride(-1) == 1 && row_stride(x_, x_.dim() - 2) >= 0, x_), out = like(x_);
    Tensor cosines = per_token(cosines_, x), sines = per_token(sines_, x);
    const int64_t heads = x.size(-2), width = x.size(-1), row = heads * width, tokens = row ? x.numel() / row : 0;
    auto run = [&](auto element, auto angle) {
        using T = decltype(element);
        using C = decltype(angle);
        launch(threads_for(x.numel()),
               [from = pointer<const T>(x), tokens, heads, width, token_stride = row_stride(x, x.dim() - 2),
                head_stride = x.stride(-2), cosines = pointer<const C>(cosines), sines = pointer<const C>(sines),
                rotary = cosines.size(-1), interleaved, out = pointer<T>(out)](const Team& team) {
                   rope<T, C>(team, from, tokens, heads, width, token_stride, head_stride, cosines, sines, rotary,
                              interleaved, out);
               });
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
    return dense_unless(x.stride(2) == 1 && x.stride(1) == x.size(2), x);
}

Tensor paged_attention_(const Tensor& q_, const Tensor& k_, const Tensor& v_, const Tensor& key_pages,
                        const Tensor& value_pages, const Tensor& query_start, const Tensor& context_len,
                        const Tensor& page_table, const Tensor& slots, double scale, std::optional<int64_t> window,
                        std::optional<double> softcap, OptionalTensor sinks, OptionalTensor alibi_slopes,
                        OptionalTensor key_scale, OptionalTensor value_scale) {
    TORCH_CHECK(!key_scale && !value_scale, "autodeploy_native::paged_attention: the cache must be of q's dtype");
    TORCH_CHECK(key_pages.is_contiguous() && value_pages.is_contiguous() && query_start.is_contiguous() &&
                    context_len.is_contiguous() && page_table.is_contiguous() && slots.is_contiguous(),
                "autodeploy_native::paged_attention: the cache and the batch's tables must be contiguous");
    Tensor q = dense_rows(q_), k = dense_rows(k_), v = dense_rows(v_);
    Tensor out = allocate({q.size(0), q.size(1), v.size(2)}, q.options());
    by_dtype(q, "paged_attention", [&](auto element) {
        using T = decltype(element);
        const Attention<T> step{
            pointer<T>(q), pointer<T>(k), pointer<T>(v), q.stride(0), k.stride(0), v.stride(0),
            pointer<T>(key_pages), pointer<T>(value_pages), query_start.data_ptr<int32_t>(),
            context_len.data_ptr<int32_t>(), page_table.data_ptr<int32_t>(), slots.data_ptr<int64_t>(),
            pointer<T>(out), dense<T>(sinks), dense<float>(alibi_slopes), q.size(0), context_len.size(0), q.size(1),
            k.size(1), q.size(2), v.size(2), key_pages.size(2), page_table.size(1), float(scale),
            float(softcap.value_or(0.0)), window.value_or(0)};
        int64_t keys = 0;
        for (long request = 0; request < step.requests; ++request) keys += step.context_len[request];
        launch(threads_for(keys * step.kv_heads * step.key_width),
               [step](const Team& team) { paged_attention<T>(team, step); }, /*at_hand=*/true);
    });
    return out;
}

Tensor rope_paged_attention(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& cos, const Tensor& sin,
                            const Tensor& key_pages, const Tensor& value_pages, const Tensor& query_start,
                            const Tensor& context_len, const Tensor& page_table, const Tensor& slots, double scale,
                            bool interleaved, std::optional<int64_t> window, std::optional<double> softcap,
                            OptionalTensor sinks, OptionalTensor alibi_slopes, OptionalTensor key_scale,
                            OptionalTensor value_scale) {
    return paged_attention_(rope_(q, cos, sin, interleaved), rope_(k, cos, sin, interleaved), v, key_pages,
                            value_pages, query_start, context_len, page_table, slots, scale, window, softcap, sinks,
                            alibi_slopes, key_scale, value_scale);
}

TORCH_LIBRARY_IMPL(autodeploy_native, CPU, m) {
    m.impl("rope", TORCH_FN(rope_));
    m.impl("paged_attention", TORCH_FN(paged_attention_));
    m.impl("rope_paged_attention", TORCH_FN(rope_paged_attention));
}

}  // namespace
}  // namespace autodeploy

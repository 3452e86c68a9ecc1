// The cosines and sines of rotary embeddings as an implementation of torch.ops.autodeploy_native.rotary_tables.
#include "arguments.h"

namespace autodeploy {
namespace {

std::tuple<Tensor, Tensor> rotary_tables_(const Tensor& positions_, const Tensor& frequencies_, at::ScalarType dtype,
                                          double scaling, bool interleaved) {
    Tensor positions = dense(positions_), frequencies = dense(frequencies_);
    c10::SmallVector<int64_t, 4> shape(positions.sizes().begin(), positions.sizes().end());
    const int64_t pairs = frequencies.numel(), tokens = positions.numel();
    shape.push_back(2 * pairs);
    const auto options = frequencies.options().dtype(dtype);
    Tensor cosines = allocate(shape, options), sines = allocate(shape, options);
    by_dtype(cosines, "rotary_tables", [&](auto element) {
        using T = decltype(element);
        launch(threads_for(tokens * pairs),
               [positions = pointer<const int64_t>(positions), tokens, frequencies = pointer<const float>(frequencies),
                pairs, scaling = float(scaling), interleaved, cosines = pointer<T>(cosines),
                sines = pointer<T>(sines)](const Team& team) {
                   rotary_tables<T>(team, positions, tokens, frequencies, pairs, scaling, interleaved, cosines, sines);
               });
    });
    return {cosines, sines};
}

TORCH_LIBRARY_IMPL(autodeploy_native, CPU, m) { m.impl("rotary_tables", TORCH_FN(rotary_tables_)); }

}  // namespace
}  // namespace autodeploy

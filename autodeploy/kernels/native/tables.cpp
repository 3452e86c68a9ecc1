// The cosines and sines of rotary embeddings, one row for each token.
#include <algorithm>

#include "kernels.h"

namespace autodeploy {
namespace {

constexpr long kAtOnce = 64;  // angles, whose results stay in the first-level cache

// In double precision, so that results are off by no more than one rounding: the nearest multiple of pi / 2 is taken off
// in two parts (Cody and Waite, 1980), and what is left goes through both Taylor series.
inline void cosine_and_sine(double angle, float& cosine, float& sine) {
    constexpr double shift = 6755399441055744.0;  // 1.5 * 2^52: adding it leaves the rounded integer in the low bits
    const double biased = angle * 0.63661977236758134 + shift, turns = biased - shift;
    uint64_t quadrant;
    std::memcpy(&quadrant, &biased, sizeof quadrant);
    const double r = (angle - turns * 1.57079632673412561417) - turns * 6.07710050650619224932e-11, z = r * r;
    double even = 1.0 / 479001600, odd = 1.0 / 6227020800;
    even = even * z - 1.0 / 3628800, odd = odd * z - 1.0 / 39916800;
    even = even * z + 1.0 / 40320, odd = odd * z + 1.0 / 362880;
    even = even * z - 1.0 / 720, odd = odd * z - 1.0 / 5040;
    even = even * z + 1.0 / 24, odd = odd * z + 1.0 / 120;
    even = even * z - 1.0 / 2, odd = odd * z - 1.0 / 6;
    even = even * z + 1.0, odd = odd * z * r + r;
    const bool swapped = quadrant & 1;
    const double c = swapped ? odd : even, s = swapped ? even : odd;
    cosine = float((quadrant + 1) & 2 ? -c : c);
    sine = float(quadrant & 2 ? -s : s);
}

}  // namespace

template <class T>
void rotary_tables(const Team& team, const int64_t* positions, long tokens, const float* frequencies, long pairs,
                   float scaling, bool interleaved, T* cosines, T* sines) {
    const auto [first, last] = team.share(tokens);
    const long step = interleaved ? 2 : 1, partner = interleaved ? 1 : pairs;
    for (long token = first; token < last; ++token)
        for (long start = 0; start < pairs; start += kAtOnce) {
            const long count = std::min(kAtOnce, pairs - start);
            const float position = float(positions[token]);
            float c[kAtOnce], s[kAtOnce];
            for (long i = 0; i < count; ++i) cosine_and_sine(position * frequencies[start + i], c[i], s[i]);
            T* to_cosines = cosines + token * 2 * pairs + start * step;
            T* to_sines = sines + token * 2 * pairs + start * step;
            for (long i = 0; i < count; ++i) {
                to_cosines[i * step] = to_cosines[i * step + partner] = narrow<T>(c[i] * scaling);
                to_sines[i * step] = to_sines[i * step + partner] = narrow<T>(s[i] * scaling);
            }
        }
}

#define INSTANTIATE(T)                                                                                              \
    template void rotary_tables(const Team&, const int64_t*, long, const float*, long, float, bool, T*, T*);

INSTANTIATE(float)
INSTANTIATE(bf16)

}  // namespace autodeploy

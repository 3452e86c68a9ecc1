// Norms, activations and rotary embedding: one pass over each row, rounding where the references round.
#include <algorithm>
#include <cmath>

#include "kernels.h"

namespace autodeploy {
namespace {

// Calls body(offset, count) for every register of a row; count is 16 but for the last.
template <class Body>
void for_lanes(long width, Body body) {
    long i = 0;
    for (; i + kLanes <= width; i += kLanes) body(i, kLanes);
    if (i < width) body(i, width - i);
}

// Abramowitz and Stegun 7.1.26: absolute error below 1.5e-7.
Floats error_function(Floats x) {
    Floats magnitude = maximum(x, -x);
    Floats t = 1.0f / (1.0f + 0.3275911f * magnitude);
    Floats p = splat(1.061405429f);
    p = p * t - 1.453152027f;
    p = p * t + 1.421413741f;
    p = p * t - 0.284496736f;
    p = p * t + 0.254829592f;
    Floats y = 1.0f - p * t * exponential(-magnitude * magnitude);
    return select(x < 0.0f, -y, y);
}

// By its series where exponentials would cancel; the coefficients are those of Cephes' tanhf, good to 1.3e-7.
Floats hyperbolic_tangent(Floats x) {
    const Floats z = x * x;
    Floats p = splat(-5.70498872745e-3f);
    p = p * z + 2.06390887954e-2f;
    p = p * z - 5.37397155531e-2f;
    p = p * z + 1.33314422036e-1f;
    p = p * z - 3.33332819422e-1f;
    return select(maximum(x, -x) < 0.625f, x + x * z * p, 2.0f * sigmoid(2.0f * x) - 1.0f);
}

template <class T, Activation kind>
Floats apply(Floats x) {
    if constexpr (kind == Activation::silu) return x * sigmoid(x);
    if constexpr (kind == Activation::gelu) return 0.5f * x * (1.0f + error_function(x * 0.70710678f));
    if constexpr (kind == Activation::gelu_tanh)  // 0.5 (1 + tanh u) is sigmoid(2 u)
        return x * sigmoid(1.5957691216f * (x + 0.044715f * x * x * x));
    if constexpr (kind == Activation::gelu_quick) return x * rounded<T>(sigmoid(rounded<T>(1.702f * x)));
    if constexpr (kind == Activation::relu) return select(x < 0.0f, Floats{}, x);
    if constexpr (kind == Activation::relu_squared) {
        Floats positive = select(x < 0.0f, Floats{}, x);
        return positive * positive;
    }
    if constexpr (kind == Activation::sigmoid) return sigmoid(x);
}

template <class T, Activation kind>
void gate_row(const T* gate, const T* up, long width, T* to) {
    for_lanes(width, [&](long i, long count) {
        store(to + i, rounded<T>(apply<T, kind>(load(gate + i, count))) * load(up + i, count), count);
    });
}

template <class T, Activation kind>
void gate_halves(const T* halves, long width, T* out) {
    gate_row<T, kind>(halves, halves + width, width, out);
}

template <class T, Activation kind>
void activate_as(const Team& team, Rows<const T> gate, Rows<const T> up, T* out) {
    const auto [first, last] = team.share(gate.count);
    for (long row = first; row < last; ++row) {
        T* to = out + row * gate.width;
        if (up.data) {
            gate_row<T, kind>(gate[row], up[row], gate.width, to);
            continue;
        }
        for_lanes(gate.width, [&](long i, long count) {
            store(to + i, apply<T, kind>(load(gate[row] + i, count)), count);
        });
    }
}

template <class T, Activation kind>
void activate_piece(T* piece, long width) {
    for_lanes(width, [&](long i, long count) { store(piece + i, apply<T, kind>(load(piece + i, count)), count); });
}

// Calls run(std::integral_constant of the kind).
template <class Run>
void by_kind(Activation kind, Run run) {
    using A = Activation;
    switch (kind) {
        case A::silu: return run(std::integral_constant<A, A::silu>());
        case A::gelu: return run(std::integral_constant<A, A::gelu>());
        case A::gelu_tanh: return run(std::integral_constant<A, A::gelu_tanh>());
        case A::gelu_quick: return run(std::integral_constant<A, A::gelu_quick>());
        case A::relu: return run(std::integral_constant<A, A::relu>());
        case A::relu_squared: return run(std::integral_constant<A, A::relu_squared>());
        case A::sigmoid: return run(std::integral_constant<A, A::sigmoid>());
    }
}

// A row of x, or of x + residual where there is one, which is then written to total.
template <class T>
const T* summed(Rows<const T> x, Rows<const T> residual, long row, T* total) {
    if (!residual.data) return x[row];
    T* to = total + row * x.width;
    for_lanes(x.width, [&](long i, long count) {
        store(to + i, load(x[row] + i, count) + load(residual[row] + i, count), count);
    });
    return to;
}

template <class T, class C>
void rotate(const T* x, const C* cosines, const C* sines, long rotary, bool interleaved, T* to) {
    const long half = rotary / 2;
    if (interleaved) {
        for (long i = 0; i < half; ++i) {
            const float a = widen(x[2 * i]), b = widen(x[2 * i + 1]);
            const float ac = widen(narrow<C>(a * widen(cosines[2 * i])));
            const float bs = widen(narrow<C>(b * widen(sines[2 * i])));
            const float bc = widen(narrow<C>(b * widen(cosines[2 * i + 1])));
            const float as = widen(narrow<C>(a * widen(sines[2 * i + 1])));
            to[2 * i] = narrow<T>(ac - bs);
            to[2 * i + 1] = narrow<T>(bc + as);
        }
        return;
    }
    for_lanes(half, [&](long i, long count) {
        const Floats a = load(x + i, count), b = load(x + half + i, count);
        const Floats ac = rounded<C>(a * load(cosines + i, count)), bs = rounded<C>(b * load(sines + i, count));
        const Floats bc = rounded<C>(b * load(cosines + half + i, count));
        const Floats as = rounded<C>(a * load(sines + half + i, count));
        store(to + i, ac - bs, count);
        store(to + half + i, bc + as, count);
    });
}

}  // namespace

template <class T>
void activate(const Team& team, Activation kind, Rows<const T> gate, Rows<const T> up, T* out) {
    by_kind(kind, [&](auto known) { activate_as<T, known>(team, gate, up, out); });
}

template <class T>
Then<T> activation_of(Activation kind) {
    Then<T> found = nullptr;
    by_kind(kind, [&](auto known) { found = activate_piece<T, known>; });
    return found;
}

template <class T>
Gate<T> gate_of(Activation kind) {
    Gate<T> found = nullptr;
    by_kind(kind, [&](auto known) { found = gate_halves<T, known>; });
    return found;
}

template <class T>
void rms_norm(const Team& team, Rows<const T> x, Rows<const T> residual, const T* weight, float eps, float offset,
              bool scale_in_float32, T* out, T* total) {
    const auto [first, last] = team.share(x.count);
    for (long row = first; row < last; ++row) {
        const T* from = summed(x, residual, row, total);
        T* to = out + row * x.width;
        Floats squares = {};
        for_lanes(x.width, [&](long i, long count) {
            const Floats v = load(from + i, count);
            squares += v * v;
        });
        const float scale = 1.0f / std::sqrt(sum(squares) / x.width + eps);
        for_lanes(x.width, [&](long i, long count) {
            Floats y = load(from + i, count) * scale;
            if (weight && scale_in_float32)
                y = y * (load(weight + i, count) + offset);
            else if (weight)
                y = rounded<T>(y) * rounded<T>(load(weight + i, count) + offset);
            store(to + i, y, count);
        });
    }
}

template <class T>
void layer_norm(const Team& team, Rows<const T> x, Rows<const T> residual, const T* weight, const T* bias, float eps,
                T* out, T* total) {
    const auto [first, last] = team.share(x.count);
    for (long row = first; row < last; ++row) {
        const T* from = summed(x, residual, row, total);
        T* to = out + row * x.width;
        Floats whole = {};
        for_lanes(x.width, [&](long i, long count) { whole += load(from + i, count); });
        const float mean = sum(whole) / x.width;
        Floats squares = {};
        for_lanes(x.width, [&](long i, long count) {
            Floats centred = load(from + i, count) - mean;
            for (long lane = count; lane < kLanes; ++lane) centred[lane] = 0.0f;
            squares += centred * centred;
        });
        const float scale = 1.0f / std::sqrt(sum(squares) / x.width + eps);
        for_lanes(x.width, [&](long i, long count) {
            Floats y = (load(from + i, count) - mean) * scale;
            if (weight) y = y * load(weight + i, count);
            if (bias) y = y + load(bias + i, count);
            store(to + i, y, count);
        });
    }
}

template <class T>
void soft_cap(const Team& team, Rows<const T> x, float cap, float scale, T* out) {
    const float factor = scale / cap;
    const auto [first, last] = team.share(x.count);
    for (long row = first; row < last; ++row)
        for_lanes(x.width, [&](long i, long count) {
            store(out + row * x.width + i, cap * hyperbolic_tangent(load(x[row] + i, count) * factor), count);
        });
}

template <class T, class C>
void rope(const Team& team, const T* x, long tokens, long heads, long width, long token_stride, long head_stride,
          const C* cosines, const C* sines, long rotary, bool interleaved, T* out) {
    const auto [first, last] = team.share(tokens);
    for (long token = first; token < last; ++token)
        for (long head = 0; head < heads; ++head) {
            const T* from = x + token * token_stride + head * head_stride;
            T* to = out + (token * heads + head) * width;
            rotate(from, cosines + token * rotary, sines + token * rotary, rotary, interleaved, to);
            std::copy(from + rotary, from + width, to + rotary);
        }
}

#define INSTANTIATE(T)                                                                                           \
    template void rms_norm(const Team&, Rows<const T>, Rows<const T>, const T*, float, float, bool, T*, T*);      \
    template void layer_norm(const Team&, Rows<const T>, Rows<const T>, const T*, const T*, float, T*, T*);       \
    template void soft_cap(const Team&, Rows<const T>, float, float, T*);                                        \
    template Then<T> activation_of(Activation);                                                                  \
    template Gate<T> gate_of(Activation);                                                                        \
    template void activate(const Team&, Activation, Rows<const T>, Rows<const T>, T*);

#define INSTANTIATE_ROPE(T, C)                                                                                   \
    template void rope(const Team&, const T*, long, long, long, long, long, const C*, const C*, long, bool, T*);

INSTANTIATE(float)
INSTANTIATE(bf16)
INSTANTIATE_ROPE(float, float)
INSTANTIATE_ROPE(bf16, float)
INSTANTIATE_ROPE(bf16, bf16)

}  // namespace autodeploy

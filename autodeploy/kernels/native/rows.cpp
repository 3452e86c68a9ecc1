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
void activate_as(Rows<const T> gate, Rows<const T> up, T* out, int threads) {
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (long row = 0; row < gate.count; ++row) {
        const T* g = gate[row];
        const T* u = up.data ? up[row] : nullptr;
        T* to = out + row * gate.width;
        for_lanes(gate.width, [&](long i, long count) {
            Floats y = apply<T, kind>(load(g + i, count));
            if (u) y = rounded<T>(y) * load(u + i, count);
            store(to + i, y, count);
        });
    }
}

template <class T, Activation kind>
void activate_piece(T* piece, long width) {
    for_lanes(width, [&](long i, long count) { store(piece + i, apply<T, kind>(load(piece + i, count)), count); });
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
void activate(Activation kind, Rows<const T> gate, Rows<const T> up, T* out, int threads) {
    using A = Activation;
    switch (kind) {
        case A::silu: return activate_as<T, A::silu>(gate, up, out, threads);
        case A::gelu: return activate_as<T, A::gelu>(gate, up, out, threads);
        case A::gelu_tanh: return activate_as<T, A::gelu_tanh>(gate, up, out, threads);
        case A::gelu_quick: return activate_as<T, A::gelu_quick>(gate, up, out, threads);
        case A::relu: return activate_as<T, A::relu>(gate, up, out, threads);
        case A::relu_squared: return activate_as<T, A::relu_squared>(gate, up, out, threads);
        case A::sigmoid: return activate_as<T, A::sigmoid>(gate, up, out, threads);
    }
}

template <class T>
Then<T> activation_of(Activation kind) {
    using A = Activation;
    switch (kind) {
        case A::silu: return activate_piece<T, A::silu>;
        case A::gelu: return activate_piece<T, A::gelu>;
        case A::gelu_tanh: return activate_piece<T, A::gelu_tanh>;
        case A::gelu_quick: return activate_piece<T, A::gelu_quick>;
        case A::relu: return activate_piece<T, A::relu>;
        case A::relu_squared: return activate_piece<T, A::relu_squared>;
        case A::sigmoid: return activate_piece<T, A::sigmoid>;
    }
    return nullptr;
}

template <class T>
void rms_norm(Rows<const T> x, Rows<const T> residual, const T* weight, float eps, float offset, bool scale_in_float32,
              T* out, T* total, int threads) {
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (long row = 0; row < x.count; ++row) {
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
void layer_norm(Rows<const T> x, Rows<const T> residual, const T* weight, const T* bias, float eps, T* out, T* total,
                int threads) {
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (long row = 0; row < x.count; ++row) {
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
void soft_cap(Rows<const T> x, float cap, float scale, T* out, int threads) {
    const float factor = scale / cap;
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (long row = 0; row < x.count; ++row)
        for_lanes(x.width, [&](long i, long count) {
            store(out + row * x.width + i, cap * hyperbolic_tangent(load(x[row] + i, count) * factor), count);
        });
}

template <class T, class C>
void rope(const T* x, long tokens, long heads, long width, long token_stride, long head_stride, const C* cosines,
          const C* sines, long rotary, bool interleaved, T* out, int threads) {
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (long token = 0; token < tokens; ++token)
        for (long head = 0; head < heads; ++head) {
            const T* from = x + token * token_stride + head * head_stride;
            T* to = out + (token * heads + head) * width;
            rotate(from, cosines + token * rotary, sines + token * rotary, rotary, interleaved, to);
            std::copy(from + rotary, from + width, to + rotary);
        }
}

#define INSTANTIATE(T)                                                                                     \
    template void rms_norm(Rows<const T>, Rows<const T>, const T*, float, float, bool, T*, T*, int);       \
    template void layer_norm(Rows<const T>, Rows<const T>, const T*, const T*, float, T*, T*, int);        \
    template void soft_cap(Rows<const T>, float, float, T*, int);                                          \
    template Then<T> activation_of(Activation);                                                            \
    template void activate(Activation, Rows<const T>, Rows<const T>, T*, int);

#define INSTANTIATE_ROPE(T, C)                                                                             \
    template void rope(const T*, long, long, long, long, long, const C*, const C*, long, bool, T*, int);

INSTANTIATE(float)
INSTANTIATE(bf16)
INSTANTIATE_ROPE(float, float)
INSTANTIATE_ROPE(bf16, float)
INSTANTIATE_ROPE(bf16, bf16)

}  // namespace autodeploy

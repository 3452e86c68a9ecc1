// Products of rows of floats with rows of weights, whose cost, for few rows, is one read of the weights at memory speed.
//
// Every output element is reduced over K in the same order whatever M and N are: one accumulator of 16 lanes, front to
// back, then halving. A row's result therefore never depends on the batch it came in.
#pragma once

#include <algorithm>
#include <vector>

#include "kernels.h"
#include "parts.h"

namespace autodeploy {

// A cache line of weights as float registers. bf16 is widened by a shift and a mask, which leaves the even elements in
// one register and the odd ones in another; x is packed in the same order. (AVX512-BF16's own dot product runs at half
// the rate of two float multiply-adds, and flushes denormals.)
template <class T>
struct Line;

template <>
struct Line<float> {
    static constexpr int registers = 1;
    static void widen(const float* p, Floats* lanes) { lanes[0] = load(p); }
};

template <>
struct Line<bf16> {
    static constexpr int registers = 2;
    static void widen(const bf16* p, Floats* lanes) {
        Words w;
        std::memcpy(&w, p, sizeof w);
        lanes[0] = (Floats)(w << 16);
        lanes[1] = (Floats)(w & 0xffff0000u);
    }
};

template <class T>
constexpr long kLine = Line<T>::registers * kLanes;

template <class T>
void widen_tail(const T* p, long count, Floats* lanes) {
    T padded[kLine<T>] = {};
    std::memcpy(padded, p, count * sizeof(T));
    Line<T>::widen(padded, lanes);
}

// Rows of x as float registers [line][row][register], so that the inner loop walks one pointer.
template <class T>
void pack(Rows<const T> x, long rows, Floats* packed) {
    constexpr int R = Line<T>::registers;
    for (long m = 0; m < rows; ++m) {
        Floats* to = packed + m * R;
        long k = 0;
        for (; k + kLine<T> <= x.width; k += kLine<T>, to += rows * R) Line<T>::widen(x[m] + k, to);
        if (k < x.width) widen_tail(x[m] + k, x.width - k, to);
    }
}

// Keeps the compiler from reading v again for every use: loads, not multiplications, would then set the pace.
inline Floats in_register(Floats v) {
#ifdef __AVX512F__
    asm("" : "+v"(v));
#endif
    return v;
}

// M packed rows of x against N rows of the weight: out[m * out_stride + n * weight_step].
template <class T, int M, int N>
void corner(const Floats* x, Rows<const T> weight, const T* bias, T* out, long out_stride, long step) {
    constexpr int R = Line<T>::registers;
    Floats acc[M][N] = {};
    long k = 0;
    for (; k + kLine<T> <= weight.width; k += kLine<T>, x += M * R) {
        Floats w[N][R];
        for (int n = 0; n < N; ++n) {
            Line<T>::widen(weight[n * step] + k, w[n]);
            __builtin_prefetch((const char*)(weight[n * step] + k) + kPrefetch);
        }
        for (int m = 0; m < M; ++m)
            for (int r = 0; r < R; ++r) {
                const Floats row = in_register(x[m * R + r]);
                for (int n = 0; n < N; ++n) acc[m][n] += row * w[n][r];
            }
    }
    if (k < weight.width) {
        for (int n = 0; n < N; ++n) {
            Floats w[R];
            widen_tail(weight[n * step] + k, weight.width - k, w);
            for (int m = 0; m < M; ++m)
                for (int r = 0; r < R; ++r) acc[m][n] += x[m * R + r] * w[r];
        }
    }
    constexpr int vectors = (M * N + kLanes - 1) / kLanes;
    float sums[vectors * kLanes];
    sum_each<M * N>(&acc[0][0], sums);
    for (int m = 0; m < M; ++m)
        for (int n = 0; n < N; ++n)
            out[m * out_stride + n * step] = narrow<T>(sums[m * N + n] + (bias ? widen(bias[n * step]) : 0.0f));
}

// Output columns [first, last) of M rows of x. The rows of weights that are read side by side lie far apart, each the
// start of a run of its own: the hardware follows such runs, and what is fetched ahead in one is what it reads next.
template <class T, int M>
void strip(const Floats* x, Rows<const T> weight, const T* bias, T* out, long out_stride, long first, long last) {
    // M * N accumulators and N lines of weights share 32 registers
    constexpr int N = M <= 4 || (M <= 6 && Line<T>::registers == 1) ? 4 : M <= 6 || Line<T>::registers == 1 ? 3 : 2;
    const long step = (last - first) / N;
    const auto from = [&](long n) { return Rows<const T>{weight[n], weight.count - n, weight.width, weight.stride}; };
    for (long n = first; n < first + step; ++n)
        corner<T, M, N>(x, from(n), bias ? bias + n : nullptr, out + n, out_stride, step);
    for (long n = first + N * step; n < last; ++n)
        corner<T, M, 1>(x, from(n), bias ? bias + n : nullptr, out + n, out_stride, 1);
}

// Rows of x, and the weight they meet.
template <class T>
class Product {
  public:
    Product(Rows<const T> x, Rows<const T> weight)
        : x_(x), weight_(weight), lanes_(lines(x.width) * Line<T>::registers * std::min(kMaxRows, x.count)) {}

    void pack(long m, long rows) {
        rows_ = rows;
        autodeploy::pack(Rows<const T>{x_[m], x_.count - m, x_.width, x_.stride}, rows, lanes_.data());
    }

    void times(const T* bias, T* out, long out_stride, long first, long last) const {
        static constexpr decltype(&strip<T, 1>) strips[kMaxRows] = {strip<T, 1>, strip<T, 2>, strip<T, 3>, strip<T, 4>,
                                                                    strip<T, 5>, strip<T, 6>, strip<T, 7>, strip<T, 8>};
        strips[rows_ - 1](lanes_.data(), weight_, bias, out, out_stride, first, last);
    }

  private:
    static long lines(long width) { return (width + kLine<T> - 1) / kLine<T>; }

    Rows<const T> x_, weight_;
    std::vector<Floats> lanes_;
    long rows_ = 0;
};

}  // namespace autodeploy

// A projection whose cost, for few rows, is one read of the weights at memory speed.
//
// Every output element is reduced over K in the same order whatever M and N are: one accumulator of 16 lanes, front to
// back, then halving. A row's result therefore never depends on the batch it came in.
#include <algorithm>
#include <vector>

#include "kernels.h"

namespace autodeploy {
namespace {

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
Floats in_register(Floats v) {
#ifdef __AVX512F__
    asm("" : "+v"(v));
#endif
    return v;
}

// So many weights ahead are fetched by hand, since the hardware stops at each page: measured best for 1 to 16 rows.
constexpr long kPrefetch = 2048;

// An M x N corner of the output: M packed rows of x against N rows of the weight.
template <class T, int M, int N>
void corner(const Floats* x, Rows<const T> weight, const T* bias, T* out, long out_stride) {
    constexpr int R = Line<T>::registers;
    Floats acc[M][N] = {};
    long k = 0;
    for (; k + kLine<T> <= weight.width; k += kLine<T>, x += M * R) {
        Floats w[N][R];
        for (int n = 0; n < N; ++n) {
            Line<T>::widen(weight[n] + k, w[n]);
            __builtin_prefetch(weight[n] + k + kPrefetch);
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
            widen_tail(weight[n] + k, weight.width - k, w);
            for (int m = 0; m < M; ++m)
                for (int r = 0; r < R; ++r) acc[m][n] += x[m * R + r] * w[r];
        }
    }
    constexpr int vectors = (M * N + kLanes - 1) / kLanes;
    float sums[vectors * kLanes];
    sum_each<M * N>(&acc[0][0], sums);
    if (bias)
        for (int i = 0; i < M * N; ++i) sums[i] += widen(bias[i % N]);
    T results[vectors * kLanes];
    for (int i = 0; i < vectors; ++i) store(results + i * kLanes, load(sums + i * kLanes));
    for (int m = 0; m < M; ++m) std::memcpy(out + m * out_stride, results + m * N, N * sizeof(T));
}

template <class T>
Rows<const T> from(Rows<const T> rows, long first) {
    return {rows[first], rows.count - first, rows.width, rows.stride};
}

// Output columns [first, last) of M rows of x.
template <class T, int M>
void strip(const Floats* x, Rows<const T> weight, const T* bias, T* out, long out_stride, long first, long last) {
    // M * N accumulators and N lines of weights share 32 registers
    constexpr int N = M <= 4 || (M <= 6 && Line<T>::registers == 1) ? 4 : M <= 6 || Line<T>::registers == 1 ? 3 : 2;
    long n = first;
    for (; n + N <= last; n += N) corner<T, M, N>(x, from(weight, n), bias ? bias + n : nullptr, out + n, out_stride);
    for (; n < last; ++n) corner<T, M, 1>(x, from(weight, n), bias ? bias + n : nullptr, out + n, out_stride);
}

template <class T>
using Strip = void (*)(const Floats*, Rows<const T>, const T*, T*, long, long, long);

constexpr long kMaxRows = 8;    // in one pass over the weights
constexpr long kPanelBytes = 256 * 1024;  // of weights, kept in the L2 cache while all rows of x pass over them

}  // namespace

template <class T>
void linear(Rows<const T> x, Rows<const T> weight, const T* bias, Then<T> then, T* out, int threads) {
    static constexpr Strip<T> strips[kMaxRows] = {strip<T, 1>, strip<T, 2>, strip<T, 3>, strip<T, 4>,
                                                  strip<T, 5>, strip<T, 6>, strip<T, 7>, strip<T, 8>};
    const long row_bytes = std::max(1L, long(x.width * sizeof(T)));
    const long panel = std::max(12L, kPanelBytes / row_bytes / 12 * 12);  // 12: a multiple of every strip's N
    const long lines = (x.width + kLine<T> - 1) / kLine<T>;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        std::vector<Floats> packed(lines * Line<T>::registers * std::min(kMaxRows, x.count));
        long packed_row = -1;
#pragma omp for schedule(dynamic, 1)
        for (long first = 0; first < weight.count; first += panel) {
            for (long m = 0; m < x.count; m += kMaxRows) {
                const long rows = std::min(kMaxRows, x.count - m);
                if (m != packed_row) pack(from(x, m), rows, packed.data());
                packed_row = m;
                const long last = std::min(weight.count, first + panel);
                T* piece = out + m * weight.count;
                strips[rows - 1](packed.data(), weight, bias, piece, weight.count, first, last);
                for (long row = 0; then && row < rows; ++row) then(piece + row * weight.count + first, last - first);
            }
        }
    }
}

template void linear(Rows<const float>, Rows<const float>, const float*, Then<float>, float*, int);
template void linear(Rows<const bf16>, Rows<const bf16>, const bf16*, Then<bf16>, bf16*, int);

}  // namespace autodeploy

// The kernels, without PyTorch: pointers, sizes and strides (in elements). T is float or bf16. All threads of a team
// call them, and each does its part.
#pragma once

#include "codes.h"
#include "team.h"
#include "vector.h"

namespace autodeploy {

// Rows of `width` elements, `stride` apart.
template <class T>
struct Rows {
    T* data;
    long count, width, stride;
    T* operator[](long row) const { return data + row * stride; }
};

// Changes some elements of an output in place.
template <class T>
using Then = void (*)(T* piece, long width);

// out [width] = kind(halves[:width]) * halves[width:]
template <class T>
using Gate = void (*)(const T* halves, long width, T* out);

// out [M, N] = x [M, K] @ weight [N, K].T + bias [N] (may be null), and then `then` (may be null) of each element. With a
// `gate`, the weight has the gate's rows first, then those of what it gates, and out is [M, N / 2].
template <class T>
void linear(const Team& team, Rows<const T> x, Rows<const T> weight, const T* bias, Then<T> then, Gate<T> gate, T* out);

// Likewise by a weight in 8 or 4 bits: as integers where x is bf16 and the groups allow it, else decoded to float32.
template <class T>
void packed_linear(const Team& team, Rows<const T> x, const Codes& weight, const T* bias, Gate<T> gate, T* out);

template <class T>
void decoded_linear(const Team& team, Rows<const T> x, const Codes& weight, const T* bias, Gate<T> gate, T* out);

// Likewise of integers, to be multiplied by x_scale, by an int8 weight.
template <class T>
void scaled_linear(const Team& team, Rows<const int8_t> x, const Scales& x_scale, const Codes& weight, const T* bias,
                   Gate<T> gate, T* out);

// Whether blocks of some columns have few enough scales each: scaled_linear takes nothing else, by blocks of 64.
bool falls_into_blocks(const Scales& scales, long columns);

// The norms are of x, or of total = x + residual where residual.data is not null.
template <class T>
void rms_norm(const Team& team, Rows<const T> x, Rows<const T> residual, const T* weight, float eps, float offset,
              bool scale_in_float32, T* out, T* total);

template <class T>
void layer_norm(const Team& team, Rows<const T> x, Rows<const T> residual, const T* weight, const T* bias, float eps,
                T* out, T* total);

// out = cap * tanh(x * scale / cap)
template <class T>
void soft_cap(const Team& team, Rows<const T> x, float cap, float scale, T* out);

enum class Activation { silu, gelu, gelu_tanh, gelu_quick, relu, relu_squared, sigmoid };

// kind(gate) * up, or kind(gate) alone where up.data is null.
template <class T>
void activate(const Team& team, Activation kind, Rows<const T> gate, Rows<const T> up, T* out);

// The function that replaces each of some elements by kind(element).
template <class T>
Then<T> activation_of(Activation kind);

// Likewise the function that gates.
template <class T>
Gate<T> gate_of(Activation kind);

// x [tokens, heads, width]; C is the type of cos and sin [tokens, rotary], and of the arithmetic.
template <class T, class C>
void rope(const Team& team, const T* x, long tokens, long heads, long width, long token_stride, long head_stride,
          const C* cosines, const C* sines, long rotary, bool interleaved, T* out);

// cosines, sines [tokens, 2 * pairs] of positions times frequencies [pairs], as ops.rotary_tables has them.
template <class T>
void rotary_tables(const Team& team, const int64_t* positions, long tokens, const float* frequencies, long pairs,
                   float scaling, bool interleaved, T* cosines, T* sines);

template <class T>
struct Attention {
    const T *q, *k, *v;              // [T, H, D], [T, Hk, D], [T, Hk, Dv], heads and elements contiguous
    long q_stride, k_stride, v_stride;
    T *key_pages, *value_pages;      // [P, Hk, page_size, D], [P, Hk, page_size, Dv], contiguous
    const int32_t *query_start, *context_len, *page_table;
    const int64_t* slots;
    T* out;                          // [T, H, Dv], contiguous
    const T* sinks;                  // [H] or null
    const float* alibi_slopes;       // [H] or null
    long tokens, requests, heads, kv_heads, key_width, value_width, page_size, max_pages;
    float scale, softcap;            // softcap 0: none
    long window;                     // 0: none
};

template <class T>
void paged_attention(const Team& team, const Attention<T>& step);

}  // namespace autodeploy

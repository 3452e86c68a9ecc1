// Sixteen floats at a time in the compiler's own vector types, so that one source serves every CPU.
#pragma once

#if defined(__AVX512BW__) && defined(__AVX512VL__)
#define AUTODEPLOY_MASKS
#include <immintrin.h>
#endif

#include <cstdint>
#include <cstring>
#include <utility>

namespace autodeploy {

struct bf16 {
    uint16_t bits;
};

typedef float Floats __attribute__((vector_size(64)));
typedef int32_t Ints __attribute__((vector_size(64)));
typedef uint32_t Words __attribute__((vector_size(64)));
typedef uint16_t Halves __attribute__((vector_size(32)));
typedef uint8_t Bytes __attribute__((vector_size(64)));
typedef int8_t Digits16 __attribute__((vector_size(16)));

constexpr long kLanes = 16;
constexpr long kBytes = 64;  // in a register

static inline Floats splat(float value) { return value - Floats{}; }

static inline Floats load(const float* p) {
    Floats v;
    std::memcpy(&v, p, sizeof v);
    return v;
}

static inline Floats load(const uint8_t* p) {
    uint8_t v __attribute__((vector_size(16)));
    std::memcpy(&v, p, sizeof v);
    return __builtin_convertvector(v, Floats);
}

static inline Floats load(const bf16* p) {
    Halves h;
    std::memcpy(&h, p, sizeof h);
    return (Floats)(__builtin_convertvector(h, Words) << 16);
}

static inline void store(float* p, Floats v) { std::memcpy(p, &v, sizeof v); }

// Rounds to the nearest even, as PyTorch does; a NaN stays one.
static inline Halves round_to_bf16(Floats v) {
    Words bits = (Words)v;
    Words rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    Words nan = (Words)(v != v);
    return __builtin_convertvector((rounded & ~nan) | (nan & 0x7fc0), Halves);
}

static inline void store(bf16* p, Floats v) {
    Halves h = round_to_bf16(v);
    std::memcpy(p, &h, sizeof h);
}

// The first `count` lanes; the others are zero, and memory past them is not touched.
template <class T>
static inline Floats load(const T* p, long count) {
    if (count >= kLanes) return load(p);
    if (count <= 0) return Floats{};
#ifdef AUTODEPLOY_MASKS
    const __mmask16 mask = __mmask16((1u << count) - 1);
    if constexpr (sizeof(T) == 4) return (Floats)_mm512_maskz_loadu_ps(mask, p);
    if constexpr (sizeof(T) == 2)
        return (Floats)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, p)), 16);
    if constexpr (sizeof(T) == 1) return (Floats)_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(mask, p)));
#endif
    T lanes[kLanes] = {};
    std::memcpy(lanes, p, count * sizeof(T));
    return load(lanes);
}

template <class T>
static inline void store(T* p, Floats v, long count) {
    if (count >= kLanes) return store(p, v);
    T lanes[kLanes];
    store(lanes, v);
    std::memcpy(p, lanes, count * sizeof(T));
}

static inline Bytes load_bytes(const uint8_t* p) {
    Bytes v;
    std::memcpy(&v, p, sizeof v);
    return v;
}

static inline Bytes load_bytes(const uint8_t* p, long count) {
#ifdef AUTODEPLOY_MASKS
    return (Bytes)_mm512_maskz_loadu_epi8(__mmask64((1ull << count) - 1), p);
#else
    uint8_t bytes[kBytes] = {};
    std::memcpy(bytes, p, count);
    return load_bytes(bytes);
#endif
}

static inline float widen(float x) { return x; }
static inline float widen(uint8_t x) { return x; }

static inline float widen(bf16 x) {
    uint32_t bits = uint32_t(x.bits) << 16;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

template <class T>
static inline T narrow(float x);

template <>
inline float narrow<float>(float x) {
    return x;
}

// As a register of them is rounded.
template <>
inline bf16 narrow<bf16>(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    return {uint16_t(x != x ? 0x7fc0 : (bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
}

// What a value becomes when an intermediate result is kept in T.
template <class T>
static inline Floats rounded(Floats v);

template <>
inline Floats rounded<float>(Floats v) {
    return v;
}

template <>
inline Floats rounded<bf16>(Floats v) {
    return (Floats)(__builtin_convertvector(round_to_bf16(v), Words) << 16);
}

static inline Floats select(Ints mask, Floats yes, Floats no) {
    return (Floats)(((Ints)yes & mask) | ((Ints)no & ~mask));
}

// Where a is NaN, so is the result.
static inline Floats maximum(Floats a, Floats b) { return select(b > a, b, a); }
static inline Floats minimum(Floats a, Floats b) { return select(b < a, b, a); }

// Halves every group of 2 * Width lanes of a and of b: lane i of a group gains lane i + Width.
template <int Width, std::size_t... I>
static inline Floats halve(Floats a, Floats b, std::index_sequence<I...>) {
    Floats low = __builtin_shufflevector(a, b, (I / Width * 2 * Width + I % Width)...);
    Floats high = __builtin_shufflevector(a, b, (I / Width * 2 * Width + I % Width + Width)...);
    return low + high;
}

// The lane sums of `Count` vectors, written as Count floats (rounded up to whole vectors). The order of the additions
// within a vector is the same whatever Count is, so that a result never depends on what was summed beside it.
template <int Count, int Width = kLanes / 2>
static inline void sum_each(const Floats* v, float* out) {
    constexpr int half = (Count + 1) / 2;
    Floats halves[half];
    for (int i = 0; i < half; ++i)
        halves[i] = halve<Width>(v[2 * i], v[2 * i + 1 < Count ? 2 * i + 1 : 2 * i], std::make_index_sequence<kLanes>());
    if constexpr (Width > 1)
        sum_each<half, Width / 2>(halves, out);
    else
        for (int i = 0; i < half; ++i) store(out + i * kLanes, halves[i]);
}

static inline float sum(Floats v) {
    float lanes[kLanes];
    sum_each<1>(&v, lanes);
    return lanes[0];
}

static inline float largest(Floats v) {
    float best = v[0];
    for (long i = 1; i < kLanes; ++i) best = v[i] > best ? v[i] : best;
    return best;
}

// Rounds to the nearest even; for |v| < 2^22.
static inline Ints nearest(Floats v) {
    const Floats shift = splat(12582912.0f);  // 1.5 * 2^23: adding it leaves the rounded integer in the low bits
    return (Ints)(v + shift) - (Ints)shift;
}

// Each lane of sum gains the products of its four bytes.
static inline Ints dot(Ints sum, Bytes a, Bytes b) {
#if defined(AUTODEPLOY_MASKS) && defined(__AVX512VNNI__)
    return (Ints)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)a, (__m512i)b);
#else
    for (int lane = 0; lane < kLanes; ++lane)
        for (int i = 4 * lane; i < 4 * lane + 4; ++i) sum[lane] += int32_t(a[i]) * int32_t(int8_t(b[i]));
    return sum;
#endif
}

// e^x to about 1 ulp (Cody-Waite reduction, degree-6 polynomial); saturates near the ends of float's range.
static inline Floats exponential(Floats x) {
    x = minimum(maximum(x, splat(-87.3f)), splat(88.3f));
    const Floats shift = splat(12582912.0f);  // 1.5 * 2^23: adding it leaves the rounded integer in the low bits
    Floats biased = x * 1.44269504089f + shift;
    Floats n = biased - shift;
    Floats r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    Floats p = splat(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    Ints power = __builtin_convertvector(n, Ints) + 127;
    return p * (Floats)(power << 23);
}

static inline Floats sigmoid(Floats x) { return 1.0f / (1.0f + exponential(-x)); }

static inline Floats tangent(Floats x) { return 1.0f - 2.0f / (1.0f + exponential(2.0f * x)); }

}  // namespace autodeploy

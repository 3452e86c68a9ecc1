// Rows of 16-bit floats in 8 bits, each by its largest number: as they are, normed, or gated.
//
// A row is shared out among PARTS blocks, a cluster; a thread has 8 neighbouring numbers and keeps them in registers. What
// the row has in common (the sum of its squares, its largest number) goes through shared memory: each warp leaves its own
// in all blocks of the row, and every thread puts together what all warps left, in their order.
//
// KIND is 0 for rows as they are, 1 for an RMSNorm (of x and a residual, whose sum is kept, where SUMMED; scaled by a
// weight where WEIGHTED, in float32 where WIDE), 2 for an activation of x times `other`. HALF says that numbers are
// float16 and not bfloat16, INTEGER that values are int8 and not fp8, GATE which activation (0: silu, 1: gelu_tanh).
// What is rounded is what the references round.

#include "common.cuh"

constexpr int EACH = 8;
constexpr int WARPS = THREADS / 32;
constexpr int COUNT = WARPS * PARTS;
constexpr float MOST = INTEGER ? 127.f : 448.f;
constexpr float LARGEST = 3.4e38f;  // no reciprocal is infinite: times zero, that would be no number

struct Norm {
    float inverse_width, eps, offset;
};

__device__ __forceinline__ void wide(u32 pair, float& low, float& high) {
    if (HALF) {
        asm("{\n.reg .b16 l, h;\nmov.b32 {l, h}, %2;\ncvt.f32.f16 %0, l;\ncvt.f32.f16 %1, h;\n}"
            : "=f"(low), "=f"(high)
            : "r"(pair));
    } else {
        low = __uint_as_float(pair << 16);
        high = __uint_as_float(pair & 0xffff0000);
    }
}

__device__ __forceinline__ void widen(const uint4& from, float (&to)[EACH]) {
    wide(from.x, to[0], to[1]);
    wide(from.y, to[2], to[3]);
    wide(from.z, to[4], to[5]);
    wide(from.w, to[6], to[7]);
}

__device__ __forceinline__ uint4 narrowed(const float (&from)[EACH]) {
    return {pair_of<HALF>(from[0], from[1]), pair_of<HALF>(from[2], from[3]), pair_of<HALF>(from[4], from[5]), pair_of<HALF>(from[6], from[7])};
}

__device__ __forceinline__ void rounded(float (&numbers)[EACH]) { widen(narrowed(numbers), numbers); }

__device__ __forceinline__ float sigmoid(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x * -1.4426950408889634f));
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(y + 1.f));
    return y;
}

__device__ __forceinline__ float activated(float x) {
    return x * sigmoid(GATE ? 1.5957691216057308f * (x + 0.044715f * x * x * x) : x);
}

__device__ __forceinline__ int part() { return PARTS > 1 ? blockIdx.x % PARTS : 0; }

// What the warps of a row left, and a barrier that counts its bytes: no fence has to wait for other writes.
struct Left {
    alignas(16) u32 numbers[COUNT];
    u64 arrived;
};

// All blocks of the row have begun, and may be written to.
__device__ __forceinline__ void begin_together(Left (&left)[2]) {
    if (PARTS == 1) return;
    if (threadIdx.x == 0) {
        for (Left& one : left) {
            asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(shared_at(&one.arrived)) : "memory");
            asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_at(&one.arrived)),
                         "n"(COUNT * 4)
                         : "memory");
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __syncwarp();
    asm volatile("barrier.cluster.arrive.relaxed.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
}

// Leaves a warp's number in all blocks of the row, and waits for those of all others.
__device__ __forceinline__ void exchange(Left& left, u32 own) {
    const int lane = threadIdx.x % 32, at = part() * WARPS + threadIdx.x / 32;
    if (PARTS == 1) {
        if (lane == 0) left.numbers[at] = own;
        __syncthreads();
        return;
    }
    if (lane < PARTS)
        asm volatile(
            "{\n.reg .b32 there, counted;\nmapa.shared::cluster.u32 there, %0, %2;\nmapa.shared::cluster.u32 counted, %1, %2;\n"
            "st.async.shared::cluster.mbarrier::complete_tx::bytes.b32 [there], %3, [counted];\n}" ::"r"(
                shared_at(left.numbers + at)),
            "r"(shared_at(&left.arrived)), "r"(lane), "r"(own)
            : "memory");
    asm volatile(
        "{\n.reg .pred p;\nAGAIN: mbarrier.try_wait.parity.shared::cta.b64 p, [%0], 0;\n@!p bra AGAIN;\n}" ::"r"(
            shared_at(&left.arrived))
        : "memory");
}

__device__ __forceinline__ float sum_of_row(float own, Left& left) {
    for (int other = 16; other; other /= 2) own += __shfl_xor_sync(~0u, own, other);
    exchange(left, __float_as_uint(own));
    float sums[4] = {};
#pragma unroll
    for (int at = 0; at < COUNT; ++at) sums[at % 4] += __uint_as_float(left.numbers[at]);
    return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

// Of numbers that are not negative, which their bits order as well.
__device__ __forceinline__ float largest_of_row(float own, Left& left) {
    exchange(left, __reduce_max_sync(~0u, __float_as_uint(own)));
    const int lane = threadIdx.x % 32;
    u32 found = 0;
#pragma unroll
    for (int at = 0; at < COUNT; at += 32)
        if (at + lane < COUNT) found = max(found, left.numbers[at + lane]);
    return __uint_as_float(__reduce_max_sync(~0u, found));
}

__device__ __forceinline__ float reciprocal(float of) {
    float by;
    asm("rcp.approx.f32 %0, %1;" : "=f"(by) : "f"(of));
    return fminf(fmaf(by, fmaf(-of, by, 1.f), by), LARGEST);
}

// What a division gives: a product alone misses by a bit, and where the row's largest number has few bits, one number in
// sixteen lies just between two that can be held.
__device__ __forceinline__ float divided(float x, float by, float inverse) {
    const float about = x * inverse;
    return fmaf(fmaf(-about, by, x), inverse, about);
}

__device__ __forceinline__ u32 pair_of_fp8(float low, float high) {
    u32 pair;
    asm("{\n.reg .b16 p;\ncvt.rn.satfinite.e4m3x2.f32 p, %1, %2;\ncvt.u32.u16 %0, p;\n}" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

__device__ __forceinline__ u32 byte_of_int8(float number) {
    return (u32)__float2int_rn(fminf(fmaxf(number, -MOST), MOST)) & 255;
}

__device__ __forceinline__ u32 four(float a, float b, float c, float d) {
    if (INTEGER) return byte_of_int8(a) | byte_of_int8(b) << 8 | byte_of_int8(c) << 16 | byte_of_int8(d) << 24;
    return pair_of_fp8(a, b) | pair_of_fp8(c, d) << 16;
}

// Where in memory an element is: computed now, and not only where it is used, when the inputs are there.
__device__ __forceinline__ u64 place(const void* base, long long bytes) {
    u64 at = (u64)__cvta_generic_to_global(base) + bytes;
    asm volatile("" : "+l"(at));
    return at;
}

__device__ __forceinline__ uint4 read(u64 at) {
    uint4 found;
    asm volatile("ld.global.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(found.x), "=r"(found.y), "=r"(found.z), "=r"(found.w)
                 : "l"(at));
    return found;
}

__device__ __forceinline__ void write(u64 at, const uint4& what) {
    asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(at), "r"(what.x), "r"(what.y), "r"(what.z), "r"(what.w)
                 : "memory");
}

__device__ __forceinline__ void write(u64 at, u32 first, u32 second) {
    asm volatile("st.global.v2.u32 [%0], {%1, %2};" ::"l"(at), "r"(first), "r"(second) : "memory");
}

// Strides and widths count words of EACH numbers.
extern "C" __global__ void __launch_bounds__(THREADS) quantize(
    const void* x, const void* other, const uint4* weight, void* total, void* values, float* scale, const int x_stride,
    const int other_stride, const int width, const Norm norm) {
    __shared__ Left left[2];
    begin_next();
    begin_together(left);
    const int row = blockIdx.x / PARTS, word = part() * THREADS + threadIdx.x;
    const bool inside = word < width;
    const long long own = (long long)row * width + word;
    const u64 from = place(x, ((long long)row * x_stride + word) * 16);
    const u64 from_other = place(other, ((long long)row * other_stride + word) * 16);
    const u64 to_total = place(total, own * 16), to_values = place(values, own * 8);
    float h[EACH] = {}, more[EACH] = {};
    uint4 early = {};
    if (KIND == 1 && WEIGHTED && inside) early = weight[word];  // no kernel writes it
    await_inputs();
    if (inside) {
        const uint4 first = read(from);
        if (KIND == 2 || (KIND == 1 && SUMMED)) widen(read(from_other), more);
        widen(first, h);
    }
    if (KIND == 1) {
        if (SUMMED) {
#pragma unroll
            for (int at = 0; at < EACH; ++at) h[at] += more[at];
            const uint4 summed = narrowed(h);
            if (inside) write(to_total, summed);
            widen(summed, h);
        }
        float squares = 0.f;
#pragma unroll
        for (int at = 0; at < EACH; ++at) squares += h[at] * h[at];
        const float factor = rsqrtf(sum_of_row(squares, left[1]) * norm.inverse_width + norm.eps);
#pragma unroll
        for (int at = 0; at < EACH; ++at) h[at] *= factor;
        if (WEIGHTED) {
            float w[EACH];
            widen(early, w);
#pragma unroll
            for (int at = 0; at < EACH; ++at) w[at] += norm.offset;
            if (!WIDE) {
                rounded(w);
                rounded(h);
            }
#pragma unroll
            for (int at = 0; at < EACH; ++at) h[at] *= w[at];
        }
        rounded(h);
    } else if (KIND == 2) {
#pragma unroll
        for (int at = 0; at < EACH; ++at) h[at] = activated(h[at]);
        rounded(h);
#pragma unroll
        for (int at = 0; at < EACH; ++at) h[at] *= more[at];
        rounded(h);
    }
    float most = 0.f;
#pragma unroll
    for (int at = 0; at < EACH; ++at) most = fmaxf(most, fabsf(h[at]));
    const float largest = largest_of_row(most, left[0]);
    const float unit = largest == 0.f ? 1.f : largest / MOST;
    const float by = reciprocal(unit);
#pragma unroll
    for (int at = 0; at < EACH; ++at) h[at] = divided(h[at], unit, by);
    if (inside) write(to_values, four(h[0], h[1], h[2], h[3]), four(h[4], h[5], h[6], h[7]));
    if (part() == 0 && threadIdx.x == 0) scale[row] = unit;
}

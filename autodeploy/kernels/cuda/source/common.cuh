// What several kernels have in common: short names of integers, numbers of 16 bits, activations, barriers in shared memory.
//
// `half` says that numbers of 16 bits are float16 and not bfloat16.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

__device__ __forceinline__ u32 shared_at(const void* p) { return (u32)__cvta_generic_to_shared(p); }

template <bool half>
__device__ __forceinline__ float widened(u32 bits) {
    if (!half) return __uint_as_float(bits << 16);
    float found;
    asm("{\n.reg .b16 h;\nmov.b32 {h, _}, %1;\ncvt.f32.f16 %0, h;\n}" : "=f"(found) : "r"(bits));
    return found;
}

template <bool half>
__device__ __forceinline__ u16 rounded(float y) {
    u16 found;
    if (half)
        asm("cvt.rn.f16.f32 %0, %1;" : "=h"(found) : "f"(y));
    else
        asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(found) : "f"(y));
    return found;
}

template <bool half>
__device__ __forceinline__ u32 pair_of(float low, float high) {
    u32 found;
    if (half)
        asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(found) : "f"(high), "f"(low));
    else
        asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(found) : "f"(high), "f"(low));
    return found;
}

// Adds 16 rows of a left operand by 8 columns of a right one, 16 numbers of each.
template <bool half>
__device__ __forceinline__ void multiply(float (&y)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
    if (half)
        asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
            : "+f"(y[0]), "+f"(y[1]), "+f"(y[2]), "+f"(y[3])
            : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
    else
        asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
            : "+f"(y[0]), "+f"(y[1]), "+f"(y[2]), "+f"(y[3])
            : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// By the numbers that narrow.py has for activations.
template <int gate>
__device__ __forceinline__ float activated(float y) {
    constexpr float ROOT = 0.7978845608028654f;
    if (gate == 1) return y / (1.f + __expf(-y));
    if (gate == 2) return 0.5f * y * (1.f + erff(y * 0.7071067811865476f));
    if (gate == 3) return 0.5f * y * (1.f + tanhf(ROOT * (y + 0.044715f * y * y * y)));
    if (gate == 4) return y / (1.f + __expf(-1.702f * y));
    if (gate == 5) return fmaxf(y, 0.f);
    if (gate == 6) return fmaxf(y, 0.f) * fmaxf(y, 0.f);
    return 1.f / (1.f + __expf(-y));
}

// 16 bytes that another kernel may have written.
__device__ __forceinline__ uint4 read_x(const u8* x) {
    uint4 v;
    asm volatile("ld.global.cg.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(x));
    return v;
}

// The kernel after this one may start when all its blocks have said so, or ended.
__device__ __forceinline__ void begin_next() { asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); }

// Until the kernels before this one have ended, and what they wrote can be read.
__device__ __forceinline__ void await_inputs() { asm volatile("griddepcontrol.wait;" ::: "memory"); }

__device__ __forceinline__ void init_barrier(u32 barrier, u32 count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(count) : "memory");
}

__device__ __forceinline__ void expect(u32 barrier, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

__device__ __forceinline__ void arrive(u32 barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

__device__ __forceinline__ void await(u32 barrier, u32 phase) {
    asm volatile(
        "{\n.reg .pred done;\nAGAIN: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1, 0x989680;\n@!done bra AGAIN;\n}" ::"r"(
            barrier),
        "r"(phase)
        : "memory");
}

// A matrix, cut into boxes, as the driver describes it to the tensor memory accelerator.
struct alignas(64) TensorMap {
    char opaque[128];
};

// Asks for the box that begins at a column and a row; the barrier counts its bytes.
__device__ __forceinline__ void bring(u32 to, const TensorMap* map, u32 barrier, u32 column, u32 row, u64 policy) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint"
        " [%0], [%1, {%3, %4}], [%2], %5;" ::"r"(to), "l"(map), "r"(barrier), "r"(column), "r"(row), "l"(policy)
        : "memory");
}

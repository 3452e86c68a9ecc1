// A gated projection of many rows on Hopper: out = activate(x @ gate.T + bias) * (x @ gated.T + bias).
//
// Persistent programs of three groups of four warps. One thread of the first asks the tensor memory accelerator for
// blocks of 64 columns, into a ring; the two others have 64 rows of x each, and multiply them with H rows of the gate
// and the H rows that they gate. Both products of a pair are in one thread, so that what is gated leaves registers as
// it goes to memory.
//
// Given: BF16, KIND (of the activation), HAS_BIAS, CLUSTER (programs that share what they read of the weight).

#include "common.cuh"

constexpr u32 STAGES = 4, LEAD = 1, TOKENS = 128, COLUMNS = 64, WIDE = 128, NARROW = 32, GROUP_TOKENS = 64;
constexpr u32 TOKEN_BYTES = TOKENS * COLUMNS * 2, WEIGHT_BYTES = 2 * WIDE * COLUMNS * 2;
constexpr u32 BOX_BYTES = GROUP_TOKENS * 64 * 2;

/** As `await`; of a bias in float16 the compiler makes shorter code so. */
__device__ __forceinline__ void await_apart(u32 barrier, u32 phase) {
    asm volatile(
        "{ .reg .pred done;\n"
        "again: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1, 0x989680;\n"
        "@done bra over;\n bra again;\n over: }" ::"r"(barrier), "r"(phase) : "memory");
}

/** Arrive at the barrier that a program of the cluster has at this address. */
__device__ __forceinline__ void arrive_at(u32 barrier, u32 program) {
    asm volatile(
        "{ .reg .b32 there; mapa.shared::cluster.u32 there, %0, %1;"
        " mbarrier.arrive.shared::cluster.b64 _, [there]; }" ::"r"(barrier), "r"(program) : "memory");
}

/** To this address of all programs of the cluster, whose barriers are told. */
__device__ __forceinline__ void bring_to_all(u32 to, const TensorMap* map, u32 barrier, u32 column, u32 row,
                                             u64 policy) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster.L2::cache_hint"
        " [%0], [%1, {%3, %4}], [%2], %5, %6;" ::"r"(to), "l"(map), "r"(barrier), "r"(column), "r"(row),
        "h"(static_cast<u16>((1 << CLUSTER) - 1)), "l"(policy) : "memory");
}

/** The second-level cache may keep or drop what is brought and taken, as it does by itself. */
__device__ __forceinline__ u64 plain_policy() {
    u64 policy;
    asm volatile("createpolicy.fractional.L2::evict_normal.b64 %0, 1.0;" : "=l"(policy));
    return policy;
}

#if BF16
#define DTYPE "bf16"
#else
#define DTYPE "f16"
#endif
// Operands of an instruction, as texts: %d0 to %d9; and what they are: y[i] to y[i + 31].
#define TEN(d) "%" #d "0, %" #d "1, %" #d "2, %" #d "3, %" #d "4, %" #d "5, %" #d "6, %" #d "7, %" #d "8, %" #d "9, "
#define Y4(i) "+f"(y[i]), "+f"(y[i + 1]), "+f"(y[i + 2]), "+f"(y[i + 3])
#define Y16(i) Y4(i), Y4(i + 4), Y4(i + 8), Y4(i + 12)
#define Y32(i) Y16(i), Y16(i + 16)
#define MULTIPLY(columns, sums, a, b, more)                                                                        \
    "{ .reg .pred more; setp.ne.b32 more, " more ", 0; wgmma.mma_async.sync.aligned.m64n" columns "k16.f32." DTYPE \
    "." DTYPE " {" sums "}, " a ", " b ", more, 1, 1, 0, 0; }"

// y [64, columns] = a @ b.T, and of what it was where there is more to it.
__device__ __forceinline__ void multiply(float (&y)[128], u64 a, u64 b, u32 more) {
    asm volatile(MULTIPLY("256", TEN() TEN(1) TEN(2) TEN(3) TEN(4) TEN(5) TEN(6) TEN(7) TEN(8) TEN(9) TEN(10) TEN(11)
                          "%120, %121, %122, %123, %124, %125, %126, %127", "%128", "%129", "%130")
                 : Y32(0), Y32(32), Y32(64), Y32(96) : "l"(a), "l"(b), "r"(more));
}
__device__ __forceinline__ void multiply(float (&y)[64], u64 a, u64 b, u32 more) {
    asm volatile(MULTIPLY("128", TEN() TEN(1) TEN(2) TEN(3) TEN(4) TEN(5) "%60, %61, %62, %63", "%64", "%65", "%66")
                 : Y32(0), Y32(32) : "l"(a), "l"(b), "r"(more));
}
__device__ __forceinline__ void multiply(float (&y)[32], u64 a, u64 b, u32 more) {
    asm volatile(MULTIPLY("64", TEN() TEN(1) TEN(2) "%30, %31", "%32", "%33", "%34")
                 : Y32(0) : "l"(a), "l"(b), "r"(more));
}

__device__ __forceinline__ void cluster_sync() {
    if (CLUSTER > 1) {
        asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
    } else {
        __syncthreads();
    }
}

/** The operand at an address: rows of 128 bytes, swizzled, in groups of eight. */
__device__ __forceinline__ u64 operand(u32 address) {
    return (u64{1} << 62) | (u64{1024 >> 4} << 32) | (u64{1} << 16) | ((address & 0x3FFFF) >> 4);
}

/** Where a program is in the ring. */
struct Turn {
    u32 stage = 0, phase = 0;
    __device__ __forceinline__ void next() {
        if (++stage == STAGES) stage = 0, phase ^= 1;
    }
};

/** Shared memory of a program, by addresses. */
struct Ring {
    u32 tokens, weights, out, full, empty, ahead, never;
    __device__ __forceinline__ explicit Ring(u32 base)
        : tokens(base), weights(tokens + STAGES * TOKEN_BYTES), out(weights + STAGES * WEIGHT_BYTES),
          full(out + 4 * BOX_BYTES), empty(full + STAGES * 8), ahead(empty + STAGES * 8), never(ahead + 8) {}
};

/** What tile i has of x and of the weight: `neighbours` of x go together, then come the next rows of the weight. */
struct Place {
    u32 token, row;
    __device__ __forceinline__ Place(u32 i, u32 rows, u32 columns, u32 neighbours, u32 program) {
        u32 first = i / (neighbours * columns) * neighbours, within = i % (neighbours * columns);
        u32 height = min(rows - first, neighbours);
        token = ((first + within % height) * CLUSTER + program) * TOKENS;
        row = within / height * WIDE;
    }
};

/** Of x, the weight and the result, in boxes for whole tiles and for parts. */
struct Maps {
    const TensorMap *x, *wide, *narrow, *out, *out_narrow;
};

/** Ask for all blocks of a tile. */
template <u32 H>
__device__ __forceinline__ void bring_tile(const Ring& ring, Turn& turn, const Maps& maps, u32 token, u32 row, u32 n,
                                           u32 turns, u32 program, u64 policy) {
    constexpr u32 BOX = H == WIDE ? WIDE : NARROW;
    const TensorMap* map = H == WIDE ? maps.wide : maps.narrow;
    for (u32 i = 0; i < turns; ++i) {
        u32 full = ring.full + turn.stage * 8, column = i * COLUMNS;
        u32 weights = ring.weights + turn.stage * WEIGHT_BYTES;
        await_apart(ring.empty + turn.stage * 8, turn.phase ^ 1);
        expect(full, TOKEN_BYTES + 2 * H * COLUMNS * 2);
        bring(ring.tokens + turn.stage * TOKEN_BYTES, maps.x, full, column, token, policy);
#pragma unroll
        for (u32 half = 0; half < 2; ++half) {
            if (CLUSTER > 1 && half != program) continue;
#pragma unroll
            for (u32 box = 0; box < H; box += BOX) {
                u32 to = weights + (half * H + box) * COLUMNS * 2;
                u32 from = row + box + half * n;
                if (CLUSTER > 1) bring_to_all(to, map, full, column, from, policy);
                else bring(to, map, full, column, from, policy);
            }
        }
        turn.next();
    }
}

/** A group needs a block no more. */
__device__ __forceinline__ void leave(const Ring& ring, u32 stage) {
    if (CLUSTER > 1) {
        if (threadIdx.x % 32 < CLUSTER) arrive_at(ring.empty + stage * 8, threadIdx.x % 32);
    } else if (threadIdx.x % 32 == 0) {
        arrive(ring.empty + stage * 8);
    }
}

__device__ __forceinline__ float sigmoid(float x) {
    float e, y;
    asm volatile("ex2.approx.ftz.f32 %0, %1;" : "=f"(e) : "f"(x * -1.4426950408889634f));
    asm volatile("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(e + 1.0f));
    return y;
}

/** The activation number KIND of `autodeploy.ops.ACTIVATIONS`. */
__device__ __forceinline__ float activate(float x) {
    if (KIND == 0) return x * sigmoid(x);
    if (KIND == 1) return 0.5f * x * (1.0f + erff(x * 0.7071067811865476f));
    if (KIND == 2) return x * sigmoid(1.5957691216057308f * (x + 0.044715f * x * x * x));  // by tanh
    if (KIND == 3) return x * sigmoid(1.702f * x);
    if (KIND == 4) return fmaxf(x, 0.0f);
    if (KIND == 5) return fmaxf(x, 0.0f) * fmaxf(x, 0.0f);
    return sigmoid(x);
}

__device__ __forceinline__ float widen(u16 x) {
    float y;
    if (BF16) asm("{ .reg .b16 zero; mov.b16 zero, 0; mov.b32 %0, {zero, %1}; }" : "=f"(y) : "h"(x));
    else asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x));
    return y;
}

__device__ __forceinline__ void group_sync(u32 group) {
    asm volatile("bar.sync %0, 128;" ::"r"(group + 1) : "memory");
}

__device__ __forceinline__ float biased(float y, const u16* bias, u32 column, u32 n, bool gated) {
    return HAS_BIAS && column < n ? y + widen(bias[gated * n + column]) : y;
}

/** Two neighbours of the result, from place i of the sums of a group's rows and columns from `column` on. */
template <u32 H>
__device__ __forceinline__ u32 result(const float (&y)[H], u32 i, const u16* bias, u32 column, u32 n) {
    float low = biased(y[i], bias, column, n, false), high = biased(y[i + 1], bias, column + 1, n, false);
    low = activate(low) * biased(y[i + H / 2], bias, column, n, true);
    high = activate(high) * biased(y[i + 1 + H / 2], bias, column + 1, n, true);
    return pair_of<!BF16>(low, high);
}

/** A tile's result to memory, through two boxes of shared memory, which are emptied while the group goes on. */
template <u32 H>
__device__ __forceinline__ void store_tile(const Ring& ring, const Maps& maps, const float (&y)[H], const u16* bias,
                                           u32 token, u32 row, u32 n, u32 group) {
    constexpr u32 BOX = H == NARROW ? 32 : 64;
    const TensorMap* map = BOX == 32 ? maps.out_narrow : maps.out;
    u32 lane = threadIdx.x % 32, at = threadIdx.x / 32 % 4 * 16 + lane % 16;
#pragma unroll
    for (u32 box = 0; box < H; box += BOX) {
        u32 out = ring.out + (group * 2 + box / BOX % 2) * BOX_BYTES;
        if (threadIdx.x % 128 == 0) asm volatile("cp.async.bulk.wait_group.read 1;" ::: "memory");
        group_sync(group);
#pragma unroll
        for (u32 column = 0; column < BOX; column += 16) {
            u32 i = (box + column) / 2, first = row + box + column + lane % 4 * 2;
            u32 values[4] = {result(y, i, bias, first, n), result(y, i + 2, bias, first, n),
                             result(y, i + 4, bias, first + 8, n), result(y, i + 6, bias, first + 8, n)};
            u32 to = out + at * (BOX * 2) + (((column / 8 + lane / 16) ^ (BOX == 64 ? at % 8 : at / 2 % 4)) << 4);
            asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(values[0]),
                         "r"(values[1]), "r"(values[2]), "r"(values[3]) : "memory");
        }
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
        group_sync(group);
        if (threadIdx.x % 128 == 0)
            asm volatile(
                "cp.async.bulk.tensor.2d.global.shared::cta.bulk_group.L2::cache_hint [%0, {%2, %3}], [%1], %4;\n"
                "cp.async.bulk.commit_group;" ::"l"(map), "r"(out), "r"(row + box),
                "r"(token + group * GROUP_TOKENS), "l"(plain_policy()) : "memory");
    }
}

/** A group's rows of a tile. The group that leads lets the other one begin when it is LEAD blocks ahead. */
template <u32 H>
__device__ __forceinline__ void multiply_tile(const Ring& ring, Turn& turn, const Maps& maps, const u16* bias,
                                              u32 token, u32 row, u32 n, u32 turns, u32 group, bool leads) {
    float y[H];
    u32 before = 0;
    for (u32 i = 0; i < turns; ++i) {
        await_apart(ring.full + turn.stage * 8, turn.phase);
        u64 a = operand(ring.tokens + turn.stage * TOKEN_BYTES + group * (TOKEN_BYTES / 2));
        u64 b = operand(ring.weights + turn.stage * WEIGHT_BYTES);
        asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
        for (u32 k = 0; k < COLUMNS / 16; ++k) multiply(y, a + k * 2, b + k * 2, k > 0 || i > 0);
        asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
        asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory");
        if (i > 0) leave(ring, before);
        if (leads && i == min(LEAD, turns - 1) && threadIdx.x % 128 == 0) arrive(ring.ahead);
        before = turn.stage;
        turn.next();
    }
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
    leave(ring, before);
    await_apart(ring.never, 1);  // over at once: the compiler moves no activation ahead of the above
    store_tile<H>(ring, maps, y, bias, token, row, n, group);
}

/** `rows` by `columns` tiles; the last `rest` of them in `parts` each, by rows of the weight. */
extern "C" __global__ void __cluster_dims__(CLUSTER, 1, 1) __launch_bounds__(384, 1)
    gated_tiles(const __grid_constant__ TensorMap x, const __grid_constant__ TensorMap wide,
                const __grid_constant__ TensorMap narrow, const __grid_constant__ TensorMap out,
                const __grid_constant__ TensorMap out_narrow, const u16* bias, u32 rows, u32 columns, u32 n, u32 turns,
                u32 neighbours, u32 rest, u32 parts) {
    extern __shared__ char memory[];
    Ring ring((shared_at(memory) + 1023) / 1024 * 1024);
    if (threadIdx.x == 0) {
        for (u32 stage = 0; stage < STAGES; ++stage) {
            init_barrier(ring.full + stage * 8, 1);
            init_barrier(ring.empty + stage * 8, 8 * CLUSTER);
        }
        init_barrier(ring.ahead, 1);
        init_barrier(ring.never, 1);
        asm volatile("fence.mbarrier_init.release.cluster;\nfence.proxy.async;" ::: "memory");
    }
    cluster_sync();
    begin_next();
    await_inputs();

    u32 program = blockIdx.x % CLUSTER, first = blockIdx.x / CLUSTER, step = gridDim.x / CLUSTER;
    u32 whole = rows * columns - rest, role = threadIdx.x / 128;
    Maps maps{&x, &wide, &narrow, &out, &out_narrow};
    Turn turn;
    u32 part_of = whole + first / parts, shift = first % parts * (WIDE / parts);
    bool has_part = first < rest * parts;
    if (role == 0) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
        if (threadIdx.x == 0) {
            u64 policy = plain_policy();
            for (u32 i = first; i < whole; i += step) {
                Place place(i, rows, columns, neighbours, program);
                bring_tile<WIDE>(ring, turn, maps, place.token, place.row, n, turns, program, policy);
            }
            if (has_part) {
                Place last(part_of, rows, columns, neighbours, program);
                u32 row = last.row + shift;
                if (parts == 2) bring_tile<64>(ring, turn, maps, last.token, row, n, turns, program, policy);
                else bring_tile<32>(ring, turn, maps, last.token, row, n, turns, program, policy);
            }
        }
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
        u32 group = role - 1;
        bool leads = group == 0;
        if (!leads && first < whole) await_apart(ring.ahead, 0);
        for (u32 i = first; i < whole; i += step) {
            Place place(i, rows, columns, neighbours, program);
            multiply_tile<WIDE>(ring, turn, maps, bias, place.token, place.row, n, turns, group, leads);
            leads = false;
        }
        if (has_part) {
            Place last(part_of, rows, columns, neighbours, program);
            u32 row = last.row + shift;
            if (parts == 2) multiply_tile<64>(ring, turn, maps, bias, last.token, row, n, turns, group, false);
            else multiply_tile<32>(ring, turn, maps, bias, last.token, row, n, turns, group, false);
        }
        if (threadIdx.x % 128 == 0) asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
    }
    __syncwarp();
    cluster_sync();
}

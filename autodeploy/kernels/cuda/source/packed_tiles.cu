// Matmuls of some rows x by weights in 4 bits with scales of groups of 128, by the matrix units of Hopper.
//
// A block has 64 * SLABS rows of the weight, 64 for each four warps, and one of SPLIT shares of the groups; a cluster has
// all shares of a tile, whose sums are added up in their order through shared memory. Each of the multiplying warps asks
// the tensor memory accelerator for its own 16 rows, into a ring of its own, before x is there, and decodes them in
// registers: they are the left operand of an instruction that four warps give together. x is the right operand, in shared
// memory.
//
// A lane reads 16 neighbouring bytes of a row, 32 columns, so that an instruction multiplies columns which do not lie
// together. Which they are is free as long as both sides agree: four more warps bring x in the order that decoding gives.
//
// TOKENS is 32, 64 or 128; a row has GROUPS groups; the rings hold W_STAGES pairs of groups of the weight and X_STAGES
// groups of x, of which AHEAD more are in registers; HALF says that numbers are float16 and not bfloat16; GATE is an
// activation (0: none).

#include "common.cuh"

constexpr int MULTIPLYING = 128 * SLABS, THREADS = MULTIPLYING + 128;
constexpr int ROWS = 64 * SLABS, OUTS = GATE ? ROWS / 2 : ROWS;
constexpr int EIGHTS = TOKENS / 8;
constexpr int HALF_PLANE = EIGHTS * 128;              // of x: eight columns
constexpr int WORD_PLANE = 4 * HALF_PLANE + 32;       // of the same word of all lanes; none written at once share a bank
constexpr int X_STAGE = 4 * WORD_PLANE, W_STAGE = 2048, BOX = W_STAGE / 2;  // of the weight: two groups of 16 rows
constexpr bool EVEN = GROUPS % SPLIT == 0;
constexpr int MOST_GROUPS = (GROUPS + SPLIT - 1) / SPLIT;
constexpr int SCALES = (MOST_GROUPS * 2 + 15) / 32 * 32 + 16;  // bytes of a row: those of eight rows share no bank
constexpr int AT_ONCE = !EVEN || MOST_GROUPS % 2 ? 1 : MOST_GROUPS % 4 ? 2 : MOST_GROUPS % 8 ? 4 : 8;  // scales
constexpr int W_BYTES = 4 * SLABS * W_STAGES * W_STAGE, X_BYTES = X_STAGES * X_STAGE;
constexpr int SCALE_BYTES = ROWS * SCALES;
constexpr int SUMS = ROWS + 4;  // floats of a token, of which no two of those written at once share a bank
static_assert(SUMS * TOKENS * 4 <= W_BYTES + X_BYTES, "sums lie where the rings were");
constexpr u32 MAGIC = HALF ? 0x64006400 : 0x43004300, MINUS_MIDDLE = HALF ? 0xe408e408 : 0xc308c308;

__device__ __forceinline__ void end_inits() {
    asm volatile("fence.mbarrier_init.release.cluster;\nfence.proxy.async.shared::cta;" ::: "memory");
}

template <int BYTES>
__device__ __forceinline__ void copy(void* to, const void* from) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(shared_at(to)), "l"(from), "n"(BYTES) : "memory");
}

__device__ __forceinline__ void end_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }

// What threads wrote to shared memory may be read by the matrix units.
__device__ __forceinline__ void end_writes() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

__device__ __forceinline__ void meet_cluster() {
    asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}

// Four sums at an address of the shared memory of a block of the cluster.
__device__ __forceinline__ float4 read_sums(u32 at, u32 block) {
    float4 v;
    asm volatile(
        "{\n.reg .b32 there;\nmapa.shared::cluster.u32 there, %4, %5;\n"
        "ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [there];\n}"
        : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
        : "r"(at), "r"(block)
        : "memory");
    return v;
}

__device__ __forceinline__ u32 masked(u32 word) {
    u32 found;
    asm("lop3.b32 %0, %1, %2, %3, 0xEA;" : "=r"(found) : "r"(word), "r"(0x000f000f), "n"(MAGIC));
    return found;
}

__device__ __forceinline__ u32 added(u32 a, u32 b) {
    u32 found;
    if (HALF)
        asm("add.f16x2 %0, %1, %2;" : "=r"(found) : "r"(a), "r"(b));
    else
        asm("add.bf16x2 %0, %1, %2;" : "=r"(found) : "r"(a), "r"(b));
    return found;
}

__device__ __forceinline__ u32 times(u32 a, u32 b) {
    u32 found;
    if (HALF)
        asm("mul.f16x2 %0, %1, %2;" : "=r"(found) : "r"(a), "r"(b));
    else
        asm("mul.bf16x2 %0, %1, %2;" : "=r"(found) : "r"(a), "r"(b));
    return found;
}

// The weights 0 and 4 of a word of eight.
__device__ __forceinline__ u32 decoded(u32 word, u32 scale) { return times(added(masked(word), MINUS_MIDDLE), scale); }

#if HALF
#define DTYPE "f16"
#else
#define DTYPE "bf16"
#endif
#define FOUR(i) "+f"(y[i]), "+f"(y[i + 1]), "+f"(y[i + 2]), "+f"(y[i + 3])
#define SIXTEEN(i) FOUR(i), FOUR(i + 4), FOUR(i + 8), FOUR(i + 12)
#define TEN(d) "%" #d "0, %" #d "1, %" #d "2, %" #d "3, %" #d "4, %" #d "5, %" #d "6, %" #d "7, %" #d "8, %" #d "9, "
#if TOKENS == 32
#define Y SIXTEEN(0)
#define PLACES TEN() "%10, %11, %12, %13, %14, %15"
#define LEFT "{%16, %17, %18, %19}"
#define LAST "%20"
#elif TOKENS == 64
#define Y SIXTEEN(0), SIXTEEN(16)
#define PLACES TEN() TEN(1) TEN(2) "%30, %31"
#define LEFT "{%32, %33, %34, %35}"
#define LAST "%36"
#else
#define Y SIXTEEN(0), SIXTEEN(16), SIXTEEN(32), SIXTEEN(48)
#define PLACES TEN() TEN(1) TEN(2) TEN(3) TEN(4) TEN(5) "%60, %61, %62, %63"
#define LEFT "{%64, %65, %66, %67}"
#define LAST "%68"
#endif
#define TEXT_OF(number) #number
#define TEXT(number) TEXT_OF(number)

// Adds 16 columns of 64 rows of the weight, in four warps, by all of x, of which eight rows lie 128 bytes apart.
__device__ __forceinline__ void multiply(float (&y)[TOKENS / 2], const u32 (&a)[4], u32 b) {
    asm volatile("{\n.reg .b64 b;\nmov.b64 b, {" LAST ", 8};\n"
                 "wgmma.mma_async.sync.aligned.m64n" TEXT(TOKENS) "k16.f32." DTYPE "." DTYPE " {" PLACES "}, " LEFT
                 ", b, 1, 1, 1, 0;\n}"
                 : Y
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b));
}

__device__ __forceinline__ void begin_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

// All but the products begun last are done, or those as well.
__device__ __forceinline__ void end_products() {
    asm volatile("wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 1;" ::: "memory");
}
__device__ __forceinline__ void await_products() { asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory"); }

// The right operand at an address, as far as it varies: eight rows of eight columns lie together, then further rows, and
// then further columns.
__device__ __forceinline__ u32 operand(u32 at) { return (at & 0x3ffff) >> 4 | (u32)(HALF_PLANE >> 4) << 16; }

// Where a warp is in a ring.
template <int STAGES>
struct Turn {
    u32 stage = 0, phase = 0;
    __device__ __forceinline__ void next() {
        if (++stage == STAGES) stage = 0, phase ^= 1;
    }
};

// Shared memory of a block, by addresses.
struct Rooms {
    u32 weights, x, scales, ready, full, empty;
    __device__ __forceinline__ explicit Rooms(u32 base)
        : weights(base), x(weights + W_BYTES), scales(x + X_BYTES), ready(scales + SCALE_BYTES),
          full(ready + 4 * SLABS * W_STAGES * 8), empty(full + X_STAGES * 8) {}
};

// The row of the weight at a place of a tile: of each 16, eight are gated by the other ones.
__device__ __forceinline__ int weight_row(int tile, int place, int n) {
    if (!GATE) return tile * ROWS + place;
    return tile * OUTS + place / 16 * 8 + place % 8 + (place & 8 ? n : 0);
}

// The scales of a tile's rows, as they lie in memory.
__device__ __forceinline__ void bring_scales(u8* to, const u16* scale, int tile, int first, int count, int n) {
    const int last = (GATE ? 2 * n : n) - 1, across = count / AT_ONCE;
#pragma unroll 4
    for (int at = threadIdx.x; at < ROWS * across; at += MULTIPLYING) {
        const int place = at / across, group = at % across * AT_ONCE;
        const u16* const from = scale + min(weight_row(tile, place, n), last) * GROUPS + first + group;
        u8* const here = to + place * SCALES + group * 2;
        if (AT_ONCE == 1)
            *(u16*)here = __ldg(from);
        else
            copy<AT_ONCE * 2>(here, from);
    }
    end_copies();
    asm volatile("bar.sync 1, %0;" ::"n"(MULTIPLYING) : "memory");
}

// Groups of x into the ring, from `x` on.
__device__ __forceinline__ void bring_x(const Rooms& rooms, u8* ring, const u8* x, int x_stride, int m, int count) {
    const int thread = threadIdx.x % 128, chunk = thread % 16, row = thread / 16;
    u8* const to = ring + chunk % 4 * WORD_PLANE + row * 16 + chunk / 4 * 4;
    uint4 v[AHEAD][EIGHTS];
    auto read = [&](uint4(&v)[EIGHTS], int group) {
        const u8* from = x + (long long)min(row, m - 1) * x_stride + group * 256 + chunk * 16;
#pragma unroll
        for (int eight = 0; eight < EIGHTS; eight++) {
            v[eight] = read_x(from);
            if (eight * 8 + 8 + row < m) from += 8 * (long long)x_stride;
        }
    };
#pragma unroll
    for (int at = 0; at < AHEAD; at++)
        if (at < count) read(v[at], at);
    Turn<X_STAGES> turn;
    for (int group = 0; group < count; group += AHEAD) {
#pragma unroll
        for (int at = 0; at < AHEAD; at++) {
            if (group + at >= count) break;
            await(rooms.empty + turn.stage * 8, turn.phase ^ 1);
            u8* const stage = to + turn.stage * X_STAGE;
#pragma unroll
            for (int eight = 0; eight < EIGHTS; eight++) {
                const uint4 own = v[at][eight];
                u32* const first = (u32*)(stage + eight * 128);
                first[0] = __byte_perm(own.x, own.z, 0x5410);
                first[HALF_PLANE / 4] = __byte_perm(own.x, own.z, 0x7632);
                first[HALF_PLANE / 2] = __byte_perm(own.y, own.w, 0x5410);
                first[HALF_PLANE / 4 * 3] = __byte_perm(own.y, own.w, 0x7632);
            }
            end_writes();
            __syncwarp();
            if (threadIdx.x % 32 == 0) arrive(rooms.full + turn.stage * 8);
            if (group + at + AHEAD < count) read(v[at], group + at + AHEAD);
            turn.next();
        }
    }
}

// The row of eight that a lane has: what eight lanes read at once lies in different halves of lines.
__device__ __forceinline__ int row_of(int lane) { return lane / 8 + lane % 8 / 4 * 4; }

// Asks for a warp's rows of two groups.
struct Asking {
    const TensorMap* map;
    u32 to, ready;
    int row, gated;
    u64 policy;
    __device__ __forceinline__ void ask(u32 stage, int group) const {
        expect(ready + stage * 8, W_STAGE);
        bring(to + stage * W_STAGE, map, ready + stage * 8, group * 32, row, policy);
        if (GATE) bring(to + stage * W_STAGE + BOX, map, ready + stage * 8, group * 32, gated, policy);
    }
};

__device__ __forceinline__ void decode(u32 (&a)[4][4], u32 (&low)[2], u32 (&high)[2], u32 low_scale, u32 high_scale) {
#pragma unroll
    for (int at = 0; at < 4; at++) {
        u32 &first = low[at / 2], &second = high[at / 2];
        a[at][0] = decoded(first, low_scale);
        a[at][1] = decoded(second, high_scale);
        a[at][2] = decoded(first >> 4, low_scale);
        a[at][3] = decoded(second >> 4, high_scale);
        first >>= 8, second >>= 8;
    }
}

// All groups of a warp's rows by x.
__device__ __forceinline__ void multiply_groups(
    float (&y)[TOKENS / 2], const Rooms& rooms, const u8* words, int second, const u8* scales, const Asking& asking, int first,
    int count) {
    const int lane = threadIdx.x % 32;
    Turn<W_STAGES> turn;
    Turn<X_STAGES> x_turn;
    u32 before = 0;
    u32 a[2][4][4];
    for (int pair = 0; pair < count; pair += 2) {
        await(asking.ready + turn.stage * 8, turn.phase);
        const u8* const stage = words + turn.stage * W_STAGE;
#pragma unroll
        for (int of = 0; of < 2; of++) {
            const int group = pair + of;
            if (group >= count) break;
            const uint4 low = *(const uint4*)(stage + (of ? second : 0));
            const uint4 high = *(const uint4*)(stage + BOX + (of ? second : 0));
            u32 low_scale = *(const u16*)(scales + group * 2), high_scale = *(const u16*)(scales + 8 * SCALES + group * 2);
            low_scale |= low_scale << 16, high_scale |= high_scale << 16;
            const u32 b = operand(rooms.x + x_turn.stage * X_STAGE);
#pragma unroll
            for (int half = 0; half < 2; half++) {
                u32 of_low[2] = {half ? low.z : low.x, half ? low.w : low.y};
                u32 of_high[2] = {half ? high.z : high.x, half ? high.w : high.y};
                decode(a[half], of_low, of_high, low_scale, high_scale);
                if (half == 0) await(rooms.full + x_turn.stage * 8, x_turn.phase);
                begin_products();
#pragma unroll
                for (int at = 0; at < 4; at++)
                    multiply(y, a[half][at], b + ((half * 2 + at / 2) * WORD_PLANE + at % 2 * 2 * HALF_PLANE) / 16);
                end_products();
                if (of && half == 0) {  // what lanes read is multiplied: where it was not, next weights have overtaken it
                    __syncwarp();
                    if (lane == 0 && pair + 2 * W_STAGES < count) asking.ask(turn.stage, first + pair + 2 * W_STAGES);
                }
                if (half == 0 && group > 0 && lane == 0) arrive(rooms.empty + before * 8);
            }
            before = x_turn.stage;
            x_turn.next();
        }
        turn.next();
    }
    await_products();
}

// The sums of a warp to shared memory, a token after the other.
__device__ __forceinline__ void leave_sums(float* sums, const float (&y)[TOKENS / 2]) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    float* const to = sums + lane % 4 * 2 * SUMS + warp * (GATE ? 8 : 16) + row_of(lane);
#pragma unroll
    for (int at = 0; at < TOKENS / 2; at++)
        to[(at / 4 * 8 + at % 2) * SUMS + (at % 4 / 2) * (GATE ? OUTS : 8)] = y[at];
}

// Eight neighbours of a token, of all shares.
__device__ __forceinline__ void add_up(float (&y)[8], u32 at) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float4 found[SPLIT];
#pragma unroll
        for (int share = 0; share < SPLIT; share++) found[share] = read_sums(at + half * 16, share);
        float4 sum = found[0];
#pragma unroll
        for (int share = 1; share < SPLIT; share++) {
            const float4 more = found[share];
            sum = {sum.x + more.x, sum.y + more.y, sum.z + more.z, sum.w + more.w};
        }
        y[half * 4] = sum.x, y[half * 4 + 1] = sum.y, y[half * 4 + 2] = sum.z, y[half * 4 + 3] = sum.w;
    }
}

__device__ __forceinline__ void shift(float (&y)[8], const u16* bias) {
#pragma unroll
    for (int i = 0; i < 8; i++) y[i] += widened<HALF>(bias[i]);
}

// A block's share of the results of a tile.
__device__ __forceinline__ void write_results(u32 sums, const u16* bias, u16* out, int tile, int share, int m, int n) {
    constexpr int ACROSS = OUTS / 8;
    for (int at = share * THREADS + threadIdx.x; at < m * ACROSS; at += SPLIT * THREADS) {
        const int token = at / ACROSS, place = at % ACROSS * 8, column = tile * OUTS + place;
        if (column >= n) continue;
        float y[8], gated[8];
        add_up(y, sums + (token * SUMS + place) * 4);
        if (GATE) add_up(gated, sums + (token * SUMS + OUTS + place) * 4);
        if (bias) shift(y, bias + column);
        if (GATE && bias) shift(gated, bias + n + column);
        u32 pairs[4];
#pragma unroll
        for (int i = 0; i < 8; i += 2) {
            pairs[i / 2] = pair_of<HALF>(y[i], y[i + 1]);
            if (GATE) {
                const float low = activated<GATE>(widened<HALF>(pairs[i / 2] & 0xffff)), high = activated<GATE>(widened<HALF>(pairs[i / 2] >> 16));
                pairs[i / 2] = pair_of<HALF>(low * gated[i], high * gated[i + 1]);
            }
        }
        *(uint4*)(out + (long long)token * n + column) = {pairs[0], pairs[1], pairs[2], pairs[3]};
    }
}

// `x_stride` counts bytes.
extern "C" __global__ void __launch_bounds__(THREADS, 1) packed_tiles(
    const __grid_constant__ TensorMap weight, const u16* scale, const u8* x, const u16* bias, u16* out, const int m,
    const int n, const int x_stride) {
    extern __shared__ __align__(1024) u8 memory[];
    const Rooms rooms(shared_at(memory));
    const int tile = blockIdx.x / SPLIT, share = blockIdx.x % SPLIT;
    const int first = GROUPS * share / SPLIT, count = EVEN ? MOST_GROUPS : GROUPS * (share + 1) / SPLIT - first;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const bool multiplies = threadIdx.x < MULTIPLYING;
    Asking asking = {&weight, rooms.weights + warp * (W_STAGES * W_STAGE), rooms.ready + warp * (W_STAGES * 8),
                     weight_row(tile, warp * 16, n), weight_row(tile, warp * 16 + 8, n), 0};
    asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(asking.policy));
    if (multiplies && lane == 0) {
        for (int stage = 0; stage < W_STAGES; stage++) init_barrier(asking.ready + stage * 8, 1);
        end_inits();
        for (int stage = 0; stage < W_STAGES; stage++)
            if (2 * stage < count) asking.ask(stage, first + 2 * stage);
    }
    if (threadIdx.x == MULTIPLYING) {
        for (int stage = 0; stage < X_STAGES; stage++) {
            init_barrier(rooms.full + stage * 8, 4);
            init_barrier(rooms.empty + stage * 8, 4 * SLABS);
        }
        end_inits();
    }
    __syncthreads();
    begin_next();
    if (multiplies) {
        u8* const scales = memory + W_BYTES + X_BYTES;
        bring_scales(scales, scale, tile, first, count, n);
        await_inputs();
        const int row = row_of(lane), chunk = lane % 4 ^ row;
        const u8* const words = memory + warp * (W_STAGES * W_STAGE) + row * 128 + chunk * 16;
        float y[TOKENS / 2] = {};
        multiply_groups(y, rooms, words, chunk & 4 ? -64 : 64, scales + (warp * 16 + row) * SCALES, asking, first, count);
        __syncthreads();
        leave_sums((float*)memory, y);
    } else {
        await_inputs();
        bring_x(rooms, memory + W_BYTES, x + first * 256, x_stride, m, count);
        __syncthreads();
    }
    if (SPLIT > 1)
        meet_cluster();
    else
        __syncthreads();
    write_results(rooms.weights, bias, out, tile, share, m, n);
    if (SPLIT > 1) meet_cluster();
}

// Matmuls of up to 8 rows x by weights that are multiplied as they are stored, and come through rings in shared memory.
//
// A lane reads 16 neighbouring bytes of two rows of the weight: what it holds of the left operand of two matrix
// instructions. Which columns these multiply together is free as long as both sides agree, so x is read alike, and stays
// in registers: each warp has the same columns of every tile of 16 rows of the weight. Its lanes ask for their part of the
// next tiles, and nobody else waits for it. Warps that multiply nothing finish tiles by turns: they add up what the others
// found, and what SPLIT blocks found that share out the columns once more, always in the same order.
//
// A row of the weight has UNITS of 64 bytes. NUMBERS are those of the weight: 1 fp8 (e4m3), 2 bfloat16, 3 float16, 4 int8;
// x has the same. With DIGITS the weight is int8 and x, of up to 4 rows, 16-bit floats: each becomes an integer of two
// digits of 8 bits, which are multiplied side by side. SCALE is the kind of the weight's scales (0: none, 1: float32,
// 2: bfloat16, 3: float16); HALF says that the result is float16 and not bfloat16; GATE is an activation (0: none).

#include "common.cuh"

template <bool FIRST, class A, class B>
struct Choice { typedef A type; };
template <class A, class B>
struct Choice<false, A, B> { typedef B type; };
typedef Choice<NUMBERS == 4, int, float>::type Number;

constexpr int SHEETS = 2, THREADS = (TEAM + SHEETS) * 32;
constexpr int PIECE = STEPS * 64, STAGE = 16 * PIECE, STRIDE = UNITS * 64;
constexpr int CHUNKS = PIECE / 16, AT_ONCE = 32 / CHUNKS;  // rows that a warp asks for by one instruction
constexpr int OWN_UNITS = UNITS / (TEAM * SPLIT), TURNS = OWN_UNITS / STEPS;
constexpr int OWN_BYTES = OWN_UNITS * 64, BLOCK_BYTES = OWN_BYTES * TEAM;
constexpr int OUTS = GATE ? 8 : 16;
constexpr int WIDER = DIGITS ? 2 : 1;  // the bytes of x for one of the weight
constexpr u64 EVICT_FIRST = 0x12f0000000000000;  // the policy of all that is brought
constexpr float MOST = 127 * 256;
static_assert(OWN_UNITS * TEAM * SPLIT == UNITS && TURNS * STEPS == OWN_UNITS && STEPS % 2 == 0, "uneven shares");

__device__ __forceinline__ void bring(u32 to, const u8* from) {
    asm volatile("cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "n"(EVICT_FIRST) : "memory");
}

__device__ __forceinline__ void end_turn() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Until all turns but the last STAGES - 1 are there.
__device__ __forceinline__ void await_turn() {
    asm volatile("cp.async.wait_group %0;" ::"n"(STAGES - 1) : "memory");
    __syncwarp();
}

// One arrival of a warp, whose lanes have all come.
__device__ __forceinline__ void arrive_together(u32 at) {
    __syncwarp();
    if (threadIdx.x % 32 == 0) arrive(at);
}

__device__ __forceinline__ void await_warps(u32 at, int phase) {
    asm volatile(
        "{\n.reg .pred done;\nagain:\nmbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n@!done bra again;\n}" ::"r"(at),
        "r"(phase)
        : "memory");
}

// Two of four fp8 as float16, which is what the matrix units of Hopper make of them as well.
__device__ __forceinline__ void halves_of(u32 word, u32& first, u32& second) {
    asm volatile("{\n.reg .b16 low, high;\nmov.b32 {low, high}, %2;\ncvt.rn.f16x2.e4m3x2 %0, low;\ncvt.rn.f16x2.e4m3x2 %1, high;\n}"
        : "=r"(first), "=r"(second)
        : "r"(word));
}

template <bool>
__device__ __forceinline__ void multiply(int (&y)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+r"(y[0]), "+r"(y[1]), "+r"(y[2]), "+r"(y[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// Half a unit: two words of each of two rows of the weight, and of x.
__device__ __forceinline__ void multiply_words(Number (&y)[4], u32 u0, u32 u1, u32 l0, u32 l1, u32 b0, u32 b1) {
    if (NUMBERS != 1) return multiply<NUMBERS != 2>(y, u0, l0, u1, l1, b0, b1);
    u32 upper[4], lower[4], right[4];
    halves_of(u0, upper[0], upper[1]), halves_of(u1, upper[2], upper[3]);
    halves_of(l0, lower[0], lower[1]), halves_of(l1, lower[2], lower[3]);
    halves_of(b0, right[0], right[1]), halves_of(b1, right[2], right[3]);
    multiply<true>(y, upper[0], lower[0], upper[1], lower[1], right[0], right[1]);
    multiply<true>(y, upper[2], lower[2], upper[3], lower[3], right[2], right[3]);
}

__device__ __forceinline__ float scale_at(const void* scales, int at) {
    if (SCALE == 0) return 1.f;
    return SCALE == 1 ? __ldg((const float*)scales + at) : widened<SCALE == 3>(__ldg((const u16*)scales + at));
}

// The column of the result at the first place of a tile: the last tile takes some again.
__device__ __forceinline__ int first_column(int tile, int n) { return min(tile * OUTS, n - OUTS); }

// A digit of each of four 16-bit floats.
__device__ __forceinline__ u32 digits_of(u32 first, u32 second, float factor, bool low) {
    u32 found = 0;
#pragma unroll
    for (int at = 0; at < 4; at++) {
        const u32 pair = at < 2 ? first : second;
        const int whole = __float2int_rn(widened<HALF>(at % 2 ? pair >> 16 : pair & 0xffff) * factor);
        found |= ((low ? whole : (whole + 128) >> 8) & 0xff) << 8 * at;
    }
    return found;
}

// What a lane has of x, from its place in its warp's columns on.
__device__ __forceinline__ void take_x(uint4 (&columns)[OWN_UNITS], const u8* row) {
#pragma unroll
    for (int unit = 0; unit < OWN_UNITS; unit++) columns[unit] = read_x(row + unit * 64);
}

__device__ __forceinline__ u32 larger(uint4 v) {
    constexpr u32 SIZES = 0x7fff7fff;
    return __vmaxu2(__vmaxu2(v.x & SIZES, v.y & SIZES), __vmaxu2(v.z & SIZES, v.w & SIZES));
}

// The same as one digit of integers, and what products of the token at this lane's place of four must be multiplied by.
__device__ __forceinline__ float take_digits(uint4 (&columns)[OWN_UNITS], const u8* row, bool low) {
    uint4 wide[OWN_UNITS][2];
    u32 most = 0;
#pragma unroll
    for (int at = 0; at < OWN_UNITS * 2; at++) wide[at / 2][at % 2] = read_x(row + at / 2 * 128 + at % 2 * 16);
#pragma unroll
    for (int at = 0; at < OWN_UNITS * 2; at++) most = __vmaxu2(most, larger(wide[at / 2][at % 2]));
    most = max(most & 0xffff, most >> 16);
    most = max(most, __shfl_xor_sync(~0u, most, 1));
    most = max(most, __shfl_xor_sync(~0u, most, 2));
    const float size = widened<HALF>(most), largest = size < 1e-30f ? 1e-30f : size, factor = MOST / largest;
#pragma unroll
    for (int unit = 0; unit < OWN_UNITS; unit++) {
        const uint4 early = wide[unit][0], late = wide[unit][1];
        columns[unit] = {digits_of(early.x, early.y, factor, low), digits_of(early.z, early.w, factor, low),
                         digits_of(late.x, late.y, factor, low), digits_of(late.z, late.w, factor, low)};
    }
    return __shfl_sync(~0u, largest / MOST, threadIdx.x % 4 * 8);
}

extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT) skinny(
    const u8* __restrict__ x, const u8* __restrict__ weight, const float* __restrict__ x_scale,
    const void* __restrict__ scale, const u16* __restrict__ bias, const u16* __restrict__ residual, u16* __restrict__ out,
    float4* __restrict__ shares, int* __restrict__ counters, int m, int n, int x_stride, int x_scale_step, int scale_step,
    int tiles) {
    extern __shared__ __align__(128) u8 memory[];
    __shared__ u64 barriers[SHEETS][2];
    __shared__ float4 sheets[SHEETS][TEAM][32];
    const int warp = __shfl_sync(~0u, (int)threadIdx.x / 32, 0), lane = threadIdx.x % 32;  // one number for all lanes
    const int row_of_eight = lane / 4, lane_of_four = lane % 4;
    const int first_tile = blockIdx.x, next_tile = gridDim.x;
    const u32 filled = shared_at(&barriers[0][0]), emptied = filled + 8;  // 16 bytes a sheet
    begin_next();

    if (warp < TEAM) {
        const u8* const own = weight + blockIdx.y * BLOCK_BYTES + warp * OWN_BYTES;
        const u8* const ring = memory + warp * (STAGES * STAGE);
        const int place = lane / CHUNKS, chunk = lane % CHUNKS;
        const u32 ring_at = shared_at(ring) + place * PIECE + (chunk * 16 ^ place % 2 * 64);

        // What is asked for next: the turn of a tile, and where it goes. Rows by turns change the halves of their lines.
        int asked_tile = first_tile, asked_turn = 0, asked_stage = 0;
        auto ask = [&]() {
            if (asked_tile < tiles) {
                const int row = first_column(asked_tile, n) + place;
                const u8* const from = own + (long long)row * STRIDE + asked_turn * PIECE + chunk * 16;
                const u8* const gated = from + (GATE ? (long long)(n - OUTS) * STRIDE : 0);
                const u32 to = ring_at + asked_stage * STAGE;
#pragma unroll
                for (int at = 0; at < 16; at += AT_ONCE)
                    bring((to ^ at % 2 * 64) + at * PIECE, (at < OUTS ? from : gated) + at * STRIDE);
                if (++asked_turn == TURNS) asked_turn = 0, asked_tile += next_tile;
            }
            end_turn();
            asked_stage = asked_stage + 1 == STAGES ? 0 : asked_stage + 1;
        };
        for (int stage = 0; stage < STAGES; stage++) ask();
        __syncthreads();
        await_inputs();

        uint4 columns[OWN_UNITS];
        const int first_byte = blockIdx.y * BLOCK_BYTES + warp * OWN_BYTES + lane_of_four * 16;
        const int token = min(DIGITS ? row_of_eight / 2 : row_of_eight, m - 1);
        const u8* const row = x + (long long)token * x_stride + first_byte * WIDER;
        float factor = 1.f;
        if constexpr (DIGITS)
            factor = take_digits(columns, row, row_of_eight % 2);
        else
            take_x(columns, row);
        const u8* const even_words = ring + row_of_eight * PIECE + (lane_of_four * 16 ^ row_of_eight % 2 * 64);
        const u8* const odd_words = ring + row_of_eight * PIECE + ((64 + lane_of_four * 16) ^ row_of_eight % 2 * 64);
        int stage = 0;
        for (int tile = first_tile, round = 0; tile < tiles; tile += next_tile, round++) {
            Number y[2][4] = {};
#pragma unroll
            for (int turn = 0; turn < TURNS; turn++) {
                await_turn();
#pragma unroll
                for (int step = 0; step < STEPS; step++) {
                    const u8* const words = (step % 2 ? odd_words : even_words) + stage * STAGE + step / 2 * 128;
                    const uint4 upper = *(const uint4*)words, lower = *(const uint4*)(words + 8 * PIECE);
                    const uint4 b = columns[turn * STEPS + step];
                    multiply_words(y[0], upper.x, upper.y, lower.x, lower.y, b.x, b.y);
                    multiply_words(y[1], upper.z, upper.w, lower.z, lower.w, b.z, b.w);
                }
                __syncwarp();
                ask();
                stage = stage + 1 == STAGES ? 0 : stage + 1;
            }
            const int sheet = round % SHEETS;
            await_warps(emptied + sheet * 16, round / SHEETS % 2 ^ 1);
            float sum[4];
#pragma unroll
            for (int at = 0; at < 4; at++) sum[at] = (float)(y[0][at] + y[1][at]);
            if (DIGITS)
                sheets[sheet][warp][lane] = {(256.f * sum[0] + sum[1]) * factor, 0.f, (256.f * sum[2] + sum[3]) * factor, 0.f};
            else
                sheets[sheet][warp][lane] = {sum[0], sum[1], sum[2], sum[3]};
            arrive_together(filled + sheet * 16);
        }
        return;
    }

    const int sheet = warp - TEAM;
    if (threadIdx.x == TEAM * 32)
        for (int at = 0; at < SHEETS; at++) init_barrier(filled + at * 16, TEAM), init_barrier(emptied + at * 16, 1);
    __syncthreads();
    await_inputs();
    const int token = DIGITS ? lane_of_four : lane_of_four * 2, next_token = DIGITS ? m : token + 1;
    const float x_first = x_scale == nullptr ? 1.f : __ldcg(x_scale + min(token, m - 1) * x_scale_step);
    const float x_second = x_scale == nullptr ? 1.f : __ldcg(x_scale + min(token + 1, m - 1) * x_scale_step);
    int phase = 0;
    for (int tile = first_tile + sheet * next_tile; tile < tiles; tile += SHEETS * next_tile, phase ^= 1) {
        const int column = first_column(tile, n) + row_of_eight, further = column + (GATE ? n : 8);
        const float upper_scale = scale_at(scale, column * scale_step), lower_scale = scale_at(scale, further * scale_step);
        const float upper_bias = bias == nullptr ? 0.f : widened<HALF>(__ldg(bias + column));
        const float lower_bias = bias == nullptr ? 0.f : widened<HALF>(__ldg(bias + further));
        await_warps(filled + sheet * 16, phase);
        float4 sum = {0.f, 0.f, 0.f, 0.f};
        auto add = [&](float4 more) { sum = {sum.x + more.x, sum.y + more.y, sum.z + more.z, sum.w + more.w}; };
#pragma unroll
        for (int member = 0; member < TEAM; member++) add(sheets[sheet][member][lane]);
        arrive_together(emptied + sheet * 16);
        if (SPLIT > 1) {
            float4* const tile_shares = shares + (long long)tile * SPLIT * 32 + lane;
            __stcg(tile_shares + blockIdx.y * 32, sum);
            __threadfence();
            __syncwarp();
            int before = 0;
            if (lane == 0) before = atomicAdd(counters + tile, 1);
            if (__shfl_sync(~0u, before, 0) < SPLIT - 1) continue;
            if (lane == 0) counters[tile] = 0;
            __threadfence();
            sum = {0.f, 0.f, 0.f, 0.f};
#pragma unroll
            for (int other = 0; other < SPLIT; other++) add(__ldcg(tile_shares + other * 32));
        }
        auto write = [&](float y, float gated, int at, int to) {
            if (to >= m) return;
            const long long place = (long long)to * n + at;
            if (GATE) y = activated<GATE>(widened<HALF>(rounded<HALF>(y))) * gated;
            if (residual != nullptr) y += widened<HALF>(__ldcg(residual + place));
            out[place] = rounded<HALF>(y);
        };
        sum = {sum.x * (x_first * upper_scale) + upper_bias, sum.y * (x_second * upper_scale) + upper_bias,
               sum.z * (x_first * lower_scale) + lower_bias, sum.w * (x_second * lower_scale) + lower_bias};
        write(sum.x, sum.z, column, token);
        write(sum.y, sum.w, column, next_token);
        if (!GATE) write(sum.z, 0.f, further, token);
        if (!GATE) write(sum.w, 0.f, further, next_token);
    }
}

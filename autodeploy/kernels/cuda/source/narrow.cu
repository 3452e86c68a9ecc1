// Matmuls of few rows x by weights in 4 bits with scales of groups, whose bytes come through rings in shared memory.
//
// Each warp owns a ring: its lanes ask for pieces of rows of the weight, and nobody else waits for them. A team of TEAM
// warps shares out the columns of a tile of 16 * SLABS rows of the weight, the TEAMS of a block take tiles by turns, and
// SPLIT blocks along the grid's y share out the columns once more. A lane reads 16 neighbouring bytes of its row: these are
// what it holds of the left operand of a matrix instruction, decoded. Which columns such an instruction multiplies together
// is free as long as both sides agree: x lies in shared memory in the order that decoding gives.
//
// Numbers stay BASE too large, as they are cheapest made; sums of x over each unit take that away. With FIT, and where a
// block can hold its x in registers, x becomes float16, each row times a power of two: two of four nibbles are then taken
// where they are, and not shifted.
//
// TOKENS is 1, 8 or 16; a row of the weight has UNITS of 64 bytes, each with a scale and a zero point of its own; SCALE and
// ZERO are kinds of numbers (0: none, 1: float32, 2: bfloat16, 3: float16, 4: uint8); HALF says that x and the result are
// float16 and not bfloat16; GATE is an activation (0: none).

#include "common.cuh"

__device__ constexpr int least(int a, int b) { return a < b ? a : b; }

constexpr int WARPS = TEAM * TEAMS, THREADS = WARPS * 32, TEAM_THREADS = TEAM * 32;
constexpr int ROWS = 16 * SLABS, PIECE = STEPS * 64, STRIDE = UNITS * 64;
constexpr int ODD = ROWS / 2 * PIECE + 64;  // rows by turns in both halves, a half of a line apart: no two share a bank
constexpr int STAGE = ROWS * PIECE + 128;
constexpr int CHUNKS = PIECE / 16, AT_ONCE = 32 / CHUNKS;  // rows that a warp asks for by one instruction
constexpr int COLUMNS = 128, PARTS = 4;                    // of a unit; of a lane's columns of x, each of eight
constexpr int EIGHTS = (TOKENS + 7) / 8;
constexpr int PART = TOKENS == 1 ? 64 : 512 * EIGHTS, UNIT = PARTS * PART;
constexpr int UNITS_A_WARP = (UNITS + TEAM * SPLIT - 1) / (TEAM * SPLIT);
constexpr int BLOCK_UNITS = least(TEAM * UNITS_A_WARP, UNITS);
constexpr bool EVEN = UNITS_A_WARP * TEAM * SPLIT == UNITS && UNITS_A_WARP % STEPS == 0;
constexpr bool TOGETHER = EVEN && (SCALE == 2 || SCALE == 3) && !ZERO && STEPS > 1;  // scales of a turn
constexpr int SUMS = SLABS * EIGHTS;                                                               // of a lane, by four
constexpr int OUTS = GATE ? ROWS / 2 : ROWS;
constexpr bool APART = GATE && SLABS > 1;  // a gate and what it gates are in slabs of their own
constexpr int RESULTS = APART ? SUMS / 2 : SUMS;
constexpr int ACROSS = TOKENS == 1 ? 1 : 8, PLACES = BLOCK_UNITS * COLUMNS / 8 * EIGHTS;  // of eight columns of x
constexpr int HELD = (PLACES + THREADS - 1) / THREADS;  // of a thread, if registers have room for all of them
constexpr bool ROOM = EIGHTS == 1 && HELD * ACROSS <= 16;
constexpr bool FITTED = FIT && !HALF && !ZERO && ROOM;
constexpr int ALONG = ROOM ? HELD : TOKENS == 1 ? 4 : 1;  // asked for at once
constexpr bool HALVES = HALF || FITTED;  // the operands of the matrix units are float16
constexpr float BASE = HALVES ? 1024.f : 128.f;
constexpr u32 MINUS_ONE = HALVES ? 0xbc00bc00 : 0xbf80bf80, MINUS_1152 = 0xe480e480;
constexpr u32 MINUS_MIDDLE = HALVES ? 0xe408e408 : 0xc308c308;  // BASE and 8

__device__ __forceinline__ void bring(u32 to, const u8* from, u64 policy) {
    asm volatile("cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "l"(policy) : "memory");
}

__device__ __forceinline__ void end_turn() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Until all turns but the last STAGES - 1 are there.
__device__ __forceinline__ void await_turn() {
    asm volatile("cp.async.wait_group %0;" ::"n"(STAGES - 1) : "memory");
    __syncwarp();
}

__device__ __forceinline__ u32 permuted(u32 a, u32 b, u32 order) { return __byte_perm(a, b, order); }

template <int MAGIC>
__device__ __forceinline__ u32 masked(u32 word, u32 mask) {
    u32 found;
    asm("lop3.b32 %0, %1, %2, %3, 0xEA;" : "=r"(found) : "r"(word), "r"(mask), "n"(MAGIC));
    return found;
}

__device__ __forceinline__ u32 sixteenth(u32 pair) {
    u32 found;
    asm("mul.f16x2 %0, %1, %2;" : "=r"(found) : "r"(pair), "r"(0x2c002c00));
    return found;
}

// Two pairs of numbers of half a word; where x is fitted, the second is 16 times as large.
__device__ __forceinline__ void decode(u32 word, int half, u32& first, u32& second) {
    constexpr int MAGIC = HALVES ? 0x64006400 : 0x43004300;
    if (half) word >>= 8;
    first = masked<MAGIC>(word, 0x000f000f);
    second = FITTED ? masked<MAGIC>(word, 0x00f000f0) : masked<MAGIC>(word >> 4, 0x000f000f);
}

template <int KIND>
__device__ __forceinline__ u32 entry(const void* entries, int at, int further = 0) {
    if (KIND == 1) return __ldg((const u32*)entries + at + further);
    if (KIND == 4) return __ldg((const u8*)entries + at + further);
    return KIND ? __ldg((const u16*)entries + at + further) : 0;
}

template <int KIND>
__device__ __forceinline__ float number(u32 bits) {
    return KIND == 1 ? __uint_as_float(bits) : KIND == 4 ? (float)bits : widened<KIND == 3>(bits);
}

// The column of the result at the first place of a tile: the last tile takes some again.
__device__ __forceinline__ int first_column(int tile, int n) { return min(tile * OUTS, n - OUTS); }

// The row of the weight at a place of a tile; with a gate, half of the places are of each half.
__device__ __forceinline__ int weight_row(int tile, int place, int n) {
    return first_column(tile, n) + place + (GATE && place >= OUTS ? n - OUTS : 0);
}

// The same in the order of the decoded weight.
__device__ __forceinline__ uint4 ordered(uint4 v) {
    return {permuted(v.x, v.z, 0x5410), permuted(v.x, v.z, 0x7632), permuted(v.y, v.w, 0x5410), permuted(v.y, v.w, 0x7632)};
}

__device__ __forceinline__ u32 fitted(u32 pair, float factor) {
    return pair_of<true>(widened<false>(pair & 0xffff) * factor, widened<false>(pair >> 16) * factor);
}

__device__ __forceinline__ int slot(int token, int lane_of_four, int part) {
    return TOKENS == 1 ? lane_of_four * 16 : (((token % 8) * 4 + lane_of_four) * 16) ^ (part << 5);
}

// Powers of two that make the largest number of each row of v, bfloat16, as large as float16 has room for.
__device__ __forceinline__ void find_factors(const uint4 (&v)[ALONG * ACROSS], float (&factors)[ACROSS]) {
    __shared__ u32 largest[WARPS][ACROSS];
#pragma unroll
    for (int row = 0; row < ACROSS; row++) {
        u32 most = 0;
#pragma unroll
        for (int at = row; at < ALONG * ACROSS; at += ACROSS) {
            const u32 early = __vmaxu2(v[at].x & 0x7fff7fff, v[at].y & 0x7fff7fff);
            const u32 late = __vmaxu2(v[at].z & 0x7fff7fff, v[at].w & 0x7fff7fff);
            most = __vmaxu2(most, __vmaxu2(early, late));
        }
        most = __reduce_max_sync(~0u, max(most & 0xffff, most >> 16));
        if (threadIdx.x % 32 == 0) largest[threadIdx.x / 32][row] = most;
    }
    __syncthreads();
    u32 most = 0;  // of a row of each lane: every warp looks them up side by side
    for (int at = threadIdx.x % 32; at < WARPS * ACROSS; at += 32) most = max(most, largest[at / ACROSS][at % ACROSS]);
    if (ACROSS == 1) most = __reduce_max_sync(~0u, most);
#pragma unroll
    for (int away = ACROSS; ACROSS > 1 && away < 32; away *= 2) most = max(most, __shfl_xor_sync(~0u, most, away));
    const u32 factor = min(268 - (most >> 7), 254u) << 23;
#pragma unroll
    for (int row = 0; row < ACROSS; row++) factors[row] = __uint_as_float(__shfl_sync(~0u, factor, row));
}

__device__ __forceinline__ float sum_of_pair(u32 pair) { return widened<HALVES>(pair & 0xffff) + widened<HALVES>(pair >> 16); }

// What decoded numbers are too large by, times eight columns of x in their order: half of them may be fitted otherwise.
__device__ __forceinline__ float excess(uint4 columns) {
    constexpr float EARLY = ZERO ? 1.f : BASE + 8.f, LATE = FITTED ? 1152.f : EARLY;
    return -EARLY * (sum_of_pair(columns.x) + sum_of_pair(columns.z)) - LATE * (sum_of_pair(columns.y) + sum_of_pair(columns.w));
}

// x into shared memory, from unit `first` on, and what the products of each row must be multiplied by; of a single row,
// also what the sums of each unit take away.
__device__ __forceinline__ void arrange(
    u8* to, float* sums, float* factors, const u8* x, int m, int x_stride, int first, int count) {
    constexpr int EACH = COLUMNS / 8;
    const int all = count * EACH;
    for (int index = threadIdx.x; ROOM ? index < THREADS : index - (int)threadIdx.x % 32 < all * EIGHTS;
         index += THREADS * ALONG) {
        const int token = EIGHTS == 1 ? 0 : index / all * 8, begin = EIGHTS == 1 ? index : index % all;
        uint4 v[ALONG * ACROSS];
#pragma unroll
        for (int at = 0; at < ALONG * ACROSS; at++) {
            const int row = min(token + at % ACROSS, m - 1), place = min(begin + at / ACROSS * THREADS, all - 1);
            v[at] = read_x(x + (long long)row * x_stride + (long long)(first * EACH + place) * 16);
        }
        float factor[ACROSS];
        if constexpr (FITTED) {
            find_factors(v, factor);
            if (threadIdx.x == 0)
                for (int row = 0; row < ACROSS; row++)
                    factors[row] = __uint_as_float((254u << 23) - __float_as_uint(factor[row]));
        }
#pragma unroll
        for (int at = 0; at < ALONG * ACROSS; at++) {
            const int place = begin + at / ACROSS * THREADS, row = token + at % ACROSS, unit = place / EACH;
            const int lane_of_four = place % EACH / PARTS, part = place % PARTS;
            const bool here = place < all && row < TOKENS;
            uint4 columns = ordered(v[at]);
            if (FITTED) {
                const float own = factor[at % ACROSS];
                columns = {fitted(columns.x, own), fitted(columns.y, own), fitted(columns.z, own), fitted(columns.w, own)};
            }
            if (FITTED) columns.y = sixteenth(columns.y), columns.w = sixteenth(columns.w);
            const int slot_at = row / 8 * 512 + slot(row, lane_of_four, part);
            if (here) *(uint4*)(to + unit * UNIT + part * PART + slot_at) = columns;
            if (TOKENS == 1) {
                float sum = excess(columns);
#pragma unroll
                for (int away = 1; away < EACH; away *= 2) sum += __shfl_xor_sync(~0u, sum, away);
                if (here && place % EACH == 0) sums[unit] = sum;
            }
        }
    }
}

// What the sums of each unit of several rows take away, by the matrix units.
__device__ __forceinline__ void add_up(const u8* arranged, float* sums, int count) {
    constexpr u32 EARLY = ZERO ? MINUS_ONE : MINUS_MIDDLE, LATE = FITTED ? MINUS_1152 : EARLY;
    const int lane = threadIdx.x % 32, row_of_eight = lane / 4, lane_of_four = lane % 4;
#pragma unroll 2
    for (int at = threadIdx.x / 32; at < count * EIGHTS; at += WARPS) {
        const int unit = at / EIGHTS, eight = at % EIGHTS;
        const u8* const from = arranged + unit * UNIT;
        float sum[PARTS][4] = {};  // none waits for another
#pragma unroll
        for (int part = 0; part < PARTS; part++) {
            const uint4 b = *(const uint4*)(from + part * PART + eight * 512 + slot(row_of_eight, lane_of_four, part));
            multiply<HALVES>(sum[part], EARLY, EARLY, LATE, LATE, b.x, b.y);
            multiply<HALVES>(sum[part], EARLY, EARLY, LATE, LATE, b.z, b.w);
        }
        float2* const to = (float2*)(sums + unit * TOKENS + eight * 8 + lane_of_four * 2);
        if (row_of_eight == 0) *to = {sum[0][0] + sum[1][0] + sum[2][0] + sum[3][0], sum[0][1] + sum[1][1] + sum[2][1] + sum[3][1]};
    }
}

// As many 16-bit numbers as fill the words, which lie together.
template <int COUNT>
__device__ __forceinline__ void read_words(u32 (&to)[COUNT], const u16* from) {
    if constexpr (COUNT == 1) {
        to[0] = __ldg((const u32*)from);
    } else if constexpr (COUNT == 2) {
        const uint2 v = __ldg((const uint2*)from);
        to[0] = v.x, to[1] = v.y;
    } else {
        const uint4 v = __ldg((const uint4*)from);
        to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
    }
}

struct Entries {
    u32 scale[SLABS][2][TOGETHER ? STEPS / 2 : STEPS];
    u32 zero[SLABS][2][ZERO ? STEPS : 1];
};

__device__ __forceinline__ float scale_of(const Entries& entries, int slab, int upper, int step) {
    if (!TOGETHER) return number<SCALE>(entries.scale[slab][upper][step]);
    const u32 both = entries.scale[slab][upper][step / 2];
    return number<SCALE>(step % 2 ? both >> 16 : both & 0xffff);
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) narrow(
    const u8* __restrict__ x, const u8* __restrict__ weight, const void* __restrict__ scale, const void* __restrict__ zero,
    const u16* __restrict__ bias, u16* __restrict__ out, float4* __restrict__ shares, int* __restrict__ counters, int m,
    int n, int x_stride, int tiles) {
    extern __shared__ __align__(128) u8 memory[];
    __shared__ float factors[ACROSS];
    __shared__ int latest[TEAMS];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, team = warp / TEAM, member = warp % TEAM;
    const int row_of_eight = lane / 4, lane_of_four = lane % 4;
    const int block_first = blockIdx.y * TEAM * UNITS_A_WARP;
    const int first = least(block_first + member * UNITS_A_WARP, UNITS), last = least(first + UNITS_A_WARP, UNITS);
    const int turns = EVEN ? UNITS_A_WARP / STEPS : (last - first + STEPS - 1) / STEPS;

    u8* const ring = memory + warp * (STAGES * STAGE);
    u8* const arranged = memory + WARPS * (STAGES * STAGE);
    float* const sums = (float*)(arranged + BLOCK_UNITS * UNIT);
    float4* const found = (float4*)(sums + (BLOCK_UNITS * TOKENS + 3) / 4 * 4);

    const u32 ring_at = shared_at(ring);
    u64 policy;
    asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));

    // What is asked for next: the turn of a tile, and where it goes.
    int asked_tile = blockIdx.x * TEAMS + team, asked_turn = 0, asked_stage = 0;
    const int next_tile = gridDim.x * TEAMS;
    auto ask = [&]() {
        if (asked_tile < tiles && turns) {
            const int from = first + asked_turn * STEPS, chunk = lane % CHUNKS, place = lane / CHUNKS;
            const bool here = EVEN || chunk < (last - from) * 4;
            const u8* row = weight + (long long)weight_row(asked_tile, place, n) * STRIDE + from * 64 + chunk * 16;
            const u8* const gated = row + (GATE ? (long long)n * STRIDE : 0);
            const u32 to = ring_at + asked_stage * STAGE + chunk * 16 + place / 2 * PIECE + place % 2 * ODD;
#pragma unroll
            for (int at = 0; at < ROWS; at += AT_ONCE) {
                const u32 to_row = to + at / 2 * PIECE + at % 2 * ODD;
                if (here) bring(to_row, GATE && at >= OUTS ? gated + (at - OUTS) * STRIDE : row + at * STRIDE, policy);
            }
            if (++asked_turn == turns) asked_turn = 0, asked_tile += next_tile;
        }
        end_turn();
        asked_stage = asked_stage + 1 == STAGES ? 0 : asked_stage + 1;
    };
    auto read_entries = [&](Entries& to, int tile, int turn) {
        if (tile >= tiles || turns == 0) return;
        const int from = first + turn * STEPS;
        auto read = [&](bool plain) {
#pragma unroll
            for (int slab = 0; slab < SLABS; slab++)
#pragma unroll
                for (int upper = 0; upper < 2; upper++) {
                    const int row = weight_row(tile, slab * 16 + upper * 8 + row_of_eight, n) * UNITS;
#pragma unroll
                    for (int step = 0; step < STEPS; step++) {
                        const int at = row + (plain ? from : least(from + step, last - 1));
                        to.scale[slab][upper][step] = entry<SCALE>(scale, at, plain ? step : 0);
                        if (ZERO) to.zero[slab][upper][step] = entry<ZERO>(zero, at, plain ? step : 0);
                    }
                }
        };
        if constexpr (TOGETHER) {
#pragma unroll
            for (int slab = 0; slab < SLABS; slab++)
#pragma unroll
                for (int upper = 0; upper < 2; upper++) {
                    const int row = weight_row(tile, slab * 16 + upper * 8 + row_of_eight, n);
                    read_words(to.scale[slab][upper], (const u16*)scale + row * UNITS + from);
                }
        } else if (from + STEPS <= last) {
            read(true);
        } else {
            read(false);
        }
    };

    int tile = blockIdx.x * TEAMS + team;
    for (int stage = 0; stage < STAGES; stage++) ask();
    Entries entries, later;
    read_entries(entries, tile, 0);
    begin_next();
    await_inputs();
    const int block_units = least(BLOCK_UNITS, UNITS - block_first);
    if (block_units > 0) arrange(arranged, sums, factors, x, m, x_stride, block_first, block_units);
    __syncthreads();
    if (TOKENS > 1) {
        add_up(arranged, sums, block_units);
        __syncthreads();
    }

    const u8* const words_at = ring + row_of_eight / 2 * PIECE + row_of_eight % 2 * ODD + lane_of_four * 16;
    int stage = 0;
    float y[SLABS][EIGHTS][4];
    auto step_of = [&](const u8* words, int unit, int step) {
        float own[SLABS][EIGHTS][4];
#pragma unroll
        for (int eight = 0; eight < EIGHTS; eight++) {
            const float* const from = sums + (unit - block_first) * TOKENS;
            const float2 sum = TOKENS == 1 ? float2{from[0], from[0]} : *(const float2*)(from + eight * 8 + lane_of_four * 2);
#pragma unroll
            for (int slab = 0; slab < SLABS; slab++)
#pragma unroll
                for (int at = 0; at < 4; at++) {
                    own[slab][eight][at] = at % 2 ? sum.y : sum.x;
                    if (ZERO) own[slab][eight][at] *= BASE + number<ZERO>(entries.zero[slab][at / 2][step]);
                }
        }
        uint4 low[SLABS], high[SLABS];
#pragma unroll
        for (int slab = 0; slab < SLABS; slab++) {
            low[slab] = *(const uint4*)(words + slab * 8 * PIECE);
            high[slab] = *(const uint4*)(words + (slab * 8 + 4) * PIECE);
        }
#pragma unroll
        for (int part = 0; part < PARTS; part++) {
            uint4 columns[EIGHTS];
#pragma unroll
            for (int eight = 0; eight < EIGHTS; eight++)
                columns[eight] = *(const uint4*)(arranged + (unit - block_first) * UNIT + part * PART + eight * 512 +
                                                 slot(row_of_eight, lane_of_four, part));
#pragma unroll
            for (int slab = 0; slab < SLABS; slab++)
#pragma unroll
                for (int half = 0; half < 2; half++) {
                                        u32 a0, a1, a2, a3;
                    decode(((const u32*)&low[slab])[part], half, a0, a2);
                    decode(((const u32*)&high[slab])[part], half, a1, a3);
#pragma unroll
                    for (int eight = 0; eight < EIGHTS; eight++) {
                        const uint4 b = columns[eight];
                        multiply<HALVES>(own[slab][eight], a0, a1, a2, a3, half ? b.z : b.x, half ? b.w : b.y);
                    }
                }
        }
#pragma unroll
        for (int slab = 0; slab < SLABS; slab++)
#pragma unroll
            for (int eight = 0; eight < EIGHTS; eight++)
#pragma unroll
                for (int at = 0; at < 4; at++)
                    y[slab][eight][at] += own[slab][eight][at] * scale_of(entries, slab, at / 2, step);
    };

    auto meet = [&]() {
        if (TEAM == 1)
            __syncwarp();
        else
            asm volatile("bar.sync %0, %1;" ::"r"(team + 1), "n"(TEAM_THREADS) : "memory");
    };
    for (int round = 0; tile < tiles; tile += next_tile, round ^= 1) {
#pragma unroll
        for (int slab = 0; slab < SLABS; slab++)
#pragma unroll
            for (int eight = 0; eight < EIGHTS; eight++)
#pragma unroll
                for (int at = 0; at < 4; at++) y[slab][eight][at] = 0.f;
        for (int turn = 0; turn < turns; turn++) {
            const int unit = first + turn * STEPS, count = min(STEPS, last - unit);
            const bool ends = turn + 1 == turns;
            read_entries(later, ends ? tile + next_tile : tile, ends ? 0 : turn + 1);
            await_turn();
            const u8* const words = words_at + stage * STAGE;
            if (EVEN || count == STEPS) {
#pragma unroll
                for (int step = 0; step < STEPS; step++) step_of(words + step * 64, unit + step, step);
            } else {
#pragma unroll
                for (int step = 0; step < STEPS; step++)
                    if (step < count) step_of(words + step * 64, unit + step, step);
            }
            __syncwarp();
            ask();
            entries = later;
            stage = stage + 1 == STAGES ? 0 : stage + 1;
        }
        if (FITTED) {
            const float first_factor = factors[TOKENS == 1 ? 0 : lane_of_four * 2];
            const float second_factor = factors[TOKENS == 1 ? 0 : lane_of_four * 2 + 1];
#pragma unroll
            for (int slab = 0; slab < SLABS; slab++)
#pragma unroll
                for (int at = 0; at < 4; at++) y[slab][0][at] *= at % 2 ? second_factor : first_factor;
        }
        // The sums of the team's warps, and then of the blocks that share the tile, are added up in their order.
        float4* const sheet = found + (team * 2 + round) * (TEAM * SUMS * 32) + lane;
        float4* const tile_shares = shares + (long long)tile * SPLIT * (SUMS * 32) + lane;
        if (TEAM > 1) {
#pragma unroll
            for (int at = 0; at < SUMS; at++) {
                const float(&own)[4] = y[at / EIGHTS][at % EIGHTS];
                sheet[(member * SUMS + at) * 32] = {own[0], own[1], own[2], own[3]};
            }
            meet();
        }
        auto sum_of = [&](int slab, int eight, bool of_all) {
            const int at = slab * EIGHTS + eight;
            const float(&own)[4] = y[TEAM == 1 ? slab : 0][TEAM == 1 ? eight : 0];
            float4 sum = {own[0], own[1], own[2], own[3]};
            if (TEAM == 1 && !of_all) return sum;
            sum = {0.f, 0.f, 0.f, 0.f};
#pragma unroll
            for (int other = 0; other < (SPLIT > TEAM ? SPLIT : TEAM); other++) {
                if (other >= (of_all ? SPLIT : TEAM)) continue;
                const float4 more = of_all ? __ldcg(tile_shares + (other * SUMS + at) * 32) : sheet[(other * SUMS + at) * 32];
                sum = {sum.x + more.x, sum.y + more.y, sum.z + more.z, sum.w + more.w};
            }
            return sum;
        };
        if (SPLIT > 1) {
#pragma unroll
            for (int at = 0; at < SUMS; at++)
                if (TEAM == 1 || at % TEAM == member)
                    __stcg(tile_shares + (blockIdx.y * SUMS + at) * 32, sum_of(at / EIGHTS, at % EIGHTS, false));
            __threadfence();
            meet();
            if (threadIdx.x % TEAM_THREADS == 0) {
                const int before = atomicAdd(counters + tile, 1);
                latest[team] = before == SPLIT - 1;
                if (before == SPLIT - 1) counters[tile] = 0;
                __threadfence();
            }
            meet();
            if (!latest[team]) continue;
        }
        auto shifted = [&](float sum, int row) { return bias == nullptr ? sum : sum + widened<HALF>(bias[row]); };
        auto write = [&](float sum, float gated, int place, int token) {
            if (token >= m) return;
            const int column = first_column(tile, n) + place;
            float result = shifted(sum, column);
            if (GATE) result = activated<GATE>(widened<HALF>(rounded<HALF>(result))) * shifted(gated, column + n);
            out[(long long)token * n + column] = rounded<HALF>(result);
        };
#pragma unroll
        for (int at = 0; at < RESULTS; at++) {
            if (TEAM > 1 && at % TEAM != member) continue;
            const int slab = at / EIGHTS, eight = at % EIGHTS;
            const int place = slab * 16 + row_of_eight, token = eight * 8 + lane_of_four * 2;
            const float4 sum = sum_of(slab, eight, SPLIT > 1);
            if (GATE && !APART) {
                write(sum.x, sum.z, place, token);
                write(sum.y, sum.w, place, token + 1);
            } else {
                const float4 gated = APART ? sum_of(slab + SLABS / 2, eight, SPLIT > 1) : sum;
                write(sum.x, gated.x, place, token);
                write(sum.y, gated.y, place, token + 1);
                write(sum.z, gated.z, place + 8, token);
                write(sum.w, gated.w, place + 8, token + 1);
            }
        }
    }
}

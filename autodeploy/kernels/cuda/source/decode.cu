// Attention of single rows over a paged cache, 16 keys a warp at a time, from memory straight into matrix units.
//
// A block takes one row, one key-value head with its GROUP query heads, and one share of the context. Keys are the right
// operand of the first product, values, whose neighbours a lane pairs, the left one of the second: a lane reads 16
// neighbouring bytes of each, and what it holds of the weights between is where the second product wants them. Warps are
// joined through shared memory, shares through memory by the last block that is done, in the order of the shares.
//
// What the row adds to the cache (of a request with several rows, all up to it) is read from the projections k and v,
// turned by cos and sin with ROTARY, as 16 keys more of the first share, which writes the row's own to the cache.
//
// Which pages there will be is known long before the queries: without being certain of it, a block asks for them to be
// brought near while the kernels before it finish. Whatever these change, nothing but time is lost.
//
// HALF says that numbers are float16 and not bfloat16; WIDTH is a head's, 64 or 128, PAGE a multiple of 16.

#include "common.cuh"

typedef long long i64;

constexpr int READERS = WARPS - 1;  // of the cache; the last warp takes what is new
constexpr int THREADS = WARPS * 32, KEYS = 16, TURN = KEYS * READERS;
constexpr int CHUNKS = WIDTH / 32, SIDES = WIDTH / 64, TILES = WIDTH / 16;
constexpr int PAIRS = (GROUP + 1) / 2, HEADS = 2 * PAIRS, SUMS = WIDTH * HEADS;
constexpr int MOST_SHARES = 128;
constexpr float NONE = -3.4e38f;  // less than any exponent

struct Sizes {
    int q_stride, k_stride, v_stride, table_stride, table_width, requests, pages, shares, least_keys;
    float scale;  // of exponents of two
};

struct Cache {
    u16 *keys, *values;
};

struct Fresh {
    const u16 *k, *v, *cos, *sin;
};

struct Keys {
    uint4 words[2][CHUNKS];  // of a tile of eight keys, its own; of 32 columns, eight
};

struct Queries {
    uint4 words[CHUNKS][32];  // by lane
};

struct Values {
    uint4 words[4][SIDES];  // of two neighbouring keys of both tiles; of 64 columns, eight
};

// Numbers that a kernel on its way may still change are read past the first cache, which would keep what they were.
__device__ __forceinline__ int read(const int* from) {
    int found;
    asm volatile("ld.relaxed.gpu.global.s32 %0, [%1];" : "=r"(found) : "l"(from) : "memory");
    return found;
}

__device__ __forceinline__ float read(const float* from) { return __ldcg(from); }

__device__ __forceinline__ uint4 read(const u16* from) { return *(const uint4*)from; }

__device__ __forceinline__ void bring_near(const void* from) { asm volatile("prefetch.global.L2 [%0];" ::"l"(from)); }

__device__ __forceinline__ float wide(u16 x) {
    if (!HALF) return __uint_as_float((u32)x << 16);
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x));
    return y;
}

__device__ __forceinline__ float low(u32 pair) { return wide((u16)pair); }
__device__ __forceinline__ float high(u32 pair) { return wide((u16)(pair >> 16)); }
__device__ __forceinline__ float rounded(float x) { return low(pair_of<HALF>(x, 0.f)); }

// A pair of numbers turned with the pair half a head further, rounded where the reference rounds; `sign` is that of the
// other's part.
__device__ __forceinline__ u32 turned(u32 x, u32 other, u32 cos, u32 sin, float sign) {
    const u32 kept = pair_of<HALF>(low(x) * low(cos), high(x) * high(cos));
    const u32 moved = pair_of<HALF>(low(other) * low(sin), high(other) * high(sin));
    return pair_of<HALF>(low(kept) + sign * low(moved), high(kept) + sign * high(moved));
}

__device__ __forceinline__ uint4 turned(const uint4& x, const uint4& other, const uint4& cos, const uint4& sin, float sign) {
    return {turned(x.x, other.x, cos.x, sin.x, sign), turned(x.y, other.y, cos.y, sin.y, sign),
            turned(x.z, other.z, cos.z, sin.z, sign), turned(x.w, other.w, cos.w, sin.w, sign)};
}

// A lane's eight columns of every 32 of a head, and of the angles that turn them.
struct Head {
    uint4 words[CHUNKS], cos[CHUNKS], sin[CHUNKS];
};

__device__ __forceinline__ void read_head(Head& to, const u16* head, const u16* cos, const u16* sin) {
#pragma unroll
    for (int chunk = 0; chunk < CHUNKS; ++chunk) {
        const int at = chunk * 32 + threadIdx.x % 4 * 8;
        to.words[chunk] = read(head + at);
        if (ROTARY) to.cos[chunk] = read(cos + at), to.sin[chunk] = read(sin + at);
    }
}

__device__ __forceinline__ void turn(uint4 (&to)[CHUNKS], const Head& head) {
    constexpr int HALF_WAY = CHUNKS / 2;
#pragma unroll
    for (int chunk = 0; chunk < CHUNKS; ++chunk)
        to[chunk] = !ROTARY ? head.words[chunk]
                            : turned(head.words[chunk], head.words[(chunk + HALF_WAY) % CHUNKS], head.cos[chunk], head.sin[chunk],
                                     chunk < HALF_WAY ? -1.f : 1.f);
}

// The request that owns a row.
__device__ __forceinline__ int owner(const int* query_start, int row, int requests) {
    int least = 0, most = requests;
    while (least < most) {
        const int middle = (least + most) / 2;
        if (read(query_start + middle + 1) <= row) least = middle + 1;
        else most = middle;
    }
    return min(least, requests - 1);
}

// What a warp has seen: of the head of its lane, the largest exponent and the lane's part of the sum of weights; of each
// pair of columns and of heads, sums of values.
struct Seen {
    float top, total, sums[TILES][4];
};

__device__ __forceinline__ void weigh(const Queries& q, const Keys& keys, int known, float scale, Seen& seen, u32 (&weights)[2]) {
    const int first = threadIdx.x % 4 * 2;
    // The lower rows of the left operand take the other half of the columns: each product has one useful half.
    float upper[2][4] = {}, lower[2][4] = {};
#pragma unroll
    for (int chunk = 0; chunk < CHUNKS; ++chunk)
#pragma unroll
        for (int tile = 0; tile < 2; ++tile) {
            const uint4 left = q.words[chunk][threadIdx.x % 32], &key = keys.words[tile][chunk];
            multiply<HALF>(upper[tile], left.x, left.y, left.z, left.w, key.x, key.z);
            multiply<HALF>(lower[tile], left.x, left.y, left.z, left.w, key.y, key.w);
        }
    float exponents[2][2], top = seen.top;
#pragma unroll
    for (int tile = 0; tile < 2; ++tile)
#pragma unroll
        for (int one = 0; one < 2; ++one) {
            const float found = (upper[tile][one] + lower[tile][2 + one]) * scale;
            exponents[tile][one] = tile * 8 + first + one < known ? found : NONE;
            top = fmaxf(top, exponents[tile][one]);
        }
    top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
    top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
    const float keep = exp2f(seen.top - top);
    seen.top = top;
    seen.total *= keep;
#pragma unroll
    for (int tile = 0; tile < 2; ++tile) {
        const float even = exp2f(exponents[tile][0] - top), odd = exp2f(exponents[tile][1] - top);
        seen.total += even + odd;
        weights[tile] = pair_of<HALF>(even, odd);
    }
    const float even = __shfl_sync(~0u, keep, first * 4), odd = __shfl_sync(~0u, keep, first * 4 + 4);
#pragma unroll
    for (int tile = 0; tile < TILES; ++tile) {
        seen.sums[tile][0] *= even;
        seen.sums[tile][1] *= odd;
        seen.sums[tile][2] *= even;
        seen.sums[tile][3] *= odd;
    }
}

__device__ __forceinline__ u32 word(const uint4& of, int at) { return at == 0 ? of.x : at == 1 ? of.y : at == 2 ? of.z : of.w; }

__device__ __forceinline__ void add(const Values& values, const u32 (&weights)[2], Seen& seen) {
#pragma unroll
    for (int side = 0; side < SIDES; ++side)
#pragma unroll
        for (int at = 0; at < 4; ++at) {
            u32 a[4];
#pragma unroll
            for (int tile = 0; tile < 2; ++tile) {
                const u32 even = word(values.words[tile * 2][side], at), odd = word(values.words[tile * 2 + 1][side], at);
                a[tile * 2] = __byte_perm(even, odd, 0x5410);
                a[tile * 2 + 1] = __byte_perm(even, odd, 0x7632);
            }
            multiply<HALF>(seen.sums[side * 4 + at], a[0], a[1], a[2], a[3], weights[0], weights[1]);
        }
}

// Where the cache holds a key of the block's head, or its value.
__device__ __forceinline__ i64 place(i64 page, int of_page) {
    return ((page * gridDim.y + blockIdx.y) * PAGE + of_page) * WIDTH;
}

__device__ __forceinline__ void read_keys(Keys& keys, const u16* from, int known) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int tile = 0; tile < 2; ++tile)
#pragma unroll
        for (int chunk = 0; chunk < CHUNKS; ++chunk) {
            const int key = tile * 8 + lane / 4;
            keys.words[tile][chunk] = key < known ? read(from + key * WIDTH + chunk * 32 + lane % 4 * 8) : uint4{};
        }
}

__device__ __forceinline__ int key_of_value(int at) { return at / 2 * 8 + threadIdx.x % 4 * 2 + at % 2; }

__device__ __forceinline__ void read_values(Values& values, const u16* from, int stride, int known) {
#pragma unroll
    for (int at = 0; at < 4; ++at)
#pragma unroll
        for (int side = 0; side < SIDES; ++side) {
            const int key = key_of_value(at);
            values.words[at][side] =
                key < known ? read(from + (i64)key * stride + side * 64 + threadIdx.x % 32 / 4 * 8) : uint4{};
        }
}

// What a warp will read of the cache in its first turns, as far as it can be known.
__device__ __forceinline__ void bring_pages(const Cache& cache, const int* context, const int* table, const Sizes& sizes) {
    const int own = threadIdx.x % 32 * 64, known = min(read(context), sizes.table_width * PAGE);
#pragma unroll
    for (int turn = 0; turn < 2; ++turn) {
        const int key = turn * TURN + threadIdx.x / 32 * KEYS;
        const int page = key < known ? read(table + key / PAGE) : -1;
        if (page < 0 || page >= sizes.pages || own >= KEYS * WIDTH) continue;
        const i64 from = place(page, key % PAGE) + own;
        bring_near(cache.keys + from);
        bring_near(cache.values + from);
    }
}

// Adds 16 keys from row `from` on to what a warp has seen, of which `row` is the last, and writes that one to the cache.
__device__ __forceinline__ void see_fresh(const Queries& q, const Fresh& fresh, int from, int row, const Cache& cache,
                                          i64 slot, const Sizes& sizes, Seen& seen) {
    const int lane = threadIdx.x % 32;
    const i64 to = place(slot / PAGE, slot % PAGE);
    Keys keys;
    Values values;
#pragma unroll
    for (int tile = 0; tile < 2; ++tile) {
        const i64 own = from + tile * 8 + lane / 4;
        Head key = {};
        if (own <= row)
            read_head(key, fresh.k + own * sizes.k_stride + blockIdx.y * WIDTH, fresh.cos + own * WIDTH, fresh.sin + own * WIDTH);
        turn(keys.words[tile], key);
#pragma unroll
        for (int chunk = 0; chunk < CHUNKS; ++chunk)
            if (own == row) *(uint4*)(cache.keys + to + chunk * 32 + lane % 4 * 8) = keys.words[tile][chunk];
    }
    read_values(values, fresh.v + (i64)from * sizes.v_stride + blockIdx.y * WIDTH, sizes.v_stride, row + 1 - from);
#pragma unroll
    for (int at = 0; at < 4; ++at)
#pragma unroll
        for (int side = 0; side < SIDES; ++side)
            if (from + key_of_value(at) == row) *(uint4*)(cache.values + to + side * 64 + lane / 4 * 8) = values.words[at][side];
    u32 weights[2];
    weigh(q, keys, row + 1 - from, sizes.scale, seen, weights);
    add(values, weights, seen);
}

// What parts of the keys gave, those of warps or of shares: sums in an order of their own, and of each head the top and the
// total, whose tops become what a part counts for.
struct Parts {
    float4 sums[WARPS][SUMS / 4];
    float tops[MOST_SHARES][HEADS], totals[MOST_SHARES][HEADS], inverse[HEADS];
    int finished;
};

__device__ __forceinline__ void leave(Parts& parts, const Seen& seen) {
    const int warp = threadIdx.x / 32, head = threadIdx.x % 32 / 4, quarter = threadIdx.x % 4;
    float total = seen.total + __shfl_xor_sync(~0u, seen.total, 1);
    total += __shfl_xor_sync(~0u, total, 2);
    if (quarter == 0 && head < HEADS) {
        parts.tops[warp][head] = seen.top;
        parts.totals[warp][head] = total;
    }
#pragma unroll
    for (int tile = 0; tile < TILES; ++tile) {
        const float(&sums)[4] = seen.sums[tile];
        if (quarter < PAIRS) parts.sums[warp][(tile * 8 + head) * PAIRS + quarter] = {sums[0], sums[1], sums[2], sums[3]};
    }
}

// For the thread of a head: its top and total in all parts.
__device__ __forceinline__ float2 compare(Parts& parts, int count) {
    const int head = threadIdx.x;
    float top = NONE, total = 0.f;
    for (int one = 0; one < count; ++one) top = fmaxf(top, parts.tops[one][head]);
    for (int one = 0; one < count; ++one) {
        const float factor = exp2f(parts.tops[one][head] - top);
        parts.tops[one][head] = factor;
        total += parts.totals[one][head] * factor;
    }
    parts.inverse[head] = 1.f / total;
    return {top, total};
}

// The head of the at-th of the sums, and its column.
__device__ __forceinline__ int head_of(int at) { return at / 4 % PAIRS * 2 + at % 2; }

__device__ __forceinline__ int column_of(int at) {
    const int tile = at / 4 / PAIRS / 8, lane_head = at / 4 / PAIRS % 8;
    return tile / 4 * 64 + lane_head * 8 + tile % 4 * 2 + at / 2 % 2;
}

__device__ __forceinline__ void write(u16* out, int at, float x) {
    if (head_of(at) < GROUP)
        out[(((i64)blockIdx.x * gridDim.y + blockIdx.y) * GROUP + head_of(at)) * WIDTH + column_of(at)] = (u16)pair_of<HALF>(x, 0.f);
}

extern "C" __global__ void __launch_bounds__(THREADS, 16 / WARPS) decode(
    const u16* q, const Fresh fresh, const i64* slots, const Cache cache, const int* query_start, const int* context_len,
    const int* page_table, u16* out, float* shares, float* tops, float* totals, int* counters, const Sizes sizes) {
    __shared__ Parts parts;
    __shared__ Queries queries;
    begin_next();
    const int row = blockIdx.x, share = blockIdx.z, warp = threadIdx.x / 32, lane_head = threadIdx.x % 32 / 4;
    const i64 pair = (i64)row * gridDim.y + blockIdx.y;
    int request = min(row, sizes.requests - 1);  // of a decode step, row i is request i's
    const int* table = page_table + (i64)request * sizes.table_stride;
    if (share == 0 && warp < READERS) bring_pages(cache, context_len + request, table, sizes);
    await_inputs();

    int begin = read(query_start + request), end = read(query_start + request + 1);
    int context = read(context_len + request);
    const int rows = read(query_start + sizes.requests);
    const int last_page = sizes.table_width - 1;
    int page = read(table + min(warp * KEYS / PAGE, last_page));
    int next_page = read(table + min((TURN + warp * KEYS) / PAGE, last_page));
    if (warp == READERS) {
        Head raw = {};
        const int head = blockIdx.y * GROUP + lane_head;
        if (lane_head < GROUP)
            read_head(raw, q + (i64)row * sizes.q_stride + head * WIDTH, fresh.cos + (i64)row * WIDTH, fresh.sin + (i64)row * WIDTH);
        uint4 turned_q[CHUNKS];
        turn(turned_q, raw);
#pragma unroll
        for (int chunk = 0; chunk < CHUNKS; ++chunk) queries.words[chunk][threadIdx.x % 32] = turned_q[chunk];
    }
    const bool guessed = row >= begin && row < end, real = row < rows;
    if (!guessed) {
        request = owner(query_start, row, sizes.requests);
        table = page_table + (i64)request * sizes.table_stride;
        begin = read(query_start + request), end = read(query_start + request + 1);
        context = read(context_len + request);
    }
    const int cached = real ? context - end + begin : 0;  // what this launch writes, it reads from k and v
    const int span = max(cached, 1);
    const int most = min(sizes.shares, 8 + span / 512);  // merging a share takes as long as reading some keys
    const int least = max((span + most - 1) / most, sizes.least_keys);
    const int length = (least + TURN - 1) / TURN * TURN, used = (span + length - 1) / length;
    if (share >= used) return;

    Seen seen{NONE, 0.f, {}};
    Keys keys;
    Values values;
    const int stop = warp < READERS ? min((share + 1) * length, cached) : 0;
    int key = share * length + warp * KEYS;
    if (key < stop) {
        if (share || !guessed) {
            page = read(table + key / PAGE);
            next_page = read(table + min((key + TURN) / PAGE, last_page));
        }
        const i64 from = place(page, key % PAGE);
        read_keys(keys, cache.keys + from, stop - key);
        read_values(values, cache.values + from, WIDTH, stop - key);
    }
    __syncthreads();
    for (; key < stop; key += TURN) {
        const int next = key + TURN;
        const i64 from = place(next_page, next % PAGE);
        if (next + TURN < stop) next_page = read(table + (next + TURN) / PAGE);
        u32 weights[2];
        weigh(queries, keys, stop - key, sizes.scale, seen, weights);
        if (next < stop) read_keys(keys, cache.keys + from, stop - next);
        add(values, weights, seen);
        if (next < stop) read_values(values, cache.values + from, WIDTH, stop - next);
    }
    if (share == 0 && warp == READERS)
        for (int from = real ? begin : row; from <= row; from += KEYS)
            see_fresh(queries, fresh, from, row, cache, slots[row], sizes, seen);

    leave(parts, seen);
    __syncthreads();
    const i64 own = pair * sizes.shares + share, all = pair * sizes.shares;
    if (threadIdx.x < HEADS) {
        const float2 found = compare(parts, WARPS);
        if (used > 1) tops[own * HEADS + threadIdx.x] = found.x, totals[own * HEADS + threadIdx.x] = found.y;
    }
    __syncthreads();
    for (int at = threadIdx.x; at < SUMS; at += THREADS) {
        float sum = 0.f;
#pragma unroll
        for (int one = 0; one < WARPS; ++one) sum += ((const float*)parts.sums[one])[at] * parts.tops[one][head_of(at)];
        if (used > 1) shares[own * SUMS + at] = sum;
        else write(out, at, real ? sum * parts.inverse[head_of(at)] : 0.f);
    }
    if (used == 1) return;

    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        parts.finished = atomicAdd(counters + pair, 1);
        __threadfence();
    }
    __syncthreads();
    if (parts.finished != used - 1) return;
    if (threadIdx.x == 0) counters[pair] = 0;
    for (int at = threadIdx.x; at < used * HEADS; at += THREADS) {
        (&parts.tops[0][0])[at] = read(tops + all * HEADS + at);
        (&parts.totals[0][0])[at] = read(totals + all * HEADS + at);
    }
    __syncthreads();
    if (threadIdx.x < HEADS) compare(parts, used);
    __syncthreads();
    for (int at = threadIdx.x; at < SUMS; at += THREADS) {
        float sum = 0.f;
#pragma unroll 8
        for (int one = 0; one < used; ++one) sum += read(shares + (all + one) * SUMS + at) * parts.tops[one][head_of(at)];
        write(out, at, sum * parts.inverse[head_of(at)]);
    }
}

// Attention over a paged cache.
//
// Keys are taken in tiles of 64 that start at multiples of 64 of the position, and every (query, head) meets each tile
// in two steps: a softmax within the tile, then a merge into the running result, in order of position. Both are the
// same instructions whatever else is in the batch and however the prompt was cut, so a row's bits never depend on it.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels.h"

namespace autodeploy {
namespace {

constexpr long kTile = 64;
constexpr long kVectors = kTile / kLanes;
constexpr long kQueryBlock = 16;  // queries of one request that share a widened tile
constexpr long kPiece = 512;     // keys of a block that go to one thread where blocks are few
constexpr float kNothing = -std::numeric_limits<float>::infinity();

long round_up(long value, long unit) { return (value + unit - 1) / unit * unit; }

// 16 rows of 16 become their columns: four perfect shuffles.
void transpose(Floats* v) {
    Floats w[kLanes];
    for (int stage = 0; stage < 4; ++stage) {
        for (int i = 0; i < 8; ++i) {
            w[2 * i] = __builtin_shufflevector(v[i], v[i + 8], 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
            w[2 * i + 1] =
                __builtin_shufflevector(v[i], v[i + 8], 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
        }
        std::copy(w, w + kLanes, v);
    }
}

// The running (or a tile's own) softmax of one (query, head): maximum, sum of exponentials, weighted values.
struct Partial {
    float largest, total;
    float* values;  // [value width, rounded up to 16]
};

// The one place where two softmaxes are joined; not inlined, so that every caller gets the same rounding.
__attribute__((noinline)) void merge(Partial& into, const Partial& tile, long width) {
    const float top = std::max(into.largest, tile.largest);
    if (top == kNothing) return;
    const float keep = std::exp(into.largest - top), add = std::exp(tile.largest - top);
    into.largest = top;
    into.total = into.total * keep + tile.total * add;
    for (long d = 0; d < width; d += kLanes)
        store(into.values + d, load(into.values + d) * keep + load(tile.values + d) * add);
}

// One thread's buffers for a tile of one key-value head.
struct Scratch {
    long key_width, value_width;       // rounded up to 16
    std::vector<Floats> keys;          // [key_width][kVectors]: transposed, so that scores need no lane sums
    std::vector<Floats> values;        // [kTile][value_width / 16]
    std::vector<Floats> query;         // [key_width / 16]
    std::vector<Floats> tile_values;   // [value_width / 16]

    Scratch(long k, long v)
        : key_width(round_up(k, kLanes)), value_width(round_up(v, kLanes)), keys(key_width * kVectors),
          values(kTile * value_width / kLanes), query(key_width / kLanes), tile_values(value_width / kLanes) {}
};

// Rows [first, last) of a request with one key-value head, over keys [begin, end).
struct Block {
    long request, first, last, kv_head, begin, end;
};

template <class T>
class Step {
  public:
    explicit Step(const Attention<T>& step) : s(step), group(step.heads / step.kv_heads) {}

    void write_cache(const Team& team) const {
        const auto [first, last] = team.share(s.tokens);
        for (long row = first; row < last; ++row) {
            const long page = s.slots[row] / s.page_size, offset = s.slots[row] % s.page_size;
            for (long head = 0; head < s.kv_heads; ++head) {
                const long at = (page * s.kv_heads + head) * s.page_size + offset;
                const T* k = s.k + row * s.k_stride + head * s.key_width;
                const T* v = s.v + row * s.v_stride + head * s.value_width;
                std::copy(k, k + s.key_width, s.key_pages + at * s.key_width);
                std::copy(v, v + s.value_width, s.value_pages + at * s.value_width);
            }
        }
    }

    // The position of a row, from the end of its request's context.
    long position(long request, long row) const {
        return s.context_len[request] - s.query_start[request + 1] + row;
    }

    long first_key(long position) const { return s.window ? std::max(0L, position - s.window + 1) : 0; }

    // Widen keys [start, stop) of one head into the scratch; later lanes of the tile are zero.
    void load_tile(Scratch& scratch, long request, long kv_head, long start, long stop) const {
        const int32_t* pages = s.page_table + request * s.max_pages;
        const long value_vectors = scratch.value_width / kLanes;
        for (long first = start; first < start + kTile; first += kLanes) {
            const T* rows[kLanes];
            const long count = std::clamp(stop - first, 0L, kLanes);
            for (long i = 0; i < count; ++i) {
                const long key = first + i;
                const long at = (pages[key / s.page_size] * s.kv_heads + kv_head) * s.page_size + key % s.page_size;
                rows[i] = s.key_pages + at * s.key_width;
                const T* value = s.value_pages + at * s.value_width;
                Floats* to = &scratch.values[(first - start + i) * value_vectors];
                for (long d = 0; d < value_vectors; ++d) to[d] = load(value + d * kLanes, s.value_width - d * kLanes);
            }
            for (long d = 0; d < scratch.key_width; d += kLanes) {
                Floats block[kLanes] = {};
                for (long i = 0; i < count; ++i) block[i] = load(rows[i] + d, s.key_width - d);
                transpose(block);
                for (long i = 0; i < kLanes; ++i) scratch.keys[(d + i) * kVectors + (first - start) / kLanes] = block[i];
            }
        }
    }

    // The softmax of one (row, head) over the visible keys of the loaded tile; not inlined for merge's reason.
    __attribute__((noinline)) Partial attend(Scratch& scratch, long row, long head, long start, long low,
                                             long high) const {
        const int32_t at = int32_t(high - 1);  // the row's own position
        const T* q = s.q + row * s.q_stride + head * s.key_width;
        for (long d = 0; d < s.key_width; d += kLanes)
            scratch.query[d / kLanes] = load(q + d, s.key_width - d);
        const float* query = (const float*)scratch.query.data();
        Floats scores[kVectors] = {};
        for (long d = 0; d < s.key_width; ++d)
            for (long i = 0; i < kVectors; ++i) scores[i] += query[d] * scratch.keys[d * kVectors + i];

        const Ints lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
        Floats top = splat(kNothing);
        for (long i = 0; i < kVectors; ++i) {
            scores[i] *= s.scale;
            if (s.softcap > 0) scores[i] = s.softcap * tangent(scores[i] / s.softcap);
            const Ints key = lane + int32_t(start + i * kLanes);
            if (s.alibi_slopes) scores[i] += s.alibi_slopes[head] * __builtin_convertvector(key - at, Floats);
            scores[i] = select((key >= int32_t(low)) & (key < int32_t(high)), scores[i], splat(kNothing));
            top = maximum(top, scores[i]);
        }
        const float largest_score = largest(top);
        Floats total = {};
        for (long i = 0; i < kVectors; ++i) {
            scores[i] = select(scores[i] == kNothing, Floats{}, exponential(scores[i] - largest_score));
            total += scores[i];
            scores[i] = rounded<T>(scores[i]);  // as a matmul of T with the values would take them
        }
        weigh(scratch, (const float*)scores, std::max(low, start) - start, std::min(high, start + kTile) - start);
        return {largest_score, sum(total), (float*)scratch.tile_values.data()};
    }

    // The values of keys [low, high) of the tile, weighted; up to four registers of the row at a time.
    static void weigh(Scratch& scratch, const float* weights, long low, long high) {
        const long vectors = scratch.value_width / kLanes;
        long d = 0;
        for (; d + 4 <= vectors; d += 4) weigh_columns<4>(scratch, weights, low, high, d);
        for (; d < vectors; ++d) weigh_columns<1>(scratch, weights, low, high, d);
    }

    template <int N>
    static void weigh_columns(Scratch& scratch, const float* weights, long low, long high, long first) {
        const long vectors = scratch.value_width / kLanes;
        Floats acc[N] = {};
        for (long key = low; key < high; ++key)
            for (long i = 0; i < N; ++i) acc[i] += weights[key] * scratch.values[key * vectors + first + i];
        for (long i = 0; i < N; ++i) scratch.tile_values[first + i] = acc[i];
    }

    Partial nothing(long head, float* values) const {
        return s.sinks ? Partial{widen(s.sinks[head]), 1.0f, values} : Partial{kNothing, 0.0f, values};
    }

    void finish(long row, long head, const Partial& result) const {
        T* out = s.out + (row * s.heads + head) * s.value_width;
        const float scale = result.total > 0 ? 1.0f / result.total : 0.0f;
        for (long d = 0; d < s.value_width; d += kLanes)
            store(out + d, load(result.values + d) * scale, s.value_width - d);
    }

    // Every tile of the block that some of its rows see, as visit(i, partial) for row i / group and head i % group.
    template <class Visit>
    void for_tiles(Scratch& scratch, const Block& block, Visit visit) const {
        const long count = rows(block);
        for (long start = block.begin; start < block.end; start += kTile) {
            load_tile(scratch, block.request, block.kv_head, start, std::min(block.end, start + kTile));
            for (long i = 0; i < count; ++i) {
                const long row = block.first + i / group, at = position(block.request, row);
                if (first_key(at) >= start + kTile || at < start) continue;
                visit(start, i, attend(scratch, row, block.kv_head * group + i % group, start, first_key(at), at + 1));
            }
        }
    }

    long rows(const Block& block) const { return (block.last - block.first) * group; }

    // A block at once.
    void attend_block(Scratch& scratch, const Block& block) const {
        const long width = scratch.value_width, count = rows(block);
        std::vector<Floats> running(count * width / kLanes);
        std::vector<Partial> results(count);
        for (long i = 0; i < count; ++i)
            results[i] = nothing(block.kv_head * group + i % group, (float*)running.data() + i * width);
        for_tiles(scratch, block, [&](long, long i, Partial tile) { merge(results[i], tile, width); });
        for (long i = 0; i < count; ++i)
            finish(block.first + i / group, block.kv_head * group + i % group, results[i]);
    }

    // A block in two phases: pieces of its keys on any thread, each tile's result kept; then the merge, in order.
    void attend_piece(Scratch& scratch, const Block& whole, const Block& piece, std::vector<Partial>& kept) const {
        const long count = rows(piece);
        for_tiles(scratch, piece, [&](long start, long i, Partial tile) {
            Partial& to = kept[(start - whole.begin) / kTile * count + i];
            to.largest = tile.largest;
            to.total = tile.total;
            std::copy(tile.values, tile.values + scratch.value_width, to.values);
        });
    }

    void join_pieces(const Block& whole, const std::vector<Partial>& kept, Scratch& scratch) const {
        const long count = rows(whole);
        for (long i = 0; i < count; ++i) {
            std::fill(scratch.tile_values.begin(), scratch.tile_values.end(), Floats{});
            Partial result = nothing(whole.kv_head * group + i % group, (float*)scratch.tile_values.data());
            for (std::size_t at = i; at < kept.size(); at += count) merge(result, kept[at], scratch.value_width);
            finish(whole.first + i / group, whole.kv_head * group + i % group, result);
        }
    }

    // The blocks of the step: some rows of one request, one key-value head, all the keys they see.
    std::vector<Block> blocks() const {
        std::vector<Block> all;
        for (long request = 0; request < s.requests; ++request) {
            const long end = s.query_start[request + 1];
            for (long first = s.query_start[request]; first < end; first += kQueryBlock) {
                const long last = std::min(end, first + kQueryBlock);
                const long begin = first_key(position(request, first)) / kTile * kTile;
                for (long kv_head = 0; kv_head < s.kv_heads; ++kv_head)
                    all.push_back({request, first, last, kv_head, begin, position(request, last - 1) + 1});
            }
        }
        return all;
    }

    const Attention<T>& s;
    const long group;
};

// A step whose blocks are few and long: each has its keys shared among the threads.
template <class T>
struct Pieces {
    std::vector<Block> pieces;
    std::vector<std::size_t> owners;           // of each piece: its block
    std::vector<std::vector<Floats>> values;   // of each block
    std::vector<std::vector<Partial>> kept;    // of each block: every tile's result

    Pieces(const Step<T>& step, const std::vector<Block>& blocks) : values(blocks.size()), kept(blocks.size()) {
        const long width = round_up(step.s.value_width, kLanes);
        for (std::size_t owner = 0; owner < blocks.size(); ++owner) {
            const Block& block = blocks[owner];
            const long count = (block.end - block.begin + kTile - 1) / kTile * step.rows(block);
            values[owner].resize(count * width / kLanes);
            kept[owner].reserve(count);
            for (long i = 0; i < count; ++i)  // what no row sees stays nothing
                kept[owner].push_back({kNothing, 0.0f, (float*)values[owner].data() + i * width});
            for (long begin = block.begin; begin < block.end; begin += kPiece) {
                Block piece = block;
                piece.begin = begin;
                piece.end = std::min(block.end, begin + kPiece);
                pieces.push_back(piece);
                owners.push_back(owner);
            }
        }
    }
};

template <class T>
void attend_in_pieces(const Team& team, const Step<T>& step, const std::vector<Block>& blocks, Scratch& scratch) {
    Pieces<T>* all = team.lead([&] { return new Pieces<T>(step, blocks); });
    for (std::size_t i = team.claim(); i < all->pieces.size(); i = team.claim())
        step.attend_piece(scratch, blocks[all->owners[i]], all->pieces[i], all->kept[all->owners[i]]);
    team.barrier();
    for (std::size_t i = team.claim(); i < blocks.size(); i = team.claim())
        step.join_pieces(blocks[i], all->kept[i], scratch);
    team.release(all);
}

}  // namespace

template <class T>
void paged_attention(const Team& team, const Attention<T>& s) {
    const Step<T> step(s);
    step.write_cache(team);
    const long used = s.requests ? s.query_start[s.requests] : 0, row = s.heads * s.value_width;
    if (team.thread == 0) std::fill(s.out + used * row, s.out + s.tokens * row, T{});
    team.barrier();
    const std::vector<Block> blocks = step.blocks();
    long longest = 0;
    for (const Block& block : blocks) longest = std::max(longest, block.end - block.begin);
    Scratch scratch(s.key_width, s.value_width);
    if (team.threads > 1 && longest > kPiece && long(blocks.size()) < 4 * team.threads)
        return attend_in_pieces(team, step, blocks, scratch);
    for (std::size_t i = team.claim(); i < blocks.size(); i = team.claim()) step.attend_block(scratch, blocks[i]);
}

template void paged_attention(const Team&, const Attention<float>&);
template void paged_attention(const Team&, const Attention<bf16>&);

}  // namespace autodeploy

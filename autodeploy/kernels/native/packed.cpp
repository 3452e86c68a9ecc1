// Projections by weights in 8 or 4 bits, read once and multiplied as bytes.
//
// A block is 64 bytes of a row of weights: 64 columns in 8 bits, 128 in 4. Each row of x has a scale in each block, and
// x / scale as one digit (where it is int8 already) or as two in base 256: 16 bits below the block's largest, where
// bf16 itself has 8. Their products with the codes are summed exactly in int32 over a block, then in float32 front to
// back, whatever the number of rows: a row's result never depends on the batch.
#include "parts.h"

namespace autodeploy {
namespace {

// How the numbers of groups of columns lie over the 16 lanes of sums of a block.
struct Grouping {
    long per_block = 1;  // numbers that a block needs
    long times = 1;      // how many blocks take the same number
    Ints lanes = {};     // which of the block's numbers each lane takes

    Grouping(const Scales& scales, long columns) {
        if (scales.groups == 1 || scales.width >= columns) {
            times = scales.groups == 1 ? 1L << 30 : scales.width / columns;
            return;
        }
        per_block = columns / scales.width;
        for (long lane = 0; lane < kLanes; ++lane) lanes[lane] = int32_t(lane * per_block / kLanes);
    }

    // The numbers of a row for all blocks, zero past its end; `out` has room for `size(blocks)`.
    void read(const Scales& scales, long row, long blocks, float* out) const {
        scales.read(row, times, per_block > 1 ? scales.groups : blocks, size(blocks), out);
    }

    // With room for a whole register from the last block on.
    long size(long blocks) const { return (blocks * per_block + 2 * kLanes - 1) / kLanes * kLanes; }

    Floats spread(const float* numbers, long block) const {
        return __builtin_shuffle(load(numbers + block * per_block), lanes);
    }
};

// P digits a number of x; H = 2 where a byte of weights holds two columns, an even and an odd one.
template <int P, int H>
class Digits {
  public:
    static constexpr long kColumns = H * kBytes;  // in a block
    static constexpr long kZero = H == 1 ? 128 : 8;

    Digits(long width, long most, const Grouping& grouping, bool sums)
        : blocks((width + kColumns - 1) / kColumns), most_(most), grouping_(grouping), digits_(blocks * most * P * H),
          starts_(blocks * most), scales_(blocks * most), sums_(sums ? most * grouping.size(blocks) : 0) {}

    const long blocks;

    const Bytes* digits(long block, long row) const { return &digits_[(block * most_ + row) * P * H]; }
    Ints start(long block, long row) const { return starts_[block * most_ + row]; }
    float scale(long block, long row) const { return scales_[block * most_ + row]; }
    const float* sums(long row) const { return sums_.data() + row * grouping_.size(blocks); }

    // A row of bf16 in two digits, or one of int8 as it is.
    void pack(long row, const bf16* x, long width) {
        for (long block = 0; block < blocks; ++block) pack_block(row, block, x + block * kColumns, width - block * kColumns);
    }

    void pack(long row, const int8_t* x, long width, const float* scales) {
        for (long block = 0; block < blocks; ++block) {
            Bytes& to = digits_[(block * most_ + row) * P * H];
            to = Bytes{};
            std::memcpy(&to, x + block * kColumns, std::min(kColumns, width - block * kColumns));
            finish(row, block, scales[block]);
        }
    }

    void clear(long row) {
        for (long block = 0; block < blocks; ++block) {
            Bytes* to = &digits_[(block * most_ + row) * P * H];
            std::fill(to, to + P * H, Bytes{});
            finish(row, block, 0.0f);
        }
    }

  private:
    // Sixteen numbers for each half: one after the other, or the even and the odd ones.
    static void take(const bf16* x, long count, Floats* halves) {
        if constexpr (H == 1) {
            halves[0] = load(x, count);
        } else {
            bf16 padded[2 * kLanes] = {};
            if (count < 2 * kLanes) x = (const bf16*)std::memcpy(padded, x, std::max(0L, count) * sizeof(bf16));
            Words words;
            std::memcpy(&words, x, sizeof words);
            halves[0] = (Floats)(words << 16);
            halves[1] = (Floats)(words & 0xffff0000u);
        }
    }

    void pack_block(long row, long block, const bf16* x, long width) {
        constexpr long step = H * kLanes, pieces = kBytes / kLanes;
        Floats numbers[pieces][H] = {}, top = {};
        for (long i = 0; i < pieces && i * step < width; ++i) {
            take(x + i * step, std::min(step, width - i * step), numbers[i]);
            for (int h = 0; h < H; ++h) top = maximum(top, maximum(numbers[i][h], -numbers[i][h]));
        }
        const float most = largest(top), scale = most > 0 ? most / kLargest : 1.0f;
        Bytes* to = &digits_[(block * most_ + row) * P * H];
        for (long i = 0; i < pieces; ++i)
            for (int h = 0; h < H; ++h) {
                const Ints number = nearest(numbers[i][h] * (1.0f / scale));
                const Ints low = ((number + 128) & 255) - 128, high = (number - low) >> 8;
                write(to[h], i, high);
                write(to[H + h], i, low);
            }
        finish(row, block, scale);
    }

    static void write(Bytes& to, long piece, Ints digits) {
        const Digits16 narrow = __builtin_convertvector(digits, Digits16);
        std::memcpy((uint8_t*)&to + piece * kLanes, &narrow, sizeof narrow);
    }

    // What follows from a block's digits: the sum of its numbers, for the codes' zero points.
    void finish(long row, long block, float scale) {
        const Bytes* digits = &digits_[(block * most_ + row) * P * H];
        const Bytes ones = Bytes{} + 1;
        Ints sum = {};
        for (int digit = 0; digit < P; ++digit) {
            sum = sum << 8;
            for (int h = 0; h < H; ++h) sum = dot(sum, ones, digits[digit * H + h]);
        }
        scales_[block * most_ + row] = scale;
        starts_[block * most_ + row] = sums_.empty() ? sum * int32_t(-kZero) : Ints{};
        if (sums_.empty()) return;
        float* to = sums_.data() + row * grouping_.size(blocks) + block * grouping_.per_block;
        std::fill(to, to + grouping_.per_block, 0.0f);
        for (long lane = 0; lane < kLanes; ++lane) to[grouping_.lanes[lane]] += scale * sum[lane];
    }

    static constexpr float kLargest = 127 * 256 + 127;

    const long most_;
    const Grouping grouping_;
    std::vector<Bytes> digits_;  // [block][row][digit, the high one first][half]
    std::vector<Ints> starts_;   // [block][row]: what the sums of a block begin with
    std::vector<float> scales_;  // [block][row]
    std::vector<float> sums_;    // [row][group]: of x, where zero points differ
};

// M rows of x against N rows of codes, `step` apart: sums[m * N + n].
template <int P, int H, int M, int N>
void corner(const Digits<P, H>& x, const Codes& weight, const Grouping& grouping, long first, long step, float* numbers,
            float* sums) {
    const long size = grouping.size(x.blocks), whole = weight.row_bytes / kBytes;
    for (long n = 0; n < N; ++n) grouping.read(weight.scale, first + n * step, x.blocks, numbers + n * size);
    Floats acc[M][N] = {};
    const auto meet = [&](long block, auto load_codes) {
        Bytes codes[N][H];
        Floats scale[N];
        for (int n = 0; n < N; ++n) {
            const uint8_t* p = weight.row(first + n * step) + block * kBytes;
            const Bytes bytes = load_codes(p);
            __builtin_prefetch(p + kPrefetch);
            codes[n][0] = H == 1 ? bytes ^ 0x80 : bytes & 0x0f;
            if constexpr (H == 2) codes[n][1] = bytes >> 4;
            scale[n] = grouping.spread(numbers + n * size, block);
        }
        for (int m = 0; m < M; ++m) {
            const Bytes* digits = x.digits(block, m);
            for (int n = 0; n < N; ++n) {
                Ints sum = P == 1 ? x.start(block, m) : Ints{};
                for (int h = 0; h < H; ++h) sum = dot(sum, codes[n][h], digits[h]);
                if constexpr (P == 2) {
                    sum = (sum << 8) + x.start(block, m);
                    for (int h = 0; h < H; ++h) sum = dot(sum, codes[n][h], digits[H + h]);
                }
                acc[m][n] += __builtin_convertvector(sum, Floats) * (scale[n] * x.scale(block, m));
            }
        }
    };
    for (long block = 0; block < whole; ++block) meet(block, [](const uint8_t* p) { return load_bytes(p); });
    if (const long rest = weight.row_bytes % kBytes)
        meet(whole, [rest](const uint8_t* p) { return load_bytes(p, rest); });
    if (weight.zero) {
        float* zeros = numbers + N * size;
        for (int n = 0; n < N; ++n) {
            grouping.read(weight.zero, first + n * step, x.blocks, zeros);
            for (long i = 0; i + kLanes <= size; i += kLanes)
                for (int m = 0; m < M; ++m)
                    acc[m][n] -= load(numbers + n * size + i) * load(zeros + i) * load(x.sums(m) + i);
        }
    }
    sum_each<M * N>(&acc[0][0], sums);
}

// Rows of x as digits, and the codes that they meet.
template <class T, int P, int H, class X>
class CodedProduct {
  public:
    CodedProduct(Rows<const X> x, const Scales& x_scale, const Codes& weight)
        : x_(x), x_scale_(x_scale), weight_(weight), grouping_(weight.scale, kColumns), x_grouping_(x_scale, kColumns),
          digits_(weight.width, std::min(kMaxRows, padded(x.count)), grouping_, bool(weight.zero)),
          numbers_(5 * grouping_.size(digits_.blocks)) {}

    void pack(long m, long rows) {
        rows_ = rows;
        for (long row = 0; row < rows; ++row) {
            if constexpr (P == 1) {
                x_grouping_.read(x_scale_, m + row, digits_.blocks, numbers_.data());
                digits_.pack(row, x_[m + row], weight_.width, numbers_.data());
            } else {
                digits_.pack(row, x_[m + row], weight_.width);
            }
        }
        for (long row = rows; row < padded(rows); ++row) digits_.clear(row);
    }

    void times(const T* bias, T* out, long out_stride, long first, long last) {
        switch (padded(rows_)) {
            case 1: return strip<1, 4>(bias, out, out_stride, first, last);
            case 2: return strip<2, 4>(bias, out, out_stride, first, last);
            case 4: return strip<4, 4>(bias, out, out_stride, first, last);
            default: return strip<8, 2>(bias, out, out_stride, first, last);
        }
    }

  private:
    static constexpr long kColumns = Digits<P, H>::kColumns;

    static long padded(long rows) { return rows <= 2 ? rows : rows <= 4 ? 4 : 8; }

    // The rows of codes that are read side by side lie far apart, as in `products.h`.
    template <int M, int N>
    void strip(const T* bias, T* out, long out_stride, long first, long last) {
        const long step = (last - first) / N;
        for (long n = first; n < first + step; ++n) write<M, N>(bias, out, out_stride, n, step);
        for (long n = first + N * step; n < last; ++n) write<M, 1>(bias, out, out_stride, n, 1);
    }

    template <int M, int N>
    void write(const T* bias, T* out, long out_stride, long first, long step) {
        float sums[(M * N + kLanes - 1) / kLanes * kLanes];
        corner<P, H, M, N>(digits_, weight_, grouping_, first, step, numbers_.data(), sums);
        for (long m = 0; m < std::min<long>(M, rows_); ++m)
            for (long n = 0; n < N; ++n) {
                const long column = first + n * step;
                out[m * out_stride + column] = narrow<T>(sums[m * N + n] + (bias ? widen(bias[column]) : 0.0f));
            }
    }

    const Rows<const X> x_;
    const Scales x_scale_;
    const Codes weight_;
    const Grouping grouping_, x_grouping_;
    Digits<P, H> digits_;
    std::vector<float> numbers_;
    long rows_ = 0;
};

template <int P, int H, class T, class X>
void project_codes(const Team& team, Rows<const X> x, const Scales& x_scale, const Codes& weight, const T* bias,
                   Gate<T> gate, T* out) {
    CodedProduct<T, P, H, X> product(x, x_scale, weight);
    project(team, product, x.count, weight.count, weight.row_bytes, bias, Then<T>(nullptr), gate, out);
}

}  // namespace

bool falls_into_blocks(const Scales& scales, long columns) {
    if (scales.groups == 1 || scales.width % columns == 0) return true;
    return columns % scales.width == 0 && columns / scales.width <= 4;
}

template <>
void packed_linear(const Team& team, Rows<const bf16> x, const Codes& weight, const bf16* bias, Gate<bf16> gate,
                   bf16* out) {
    using Format = Codes::Format;
    if (weight.format == Format::int8 && falls_into_blocks(weight.scale, kBytes))
        return project_codes<2, 1>(team, x, Scales{}, weight, bias, gate, out);
    if (weight.format == Format::int4 && falls_into_blocks(weight.scale, 2 * kBytes))
        return project_codes<2, 2>(team, x, Scales{}, weight, bias, gate, out);
    decoded_linear(team, x, weight, bias, gate, out);
}

template <>
void packed_linear(const Team& team, Rows<const float> x, const Codes& weight, const float* bias, Gate<float> gate,
                   float* out) {
    decoded_linear(team, x, weight, bias, gate, out);
}

template <class T>
void scaled_linear(const Team& team, Rows<const int8_t> x, const Scales& x_scale, const Codes& weight, const T* bias,
                   Gate<T> gate, T* out) {
    project_codes<1, 1>(team, x, x_scale, weight, bias, gate, out);
}

template void scaled_linear(const Team&, Rows<const int8_t>, const Scales&, const Codes&, const float*, Gate<float>,
                            float*);
template void scaled_linear(const Team&, Rows<const int8_t>, const Scales&, const Codes&, const bf16*, Gate<bf16>,
                            bf16*);

}  // namespace autodeploy

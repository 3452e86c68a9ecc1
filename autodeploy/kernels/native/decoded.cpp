// Projections by weights in 8 or 4 bits of any format, decoded to float32 some rows at a time.
#include <limits>

#include "products.h"

namespace autodeploy {
namespace {

typedef uint8_t Codes16 __attribute__((vector_size(16)));

Codes16 load_codes(const uint8_t* p) {
    Codes16 v;
    std::memcpy(&v, p, sizeof v);
    return v;
}

Floats decode_int8(Words codes) { return __builtin_convertvector((Ints)(codes << 24) >> 24, Floats); }

// Three bits of mantissa and four of exponent, put where float32 has them; the factor sets the bias right.
Floats decode_e4m3(Words codes) {
    const Words magnitude = codes & 0x7f;
    const Floats value = (Floats)(magnitude << 20) * 0x1p120f;
    const Floats signed_value = (Floats)((Words)value | ((codes & 0x80) << 24));
    return select((Ints)(magnitude == 0x7f), splat(std::numeric_limits<float>::quiet_NaN()), signed_value);
}

// A row of codes as floats; `out` and the codes are read and written in whole registers, past the end of the row.
void decode_codes(const Codes& weight, const uint8_t* codes, float* out) {
    const bool pairs = weight.format == Codes::Format::int4;
    for (long i = 0; i < weight.row_bytes; i += kLanes) {
        const Words bytes = __builtin_convertvector(load_codes(codes + i), Words);
        if (!pairs) {
            store(out + i, weight.format == Codes::Format::int8 ? decode_int8(bytes) : decode_e4m3(bytes));
            continue;
        }
        for (long j = 0; j < kLanes; ++j) {
            out[2 * (i + j)] = float(bytes[j] & 15);
            out[2 * (i + j) + 1] = float(bytes[j] >> 4);
        }
    }
}

// Rows of x in float32, and rows of weights that are decoded when they are met.
template <class T>
class DecodedProduct {
  public:
    DecodedProduct(Rows<const T> x, const Codes& weight)
        : x_(x), weight_(weight), wide_(kMaxRows * weight.width), panel_(kPanel * stride(weight)),
          codes_(weight.row_bytes + kLanes), scales_(padded(weight.scale.groups)),
          zeros_(padded(weight.scale.groups), kMiddle) {}

    void pack(long m, long rows) {
        rows_ = rows;
        for (long row = 0; row < rows; ++row)
            for (long k = 0; k < weight_.width; ++k) wide_[row * weight_.width + k] = widen(x_[m + row][k]);
    }

    void times(const T* bias, T* out, long out_stride, long first, long last) {
        const Rows<const float> wide{wide_.data(), rows_, weight_.width, weight_.width};
        const Rows<const float> panel{panel_.data(), kPanel, weight_.width, stride(weight_)};
        Product<float> product(wide, panel);
        product.pack(0, rows_);
        float sums[kMaxRows * kPanel];
        for (long n = first; n < last; n += kPanel) {
            const long count = std::min(kPanel, last - n);
            for (long i = 0; i < count; ++i) decode(n + i, panel_.data() + i * stride(weight_));
            product.times(nullptr, sums, kPanel, 0, count);
            for (long m = 0; m < rows_; ++m)
                for (long i = 0; i < count; ++i)
                    out[m * out_stride + n + i] = narrow<T>(sums[m * kPanel + i] + (bias ? widen(bias[n + i]) : 0.0f));
        }
    }

  private:
    static constexpr long kPanel = 16;  // rows decoded at once
    static constexpr float kMiddle = 8.0f;

    static long padded(long count) { return (count + kLanes - 1) / kLanes * kLanes; }
    static long stride(const Codes& weight) { return weight.width + 2 * kLanes; }

    void decode(long n, float* out) {
        std::memcpy(codes_.data(), weight_.row(n), weight_.row_bytes);
        decode_codes(weight_, codes_.data(), out);
        const long groups = weight_.scale.groups, size = long(scales_.size());
        weight_.scale.read(n, 1, groups, size, scales_.data());
        if (weight_.zero) weight_.zero.read(n, 1, groups, size, zeros_.data());
        const bool centred = weight_.format == Codes::Format::int4;
        for (long group = 0; group < groups; ++group) {
            const float scale = scales_[group], zero = centred ? zeros_[group] : 0.0f;
            const long end = std::min(weight_.width, (group + 1) * weight_.scale.width);
            for (long k = group * weight_.scale.width; k < end; ++k) out[k] = (out[k] - zero) * scale;
        }
    }

    const Rows<const T> x_;
    const Codes weight_;
    std::vector<float> wide_, panel_;
    std::vector<uint8_t> codes_;
    std::vector<float> scales_, zeros_;
    long rows_ = 0;
};

}  // namespace

template <class T>
void decoded_linear(const Team& team, Rows<const T> x, const Codes& weight, const T* bias, Gate<T> gate, T* out) {
    DecodedProduct<T> product(x, weight);
    project(team, product, x.count, weight.count, weight.row_bytes, bias, Then<T>(nullptr), gate, out);
}

template void decoded_linear(const Team&, Rows<const float>, const Codes&, const float*, Gate<float>, float*);
template void decoded_linear(const Team&, Rows<const bf16>, const Codes&, const bf16*, Gate<bf16>, bf16*);

}  // namespace autodeploy

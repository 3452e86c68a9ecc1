// Weights in 8 or 4 bits, and what their codes stand for.
#pragma once

#include <algorithm>

#include "vector.h"

namespace autodeploy {

// A number for each group of a row's columns, or for the same group of several rows.
struct Scales {
    enum class Kind { none, float32, bfloat16, uint8 };

    const void* data = nullptr;
    Kind kind = Kind::none;
    long rows_each = 1;  // rows of the matrix that share a row of numbers
    long stride = 0;     // between rows of numbers
    long groups = 1;     // in a row
    long width = 1;      // columns in a group

    explicit operator bool() const { return kind != Kind::none; }

    // The numbers of a matrix row, each `times` over, as long as there are `count`, and then zeros up to `size`, which is
    // a multiple of 16.
    void read(long row, long times, long count, long size, float* out) const {
        const long first = row / rows_each * stride;
        switch (kind) {
            case Kind::float32: return spread((const float*)data + first, times, count, size, out);
            case Kind::bfloat16: return spread((const bf16*)data + first, times, count, size, out);
            case Kind::uint8: return spread((const uint8_t*)data + first, times, count, size, out);
            case Kind::none: return;
        }
    }

  private:
    template <class T>
    void spread(const T* from, long times, long count, long size, float* out) const {
        __builtin_prefetch((const char*)from + kAhead);
        if (times == 1 || groups == 1) {
            for (long i = 0; i < size; i += kLanes)
                store(out + i, groups == 1 ? splat(widen(*from)) : load(from + i, count - i));
            return;
        }
        for (long i = 0; i < size; ++i) out[i] = i < count ? widen(from[i / times]) : 0.0f;
    }

    static constexpr long kAhead = 256;  // bytes
};

// w[n][k] = (q - zero) * scale for codes q: int8 [N, K], two of 4 bits a byte (the lower k in the low nibble), or e4m3.
struct Codes {
    enum class Format { int8, int4, fp8 };

    const uint8_t* data;
    Format format;
    long count, width;  // [N, K]
    long row_bytes;
    Scales scale, zero;  // zero of int4 only, where it has none it is 8

    const uint8_t* row(long n) const { return data + n * row_bytes; }
};

}  // namespace autodeploy

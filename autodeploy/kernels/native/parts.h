// How a projection's output is cut, whatever its weights are stored as.
#pragma once

#include <algorithm>
#include <vector>

#include "kernels.h"

namespace autodeploy {

constexpr long kMaxRows = 8;              // of x, in one pass over the weights
constexpr long kPrefetch = 2048;          // bytes of weights asked for ahead in each row: measured best with four rows
constexpr long kPanelBytes = 256 * 1024;  // of weights, kept in the L2 cache while all rows of x pass over them

// Calls body(m, rows, first, last) for the parts of the output that are this thread's: columns [first, last) of some
// rows from m on, of which pack(m, rows) was told before. Few rows: each thread reads one contiguous part of the weights.
template <class Pack, class Body>
void for_parts(const Team& team, long num_rows, long num_columns, long row_bytes, Pack pack, Body body) {
    if (num_rows <= kMaxRows) {
        const auto [first, last] = team.share(num_columns);
        if (num_rows) pack(0L, num_rows);
        if (num_rows && first < last) body(0L, num_rows, first, last);
        return;
    }
    const long even = (num_columns + 4 * team.threads - 1) / (4 * team.threads);
    const long panel = std::clamp(kPanelBytes / std::max(1L, row_bytes), 12L, std::max(12L, even));
    long packed = -1;
    for (long first = team.claim() * panel; first < num_columns; first = team.claim() * panel)
        for (long m = 0; m < num_rows; m += kMaxRows) {
            const long rows = std::min(kMaxRows, num_rows - m);
            if (m != packed) pack(m, rows);
            packed = m;
            body(m, rows, first, std::min(num_columns, first + panel));
        }
}

// A whole projection to `num_columns`, whose output is changed by `then` or halved by `gate` where they are not null.
// `product.pack(m, rows)` chooses rows of x; `product.times(bias, out, out_stride, first, last)` writes columns
// [first, last) of them, row i's at out + i * out_stride.
template <class T, class Product>
void project(const Team& team, Product& product, long num_rows, long num_columns, long row_bytes, const T* bias,
             Then<T> then, Gate<T> gate, T* out) {
    const auto pack = [&](long m, long rows) { product.pack(m, rows); };
    if (!gate) {
        for_parts(team, num_rows, num_columns, row_bytes, pack, [&](long m, long rows, long first, long last) {
            T* piece = out + m * num_columns;
            product.times(bias, piece, num_columns, first, last);
            for (long row = 0; then && row < rows; ++row) then(piece + row * num_columns + first, last - first);
        });
        return;
    }
    const long width = num_columns / 2;
    std::vector<T> halves;  // [rows][2 * count]: the gate's columns, then what they gate
    for_parts(team, num_rows, width, 2 * row_bytes, pack, [&](long m, long rows, long first, long last) {
        const long count = last - first;
        halves.resize(rows * 2 * count);
        for (long half = 0; half < 2; ++half) {
            const long at = half * width + first;
            product.times(bias, halves.data() + half * count - at, 2 * count, at, at + count);
        }
        for (long row = 0; row < rows; ++row)
            gate(halves.data() + row * 2 * count, count, out + (m + row) * width + first);
    });
}

}  // namespace autodeploy

// How a projection's output is cut, whatever its weights are stored as.
#pragma once

#include <algorithm>

#include "team.h"

namespace autodeploy {

constexpr long kMaxRows = 8;              // of x, in one pass over the weights
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

}  // namespace autodeploy

// Where the steps of each row lie in the flat list of all.

#pragma once

#include <algorithm>
#include <cstdint>

namespace dien {

// Whether offsets [rows + 1] cut `steps` steps into rows: kernels read as far as they say.
inline bool rise_to_end(const int64_t* offsets, int64_t rows, int64_t steps) {
  return offsets[0] == 0 && offsets[rows] == steps && std::is_sorted(offsets, offsets + rows + 1);
}

}  // namespace dien

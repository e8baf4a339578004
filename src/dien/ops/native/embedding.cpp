// The gradient of a lookup: every row of the table gets the sum of the gradients of where it went; `lookup.py`
// calls this.
//
// Axes: N places looked up, R rows of the table, E columns. Each thread owns a band of the table and walks all
// places, so the sums have one order whatever the number of threads.

#include <algorithm>
#include <cstdint>

#include "product.h"

namespace dien {
namespace {

template <class T>
void lookup_backward(const T* to_places, const int64_t* index, int64_t N, int64_t R, int64_t E, int max_threads,
                     T* to_table) {
  const int64_t bands = threads_for(16.0 * (N + R) * E, max_threads);
#pragma omp parallel for num_threads(bands) if (bands > 1)
  for (int64_t band = 0; band < bands; ++band) {
    const int64_t first = R * band / bands, end = R * (band + 1) / bands;
    std::fill(to_table + first * E, to_table + end * E, T(0));
    for (int64_t i = 0; i < N; ++i) {
      if (index[i] < first || index[i] >= end) continue;
      T* row = to_table + index[i] * E;
      for (int64_t e = 0; e < E; ++e) row[e] += to_places[i * E + e];
    }
  }
}

}  // namespace
}  // namespace dien

#define DIEN_EXPORT(T, NAME)                                                                                 \
  extern "C" int lookup_backward_##NAME(const T* to_places, const int64_t* index, int64_t N, int64_t R,      \
                                        int64_t E, int threads, T* to_table) {                               \
    return dien::status_of([&] { dien::lookup_backward<T>(to_places, index, N, R, E, threads, to_table); }); \
  }

DIEN_EXPORT(float, f32)
DIEN_EXPORT(double, f64)

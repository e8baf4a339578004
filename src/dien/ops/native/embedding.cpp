// Lookups in an embedding table, and their gradient: every row of the table gets the sum of the gradients of where it
// went; `lookup.py` calls this.
//
// Axes: N places looked up, I rows of ids, C ids of such a row, R rows of the table, E columns.

#include <algorithm>
#include <cstdint>

#include "product.h"

namespace dien {
namespace {

// Which rows of the table a place shows: ids[rows[place]], or where there are no ids (C = 1, I = R) rows[place] itself.
struct Index {
  const int64_t *rows, *ids;
  int64_t N, I, C;

  int64_t operator()(int64_t place, int64_t c) const { return ids ? ids[rows[place] * C + c] : rows[place]; }

  bool within(int64_t R) const {
    for (int64_t i = 0; i < N; ++i) {
      if (rows[i] < 0 || rows[i] >= I) return false;
      for (int64_t c = 0; c < C; ++c)
        if (const int64_t id = (*this)(i, c); id < 0 || id >= R) return false;
    }
    return true;
  }
};

template <class T>
void lookup(const T* table, const Index& index, int64_t E, int max_threads, T* places) {
  const int threads = threads_for(16. * index.N * index.C * E, max_threads);
#pragma omp parallel for num_threads(threads) if (threads > 1)
  for (int64_t i = 0; i < index.N; ++i)
    for (int64_t c = 0; c < index.C; ++c) std::copy_n(table + index(i, c) * E, E, places + (i * index.C + c) * E);
}

// Each thread owns a band of the table and walks all places, so the sums have one order whatever the number of threads.
template <class T>
void lookup_backward(const T* to_places, const Index& index, int64_t R, int64_t E, int max_threads, T* to_table) {
  const int64_t bands = threads_for(16. * (index.N * index.C + R) * E, max_threads);
#pragma omp parallel for num_threads(bands) if (bands > 1)
  for (int64_t band = 0; band < bands; ++band) {
    const int64_t first = R * band / bands, end = R * (band + 1) / bands;
    std::fill(to_table + first * E, to_table + end * E, T(0));
    for (int64_t i = 0; i < index.N; ++i)
      for (int64_t c = 0; c < index.C; ++c) {
        const int64_t id = index(i, c);
        if (id < first || id >= end) continue;
        for (int64_t e = 0; e < E; ++e) to_table[id * E + e] += to_places[(i * index.C + c) * E + e];
      }
  }
}

}  // namespace
}  // namespace dien

using namespace dien;

// Both return what `status_of` does, the lookup also 1 where it would leave the table.
#define DIEN_EXPORT(T, NAME)                                                                                        \
  extern "C" int lookup_##NAME(const T* table, const int64_t* rows, const int64_t* ids, int64_t N, int64_t I,       \
                               int64_t C, int64_t R, int64_t E, int threads, T* places) {                           \
    const Index index = {rows, ids, N, I, C};                                                                       \
    if (!index.within(R)) return 1;                                                                                 \
    return status_of([&] { lookup<T>(table, index, E, threads, places); });                                         \
  }                                                                                                                 \
  extern "C" int lookup_backward_##NAME(const T* to_places, const int64_t* rows, const int64_t* ids, int64_t N,     \
                                        int64_t I, int64_t C, int64_t R, int64_t E, int threads, T* to_table) {     \
    return status_of([&] { lookup_backward<T>(to_places, {rows, ids, N, I, C}, R, E, threads, to_table); });        \
  }

DIEN_EXPORT(float, f32)
DIEN_EXPORT(double, f64)

// The two matrix products of the scan, sums in registers: a few rows times weights, and states^T times gates.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <type_traits>
#include <vector>

#include "simd.h"

namespace dien {

constexpr int kRows = 6;                            // rows of a tile
constexpr int kVectors = kRegisters == 32 ? 4 : 2;  // vectors of a tile: rows x vectors sums fit in registers
constexpr double kSerialWork = 1e6;  // multiply-adds below which waking threads costs more than it gains

constexpr int64_t kPiece = 96;  // steps taken at a time, small enough for the L1 and L2 caches

// Threads for so many multiply-adds: 1 or all.
inline int threads_for(double work, int threads) { return work < kSerialWork ? 1 : std::max(1, threads); }

// Parts of a sum over steps, several a thread, so that threads share the work evenly; fewer where steps are few, for
// each part costs a matrix that is cleared and added.
inline int64_t parts_for(int threads, int64_t steps) {
  return threads == 1 ? 1 : std::clamp<int64_t>(steps / kPiece, threads, threads * 4);
}

template <class T>
struct Free {
  void operator()(T* memory) const { std::free(memory); }
};
template <class T>
using Buffer = std::unique_ptr<T[], Free<T>>;

// Where this leaves an OpenMP region, it ends the process with the text; elsewhere `status_of` hands it to Python.
struct OutOfMemory : std::bad_alloc {
  const char* what() const noexcept override { return "the kernels of dien found no memory to work in"; }
};

// What an exported function returns: 0, or 2 where there was no memory (`cpu.py` knows these numbers).
template <class F>
int status_of(const F& run) {
  try {
    run();
  } catch (const std::bad_alloc&) {
    return 2;
  }
  return 0;
}

template <class T>
Buffer<T> unset(int64_t count) {
  T* memory = static_cast<T*>(std::aligned_alloc(64, (count * sizeof(T) + 63) / 64 * 64 + 64));
  if (!memory) throw OutOfMemory();
  return Buffer<T>(memory);
}

template <class T>
Buffer<T> zeros(int64_t count) {
  Buffer<T> memory = unset<T>(count);
  std::fill_n(memory.get(), count + 64 / sizeof(T), T(0));
  return memory;
}

// `columns` rounded up.
template <class T>
int64_t whole_vectors(int64_t columns) {
  return (columns + kLanes<T> - 1) / kLanes<T> * kLanes<T>;
}

template <class T>
Buffer<T> padded(const T* from, int64_t rows, int64_t columns, int64_t width) {
  Buffer<T> to = zeros<T>(rows * width);
  for (int64_t r = 0; r < rows; ++r) std::copy_n(from + r * columns, columns, to.get() + r * width);
  return to;
}

// to [count, columns] = rows of a padded [count, width] buffer.
template <class T>
void unpad(const T* from, int64_t width, int64_t count, int64_t columns, T* to) {
  for (int64_t r = 0; r < count; ++r) std::copy_n(from + r * width, columns, to + r * columns);
}

// A [depth, columns] matrix in panels of a few vectors of columns, each panel contiguous, padded with 0.
template <class T>
struct Panels {
  int64_t depth, width;  // width = columns rounded up to whole vectors
  std::vector<int> vectors;
  Buffer<T> data;

  Panels(const T* matrix, int64_t depth_, int64_t columns, int64_t depth_stride, int64_t column_stride)
      : depth(depth_) {
    width = whole_vectors<T>(columns);
    const int64_t whole = width / kLanes<T>;
    const int64_t panels = (whole + kVectors - 1) / kVectors;
    data = zeros<T>(depth * width);
    T* out = data.get();
    int64_t first = 0;
    for (int64_t panel = 0; panel < panels; ++panel) {
      vectors.push_back(static_cast<int>((whole * (panel + 1)) / panels - (whole * panel) / panels));
      const int64_t panel_width = vectors.back() * kLanes<T>;
      for (int64_t k = 0; k < depth; ++k, out += panel_width)
        for (int64_t c = first; c < std::min(first + panel_width, columns); ++c)
          out[c - first] = matrix[k * depth_stride + c * column_stride];
      first += panel_width;
    }
  }
};

// out[r] = start[r] + rows[r] @ panel for R rows and V vectors of columns, all sums in registers.
template <class T, int R, int V>
inline void tile(const T* const* rows, const T* panel, int64_t depth, const T* start, int64_t start_stride,
                 T* out, int64_t out_stride) {
  Vec<T> sum[R][V];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) sum[r][v] = load(start + r * start_stride + v * kLanes<T>);
  for (int64_t k = 0; k < depth; ++k, panel += V * kLanes<T>) {
    Vec<T> weight[V];
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) weight[v] = load(panel + v * kLanes<T>);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const T x = rows[r][k];
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) sum[r][v] += weight[v] * x;
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) store(out + r * out_stride + v * kLanes<T>, sum[r][v]);
}

// Calls f with `n`, 1 <= n <= Max, as a compile-time constant.
template <int Max, class F>
inline void with_constant(int64_t n, const F& f) {
  if (n >= Max) {
    f(std::integral_constant<int, Max>());
  } else if constexpr (Max > 1) {
    with_constant<Max - 1>(n, f);
  }
}

// out [count, width] = start + rows @ panels for up to kRows rows; start_stride 0 repeats one row.
template <class T>
void product(int count, const T* const* rows, const Panels<T>& panels, const T* start, int64_t start_stride,
             T* out) {
  with_constant<kRows>(count, [&](auto r) {
    constexpr int R = decltype(r)::value;
    const T* panel = panels.data.get();
    int64_t column = 0;
    for (int vectors : panels.vectors) {
      with_constant<kVectors>(vectors, [&](auto v) {
        constexpr int V = decltype(v)::value;
        tile<T, R, V>(rows, panel, panels.depth, start + column, start_stride, out + column, panels.width);
      });
      panel += panels.depth * vectors * kLanes<T>;
      column += vectors * kLanes<T>;
    }
  });
}

// Calls f(step, count, rows) for tiles of the steps begin..end; `rows` are those of x [.., stride].
template <class T, class F>
void over_tiles(const T* x, int64_t stride, int64_t begin, int64_t end, const F& f) {
  const T* rows[kRows];
  for (int64_t i = begin; i < end; i += kRows) {
    const int count = static_cast<int>(std::min<int64_t>(kRows, end - i));
    for (int r = 0; r < count; ++r) rows[r] = x + (i + r) * stride;
    f(i, count, rows);
  }
}

// Two rows share the division of their sigmoids; the last of an odd number is its own partner.
template <class T>
inline T* partner(T* row, int r, int count, int64_t width) {
  return r + 1 < count ? row + width : row;
}

// x = sigmoid(x) for `count` rows of `width`, whole vectors. Two vectors of a row share a division, never two rows: a
// row's values do not depend on its neighbours, to the last bit.
template <class T>
inline void sigmoids_of(T* rows, int count, int64_t width) {
  for (T *x = rows, *end = rows + count * width; x < end; x += width) {
    for (int64_t j = 0; j < width; j += 2 * kLanes<T>) {
      T* y = x + std::min(j + kLanes<T>, width - kLanes<T>);  // the last of an odd number is its own partner
      Vec<T> sigmoid_x, sigmoid_y;
      sigmoids(load(x + j), load(y), sigmoid_x, sigmoid_y);
      store(y, sigmoid_y);
      store(x + j, sigmoid_x);
    }
  }
}

// Consecutive steps of one row: gates [steps, stride] and the states before them [steps, before_stride].
template <class T>
struct Run {
  const T *gates, *before;
  int64_t steps, before_stride;
};

// out[m] += sum over the steps of all runs of before[step][m] * gates[step], for M rows and V vectors of out.
template <class T, int M, int V>
inline void outer_tile(const std::vector<Run<T>>& runs, int64_t m, int64_t column, int64_t stride, T* out) {
  Vec<T> sum[M][V];
#pragma GCC unroll 8
  for (int r = 0; r < M; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) sum[r][v] = load(out + r * stride + v * kLanes<T>);
  for (const Run<T>& run : runs) {
    const T *gates = run.gates + column, *before = run.before + m;
    for (int64_t step = 0; step < run.steps; ++step, gates += stride, before += run.before_stride) {
      Vec<T> gate[V];
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) gate[v] = load(gates + v * kLanes<T>);
#pragma GCC unroll 8
      for (int r = 0; r < M; ++r)
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) sum[r][v] += gate[v] * before[r];
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < M; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) store(out + r * stride + v * kLanes<T>, sum[r][v]);
}

// out [rows, stride] += before^T @ gates over the steps of all runs.
template <class T>
void outer(const std::vector<Run<T>>& runs, int64_t rows, int64_t stride, T* out) {
  const int64_t whole = stride / kLanes<T>, tiles = (whole + kVectors - 1) / kVectors;
  for (int64_t row = 0; row < rows; row += kRows, out += kRows * stride) {
    with_constant<kRows>(rows - row, [&](auto m) {
      constexpr int M = decltype(m)::value;
      for (int64_t tile = 0; tile < tiles; ++tile) {
        const int64_t first = whole * tile / tiles, column = first * kLanes<T>;
        with_constant<kVectors>(whole * (tile + 1) / tiles - first, [&](auto v) {
          constexpr int V = decltype(v)::value;
          outer_tile<T, M, V>(runs, row, column, stride, out + column);
        });
      }
    });
  }
}

// to(row, column) = sum over the parts of sums [parts, rows, width], whose first part is overwritten. For all threads of
// a team; `to` is the transposed matrix, so a row is added as a whole and then scattered.
template <class T, class F>
void add_parts(T* sums, int64_t parts, int64_t rows, int64_t width, int64_t columns, const F& to) {
#pragma omp for schedule(static)
  for (int64_t row = 0; row < rows; ++row) {
    T* sum = sums + row * width;
    for (int64_t part = 1; part < parts; ++part) {
      const T* more = sums + (part * rows + row) * width;
      for (int64_t j = 0; j < width; ++j) sum[j] += more[j];
    }
    for (int64_t column = 0; column < columns; ++column) to(row, column) = sum[column];
  }
}

}  // namespace dien

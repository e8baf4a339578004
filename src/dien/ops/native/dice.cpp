// Dice and its gradients; `dice.py` calls this.
//
//     y = x (p + slope (1 - p)),    p = sigmoid(n),    n = (x - mean) scale,    scale = 1 / sqrt(variance + eps)
//
// Axes: B rows, D columns. Plain loops over the columns of a row, which the compiler makes vectors of; a batch is small
// enough to stay in cache from one walk over its rows to the next.

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "product.h"

namespace dien {
namespace {

constexpr int64_t kBlock = 32;  // rows summed at a time: rounding grows with the number of blocks, not of rows

// total [columns] = sum over the rows of what `add(row, sum)` adds.
template <class T, class F>
void sum_rows(int64_t rows, int64_t columns, T* total, const F& add) {
  const Buffer<T> block = unset<T>(columns);
  std::fill_n(total, columns, T(0));
  for (int64_t from = 0; from < rows; from += kBlock) {
    std::fill_n(block.get(), columns, T(0));
    for (int64_t row = from; row < std::min(from + kBlock, rows); ++row) add(row, block.get());
    for (int64_t j = 0; j < columns; ++j) total[j] += block[j];
  }
}

// Mean and scale of the batch, and the running mean and variance of batches, which move by `momentum`.
template <class T>
void statistics(const T* x, int64_t B, int64_t D, T momentum, T eps, T* mean, T* scale, T* running_mean,
                T* running_variance) {
  sum_rows(B, D, mean, [&](int64_t b, T* sum) {
    for (int64_t d = 0; d < D; ++d) sum[d] += x[b * D + d];
  });
  for (int64_t d = 0; d < D; ++d) mean[d] /= T(B);
  sum_rows(B, D, scale, [&](int64_t b, T* sum) {
    for (int64_t d = 0; d < D; ++d) sum[d] += (x[b * D + d] - mean[d]) * (x[b * D + d] - mean[d]);
  });
  for (int64_t d = 0; d < D; ++d) {
    running_mean[d] += momentum * (mean[d] - running_mean[d]);
    running_variance[d] += momentum * (scale[d] / T(B - 1) - running_variance[d]);
    scale[d] = T(1) / std::sqrt(scale[d] / T(B) + eps);
  }
}

// gate [B, D] takes p for the backward; null: it is not kept. mean and scale [D] take those that were used: of the rows
// if `batch`, which move the running ones, or else the running ones.
template <class T>
void dice(const T* x, const T* slope, T momentum, T eps, int64_t B, int64_t D, bool batch, int max_threads, T* y,
          T* gate, T* mean, T* scale, T* running_mean, T* running_variance) {
  if (batch) {
    statistics(x, B, D, momentum, eps, mean, scale, running_mean, running_variance);
  } else {
    std::copy_n(running_mean, D, mean);
    for (int64_t d = 0; d < D; ++d) scale[d] = T(1) / std::sqrt(running_variance[d] + eps);
  }
  const int64_t width = whole_vectors<T>(D);
  const int threads = threads_for(16. * B * D, max_threads);
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    const Buffer<T> p = zeros<T>(width);
#pragma omp for schedule(static)
    for (int64_t b = 0; b < B; ++b) {
      const T* row = x + b * D;
      for (int64_t d = 0; d < D; ++d) p[d] = (row[d] - mean[d]) * scale[d];
      sigmoids_of(p.get(), 1, width);
      for (int64_t d = 0; d < D; ++d) y[b * D + d] = row[d] * (p[d] + slope[d] * (T(1) - p[d]));
      if (gate) std::copy_n(p.get(), D, gate + b * D);
    }
  }
}

// `batch`: mean and scale are those of the rows, which pass gradients on to x.
template <class T>
void dice_backward(const T* to_y, const T* x, const T* gate, const T* slope, const T* mean, const T* scale, int64_t B,
                   int64_t D, bool batch, T* to_x, T* to_slope) {
  const Buffer<T> sums = unset<T>(2 * D);  // of the gradient of n, and of that times n
  const auto to_normal = [&](int64_t i, int64_t d) {
    return to_y[i] * x[i] * (T(1) - slope[d]) * gate[i] * (T(1) - gate[i]);
  };
  sum_rows(B, D, to_slope, [&](int64_t b, T* sum) {
    for (int64_t d = 0, i = b * D; d < D; ++d, ++i) sum[d] += to_y[i] * x[i] * (T(1) - gate[i]);
  });
  sum_rows(B, 2 * D, sums.get(), [&](int64_t b, T* sum) {
    for (int64_t d = 0, i = b * D; d < D; ++d, ++i) {
      const T gradient = to_normal(i, d);
      sum[d] += gradient;
      sum[D + d] += gradient * (x[i] - mean[d]) * scale[d];
    }
  });
  const T share = batch ? T(1) / T(B) : T(0);
  for (int64_t b = 0; b < B; ++b) {
    for (int64_t d = 0, i = b * D; d < D; ++d, ++i) {
      const T normal = (x[i] - mean[d]) * scale[d];
      const T passed = to_normal(i, d) - share * (sums[d] + normal * sums[D + d]);
      to_x[i] = to_y[i] * (gate[i] + slope[d] * (T(1) - gate[i])) + scale[d] * passed;
    }
  }
}

}  // namespace
}  // namespace dien

// `numbers`: momentum and eps.
#define DIEN_EXPORT(T, NAME)                                                                                          \
  extern "C" int dice_##NAME(const T* x, const T* slope, const double* numbers, int64_t B, int64_t D, int64_t batch,  \
                             int threads, T* y, T* gate, T* mean, T* scale, T* running_mean, T* running_variance) {   \
    return dien::status_of([&] {                                                                                      \
      dien::dice<T>(x, slope, T(numbers[0]), T(numbers[1]), B, D, batch != 0, threads, y, gate, mean, scale,          \
                    running_mean, running_variance);                                                                  \
    });                                                                                                               \
  }                                                                                                                   \
  extern "C" int dice_backward_##NAME(const T* to_y, const T* x, const T* gate, const T* slope, const T* mean,        \
                                      const T* scale, int64_t B, int64_t D, int64_t batch, int, T* to_x,              \
                                      T* to_slope) {                                                                  \
    return dien::status_of([&] {                                                                                      \
      dien::dice_backward<T>(to_y, x, gate, slope, mean, scale, B, D, batch != 0, to_x, to_slope);                    \
    });                                                                                                               \
  }

DIEN_EXPORT(float, f32)
DIEN_EXPORT(double, f64)

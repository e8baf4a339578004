// A linear layer over a long list of steps: y = x W^T + b and its gradients; `dense.py` calls this.
//
// Axes: N steps, K inputs, M outputs. N is in the thousands, K and M in the tens, so the weights stay in
// cache and the work is one walk over the list: six rows at a time are multiplied in registers. The backward
// reads each piece of the output's gradient once, for the gradients of input, weight and bias together.

#include <algorithm>
#include <cstdint>
#include <vector>

#include "product.h"

namespace dien {
namespace {

template <class T>
void linear(const T* x, const T* weight, const T* bias, int64_t N, int64_t K, int64_t M, int threads, T* y) {
  const Panels<T> panels(weight, K, M, 1, K);
  const Buffer<T> start = zeros<T>(panels.width);
  if (bias) std::copy_n(bias, M, start.get());
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    const Buffer<T> out = zeros<T>(kRows * panels.width);
#pragma omp for schedule(static)
    for (int64_t tile = 0; tile < N; tile += kRows)
      over_tiles(x, K, tile, std::min<int64_t>(tile + kRows, N), [&](int64_t i, int count, const T* const* rows) {
        prefetch<true>(y + (i + kRows) * M, kRows * M);
        product(count, rows, panels, start.get(), 0, out.get());
        unpad(out.get(), panels.width, count, M, y + i * M);
      });
  }
}

template <class T>
void linear_backward(const T* to_y, const T* x, const T* weight, int64_t N, int64_t K, int64_t M, int threads,
                     T* to_x, T* to_weight, T* to_bias) {
  const Panels<T> panels(weight, M, K, K, 1);
  const int64_t width = whole_vectors<T>(M);
  const int64_t parts = parts_for(threads, N);
  const Buffer<T> sums =
      unset<T>(parts * (K + 1) * width);  // [parts, K + 1, width], the bias in the last row
  const Buffer<T> start = zeros<T>(panels.width);
  const T one = 1;
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    const Buffer<T> gradient = zeros<T>(kPiece * width), out = zeros<T>(kRows * panels.width);
    std::vector<Run<T>> inputs(1), ones(1);
#pragma omp for schedule(dynamic, 1)
    for (int64_t part = 0; part < parts; ++part) {
      T* sum = sums.get() + part * (K + 1) * width;
      std::fill_n(sum, (K + 1) * width, T(0));
      const int64_t end = N * (part + 1) / parts;
      for (int64_t first = N * part / parts; first < end; first += kPiece) {
        const int64_t steps = std::min(kPiece, end - first);
        for (int64_t i = 0; i < steps; ++i)
          std::copy_n(to_y + (first + i) * M, M, gradient.get() + i * width);
        over_tiles(gradient.get(), width, 0, to_x ? steps : 0, [&](int64_t i, int count, const T* const* rows) {
          prefetch<true>(to_x + (first + i + kRows) * K, kRows * K);
          product(count, rows, panels, start.get(), 0, out.get());
          unpad(out.get(), panels.width, count, K, to_x + (first + i) * K);
        });
        inputs[0] = {gradient.get(), x + first * K, steps, K};
        ones[0] = {gradient.get(), &one, steps, 0};
        outer(inputs, K, width, sum);
        outer(ones, 1, width, sum + K * width);
      }
    }
    add_parts(sums.get(), parts, K + 1, width, M,
              [&](int64_t k, int64_t m) -> T& { return k < K ? to_weight[m * K + k] : to_bias[m]; });
  }
}

}  // namespace
}  // namespace dien

#define DIEN_EXPORT(T, NAME)                                                                                \
  extern "C" int linear_##NAME(const T* x, const T* weight, const T* bias, int64_t N, int64_t K, int64_t M, \
                               int threads, T* y) {                                                         \
    return dien::status_of([&] { dien::linear<T>(x, weight, bias, N, K, M, threads, y); });                 \
  }                                                                                                         \
  extern "C" int linear_backward_##NAME(const T* to_y, const T* x, const T* weight, int64_t N, int64_t K,   \
                                        int64_t M, int threads, T* to_x, T* to_weight, T* to_bias) {        \
    return dien::status_of([&] {                                                                            \
      dien::linear_backward<T>(to_y, x, weight, N, K, M, threads, to_x, to_weight, to_bias);                \
    });                                                                                                     \
  }

DIEN_EXPORT(float, f32)
DIEN_EXPORT(double, f64)

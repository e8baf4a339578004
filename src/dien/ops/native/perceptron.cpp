// Two layers of sigmoids and a linear output over a long list of steps, and its gradients; `perceptron.py` calls this.
//
//     y = w . sigmoid(V sigmoid(x) + b) + c
//
// Axes: N steps, A and M units of the two layers. A tile of six steps goes through all layers while it is in the first
// cache; torch would send each layer's values of all steps to memory and back, forward and backward.

#include <algorithm>
#include <cstdint>
#include <vector>

#include "product.h"

namespace dien {

template <class T>
int64_t whole_vectors(int64_t columns) {
  return (columns + kLanes<T> - 1) / kLanes<T> * kLanes<T>;
}

// first [N, A] and second [N, M] take the layers' values for the backward; null: they are not kept.
template <class T>
void perceptron(const T* x, const T* weight, const T* bias, const T* output, const T* output_bias, int64_t N,
                int64_t A, int64_t M, int max_threads, T* first, T* second, T* y) {
  const int threads = threads_for(double(N) * A * M, max_threads);
  const Panels<T> panels(weight, A, M, 1, A);
  const int64_t width = panels.width, units = whole_vectors<T>(A);
  const Buffer<T> start = padded(bias, 1, M, width), last = padded(output, 1, M, width);  // padded units count 0
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    const Buffer<T> in = zeros<T>(kRows * units), out = zeros<T>(kRows * width);
    const T* rows[kRows];
    for (int r = 0; r < kRows; ++r) rows[r] = in.get() + r * units;
#pragma omp for schedule(static)
    for (int64_t i = 0; i < N; i += kRows) {
      const int count = static_cast<int>(std::min<int64_t>(kRows, N - i));
      for (int r = 0; r < count; ++r) std::copy_n(x + (i + r) * A, A, in.get() + r * units);
      sigmoids_of(in.get(), count, units);
      if (first) unpad(in.get(), units, count, A, first + i * A);
      product(count, rows, panels, start.get(), 0, out.get());
      sigmoids_of(out.get(), count, width);
      if (second) unpad(out.get(), width, count, M, second + i * M);
      for (int r = 0; r < count; ++r) {
        Vec<T> sum = {};
        for (int64_t j = 0; j < width; j += kLanes<T>) sum += load(out.get() + r * width + j) * load(last.get() + j);
        y[i + r] = sum_of<T>(sum) + *output_bias;
      }
    }
  }
}

// The gradient of the output's bias is the sum of to_y, which the caller takes.
template <class T>
void perceptron_backward(const T* to_y, const T* first, const T* second, const T* weight, const T* output,
                         int64_t N, int64_t A, int64_t M, int max_threads, T* to_x, T* to_weight, T* to_bias,
                         T* to_output) {
  const int threads = threads_for(2. * N * A * M, max_threads);
  const Panels<T> panels(weight, M, A, A, 1);
  const int64_t width = whole_vectors<T>(M), sum_rows = A + 2;
  const int64_t parts = parts_for(threads, N);
  // [parts, A + 2, width]: of the weight, transposed, then of bias and output.
  const Buffer<T> sums = unset<T>(parts * sum_rows * width);
  const Buffer<T> start = zeros<T>(panels.width), last = padded(output, 1, M, width);
  const T one = 1;
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    const Buffer<T> gradient = zeros<T>(kPiece * width), hidden = zeros<T>(kPiece * width);
    const Buffer<T> out = zeros<T>(kRows * panels.width);
    std::vector<Run<T>> run(1);
#pragma omp for schedule(dynamic, 1)
    for (int64_t part = 0; part < parts; ++part) {
      T* sum = sums.get() + part * sum_rows * width;
      std::fill_n(sum, sum_rows * width, T(0));
      const int64_t end = N * (part + 1) / parts;
      for (int64_t from = N * part / parts; from < end; from += kPiece) {
        const int64_t steps = std::min(kPiece, end - from);
        for (int64_t i = 0; i < steps; ++i) {
          T *h = hidden.get() + i * width, *g = gradient.get() + i * width;
          std::copy_n(second + (from + i) * M, M, h);
          for (int64_t j = 0; j < width; j += kLanes<T>) {
            const Vec<T> value = load(h + j);
            store(g + j, load(last.get() + j) * to_y[from + i] * (value * (T(1) - value)));
          }
        }
        for (int64_t i = 0; i < steps; i += kRows) {
          const int count = static_cast<int>(std::min<int64_t>(kRows, steps - i));
          const T* rows[kRows];
          for (int r = 0; r < count; ++r) rows[r] = gradient.get() + (i + r) * width;
          product(count, rows, panels, start.get(), 0, out.get());
          for (int r = 0; r < count; ++r) {
            const T *value = first + (from + i + r) * A, *g = out.get() + r * panels.width;
            T* to = to_x + (from + i + r) * A;
            for (int64_t a = 0; a < A; ++a) to[a] = g[a] * value[a] * (T(1) - value[a]);
          }
        }
        run[0] = {gradient.get(), first + from * A, steps, A};
        outer(run, A, width, sum);
        run[0] = {gradient.get(), &one, steps, 0};
        outer(run, 1, width, sum + A * width);
        run[0] = {hidden.get(), to_y + from, steps, 1};
        outer(run, 1, width, sum + (A + 1) * width);
      }
    }
    add_parts(sums.get(), parts, sum_rows, width, M, [&](int64_t row, int64_t m) -> T& {
      return row < A ? to_weight[m * A + row] : row == A ? to_bias[m] : to_output[m];
    });
  }
}

}  // namespace dien

#define DIEN_EXPORT(T, NAME)                                                                                        \
  extern "C" int perceptron_##NAME(const T* x, const T* weight, const T* bias, const T* output,                     \
                                   const T* output_bias, int64_t N, int64_t A, int64_t M, int threads,              \
                                   T* first, T* second, T* y) {                                                     \
    return dien::status_of([&] {                                                                                    \
      dien::perceptron<T>(x, weight, bias, output, output_bias, N, A, M, threads, first, second, y);                \
    });                                                                                                             \
  }                                                                                                                 \
  extern "C" int perceptron_backward_##NAME(const T* to_y, const T* first, const T* second, const T* weight,        \
                                            const T* output, int64_t N, int64_t A, int64_t M, int threads,          \
                                            T* to_x, T* to_weight, T* to_bias, T* to_output) {                      \
    return dien::status_of([&] {                                                                                    \
      dien::perceptron_backward<T>(to_y, first, second, weight, output, N, A, M, threads, to_x, to_weight, to_bias, \
                                   to_output);                                                                      \
    });                                                                                                             \
  }

DIEN_EXPORT(float, f32)
DIEN_EXPORT(double, f64)

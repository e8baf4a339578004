// A perceptron with two hidden layers of sigmoids over a long list of steps, and its gradients; `perceptron.py` calls
// this.
//
//     y = w . sigmoid(V sigmoid(U x + s[row]) + b) + c
//
// Axes: N steps, K inputs, S rows of what steps share, A and M units of the two layers. A tile of six steps goes through
// all layers while it is in the first cache; torch would send each layer's values of all steps to memory and back,
// forward and backward, and those of the first layer three times.

#include <algorithm>
#include <cstdint>
#include <vector>

#include "product.h"

namespace dien {
namespace {

template <class T>
struct Layers {
  const T* first;   // [A, K]
  const T* second;  // [M, A]
  const T* output;  // [M]
  int64_t K, A, M;
};

// Whether every step has a row, and the steps of a row lie side by side.
bool valid(const int64_t* row, int64_t N, int64_t S) {
  return !N || (row[0] >= 0 && row[N - 1] < S && std::is_sorted(row, row + N));
}

// first [N, A] and second [N, M] take the layers' values for the backward; null: they are not kept.
template <class T>
void perceptron(const T* x, const T* shared, const int64_t* row, const Layers<T>& layers, const T* bias,
                const T* output_bias, int64_t N, int max_threads, T* first, T* second, T* y) {
  const int64_t K = layers.K, A = layers.A, M = layers.M;
  const int threads = threads_for(double(N) * A * (K + M), max_threads);
  const Panels<T> first_panels(layers.first, K, A, 1, K), second_panels(layers.second, A, M, 1, A);
  const int64_t units = first_panels.width, width = second_panels.width;
  const Buffer<T> start = padded(bias, 1, M, width), last = padded(layers.output, 1, M, width);  // padding counts 0
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    const Buffer<T> own = zeros<T>(kRows * units), in = zeros<T>(kRows * units), out = zeros<T>(kRows * width);
    const T *steps[kRows], *rows[kRows];
    for (int r = 0; r < kRows; ++r) rows[r] = in.get() + r * units;
#pragma omp for schedule(static)
    for (int64_t i = 0; i < N; i += kRows) {
      const int count = static_cast<int>(std::min<int64_t>(kRows, N - i));
      for (int r = 0; r < count; ++r) {
        steps[r] = x + (i + r) * K;
        std::copy_n(shared + row[i + r] * A, A, own.get() + r * units);
      }
      product(count, steps, first_panels, own.get(), units, in.get());
      sigmoids_of(in.get(), count, units);
      if (first) unpad(in.get(), units, count, A, first + i * A);
      product(count, rows, second_panels, start.get(), 0, out.get());
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

template <class T>
struct Gradients {
  T* x;            // [N, K]
  T* shared;       // [S, A]
  T* first;        // [A, K]
  T* second;       // [M, A]
  T* second_bias;  // [M]
  T* output;       // [M]
};

// The gradient of the output's bias is the sum of to_y, which the caller takes.
template <class T>
void perceptron_backward(const T* to_y, const T* x, const int64_t* row, const T* first, const T* second,
                         const Layers<T>& layers, int64_t N, int64_t S, int max_threads, const Gradients<T>& to) {
  const int64_t K = layers.K, A = layers.A, M = layers.M;
  const int threads = threads_for(2. * N * A * (K + M), max_threads);
  const Panels<T> first_panels(layers.first, A, K, K, 1), second_panels(layers.second, M, A, A, 1);
  const int64_t units = second_panels.width, width = whole_vectors<T>(M), second_rows = A + 2;
  const int64_t parts = parts_for(threads, N);
  // [parts, A + 2, width]: of the second layer's weight, transposed, then of its bias and of the output; [parts, K,
  // units]: of the first layer's weight, transposed.
  const Buffer<T> second_sums = unset<T>(parts * second_rows * width), first_sums = unset<T>(parts * K * units);
  const Buffer<T> nothing = zeros<T>(std::max(units, first_panels.width)), last = padded(layers.output, 1, M, width);
  const T one = 1;
  const auto start_of = [&](int64_t part) {  // a part has all steps of its rows
    int64_t step = N * part / parts;
    while (step > 0 && step < N && row[step] == row[step - 1]) ++step;
    return step;
  };
  const auto row_of = [&](int64_t part) {  // rows without steps go to the part before them
    const int64_t step = start_of(part);
    return part == 0 ? 0 : step == N ? S : row[step];
  };
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    const Buffer<T> to_second = zeros<T>(kPiece * width), hidden = zeros<T>(kPiece * width);
    const Buffer<T> to_first = zeros<T>(kPiece * units), to_x = zeros<T>(kRows * first_panels.width);
    const T* rows[kRows];
    std::vector<Run<T>> run(1);
#pragma omp for schedule(dynamic, 1)
    for (int64_t part = 0; part < parts; ++part) {
      T *second_sum = second_sums.get() + part * second_rows * width, *first_sum = first_sums.get() + part * K * units;
      std::fill_n(second_sum, second_rows * width, T(0));
      std::fill_n(first_sum, K * units, T(0));
      const int64_t begin = start_of(part), end = start_of(part + 1);
      std::fill(to.shared + row_of(part) * A, to.shared + row_of(part + 1) * A, T(0));
      for (int64_t from = begin; from < end; from += kPiece) {
        const int64_t steps = std::min(kPiece, end - from);
        for (int64_t i = 0; i < steps; ++i) {
          T *h = hidden.get() + i * width, *g = to_second.get() + i * width;
          std::copy_n(second + (from + i) * M, M, h);
          for (int64_t j = 0; j < width; j += kLanes<T>) {
            const Vec<T> value = load(h + j);
            store(g + j, load(last.get() + j) * to_y[from + i] * (value * (T(1) - value)));
          }
        }
        for (int64_t i = 0; i < steps; i += kRows) {
          const int count = static_cast<int>(std::min<int64_t>(kRows, steps - i));
          T* tile = to_first.get() + i * units;
          for (int r = 0; r < count; ++r) rows[r] = to_second.get() + (i + r) * width;
          prefetch<true>(to.x + (from + i + kRows) * K, kRows * K);
          product(count, rows, second_panels, nothing.get(), 0, tile);
          for (int r = 0; r < count; ++r) {
            const T* value = first + (from + i + r) * A;
            T *g = tile + r * units, *sum = to.shared + row[from + i + r] * A;
            for (int64_t a = 0; a < A; ++a) sum[a] += g[a] *= value[a] * (T(1) - value[a]);
            rows[r] = g;
          }
          product(count, rows, first_panels, nothing.get(), 0, to_x.get());
          unpad(to_x.get(), first_panels.width, count, K, to.x + (from + i) * K);
        }
        run[0] = {to_second.get(), first + from * A, steps, A};
        outer(run, A, width, second_sum);
        run[0] = {to_second.get(), &one, steps, 0};
        outer(run, 1, width, second_sum + A * width);
        run[0] = {hidden.get(), to_y + from, steps, 1};
        outer(run, 1, width, second_sum + (A + 1) * width);
        run[0] = {to_first.get(), x + from * K, steps, K};
        outer(run, K, units, first_sum);
      }
    }
    add_parts(second_sums.get(), parts, second_rows, width, M, [&](int64_t k, int64_t m) -> T& {
      return k < A ? to.second[m * A + k] : k == A ? to.second_bias[m] : to.output[m];
    });
    add_parts(first_sums.get(), parts, K, units, A, [&](int64_t k, int64_t a) -> T& { return to.first[a * K + k]; });
  }
}

}  // namespace
}  // namespace dien

using namespace dien;

// Both return what `status_of` does, or 1 where the rows do not rise within 0 and S - 1.
#define DIEN_EXPORT(T, NAME)                                                                                          \
  extern "C" int perceptron_##NAME(const T* x, const T* first_weight, const T* shared, const int64_t* row,            \
                                   const T* second_weight, const T* second_bias, const T* output,                     \
                                   const T* output_bias, int64_t N, int64_t K, int64_t S, int64_t A, int64_t M,       \
                                   int threads, T* first, T* second, T* y) {                                          \
    if (!valid(row, N, S)) return 1;                                                                                  \
    return status_of([&] {                                                                                            \
      perceptron<T>(x, shared, row, {first_weight, second_weight, output, K, A, M}, second_bias, output_bias, N,      \
                    threads, first, second, y);                                                                       \
    });                                                                                                               \
  }                                                                                                                   \
  extern "C" int perceptron_backward_##NAME(                                                                          \
      const T* to_y, const T* x, const int64_t* row, const T* first, const T* second, const T* first_weight,          \
      const T* second_weight, const T* output, int64_t N, int64_t K, int64_t S, int64_t A, int64_t M, int threads,    \
      T* to_x, T* to_first, T* to_shared, T* to_second, T* to_bias, T* to_output) {                                   \
    if (!valid(row, N, S)) return 1;                                                                                  \
    return status_of([&] {                                                                                            \
      perceptron_backward<T>(to_y, x, row, first, second, {first_weight, second_weight, output, K, A, M}, N, S,       \
                             threads, {to_x, to_shared, to_first, to_second, to_bias, to_output});                    \
    });                                                                                                               \
  }

DIEN_EXPORT(float, f32)
DIEN_EXPORT(double, f64)

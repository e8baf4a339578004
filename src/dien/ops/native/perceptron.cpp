// A perceptron with two hidden layers of sigmoids over a long list of steps, and its gradients; `perceptron.py` calls
// this.
//
//     y = w . sigmoid(V sigmoid(U [s[row], x] + a) + b) + c
//
// Axes: N steps, K inputs of a step, S rows, L inputs of a row, A and M units of the two layers. A row's part of the
// first layer is computed once. A tile of six steps then goes through all layers while it is in the first cache; torch
// would send each layer's values of all steps to memory and back, forward and backward, and those of the first three
// times.

#include <algorithm>
#include <cstdint>
#include <vector>

#include "product.h"

namespace dien {
namespace {

template <class T>
struct Layers {
  const T* first;   // [A, L + K]
  const T* second;  // [M, A]
  const T* output;  // [M]
  int64_t L, K, A, M;

  int threads(int64_t N, int64_t S, double products, int most) const {
    return threads_for(products * A * (double(N) * (K + M) + double(S) * L), most);
  }
};

// Whether every step has a row, and the steps of a row lie side by side.
bool valid(const int64_t* row, int64_t N, int64_t S) {
  return !N || (row[0] >= 0 && row[N - 1] < S && std::is_sorted(row, row + N));
}

// first [N, A] and second [N, M] take the layers' values for the backward; null: they are not kept.
template <class T>
void perceptron(const T* x, const T* shared, const int64_t* row, const Layers<T>& layers, const T* first_bias,
                const T* second_bias, const T* output_bias, int64_t N, int64_t S, int max_threads, T* first, T* second,
                T* y) {
  const int64_t L = layers.L, K = layers.K, A = layers.A, M = layers.M;
  const int threads = layers.threads(N, S, 1, max_threads);
  const Panels<T> shared_panels(layers.first, L, A, 1, L + K), own_panels(layers.first + L, K, A, 1, L + K);
  const Panels<T> second_panels(layers.second, A, M, 1, A);
  const int64_t units = own_panels.width, width = second_panels.width;
  const Buffer<T> start = padded(first_bias, 1, A, units), next = padded(second_bias, 1, M, width);
  const Buffer<T> last = padded(layers.output, 1, M, width);  // padded units count 0
  const Buffer<T> row_parts = unset<T>(S * units);
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    const Buffer<T> own = zeros<T>(kRows * units), in = zeros<T>(kRows * units), out = zeros<T>(kRows * width);
    const T* rows[kRows];
    for (int r = 0; r < kRows; ++r) rows[r] = in.get() + r * units;
#pragma omp for schedule(static)
    for (int64_t tile = 0; tile < S; tile += kRows)
      over_tiles(shared, L, tile, std::min<int64_t>(tile + kRows, S), [&](int64_t s, int count, const T* const* from) {
        product(count, from, shared_panels, start.get(), 0, row_parts.get() + s * units);
      });
#pragma omp for schedule(static)
    for (int64_t tile = 0; tile < N; tile += kRows)
      over_tiles(x, K, tile, std::min<int64_t>(tile + kRows, N), [&](int64_t i, int count, const T* const* from) {
        for (int r = 0; r < count; ++r) std::copy_n(row_parts.get() + row[i + r] * units, units, own.get() + r * units);
        product(count, from, own_panels, own.get(), units, in.get());
        sigmoids_of(in.get(), count, units);
        if (first) unpad(in.get(), units, count, A, first + i * A);
        product(count, rows, second_panels, next.get(), 0, out.get());
        sigmoids_of(out.get(), count, width);
        if (second) unpad(out.get(), width, count, M, second + i * M);
        for (int r = 0; r < count; ++r) {
          Vec<T> sum = {};
          for (int64_t j = 0; j < width; j += kLanes<T>) sum += load(out.get() + r * width + j) * load(last.get() + j);
          y[i + r] = sum_of<T>(sum) + *output_bias;
        }
      });
  }
}

template <class T>
struct Gradients {
  T* x;            // [N, K]
  T* shared;       // [S, L]
  T* first;        // [A, L + K]
  T* first_bias;   // [A]
  T* second;       // [M, A]
  T* second_bias;  // [M]
  T* output;       // [M]
};

// The gradient of the output's bias is the sum of to_y, which the caller takes.
template <class T>
void perceptron_backward(const T* to_y, const T* x, const T* shared, const int64_t* row, const T* first,
                         const T* second, const Layers<T>& layers, int64_t N, int64_t S, int max_threads,
                         const Gradients<T>& to) {
  const int64_t L = layers.L, K = layers.K, A = layers.A, M = layers.M;
  const int threads = layers.threads(N, S, 2, max_threads);
  const Panels<T> shared_panels(layers.first, A, L, L + K, 1), own_panels(layers.first + L, A, K, L + K, 1);
  const Panels<T> second_panels(layers.second, M, A, A, 1);
  const int64_t units = second_panels.width, width = whole_vectors<T>(M);
  const int64_t parts = parts_for(threads, N), first_rows = L + K + 1, second_rows = A + 2;
  // Of each part: the gradients of the first layer, transposed, its bias in the last row; those of the second, then of
  // its bias and of the output.
  const Buffer<T> first_sums = unset<T>(parts * first_rows * units);
  const Buffer<T> second_sums = unset<T>(parts * second_rows * width);
  const Buffer<T> to_rows = unset<T>(S * units);
  const int64_t widest = std::max({units, own_panels.width, shared_panels.width});
  const Buffer<T> nothing = zeros<T>(widest), last = padded(layers.output, 1, M, width);
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
    const Buffer<T> to_first = zeros<T>(kPiece * units), to_second = zeros<T>(kPiece * width);
    const Buffer<T> hidden = zeros<T>(kPiece * width), out = zeros<T>(kRows * widest);
    std::vector<Run<T>> run(1);
    const auto add_outer = [&](const Run<T>& steps, int64_t rows, int64_t stride, T* sum) {
      run[0] = steps;
      outer(run, rows, stride, sum);
    };
#pragma omp for schedule(dynamic, 1)
    for (int64_t part = 0; part < parts; ++part) {
      T* first_sum = first_sums.get() + part * first_rows * units;
      T* second_sum = second_sums.get() + part * second_rows * width;
      std::fill_n(first_sum, first_rows * units, T(0));
      std::fill_n(second_sum, second_rows * width, T(0));
      const int64_t begin = start_of(part), end = start_of(part + 1), row_end = row_of(part + 1);
      std::fill(to_rows.get() + row_of(part) * units, to_rows.get() + row_end * units, T(0));
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
        over_tiles(to_second.get(), width, 0, steps, [&](int64_t i, int count, const T* const* rows) {
          T* tile = to_first.get() + i * units;
          prefetch<true>(to.x + (from + i + kRows) * K, kRows * K);
          product(count, rows, second_panels, nothing.get(), 0, tile);
          for (int r = 0; r < count; ++r) {
            const T* value = first + (from + i + r) * A;
            T *g = tile + r * units, *sum = to_rows.get() + row[from + i + r] * units;
            for (int64_t a = 0; a < A; ++a) sum[a] += g[a] *= value[a] * (T(1) - value[a]);
          }
        });
        over_tiles(to_first.get(), units, 0, steps, [&](int64_t i, int count, const T* const* rows) {
          product(count, rows, own_panels, nothing.get(), 0, out.get());
          unpad(out.get(), own_panels.width, count, K, to.x + (from + i) * K);
        });
        add_outer({to_first.get(), x + from * K, steps, K}, K, units, first_sum + L * units);
        add_outer({to_second.get(), first + from * A, steps, A}, A, width, second_sum);
        add_outer({to_second.get(), &one, steps, 0}, 1, width, second_sum + A * width);
        add_outer({hidden.get(), to_y + from, steps, 1}, 1, width, second_sum + (A + 1) * width);
      }
      for (int64_t from = row_of(part); from < row_end; from += kPiece) {
        const int64_t count = std::min(kPiece, row_end - from);
        over_tiles(to_rows.get(), units, from, from + count, [&](int64_t s, int tile, const T* const* rows) {
          product(tile, rows, shared_panels, nothing.get(), 0, out.get());
          unpad(out.get(), shared_panels.width, tile, L, to.shared + s * L);
        });
        add_outer({to_rows.get() + from * units, shared + from * L, count, L}, L, units, first_sum);
        add_outer({to_rows.get() + from * units, &one, count, 0}, 1, units, first_sum + (L + K) * units);
      }
    }
    add_parts(first_sums.get(), parts, first_rows, units, A, [&](int64_t i, int64_t a) -> T& {
      return i < L + K ? to.first[a * (L + K) + i] : to.first_bias[a];
    });
    add_parts(second_sums.get(), parts, second_rows, width, M, [&](int64_t i, int64_t m) -> T& {
      return i < A ? to.second[m * A + i] : i == A ? to.second_bias[m] : to.output[m];
    });
  }
}

}  // namespace
}  // namespace dien

using namespace dien;

// Both return what `status_of` does, or 1 where the rows do not rise within 0 and S - 1.
#define DIEN_EXPORT(T, NAME)                                                                                          \
  extern "C" int perceptron_##NAME(const T* x, const T* shared, const int64_t* row, const T* first_weight,            \
                                   const T* first_bias, const T* second_weight, const T* second_bias,                 \
                                   const T* output, const T* output_bias, int64_t N, int64_t K, int64_t S, int64_t L, \
                                   int64_t A, int64_t M, int threads, T* first, T* second, T* y) {                    \
    if (!valid(row, N, S)) return 1;                                                                                  \
    return status_of([&] {                                                                                            \
      perceptron<T>(x, shared, row, {first_weight, second_weight, output, L, K, A, M}, first_bias, second_bias,       \
                    output_bias, N, S, threads, first, second, y);                                                    \
    });                                                                                                               \
  }                                                                                                                   \
  extern "C" int perceptron_backward_##NAME(                                                                          \
      const T* to_y, const T* x, const T* shared, const int64_t* row, const T* first, const T* second,                \
      const T* first_weight, const T* second_weight, const T* output, int64_t N, int64_t K, int64_t S, int64_t L,     \
      int64_t A, int64_t M, int threads, T* to_x, T* to_shared, T* to_first, T* to_first_bias, T* to_second,          \
      T* to_second_bias, T* to_output) {                                                                              \
    if (!valid(row, N, S)) return 1;                                                                                  \
    return status_of([&] {                                                                                            \
      perceptron_backward<T>(to_y, x, shared, row, first, second, {first_weight, second_weight, output, L, K, A, M},  \
                             N, S, threads,                                                                           \
                             {to_x, to_shared, to_first, to_first_bias, to_second, to_second_bias, to_output});       \
    });                                                                                                               \
  }

DIEN_EXPORT(float, f32)
DIEN_EXPORT(double, f64)

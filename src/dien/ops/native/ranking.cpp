// One history against many candidates, forward only; `ranking.py` calls this.
//
// Axes: C candidates, T steps of the history, H hidden, A and M units of the attention's two hidden layers.
//
// What the candidates share is read where it lies and stays in cache: the states, the shared half of the
// attention's first layer, and the projected input of the evolution. What is a candidate's own, a layer's
// values at six steps or the states of six candidates, never leaves the first cache either.

#include <algorithm>
#include <cstdint>

#include "product.h"
#include "rule.h"

namespace dien {
namespace {

// to = diag(q) @ from: (q * h) W = h (diag(q) W), so that a candidate's product reads the shared states.
template <class T>
void scale_depth(const Panels<T>& from, const T* q, Panels<T>& to) {
  const T* in = from.data.get();
  T* out = to.data.get();
  for (int vectors : from.vectors)
    for (int64_t k = 0; k < from.depth; ++k)
      for (int v = 0; v < vectors; ++v, in += kLanes<T>, out += kLanes<T>) store(out, load(in) * q[k]);
}

template <class T>
struct Attention {
  const T* query;         // [C, H]
  const T* row;           // [C, A], the candidate's part of the first layer, with its bias
  const T* states;        // [T, H]
  const T* keys;          // [T, A], the states' part
  const T* product;       // [A, H], weight of query * state
  const T* second;        // [M, A]
  const T* second_bias;   // [M]
  const T* output;        // [M]
  T output_bias;
  int64_t candidates, steps, hidden, first_units, second_units;
  T* scores;  // [C, T], before the softmax
};

template <class T>
void attention(const Attention<T>& a, int max_threads) {
  const int64_t C = a.candidates, steps = a.steps, H = a.hidden, A = a.first_units, M = a.second_units;
  const int threads = threads_for(double(C) * steps * A * (H + M), max_threads);
  const Panels<T> product_panels(a.product, H, A, 1, H), second_panels(a.second, A, M, 1, A);
  const int64_t width = product_panels.width, second_width = second_panels.width;
  const Buffer<T> keys = padded(a.keys, steps, A, width);
  const Buffer<T> second_bias = padded(a.second_bias, 1, M, second_width);
  const Buffer<T> output = padded(a.output, 1, M, second_width);  // padded units count 0
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    Panels<T> own(a.product, H, A, 1, H);
    const Buffer<T> row = zeros<T>(width), first = zeros<T>(kRows * width);
    const Buffer<T> second = zeros<T>(kRows * second_width);
    const T* first_rows[kRows];
    for (int r = 0; r < kRows; ++r) first_rows[r] = first.get() + r * width;
#pragma omp for schedule(dynamic, 4)
    for (int64_t c = 0; c < C; ++c) {
      scale_depth(product_panels, a.query + c * H, own);
      std::copy_n(a.row + c * A, A, row.get());
      for (int64_t t = 0; t < steps; t += kRows) {
        const int count = static_cast<int>(std::min<int64_t>(kRows, steps - t));
        const T* state_rows[kRows];
        for (int r = 0; r < count; ++r) state_rows[r] = a.states + (t + r) * H;
        product(count, state_rows, own, keys.get() + t * width, width, first.get());
        for (int64_t j = 0; j < width; j += kLanes<T>) {
          const Vec<T> add = load(row.get() + j);
          for (int r = 0; r < count; r += 2) {
            T* x = first.get() + r * width + j;
            T* y = partner(x, r, count, width);
            Vec<T> sigmoid_x, sigmoid_y;
            sigmoids(load(x) + add, load(y) + add, sigmoid_x, sigmoid_y);
            store(y, sigmoid_y);
            store(x, sigmoid_x);
          }
        }
        product(count, first_rows, second_panels, second_bias.get(), 0, second.get());
        for (int r = 0; r < count; r += 2) {
          const T* x = second.get() + r * second_width;
          const T* y = partner(x, r, count, second_width);
          Vec<T> sum_x = {}, sum_y = {};
          for (int64_t j = 0; j < second_width; j += kLanes<T>) {
            const Vec<T> weight = load(output.get() + j);
            Vec<T> sigmoid_x, sigmoid_y;
            sigmoids(load(x + j), load(y + j), sigmoid_x, sigmoid_y);
            sum_x += sigmoid_x * weight;
            sum_y += sigmoid_y * weight;
          }
          T* score = a.scores + c * steps + t + r;
          if (r + 1 < count) score[1] = sum_of<T>(sum_y) + a.output_bias;
          score[0] = sum_of<T>(sum_x) + a.output_bias;
        }
      }
    }
  }
}

template <class T>
struct Evolution {
  const T* projected;   // [T, 3H], of the states
  const T* attention;   // [C, T]
  const T* input_bias;  // [3H], added to the projection once it is scaled by the attention; null: neither
  const T* weight;      // [3H, H]
  const T* bias;        // [3H]
  Rule<T> rule;
  int64_t candidates, steps, hidden;
  T* final;  // [C, H]
};

// The recurrence of up to six candidates. States alternate between two buffers: the last vector of a row overlaps
// the one before it and must read the old state there.
template <class T>
void evolve_block(const Evolution<T>& e, int64_t first, int count, const T* bias, const T* input_bias,
                  const Panels<T>& panels, T* hidden_part, T* before, T* after) {
  const int64_t H = e.hidden, lanes = std::min(H, kLanes<T>);
  std::fill_n(before, kRows * H, T(0));
  for (int64_t t = 0; t < e.steps; ++t) {
    const T* rows[kRows];
    for (int r = 0; r < count; ++r) rows[r] = before + r * H;
    product(count, rows, panels, bias, 0, hidden_part);
    const T* x = e.projected + t * 3 * H;
    for (int r = 0; r < count; ++r) {
      const T* h = hidden_part + r * panels.width;
      const T a = e.attention[(first + r) * e.steps + t], scale = e.input_bias ? a : T(1);
      const T gate = e.rule.gate + e.rule.gate_attention * a, add = e.rule.attention * a;
      const auto input = [&](int64_t i) { return load(x + i, lanes) * scale + load(input_bias + i, lanes); };
      for (int64_t at = 0; at < H; at += kLanes<T>) {
        const int64_t j = std::min(at, H - lanes);
        Vec<T> reset, update;
        sigmoids(input(j) + load(h + j), -(input(H + j) + load(h + H + j)), reset, update);
        const Vec<T> n = tanh(input(2 * H + j) + reset * load(h + 2 * H + j));
        const Vec<T> old = load(before + r * H + j, lanes);
        store(after + r * H + j, old + (update * gate + add) * (n - old), lanes);
      }
    }
    std::swap(before, after);
  }
  std::copy_n(before, count * H, e.final + first * H);
}

template <class T>
void evolve(const Evolution<T>& e, int max_threads) {
  const int64_t C = e.candidates, H = e.hidden;
  const int threads = threads_for(3. * C * e.steps * H * H, max_threads);
  const Panels<T> panels(e.weight, H, 3 * H, 1, H);
  const Buffer<T> bias = padded(e.bias, 1, 3 * H, panels.width);
  const Buffer<T> input_bias = zeros<T>(3 * H);
  if (e.input_bias) std::copy_n(e.input_bias, 3 * H, input_bias.get());
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    // One vector more, as in the scan: loads at 2H + j of the last row may reach past 3H.
    const Buffer<T> hidden_part = zeros<T>(kRows * panels.width + kLanes<T>);
    const Buffer<T> before = zeros<T>(kRows * H), after = zeros<T>(kRows * H);
#pragma omp for schedule(dynamic, 1)
    for (int64_t first = 0; first < C; first += kRows)
      evolve_block(e, first, static_cast<int>(std::min<int64_t>(kRows, C - first)), bias.get(),
                   input_bias.get(), panels, hidden_part.get(), before.get(), after.get());
  }
}

}  // namespace
}  // namespace dien

using namespace dien;

// `rule` holds the three numbers of `Rule`; `output_bias` is one number.
#define DIEN_EXPORT(T, NAME)                                                                                       \
  extern "C" int attention_##NAME(const T* query, const T* row, const T* states, const T* keys,                    \
                                  const T* product, const T* second, const T* second_bias,                         \
                                  const T* output, const T* output_bias, int64_t candidates,                       \
                                  int64_t steps, int64_t hidden, int64_t first_units,                              \
                                  int64_t second_units, int threads, T* scores) {                                  \
    return status_of([&] {                                                                                         \
      attention<T>({query, row, states, keys, product, second, second_bias, output, *output_bias, candidates,      \
                    steps, hidden, first_units, second_units, scores},                                             \
                   threads);                                                                                       \
    });                                                                                                            \
  }                                                                                                                \
  extern "C" int evolve_##NAME(const T* projected, const T* attention, const T* input_bias,                        \
                               const T* weight, const T* bias, const double* rule, int64_t candidates,             \
                               int64_t steps, int64_t hidden, int threads, T* final) {                             \
    return status_of([&] {                                                                                         \
      evolve<T>({projected, attention, input_bias, weight, bias, {T(rule[0]), T(rule[1]), T(rule[2])}, candidates, \
                 steps, hidden, final},                                                                            \
                threads);                                                                                          \
    });                                                                                                            \
  }

DIEN_EXPORT(float, f32)
DIEN_EXPORT(double, f64)

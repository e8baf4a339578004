// The gated scan on the CPU, forward and backward; `reference.py` is the definition, `cpu.py` builds and
// calls this.
//
// Axes: B rows, N real steps of all rows (row b owns offsets[b]:offsets[b + 1]), H hidden.
//
// Every row is a recurrence of its own, so no thread ever waits for another: the rows are sorted by length
// and cut into blocks of about six, and a thread walks its block through all time steps with the recurrent
// weights in cache. A row leaves its block when it ends. A block is one matrix product [rows, H] x [H, 3H] a
// step, in registers: six rows share every weight that is loaded.
//
// Only raw pointers and vector extensions of GCC and Clang: no torch header, so it compiles in seconds and
// does not depend on torch's version. OpenMP symbols are left open for the runtime that torch has loaded,
// whose threads it uses.

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <vector>

#include "offsets.h"
#include "product.h"
#include "rule.h"

namespace dien {
namespace {

constexpr int kGroups = 4;                  // groups of blocks per thread
constexpr int64_t kChunkBytes = 256 << 10;  // gradients kept in cache until the weight gradient takes them

// The rows of a batch, longest first, cut into blocks, and the blocks dealt to groups of about as many steps.
// Threads take groups as they get free; what is summed over steps is summed per group, so a result never
// depends on who took it.
struct Schedule {
  const int64_t* offsets;
  std::vector<int64_t> rows;
  std::vector<std::vector<int64_t>> groups;  // blocks of each group
  int64_t size;                              // rows of a block
  int threads;                               // 1 or all: a smaller team would end threads of torch's pool

  Schedule(const int64_t* offsets_, int64_t batch, int64_t hidden, int max_threads)
      : offsets(offsets_), rows(batch) {
    std::iota(rows.begin(), rows.end(), 0);
    std::stable_sort(rows.begin(), rows.end(),
                     [this](int64_t a, int64_t b) { return length(a) > length(b); });
    while (!rows.empty() && length(rows.back()) == 0) rows.pop_back();
    const int64_t count = rows.size();
    threads = 3. * hidden * hidden * offsets[batch] < kSerialWork ? 1 : std::max(1, max_threads);
    const int64_t rounds = std::max<int64_t>(1, (count + kRows * threads - 1) / (kRows * threads));
    size = std::max<int64_t>(1, (count + rounds * threads - 1) / (rounds * threads));
    const int64_t blocks = (count + size - 1) / size;

    groups.resize(threads == 1 ? 1 : std::min<int64_t>(std::max<int64_t>(blocks, 1), kGroups * threads));
    std::vector<int64_t> steps(groups.size());
    for (int64_t block = 0; block < blocks; ++block) {
      const auto least = std::min_element(steps.begin(), steps.end()) - steps.begin();
      groups[least].push_back(block);
      for (int64_t r = block * size; r < std::min((block + 1) * size, count); ++r)
        steps[least] += length(rows[r]);
    }
  }
  int64_t length(int64_t row) const { return offsets[row + 1] - offsets[row]; }
};

template <class T>
struct Arguments {
  const T* attention;  // [N], or null: 0
  const int64_t* offsets;
  const T* weight;   // [3H, H]
  const T* initial;  // [B, H], or null: 0
  int64_t hidden;
  Rule<T> rule;
  T* states;  // [N, H]
  T* saved;   // [N, 4H]: r, u, n and the hidden part of n, for the backward; or null
};

template <class T>
void forward_block(const Arguments<T>& s, const T* projected, const T* bias, const Panels<T>& panels,
                   const Schedule& schedule, int64_t block, T* hidden_part, const T* nothing) {
  const int64_t H = s.hidden, first = block * schedule.size;
  const int64_t lanes = std::min(H, kLanes<T>), stride = panels.width;
  int count = static_cast<int>(std::min<int64_t>(schedule.size, schedule.rows.size() - first));
  const int64_t* row = schedule.rows.data() + first;
  const T* previous[kRows];
  for (int r = 0; r < count; ++r) previous[r] = s.initial ? s.initial + row[r] * H : nothing;

  for (int64_t t = 0; count > 0; ++t) {
    product(count, previous, panels, bias, 0, hidden_part);
    for (int r = 0; r < count; ++r) {
      const int64_t i = s.offsets[row[r]] + t;
      const T* x = projected + i * 3 * H;
      const T* h = hidden_part + r * stride;
      const T* before = previous[r];
      T* after = s.states + i * H;
      T* saved = s.saved ? s.saved + i * 4 * H : nullptr;
      prefetch<false>(x + 3 * H, 3 * H);
      prefetch<true>(after + H, H);
      if (saved) prefetch<true>(saved + 4 * H, 4 * H);
      const T a = s.attention ? s.attention[i] : T(0);
      const T gate = s.rule.gate + s.rule.gate_attention * a, add = s.rule.attention * a;
      for (int64_t at = 0; at < H; at += kLanes<T>) {
        // The last vector overlaps the one before instead of leaving H: it computes the same values twice.
        const int64_t j = std::min(at, H - lanes);
        Vec<T> reset, update;
        sigmoids(load(x + j, lanes) + load(h + j), -(load(x + H + j, lanes) + load(h + H + j)), reset,
                 update);
        const Vec<T> hidden_n = load(h + 2 * H + j);
        const Vec<T> n = tanh(load(x + 2 * H + j, lanes) + reset * hidden_n);
        const Vec<T> old = load(before + j, lanes);
        store(after + j, old + (update * gate + add) * (n - old), lanes);
        if (saved) {
          store(saved + j, reset, lanes);
          store(saved + H + j, update, lanes);
          store(saved + 2 * H + j, n, lanes);
          store(saved + 3 * H + j, hidden_n, lanes);
        }
      }
      previous[r] = after;
    }
    while (count > 0 && schedule.length(row[count - 1]) == t + 1) --count;
  }
}

template <class T>
void forward(const Arguments<T>& s, const T* projected, const T* bias, int64_t batch, int threads) {
  const int64_t H = s.hidden;
  const Schedule schedule(s.offsets, batch, H, threads);
  const Panels<T> panels(s.weight, H, 3 * H, 1, H);
  const Buffer<T> padded_bias = zeros<T>(panels.width), nothing = zeros<T>(H);
  std::copy(bias, bias + 3 * H, padded_bias.get());
#pragma omp parallel num_threads(schedule.threads) if (schedule.threads > 1)
  {
    // One vector more: loads at 2H + j of the last row may reach past 3H where H is smaller than a vector.
    const Buffer<T> hidden_part = zeros<T>(kRows * panels.width + kLanes<T>);
#pragma omp for schedule(dynamic, 1) nowait
    for (size_t group = 0; group < schedule.groups.size(); ++group)
      for (int64_t block : schedule.groups[group])
        forward_block(s, projected, padded_bias.get(), panels, schedule, block, hidden_part.get(),
                      nothing.get());
  }
}

template <class T>
struct Gradients {
  const T* states;  // [N, H], of the loss with respect to the states
  T* projected;     // [N, 3H]
  T* attention;     // [N], or null
  T* weight;        // [3H, H]
  T* bias;          // [3H]
  T* initial;       // [B, H], or null
};

template <class T>
struct Workspace {
  int64_t chunk, width, state_width;  // steps kept; padded 3H and H
  Buffer<T> gates;                    // [kRows, chunk, width]: gradient of the hidden part of r, z, n
  Buffer<T> later;                    // [kRows, state_width]: gradient of the state from the steps after it
  Buffer<T> direct;                   // [kRows, state_width]: its part that does not pass through the gates
  std::vector<Run<T>> runs, ones;

  Workspace(int64_t hidden, int64_t state_width_)
      : width(whole_vectors<T>(3 * hidden)), state_width(state_width_) {
    chunk = std::clamp<int64_t>(kChunkBytes / (kRows * width * sizeof(T)), 8, 64);
    gates = zeros<T>(kRows * chunk * width);
    later = zeros<T>(kRows * state_width);
    direct = zeros<T>(kRows * state_width);
  }
};

// Gradients of one step of one row: fills `to_x` (projected), `to_h` (hidden part of the gates) and `direct`.
template <class T>
inline void backward_step(const Arguments<T>& s, const Gradients<T>& g, int64_t i, const T* before,
                          const T* later, T* to_h, T* direct) {
  const int64_t H = s.hidden, lanes = std::min(H, kLanes<T>);
  const T* saved = s.saved + i * 4 * H;
  T* to_x = g.projected + i * 3 * H;
  const T a = s.attention ? s.attention[i] : T(0);
  const T gate = s.rule.gate + s.rule.gate_attention * a, add = s.rule.attention * a;
  Vec<T> to_attention = {};
  for (int64_t at = 0; at < H; at += kLanes<T>) {
    const int64_t j = std::min(at, H - lanes);
    const Vec<T> reset = load(saved + j, lanes), update = load(saved + H + j, lanes);
    const Vec<T> n = load(saved + 2 * H + j, lanes), hidden_n = load(saved + 3 * H + j, lanes);
    const Vec<T> old = load(before + j, lanes);
    const Vec<T> to_state = load(g.states + i * H + j, lanes) + load(later + j);
    const Vec<T> write = update * gate + add;
    const Vec<T> to_write = to_state * (n - old);
    const Vec<T> to_n = to_state * write * (T(1) - n * n);
    const Vec<T> to_r = to_n * hidden_n * reset * (T(1) - reset);
    const Vec<T> to_z = -(to_write * gate * update * (T(1) - update));
    store(direct + j, to_state - to_state * write, lanes);
    store(to_x + j, to_r, lanes);
    store(to_x + H + j, to_z, lanes);
    store(to_x + 2 * H + j, to_n, lanes);
    store(to_h + j, to_r, lanes);
    store(to_h + H + j, to_z, lanes);
    store(to_h + 2 * H + j, to_n * reset, lanes);
    if (g.attention) {
      const Vec<T> part = to_write * (update * s.rule.gate_attention + s.rule.attention);
      to_attention += part * load(kFresh<T>.value + kLanes<T> - (at - j));  // the overlap was counted before
    }
  }
  if (g.attention) {
    T sum = 0;
    for (int64_t lane = 0; lane < lanes; ++lane) sum += to_attention[lane];
    g.attention[i] = sum;
  }
}

template <class T>
void backward_block(const Arguments<T>& s, const Gradients<T>& g, const Panels<T>& panels,
                    const Schedule& schedule, int64_t block, Workspace<T>& w, const T* nothing, const T* one,
                    T* to_weight) {
  const int64_t H = s.hidden, first = block * schedule.size;
  const int rows = static_cast<int>(std::min<int64_t>(schedule.size, schedule.rows.size() - first));
  const int64_t* row = schedule.rows.data() + first;
  T *later = w.later.get(), *direct = w.direct.get(), *gates = w.gates.get();
  std::fill(later, later + kRows * w.state_width, T(0));

  int count = 0;
  for (int64_t t = schedule.length(row[0]) - 1; t >= 0; --t) {
    const T* gate_rows[kRows];
    while (count < rows && schedule.length(row[count]) > t) ++count;
    for (int r = 0; r < count; ++r) {
      const int64_t i = s.offsets[row[r]] + t;
      const T* before = t > 0 ? s.states + (i - 1) * H : s.initial ? s.initial + row[r] * H : nothing;
      if (t > 0) {
        prefetch<false>(s.saved + (i - 1) * 4 * H, 4 * H);
        prefetch<false>(g.states + (i - 1) * H, H);
        prefetch<false>(before - H, H);
        prefetch<true>(g.projected + (i - 1) * 3 * H, 3 * H);
      }
      T* to_h = gates + (r * w.chunk + t % w.chunk) * w.width;
      backward_step(s, g, i, before, later + r * w.state_width, to_h, direct + r * w.state_width);
      gate_rows[r] = to_h;
    }
    product(count, gate_rows, panels, direct, w.state_width, later);

    if (t % w.chunk == 0) {
      w.runs.clear();
      w.ones.clear();
      for (int r = 0; r < count; ++r) {
        const int64_t steps = std::min(schedule.length(row[r]) - t, w.chunk), i = s.offsets[row[r]] + t;
        const T* from = gates + r * w.chunk * w.width;
        w.ones.push_back({from, one, steps, 0});
        if (t > 0) {
          w.runs.push_back({from, s.states + (i - 1) * H, steps, H});
        } else {
          if (s.initial) w.runs.push_back({from, s.initial + row[r] * H, 1, H});
          w.runs.push_back({from + w.width, s.states + i * H, steps - 1, H});
        }
      }
      outer(w.runs, H, w.width, to_weight);
      outer(w.ones, 1, w.width, to_weight + H * w.width);
    }
  }
  if (g.initial)
    for (int r = 0; r < rows; ++r)
      std::copy(later + r * w.state_width, later + r * w.state_width + H, g.initial + row[r] * H);
}

template <class T>
void backward(const Arguments<T>& s, const Gradients<T>& g, int64_t batch, int threads) {
  const int64_t H = s.hidden;
  const Schedule schedule(s.offsets, batch, H, threads);
  const Panels<T> panels(s.weight, 3 * H, H, H, 1);
  const Buffer<T> nothing = zeros<T>(H);
  const T one = 1;
  const int64_t width = Workspace<T>(H, panels.width).width, groups = schedule.groups.size();
  const Buffer<T> to_weight =
      unset<T>(groups * (H + 1) * width);  // [groups, H + 1, width], the bias in the last row
#pragma omp parallel num_threads(schedule.threads) if (schedule.threads > 1)
  {
    Workspace<T> workspace(H, panels.width);
#pragma omp for schedule(dynamic, 1)
    for (int64_t group = 0; group < groups; ++group) {
      T* sum = to_weight.get() + group * (H + 1) * width;
      std::fill_n(sum, (H + 1) * width, T(0));
      for (int64_t block : schedule.groups[group])
        backward_block(s, g, panels, schedule, block, workspace, nothing.get(), &one, sum);
    }
    add_parts(to_weight.get(), groups, H + 1, width, 3 * H,
              [&](int64_t k, int64_t c) -> T& { return k < H ? g.weight[c * H + k] : g.bias[c]; });
  }
}

}  // namespace
}  // namespace dien

using namespace dien;

// Both return what `status_of` does, or 1 where the offsets do not describe N steps. `rule` holds the three
// numbers of `Rule`.
#define DIEN_EXPORT(T, NAME)                                                                                  \
  extern "C" int forward_##NAME(const T* projected, const T* attention, const int64_t* offsets,               \
                                const T* weight, const T* bias, const T* initial, const double* rule,         \
                                int64_t batch, int64_t steps, int64_t hidden, int threads, T* states,         \
                                T* saved) {                                                                   \
    if (!rise_to_end(offsets, batch, steps)) return 1;                                                              \
    const Rule<T> write = {T(rule[0]), T(rule[1]), T(rule[2])};                                               \
    return status_of([&] {                                                                                    \
      forward<T>({attention, offsets, weight, initial, hidden, write, states, saved}, projected, bias, batch, \
                 threads);                                                                                    \
    });                                                                                                       \
  }                                                                                                           \
  extern "C" int backward_##NAME(                                                                             \
      const T* grad_states, const T* attention, const int64_t* offsets, const T* weight, const T* initial,    \
      T* states, T* saved, const double* rule, int64_t batch, int64_t steps, int64_t hidden, int threads,     \
      T* grad_projected, T* grad_attention, T* grad_weight, T* grad_bias, T* grad_initial) {                  \
    if (!rise_to_end(offsets, batch, steps)) return 1;                                                              \
    const Rule<T> write = {T(rule[0]), T(rule[1]), T(rule[2])};                                               \
    return status_of([&] {                                                                                    \
      backward<T>({attention, offsets, weight, initial, hidden, write, states, saved},                        \
                  {grad_states, grad_projected, grad_attention, grad_weight, grad_bias, grad_initial}, batch, \
                  threads);                                                                                   \
    });                                                                                                       \
  }

DIEN_EXPORT(float, f32)
DIEN_EXPORT(double, f64)

// The flat list of a batch's real steps: where each lies, a softmax over the steps of each row, and a row's last state;
// `segments.py` calls this.
//
// Axes: B rows, T padded steps, N real steps of all rows (row b owns offsets[b]:offsets[b + 1]), H columns.
//
// None of these is work for several threads; a call of each replaces half a dozen small operations of torch.

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "offsets.h"
#include "product.h"

namespace dien {
namespace {

// false where a length is not within 0 and T, or the lengths are not N steps.
bool flat_steps(const int64_t* length, int64_t B, int64_t T, int64_t N, int64_t* offsets, int64_t* row, int64_t* cell) {
  int64_t step = offsets[0] = 0;
  for (int64_t b = 0; b < B; ++b) {
    if (length[b] < 0 || length[b] > T || length[b] > N - step) return false;
    for (int64_t t = 0; t < length[b]; ++t, ++step) {
      row[step] = b;
      cell[step] = b * T + t;
    }
    offsets[b + 1] = step;
  }
  return step == N;
}

template <class T>
void softmax(const T* score, const int64_t* offsets, int64_t B, T* share) {
  for (int64_t b = 0; b < B; ++b) {
    const int64_t begin = offsets[b], end = offsets[b + 1];
    if (begin == end) continue;
    T most = score[begin], sum = 0;
    for (int64_t i = begin; i < end; ++i) most = score[i] > most || std::isnan(score[i]) ? score[i] : most;
    for (int64_t i = begin; i < end; ++i) sum += share[i] = std::exp(score[i] - most);
    for (int64_t i = begin; i < end; ++i) share[i] /= sum;
  }
}

template <class T>
void softmax_backward(const T* to_share, const T* share, const int64_t* offsets, int64_t B, T* to_score) {
  for (int64_t b = 0; b < B; ++b) {
    T mean = 0;
    for (int64_t i = offsets[b]; i < offsets[b + 1]; ++i) mean += to_share[i] * share[i];
    for (int64_t i = offsets[b]; i < offsets[b + 1]; ++i) to_score[i] = share[i] * (to_share[i] - mean);
  }
}

template <class T>
void last(const T* states, const int64_t* offsets, int64_t B, int64_t H, T* state) {
  for (int64_t b = 0; b < B; ++b, state += H) {
    if (offsets[b] == offsets[b + 1]) {
      std::fill_n(state, H, T(0));
    } else {
      std::copy_n(states + (offsets[b + 1] - 1) * H, H, state);
    }
  }
}

template <class T>
void last_backward(const T* to_state, const int64_t* offsets, int64_t B, int64_t N, int64_t H, T* to_states) {
  std::fill_n(to_states, N * H, T(0));
  for (int64_t b = 0; b < B; ++b)
    if (offsets[b] < offsets[b + 1]) std::copy_n(to_state + b * H, H, to_states + (offsets[b + 1] - 1) * H);
}

}  // namespace
}  // namespace dien

using namespace dien;

// All return 0, what runs forward also 1 where lengths or offsets are not those of N steps.
extern "C" int flat_steps_i64(const int64_t* length, int64_t B, int64_t T, int64_t N, int, int64_t* offsets, int64_t* row,
                          int64_t* cell) {
  return !flat_steps(length, B, T, N, offsets, row, cell);
}

#define DIEN_EXPORT(T, NAME)                                                                                        \
  extern "C" int softmax_##NAME(const T* score, const int64_t* offsets, int64_t B, int64_t N, int, T* share) {      \
    if (!rise_to_end(offsets, B, N)) return 1;                                                                            \
    softmax(score, offsets, B, share);                                                                              \
    return 0;                                                                                                       \
  }                                                                                                                 \
  extern "C" int softmax_backward_##NAME(const T* to_share, const T* share, const int64_t* offsets, int64_t B, int, \
                                         T* to_score) {                                                             \
    softmax_backward(to_share, share, offsets, B, to_score);                                                        \
    return 0;                                                                                                       \
  }                                                                                                                 \
  extern "C" int last_##NAME(const T* states, const int64_t* offsets, int64_t B, int64_t N, int64_t H, int,         \
                             T* state) {                                                                            \
    if (!rise_to_end(offsets, B, N)) return 1;                                                                            \
    last(states, offsets, B, H, state);                                                                             \
    return 0;                                                                                                       \
  }                                                                                                                 \
  extern "C" int last_backward_##NAME(const T* to_state, const int64_t* offsets, int64_t B, int64_t N, int64_t H,   \
                                      int, T* to_states) {                                                          \
    last_backward(to_state, offsets, B, N, H, to_states);                                                           \
    return 0;                                                                                                       \
  }

DIEN_EXPORT(float, f32)
DIEN_EXPORT(double, f64)

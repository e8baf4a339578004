// One step of the gated recurrence on a vector of hidden units.

#pragma once

#include <cstdint>

#include "simd.h"

namespace dien {

// What a step writes, for all rules at once: w = (gate + gate_attention * a) * u + attention * a.
template <class T>
struct Rule {
  T gate, gate_attention, attention;
};

template <class T>
struct Gates {
  Vec<T> reset, update, n, hidden_n;
};

// Gates r, u and n from the projected input x of each and the hidden part h [3H] at this vector's units.
template <class T>
inline Gates<T> gates(Vec<T> x_r, Vec<T> x_z, Vec<T> x_n, const T* h, int64_t H) {
  Gates<T> g;
  sigmoids(x_r + load(h), -(x_z + load(h + H)), g.reset, g.update);
  g.hidden_n = load(h + 2 * H);
  g.n = tanh(x_n + g.reset * g.hidden_n);
  return g;
}

}  // namespace dien

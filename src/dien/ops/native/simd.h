// Vectors as wide as the registers, and the gates' sigmoid and tanh on them.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace dien {

#if defined(__AVX512F__)
constexpr int kBytes = 64, kRegisters = 32;
#elif defined(__AVX__)
constexpr int kBytes = 32, kRegisters = 16;
#elif defined(__aarch64__)
constexpr int kBytes = 16, kRegisters = 32;
#else
constexpr int kBytes = 16, kRegisters = 16;
#endif

template <class T>
struct Simd;
template <>
struct Simd<float> {
  typedef float Vec __attribute__((vector_size(kBytes)));
  typedef int32_t Int __attribute__((vector_size(kBytes)));
};
template <>
struct Simd<double> {
  typedef double Vec __attribute__((vector_size(kBytes)));
};
template <class T>
using Vec = typename Simd<T>::Vec;
template <class T>
constexpr int64_t kLanes = kBytes / sizeof(T);

template <class T>
inline Vec<T> load(const T* from) {
  Vec<T> v;
  std::memcpy(&v, from, sizeof v);
  return v;
}
template <class T>
inline void store(T* to, Vec<T> v) {
  std::memcpy(to, &v, sizeof v);
}

// For H smaller than one vector: `count` lanes, the rest 0.
template <class T>
inline Vec<T> load(const T* from, int64_t count) {
  if (__builtin_expect(count == kLanes<T>, 1)) return load(from);
  Vec<T> v = {};
  std::memcpy(&v, from, count * sizeof(T));
  return v;
}
template <class T>
inline void store(T* to, Vec<T> v, int64_t count) {
  if (__builtin_expect(count == kLanes<T>, 1)) return store(to, v);
  std::memcpy(to, &v, count * sizeof(T));
}

template <class T>
inline T sum_of(Vec<T> v) {
  T lanes[kLanes<T>];
  store(lanes, v);
  for (int64_t half = kLanes<T> / 2; half > 0; half /= 2)
    for (int64_t i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  return lanes[0];
}

// One vector of 0, then one of 1: loading it at an offset masks the first lanes.
template <class T>
struct Fresh {
  T value[2 * kLanes<T>] = {};
  constexpr Fresh() {
    for (int64_t i = kLanes<T>; i < 2 * kLanes<T>; ++i) value[i] = 1;
  }
};
template <class T>
constexpr Fresh<T> kFresh;

// Rows lie a sequence apart: too many streams for the hardware to foresee, so each step asks for the memory
// of the next one (it made the backward twice as fast). Past the end of an array this does nothing.
template <bool Write, class T>
inline void prefetch(const T* from, int64_t count) {
  for (int64_t i = 0; i < count; i += 64 / sizeof(T)) __builtin_prefetch(from + i, Write);
}

// exp(x) = scale * (1 + rest) for |x| <= 40: Cody-Waite reduction to |x| <= ln(2) / 2, then Cephes'
// polynomial.
inline void exponential(Vec<float> x, Vec<float>& scale, Vec<float>& rest) {
  using Int = Simd<float>::Int;
  constexpr float limit = 40.f;
  constexpr float round = 12582912.f;  // adding 1.5 * 2^23 rounds to an integer, in the low bits
  x = x > limit ? Vec<float>{} + limit : x;
  x = x < -limit ? Vec<float>{} - limit : x;
  const Vec<float> shifted = x * 1.44269504088896341f + round;
  const Vec<float> exponent = shifted - round;
  x -= exponent * 0.693359375f;
  x += exponent * 2.12194440e-4f;
  Vec<float> p = x * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * x + 8.3334519073e-3f;
  p = p * x + 4.1665795894e-2f;
  p = p * x + 1.6666665459e-1f;
  p = p * x + 5.0000001201e-1f;
  rest = p * (x * x) + x;
  scale = (Vec<float>)(((Int)shifted << 23) + 0x3f800000);
}

// sigmoid(x) and sigmoid(y) with one division for both; the limit of 40 keeps the denominator finite.
inline void sigmoids(Vec<float> x, Vec<float> y, Vec<float>& sigmoid_x, Vec<float>& sigmoid_y) {
  Vec<float> scale, rest;
  exponential(-x, scale, rest);
  const Vec<float> below_x = scale * rest + scale + 1.f;
  exponential(-y, scale, rest);
  const Vec<float> below_y = scale * rest + scale + 1.f;
  const Vec<float> inverse = 1.f / (below_x * below_y);
  sigmoid_x = inverse * below_y;
  sigmoid_y = inverse * below_x;
}

// tanh(x) = e / (e + 2) with e = exp(2x) - 1, which keeps the relative error small near 0.
inline Vec<float> tanh(Vec<float> x) {
  Vec<float> scale, rest;
  exponential(x + x, scale, rest);
  const Vec<float> e = scale * rest + (scale - 1.f);
  return e / (e + 2.f);
}

inline void sigmoids(Vec<double> x, Vec<double> y, Vec<double>& sigmoid_x, Vec<double>& sigmoid_y) {
  for (int i = 0; i < kLanes<double>; ++i) {
    sigmoid_x[i] = 1. / (1. + std::exp(-x[i]));
    sigmoid_y[i] = 1. / (1. + std::exp(-y[i]));
  }
}

inline Vec<double> tanh(Vec<double> x) {
  for (int i = 0; i < kLanes<double>; ++i) x[i] = std::tanh(x[i]);
  return x;
}

}  // namespace dien

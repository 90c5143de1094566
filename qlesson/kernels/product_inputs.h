// Float inputs become 8-bit codes: the bits of `ql.quantize`, in two readings.

#pragma once

#include <cfloat>

#include "product_codes.h"

namespace {

typedef int8_t Chars __attribute__((vector_size(8)));

struct Scheme {  // of inputs, as product.py packs it; a range holds 0
  int64_t low, high, symmetric;
  int64_t by_row;  // a scale for each row, else one
};

struct Range {
  float min = 0, max = 0, spoilt = 0;  // spoilt is NaN where a value is not finite
  void add(const float* x, int64_t n) {
    Floats lowest = Floats{} + min, highest = Floats{} + max, wrong = Floats{} + spoilt;
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) {
      const Floats some = load<Floats>(x + i);
      lowest = some < lowest ? some : lowest;
      highest = some > highest ? some : highest;
      wrong += some - some;
    }
    for (int64_t j = 0; j < 8; j++) min = std::min(min, lowest[j]), max = std::max(max, highest[j]), spoilt += wrong[j];
    for (; i < n; i++) min = std::min(min, x[i]), max = std::max(max, x[i]), spoilt += x[i] - x[i];
  }
};

// The nearest whole number, half to even, of an x between -2^22 and 2^22.
template <typename T>
inline T rounded(T x) {
  return (x + 0x1.8p23f) - 0x1.8p23f;
}

template <typename T>
inline T clipped(T x, T low, T high) {
  x = x < low ? low : x;
  return x > high ? high : x;
}

// False where the range is too wide for a float, or no range.
inline bool choose(const Range& r, const Scheme& scheme, float& scale, int32_t& zero) {
  const float low = scheme.low, high = scheme.high;
  const float widest = scheme.symmetric ? std::max(-r.min, r.max) : r.max - r.min;
  scale = widest / (scheme.symmetric ? high : high - low);
  if (r.spoilt != 0 || !(scale * 256 <= FLT_MAX)) return false;
  const bool narrow = scale < FLT_MIN;
  if (narrow) scale = 1;
  zero = 0;
  if (!narrow && !scheme.symmetric) {
    const float z = clipped(low - r.min / scale, low, high);
    zero = static_cast<int32_t>(rounded(z));
  }
  return true;
}

inline void quantize(const float* x, int64_t n, float scale, int32_t zero, const Scheme& scheme, int8_t* q) {
  const float z = static_cast<float>(zero), lowest = scheme.low, highest = scheme.high;
  const Floats low = Floats{} + lowest, high = Floats{} + highest;
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    const Ints codes = __builtin_convertvector(rounded(clipped(load<Floats>(x + i) / scale + z, low, high)), Ints);
    store(q + i, __builtin_convertvector(codes, Chars));
  }
  for (; i < n; i++) q[i] = static_cast<int8_t>(rounded(clipped(x[i] / scale + z, lowest, highest)));
}

// Codes [m, k] of x with one scale, or one for each row, and scales and zero points [m]; false where
// x has no finite range.
inline bool quantize_inputs(const float* x, int64_t m, int64_t k, const Scheme& scheme, int8_t* codes, float* scale,
                            int32_t* zero) {
  Range all;
  if (!scheme.by_row) all.add(x, m * k);
  for (int64_t t = 0; t < m; t++) {
    Range own = all;
    if (scheme.by_row) own.add(x + t * k, k);
    if (!choose(own, scheme, scale[t], zero[t])) return false;
    quantize(x + t * k, k, scale[t], zero[t], scheme, codes + t * k);
  }
  return true;
}

}  // namespace

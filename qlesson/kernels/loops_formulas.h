// The formulas, of a value or of some scales at a time, and scales and zero points of any type.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "loops_numbers.h"

namespace {  // two libraries have other functions of one name

using R = REAL;
using Q = CODE;
constexpr int64_t SCALES = 512;       // at most so many scales at a time
constexpr int64_t STRIP = 4096;       // and of columns, whose rows are then read in longer runs
constexpr float TINY = 0x1p-126f;     // the smallest float with all its digits
constexpr float MIDDLE = 0x1.8p23f;   // from 2^23 on floats are whole: adding this rounds

// --- scales and zero points, of a type that is known when the loop runs ---
enum Type { FLOAT32, BFLOAT16, FLOAT16, INT8, UINT8, INT16 };

template <typename F>
inline void typed(int type, const F& f) {
  if (type == FLOAT32) f(float());
  if (type == BFLOAT16) f(bfloat16());
  if (type == FLOAT16) f(float16());
  if (type == INT8) f(int8_t());
  if (type == UINT8) f(uint8_t());
  if (type == INT16) f(int16_t());
}

ONCE inline void read(const void* x, int type, int64_t first, int64_t count, float* to) {
  typed(type, [=](auto like) {
    const auto* from = static_cast<const decltype(like)*>(x) + first;
#pragma omp simd
    for (int64_t k = 0; k < count; k++) to[k] = to_float(from[k]);
    ask_for(from, count, count);  // as much comes next
  });
}

ONCE inline void write(const float* from, void* x, int type, int64_t first, int64_t count) {
  typed(type, [=](auto like) {
    using T = decltype(like);
    auto* to = static_cast<T*>(x) + first;
#pragma omp simd
    for (int64_t k = 0; k < count; k++) to[k] = from_float<T>(from[k]);
    ask_to_write(to + count, count);  // as much comes next
  });
}

struct Given {
  const void *s; int s_type; const void* z; int z_type;
};

// --- the formulas, of a value and what it needs of its scale and zero point ---
// NaN stays, as neither comparison holds.
inline float clipped(float x, float low, float high) {
  x = x < low ? low : x;
  return x > high ? high : x;
}

#if defined(__FMA__) || defined(__aarch64__)
constexpr bool FUSED = true;
#else
constexpr bool FUSED = false;
#endif

// Of some scales at a time.
struct Steps { float s[STRIP], inverse[STRIP], low[STRIP], high[STRIP], z[STRIP]; };

inline float rounded(float x) { return (x + MIDDLE) - MIDDLE; }  // for |x| < 2^22; halves go to the even one

// Where SATURATES, a value is a float, and the instructions that round it to a code clip it too. What no
// int32 can hold, and NaN, they take for the lowest code, and the processor notes it: then all is done
// again, `careful`. Elsewhere r is clipped before, and a value is an int32 that ends in the code.
struct Quantize {
  static constexpr bool SATURATES = CONVERTS && sizeof(Q) == 1;
#if defined(__x86_64__) || defined(__aarch64__)
  static constexpr bool NAN_ENDS_IN_0 = !SATURATES;  // in sixteen of them, as an int32
#else
  static constexpr bool NAN_ENDS_IN_0 = false;
#endif
  using Value = std::conditional_t<SATURATES, float, int32_t>;
  float low, high; Q first = static_cast<Q>(low), last = static_cast<Q>(high);
  struct Step { float s, inverse, low, high, z; };
  static inline Step step(const Steps& of, int64_t k) {
    return {of.s[k], of.inverse[k], of.low[k], of.high[k], of.z[k]};
  }
  // Whether a step is rare. Where products can take the place of the division, what is clipped is r, at
  // the values of the first and the last code; else r / s.
  ONCE bool prepare(Steps& to, int64_t count, bool careful) const {
#pragma omp simd
    for (int64_t k = 0; k < count; k++) {
      const float s = to.s[k], z = to.z[k];
      const bool products = FUSED && !careful && s > 0x1p-60f && s < 0x1p60f;
      to.inverse[k] = products ? 1 / s : 0;
      to.low[k] = (low - z) * (products ? s : 1);
      to.high[k] = (high - z) * (products ? s : 1);
    }
    int rare = 0;
#pragma omp simd reduction(+ : rare)
    for (int64_t k = 0; k < count; k++) rare += FUSED && to.inverse[k] == 0;
    return rare;
  }
  static inline bool is_rare(Step k) { return FUSED && k.inverse == 0; }
  // To add MIDDLE rounds, and its last 16 bits are 0, so those of the sum are the code's.
  static inline float sum(float x, Step k) {
    const float code = INSIDE ? x + k.z : rounded(x) + k.z;
    return SATURATES ? code : code + MIDDLE;
  }
  static inline Value always(float r, Step k) {
    const float x = sum(clipped(r / k.s, k.low, k.high), k);
    return static_cast<Value>(NAN_ENDS_IN_0 || x == x ? x : 0);
  }
  // r / s, rounded once: one product with 1 / s misses it by less than 3/2 of its last place, and
  // what is then left of r is exact enough to correct that. (Where |r / s| < 2^-26 it may still
  // miss; that is code z all the same.)
  static inline Value value(float r, Step k) {
    if (!FUSED) return always(r, k);
    const float x = SATURATES ? r : clipped(r, k.low, k.high), q = x * k.inverse;
    return static_cast<Value>(sum(std::fma(std::fma(-q, k.s, x), k.inverse, q), k));
  }
  template <int64_t N>
  IN_PLACE void store(const Value* x, Q* y) const {
    if constexpr (SATURATES) saturate<N>(x, y, first, last);
  }
};

// What does not fit a half type becomes its largest number.
struct Dequantize {
  static constexpr bool SATURATES = false;
  struct Step { float s, z; };
  static inline Step step(const Steps& of, int64_t k) { return {of.s[k], of.z[k]}; }
  static constexpr float MOST = std::is_same_v<R, float16> ? 65504 : 0x1.fep127f;
  static inline bool is_rare(Step k) { return sizeof(R) == 2 && !(k.s > TINY && k.s < MOST / 65536); }
  bool prepare(const Steps& of, int64_t count, bool) const {
    bool rare = false;
    for (int64_t k = 0; k < count && sizeof(R) == 2; k++) rare |= is_rare(step(of, k));
    return rare;
  }
  static inline float value(float q, Step k) { return k.s * (q - k.z); }
  static inline float always(float q, Step k) { return sizeof(R) == 2 ? clipped(value(q, k), -MOST, MOST) : value(q, k); }
  template <int64_t N>
  IN_PLACE void store(const float* x, R* y) const { convert<N>(x, y); }
};

// --- scale and zero point of a range that holds 0: affine.safe_qparams ---
struct Choose {
  float low, high; bool symmetric; int s_type;
  mutable std::atomic<int32_t> largest{0};  // the bits of the largest scale: infinite where r is not finite
  ONCE void operator()(int64_t count, const float* r_min, const float* r_max, float* s, float* z) const {
#pragma omp simd
    for (int64_t k = 0; k < count; k++) {
      const float larger = -r_min[k] > r_max[k] ? -r_min[k] : r_max[k];
      const float wide = (symmetric ? larger : r_max[k] - r_min[k]) / (symmetric ? high : high - low);
      s[k] = wide == wide ? wide : std::numeric_limits<float>::infinity();
    }
    typed(s_type, [=](auto like) {
#pragma omp simd
      for (int64_t k = 0; k < count; k++) s[k] = to_float(from_float<decltype(like)>(s[k]));
    });
    int32_t most = 0;  // no scale is negative
#pragma omp simd reduction(max : most)
    for (int64_t k = 0; k < count; k++) most = std::max(most, same_bits<int32_t>(s[k]));
    int32_t known = largest;
    while (most > known && !largest.compare_exchange_weak(known, most)) {}
#pragma omp simd
    for (int64_t k = 0; k < count; k++) {
      const float zero = rounded(clipped(low - r_min[k] / s[k], low, high));
      z[k] = symmetric || s[k] < TINY ? 0 : zero;
      s[k] = s[k] < TINY ? 1 : s[k];
    }
  }
};

}  // namespace

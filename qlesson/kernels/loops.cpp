// What runs on a processor: the formulas between one reading of a tensor and one store.
//
//     q     = clip(round(r / s + z), low, high)
//     r_hat = s * (q - z)
//
// Compiled for a type REAL of r and a type CODE of q; memory is asked for AHEAD bytes before they are
// needed. An inner loop has a known length and does
// nothing but arithmetic: so every compiler makes vectors of it, on every processor. What lies in
// memory as [m, n, c] has an s and a z for each [m, c]; c = 1 are rows.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

struct bfloat16 { uint16_t bits; };
struct float16 { uint16_t bits; };

using R = REAL;
using Q = CODE;
constexpr int64_t TILE = 4096;           // values that stay in the nearest cache
constexpr float TINY = 0x1p-126f;        // the smallest float with all its digits
constexpr float MIDDLE = 0x1.8p23f;      // from 2^23 on floats are whole: adding this rounds

template <typename To, typename From>
inline To same_bits(From x) {
  static_assert(sizeof(To) == sizeof(From));
  To y;
  std::memcpy(&y, &x, sizeof y);
  return y;
}

// --- a number as a float ---
template <typename T>
inline float to_float(T x) { return static_cast<float>(x); }
template <>
inline float to_float(bfloat16 x) { return same_bits<float>(static_cast<uint32_t>(x.bits) << 16); }
template <>
inline float to_float(float16 x) {
  const uint32_t size = x.bits & 0x7fff, sign = static_cast<uint32_t>(x.bits & 0x8000) << 16;
  const uint32_t more = 112u << 23;  // float32's exponents begin 112 earlier
  const uint32_t whole = (size << 13) + more + (size >= 0x7c00 ? more : 0);
  const float small = static_cast<float>(static_cast<int32_t>(size)) * 0x1p-24f;
  return same_bits<float>((size < 0x0400 ? same_bits<uint32_t>(small) : whole) | sign);
}

// --- and back, rounded once; what is larger than `most` in bits, or no number, becomes that ---
constexpr uint32_t INFINITE = -1;
template <typename T>
inline T from_float(float x, uint32_t = INFINITE) { return static_cast<T>(x); }
template <>
inline bfloat16 from_float(float x, uint32_t most) {
  const uint32_t bits = same_bits<uint32_t>(x), size = bits & 0x7fffffff;
  const uint32_t half = (size + 0x7fff + (size >> 16 & 1)) >> 16;
  return {static_cast<uint16_t>(std::min({half, most, 0x7f80u}) | (bits >> 16 & 0x8000))};
}
template <>
inline float16 from_float(float x, uint32_t most) {
  const uint32_t bits = same_bits<uint32_t>(x), size = bits & 0x7fffffff;
  const uint32_t whole = (size - (112u << 23) + 0xfff + (size >> 13 & 1)) >> 13;
  const uint32_t small = same_bits<uint32_t>(same_bits<float>(size) + 0.5f) - (126u << 23);
  const uint32_t half = size < 113u << 23 ? small : whole;
  return {static_cast<uint16_t>(std::min({half, most, 0x7c00u}) | (bits >> 16 & 0x8000))};
}

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

inline void read(const void* x, int type, int64_t first, int64_t count, float* to) {
  typed(type, [=](auto like) {
    const auto* from = static_cast<const decltype(like)*>(x) + first;
#pragma omp simd
    for (int64_t k = 0; k < count; k++) to[k] = to_float(from[k]);
  });
}

inline void write(const float* from, void* x, int type, int64_t first, int64_t count) {
  typed(type, [=](auto like) {
    using T = decltype(like);
    auto* to = static_cast<T*>(x) + first;
#pragma omp simd
    for (int64_t k = 0; k < count; k++) to[k] = from_float<T>(from[k]);
  });
}

struct Given {
  const void *s; int s_type; const void* z; int z_type;
  void read(int64_t first, int64_t count, float* s_to, float* z_to) const {
    ::read(s, s_type, first, count, s_to);
    ::read(z, z_type, first, count, z_to);
  }
};

// --- loops over n values ---
template <typename T>
inline void ask_for(const T* x, int64_t values, int64_t ahead) {
  for (int64_t k = 0; k < values; k += 64 / sizeof(T)) __builtin_prefetch(x + k + ahead);
}

// step(j, N) for blocks of N values from j on, where the compiler knows N.
template <typename Step>
inline void over(int64_t n, const Step& step) {
  int64_t j = 0;
  for (; j + 32 <= n; j += 32) step(j, std::integral_constant<int64_t, 32>());
  for (; j + 8 <= n; j += 8) step(j, std::integral_constant<int64_t, 8>());
  for (; j < n; j++) step(j, std::integral_constant<int64_t, 1>());
}

// y = f(x, s, z) for n values with one s and z.
template <typename X, typename Y, typename F>
inline void row(const X* x, float s, float z, Y* y, int64_t n, const F& f, int64_t ahead = AHEAD / sizeof(X)) {
  over(n, [=](int64_t j, auto N) {
    if (N > 1) ask_for(x + j, N, ahead);
#pragma omp simd
    for (int64_t k = j; k < j + N; k++) y[k] = f(x[k], s, z);
  });
}

template <typename X, typename Y, typename F>
inline void rows(const X* x, const Given& given, Y* y, int64_t m, int64_t n, const F& f) {
  const int64_t height = std::max<int64_t>(1, TILE / n);
#pragma omp parallel for collapse(2)
  for (int64_t i = 0; i < m; i += height)
    for (int64_t first = 0; first < n; first += TILE) {
      float s[TILE], z[TILE];
      const int64_t count = std::min(height, m - i), width = std::min(TILE, n - first);
      given.read(i, count, s, z);
      for (int64_t k = 0; k < count; k++) {
        const int64_t at = (i + k) * n + first;
        row(x + at, s[k], z[k], y + at, width, f);
      }
    }
}

template <typename X, typename Y, typename F>
inline void columns(const X* x, const Given& given, Y* y, int64_t m, int64_t n, int64_t c, const F& f) {
  constexpr int64_t WIDTH = 1024, HEIGHT = 64;
#pragma omp parallel for collapse(3)
  for (int64_t i = 0; i < m; i++)
    for (int64_t top = 0; top < n; top += HEIGHT)
      for (int64_t first = 0; first < c; first += WIDTH) {
        float s[WIDTH], z[WIDTH];
        const int64_t width = std::min(WIDTH, c - first);
        given.read(i * c + first, width, s, z);
        for (int64_t k = top; k < std::min(n, top + HEIGHT); k++) {
          const X* from = x + (i * n + k) * c + first;
          Y* to = y + (from - x);
          over(width, [=, s = s, z = z](int64_t j, auto N) {
            ask_for(from + j, N, c);
#pragma omp simd
            for (int64_t l = j; l < j + N; l++) to[l] = f(from[l], s[l], z[l]);
          });
        }
      }
}

// --- the formulas ---
// For |x| < 2^22; halves go to the even one.
inline float rounded(float x) { return (x + MIDDLE) - MIDDLE; }

// NaN stays, as neither comparison holds.
inline float clipped(float x, float low, float high) {
  x = x < low ? low : x;
  return x > high ? high : x;
}

// Whole ends may be taken before the rounding: q is the same, and no x is too large for it. A z that
// is added after the rounding moves the ends.
struct Quantize {
  float low, high; bool inside;
  inline Q operator()(R r, float s, float z) const {
    const float before = inside ? z : 0, after = inside ? 0 : z;
    float x = clipped(to_float(r) / s + before, low - after, high - after);
    x = (x + MIDDLE) - (MIDDLE - after);
#if !defined(__x86_64__) && !defined(__aarch64__)
    x = x == x ? x : 0;  // these two make NaN an int32 that ends in sixteen 0
#endif
    return static_cast<Q>(static_cast<int32_t>(x));
  }
};

// What does not fit a half type becomes its largest number.
struct Dequantize {
  inline R operator()(Q q, float s, float z) const {
    return from_float<R>(s * (to_float(q) - z), std::is_same_v<R, float16> ? 0x7bff : 0x7f7f);
  }
};

// --- the smallest and the largest value ---
// Bits of floats as whole numbers of the same order: below 0 all but the sign is turned around.
// A NaN is then beyond infinity, on the side of its sign, so no end forgets it.
using Key = std::conditional_t<sizeof(R) == 4, int32_t, int16_t>;
inline Key turned(Key k) { return k ^ (k >> (8 * sizeof k - 1) & std::numeric_limits<Key>::max()); }

struct Ends { Key low, high; };

inline Ends ends_of(const R* r, int64_t n) {
  Key low = std::numeric_limits<Key>::max(), high = std::numeric_limits<Key>::min();
#pragma omp simd reduction(min : low) reduction(max : high)
  for (int64_t j = 0; j < n; j++) {
    const Key k = turned(same_bits<Key>(r[j]));
    low = std::min(low, k);
    high = std::max(high, k);
  }
  return {low, high};
}

// Both as floats; a NaN makes both NaN.
inline void as_floats(Key low, Key high, float& r_min, float& r_max) {
  const float a = to_float(same_bits<R>(turned(low))), b = to_float(same_bits<R>(turned(high)));
  r_min = b == b ? a : b;
  r_max = a == a ? b : a;
}

inline void min_max_rows(const R* r, float* r_min, float* r_max, int64_t m, int64_t n) {
#pragma omp parallel for
  for (int64_t i = 0; i < m; i++) {
    const Ends ends = ends_of(r + i * n, n);
    as_floats(ends.low, ends.high, r_min[i], r_max[i]);
  }
}

// Every core takes some columns, whose ends so far stay in its cache.
inline void min_max_columns(const R* r, float* r_min, float* r_max, int64_t m, int64_t n, int64_t c) {
  constexpr int64_t WIDTH = 1024;
#pragma omp parallel for collapse(2)
  for (int64_t i = 0; i < m; i++)
    for (int64_t first = 0; first < c; first += WIDTH) {
      Key low[WIDTH], high[WIDTH];
      const int64_t width = std::min(WIDTH, c - first);
      std::fill(low, low + width, std::numeric_limits<Key>::max());
      std::fill(high, high + width, std::numeric_limits<Key>::min());
      for (int64_t k = 0; k < n; k++) {
        const R* x = r + (i * n + k) * c + first;
        over(width, [&](int64_t j, auto N) {
          ask_for(x + j, N, c);
#pragma omp simd
          for (int64_t l = j; l < j + N; l++) {
            const Key key = turned(same_bits<Key>(x[l]));
            low[l] = std::min(low[l], key);
            high[l] = std::max(high[l], key);
          }
        });
      }
      for (int64_t l = 0; l < width; l++)
        as_floats(low[l], high[l], r_min[i * c + first + l], r_max[i * c + first + l]);
    }
}

// --- scale and zero point of a range that holds 0: affine.safe_qparams ---
struct Choose {
  float low, high; bool symmetric; int s_type;
  void operator()(int64_t count, float* r_min, float* r_max, float* s, float* z) const {
#pragma omp simd
    for (int64_t k = 0; k < count; k++) {
      const float least = r_min[k] > 0 ? 0 : r_min[k], most = r_max[k] < 0 ? 0 : r_max[k];
      const float larger = -least > most ? -least : most;
      s[k] = (symmetric ? larger : most - least) / (symmetric ? high : high - low);
      r_min[k] = least;
    }
    typed(s_type, [=](auto like) {
      for (int64_t k = 0; k < count; k++) s[k] = to_float(from_float<decltype(like)>(s[k]));
    });
#pragma omp simd
    for (int64_t k = 0; k < count; k++) {
      const float zero = rounded(clipped(low - r_min[k] / s[k], low, high));
      z[k] = symmetric || s[k] < TINY ? 0 : zero;
      s[k] = s[k] < TINY ? 1 : s[k];
    }
  }
};

// Some rows at a time: their ends, their scales, and their codes while r is in the cache. Meanwhile
// memory is asked for the rows that come next.
inline void choose_rows(const R* r, void* s_out, Q* z_out, Q* q, int64_t m, int64_t n, const Choose& choose,
                        const Quantize& quantize) {
  const int64_t height = std::max<int64_t>(1, TILE / n);
#pragma omp parallel for
  for (int64_t i = 0; i < m; i += height) {
    Key lowest[TILE], highest[TILE];
    float r_min[TILE], r_max[TILE], s[TILE], z[TILE];
    const int64_t count = std::min(height, m - i);
    for (int64_t k = 0; k < count; k++) {
      const R* x = r + (i + k) * n;
      const Ends ends = n == 32 ? ends_of(x, 32) : ends_of(x, n);  // what is known is faster
      lowest[k] = ends.low;
      highest[k] = ends.high;
    }
#pragma omp simd
    for (int64_t k = 0; k < count; k++) as_floats(lowest[k], highest[k], r_min[k], r_max[k]);
    choose(count, r_min, r_max, s, z);
    write(s, s_out, choose.s_type, i, count);
    for (int64_t k = 0; k < count; k++) z_out[i + k] = static_cast<Q>(static_cast<int32_t>(z[k]));
    for (int64_t k = 0; k < count; k++)
      row(r + (i + k) * n, s[k], z[k], q + (i + k) * n, n, quantize, count * n);
  }
}

// --- what Python calls ---
extern "C" void quantize(const R* r, const void* s, const void* z, Q* q, int64_t m, int64_t n, int64_t c,
                         int s_type, int z_type, float low, float high, bool inside) {
  const Given given{s, s_type, z, z_type};
  c == 1 ? rows(r, given, q, m, n, Quantize{low, high, inside})
         : columns(r, given, q, m, n, c, Quantize{low, high, inside});
}

extern "C" void dequantize(const Q* q, const void* s, const void* z, R* r_hat, int64_t m, int64_t n, int64_t c,
                           int s_type, int z_type) {
  const Given given{s, s_type, z, z_type};
  c == 1 ? rows(q, given, r_hat, m, n, Dequantize()) : columns(q, given, r_hat, m, n, c, Dequantize());
}

extern "C" void min_max(const R* r, float* r_min, float* r_max, int64_t m, int64_t n, int64_t c) {
  c == 1 ? min_max_rows(r, r_min, r_max, m, n) : min_max_columns(r, r_min, r_max, m, n, c);
}

extern "C" void choose_and_quantize(const R* r, void* s, Q* z, Q* q, int64_t m, int64_t n, int s_type,
                                    float low, float high, bool inside, bool symmetric) {
  choose_rows(r, s, z, q, m, n, {low, high, symmetric, s_type}, {low, high, inside});
}

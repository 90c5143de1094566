// What runs on a processor: the formulas between one reading of a tensor and one store.
//
//     q     = clip(round(r / s + z), low, high)
//     r_hat = s * (q - z)
//
// Compiled for a type REAL of r and a type CODE of q. Memory is asked for AHEAD bytes before they are
// needed, and what moves FAR bytes or more is written past the caches. An inner loop has a known
// length and does nothing but arithmetic: so every compiler makes vectors of it, on every processor.
// What lies in memory as [m, n, c] has an s and a z for each [m, c]; c = 1 are rows.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "loops_ends.h"
#include "loops_numbers.h"

using R = REAL;
using Q = CODE;
constexpr int64_t TILE = 16384 / sizeof(R);  // values that stay in the nearest cache, with those that come next
constexpr int64_t PIECE = 32768;         // values for one core at a time, where nothing must stay
constexpr int64_t SCALES = 512;          // at most so many scales at a time
constexpr int64_t NEXT = 4;              // rows of columns, after which memory is asked for
constexpr float TINY = 0x1p-126f;        // the smallest float with all its digits
constexpr float MIDDLE = 0x1.8p23f;      // from 2^23 on floats are whole: adding this rounds

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
struct Steps { float s[SCALES], inverse[SCALES], low[SCALES], high[SCALES], z[SCALES], then[SCALES]; };

// CLIPS: not where r is known to lie within the codes, as their own range does.
template <bool CLIPS>
struct Quantize {
  float low, high; bool inside;
  struct Step { float s, inverse, low, high, first, then; };
  static inline Step step(const Steps& of, int64_t k) {
    return {of.s[k], of.inverse[k], of.low[k], of.high[k], of.z[k], of.then[k]};
  }
  // r itself is clipped, at the values of the first and the last code, where products can take the
  // place of the division; else r / s is.
  void prepare(Steps& to, int64_t count, const float* r_min = nullptr, const float* r_max = nullptr) const {
#pragma omp simd
    for (int64_t k = 0; k < count; k++) {
      const float s = to.s[k], z = to.z[k];
      const bool within = CLIPS || (r_min[k] / s + z > low - 0.5f && r_max[k] / s + z < high + 0.5f);
      const bool products = FUSED && s > 0x1p-60f && s < 0x1p60f && within;
      to.inverse[k] = products ? 1 / s : 0;
      to.low[k] = (low - z) * (products ? s : 1);
      to.high[k] = (high - z) * (products ? s : 1);
      to.z[k] = inside ? z : MIDDLE;
      to.then[k] = inside ? MIDDLE : z;
    }
  }
  static inline bool is_rare(Step k) { return FUSED && k.inverse == 0; }
  // To add MIDDLE rounds, and its last 16 bits are 0.
  static inline int32_t code(float x, Step k) {
    x = (x + k.first) + k.then;
#if !defined(__x86_64__) && !defined(__aarch64__)
    x = x == x ? x : 0;  // these two make NaN an int32 that ends in sixteen 0
#endif
    return static_cast<int32_t>(x);
  }
  static inline int32_t always(float r, Step k) { return code(clipped(r / k.s, k.low, k.high), k); }
  // r / s, rounded once: one product with 1 / s misses it by less than 3/2 of its last place, and
  // what is then left of r is exact enough to correct that. (Where |r / s| < 2^-26 it may still
  // miss; that is code z all the same.)
  static inline int32_t value(float r, Step k) {
    if (!FUSED) return always(r, k);
    const float x = CLIPS ? clipped(r, k.low, k.high) : r, q = x * k.inverse;
    return code(std::fma(std::fma(-q, k.s, x), k.inverse, q), k);
  }
};

// What does not fit a half type becomes its largest number.
struct Dequantize {
  struct Step { float s, z; };
  static inline Step step(const Steps& of, int64_t k) { return {of.s[k], of.z[k]}; }
  void prepare(Steps&, int64_t) const {}
  static constexpr float MOST = std::is_same_v<R, float16> ? 65504 : 0x1.fep127f;
  static inline bool is_rare(Step k) { return sizeof(R) == 2 && !(k.s > TINY && k.s < MOST / 65536); }
  static inline float value(float q, Step k) { return k.s * (q - k.z); }
  static inline float always(float q, Step k) { return sizeof(R) == 2 ? clipped(value(q, k), -MOST, MOST) : value(q, k); }
};

// --- loops over n values ---
inline bool is_far(int64_t values) { return values * static_cast<int64_t>(sizeof(R) + sizeof(Q)) >= FAR; }

template <typename T>
inline void ask_for(const T* x, int64_t values, int64_t ahead) {
  for (int64_t k = 0; k < values; k += 64 / sizeof(T)) __builtin_prefetch(x + k + ahead);
}

// step(j, N) for blocks of N values from j on, where the compiler knows N.
template <typename Step>
inline void over(int64_t n, const Step& step) {
  int64_t j = 0;
  for (; j + 64 <= n; j += 64) step(j, std::integral_constant<int64_t, 64>());
  for (; j + 32 <= n; j += 32) step(j, std::integral_constant<int64_t, 32>());
  for (; j + 8 <= n; j += 8) step(j, std::integral_constant<int64_t, 8>());
  for (; j < n; j++) step(j, std::integral_constant<int64_t, 1>());
}

// y[k] = f(x[k], k) for N values.
template <int64_t N, typename X, typename Y, typename F>
inline void near_block(const X* x, Y* y, const F& f) {
  using Z = decltype(f(0.0f, 0));  // float or int32_t
  if constexpr (CONVERTS && (std::is_class_v<X> || sizeof(X) == 1)) {
    std::conditional_t<std::is_class_v<X>, float, int32_t> held[N];
    convert<N>(x, held);
    near_block<N>(held, y, f);
  } else if constexpr (CONVERTS && (std::is_class_v<Y> || sizeof(Y) == 1)) {
    Z held[N];
    near_block<N>(x, held, f);
    convert<N>(held, y);
  } else {
#pragma omp simd
    for (int64_t k = 0; k < N; k++) y[k] = from_float<Y>(f(to_float(x[k]), k));
  }
}

template <int64_t N, typename X, typename Y, typename F>
inline void block(const X* x, Y* y, const F& f, bool far) {
  if constexpr (N * sizeof(Y) % LINE_PART == 0)
    if (far) {
      alignas(LINE_PART) Y held[N];
      near_block<N>(x, held, f);
      return write_far<N>(held, y);
    }
  near_block<N>(x, y, f);
}

// n values with one s and z.
template <typename F, typename X, typename Y>
inline void row(const F&, const X* x, Y* y, typename F::Step k, int64_t n, int64_t ahead, bool far) {
  const auto all = [=](const auto& value, auto far) {
    over(n, [=](int64_t j, auto N) {
      if (N > 1) ask_for(x + j, N, ahead);
      block<N>(x + j, y + j, value, far);
    });
  };
  const auto near_or_far = [=](const auto& value) {
    far && may_be_far(y) ? all(value, std::true_type()) : all(value, std::false_type());
  };
  if (!F::is_rare(k)) return near_or_far([=](float v, int64_t) { return F::value(v, k); });
  if constexpr (std::is_class_v<Y>)  // an instruction that makes bfloat16 takes the smallest for 0
    for (int64_t j = 0; j < n; j++) y[j] = from_float<Y>(F::always(to_float(x[j]), k));
  else
    near_or_far([=](float v, int64_t) { return F::always(v, k); });
}

// What is known when it is compiled is faster: the commonest group.
template <typename F>
inline void known(int64_t n, const F& f) { n == 32 ? f(std::integral_constant<int64_t, 32>()) : f(n); }

inline int64_t rows_at_once(int64_t n, int64_t values) { return std::max<int64_t>(1, std::min(SCALES, values / n)); }

template <typename F, typename X, typename Y>
inline void rows(const F& f, const X* x, const Given& given, Y* y, int64_t m, int64_t n) {
  const int64_t height = rows_at_once(n, PIECE);
  const bool far = is_far(m * n);
#pragma omp parallel
  {
#pragma omp for collapse(2)
    for (int64_t i = 0; i < m; i += height)
      for (int64_t first = 0; first < n; first += PIECE) {
        Steps steps;
        const int64_t count = std::min(height, m - i), width = std::min(PIECE, n - first);
        read(given.s, given.s_type, i, count, steps.s);
        read(given.z, given.z_type, i, count, steps.z);
        f.prepare(steps, count);
        known(width, [=, &f, &steps](auto width) {
          for (int64_t k = 0; k < count; k++) {
            const int64_t at = (i + k) * n + first;
            row(f, x + at, y + at, F::step(steps, k), width, AHEAD / sizeof(X), far);
          }
        });
      }
    end_far();
  }
}

template <typename F, typename X, typename Y>
inline void columns(const F& f, const X* x, const Given& given, Y* y, int64_t m, int64_t n, int64_t c) {
  constexpr int64_t HEIGHT = 256;
  const bool far = is_far(m * n * c);
#pragma omp parallel
  {
#pragma omp for collapse(3)
    for (int64_t i = 0; i < m; i++)
      for (int64_t top = 0; top < n; top += HEIGHT)
        for (int64_t first = 0; first < c; first += SCALES) {
          Steps steps;
          const int64_t width = std::min(SCALES, c - first);
          read(given.s, given.s_type, i * c + first, width, steps.s);
          read(given.z, given.z_type, i * c + first, width, steps.z);
          f.prepare(steps, width);
          bool rare = false;
          for (int64_t l = 0; l < width; l++) rare |= F::is_rare(F::step(steps, l));
          for (int64_t k = top; k < std::min(n, top + HEIGHT); k++) {
            const X* from = x + (i * n + k) * c + first;
            Y* to = y + (from - x);
            if (rare)
              for (int64_t l = 0; l < width; l++) row(f, from + l, to + l, F::step(steps, l), 1, 0, false);
            else
              over(width, [=, &steps](int64_t j, auto N) {
                ask_for(from + j, N, NEXT * c);
                const auto value = [=, &steps](float v, int64_t l) { return F::value(v, F::step(steps, j + l)); };
                block<N>(from + j, to + j, value, far && may_be_far(to));
              });
          }
        }
    end_far();
  }
}

// --- the smallest and the largest value ---
inline void min_max_rows(const R* r, float* r_min, float* r_max, int64_t m, int64_t n) {
  known(n, [=](auto n) {
#pragma omp parallel for
    for (int64_t i = 0; i < m; i++) {
      const Ends<R> e = ends_of<false>(r + i * n, n);
      as_floats<R>(e.most, e.nearest, e.least, r_min[i], r_max[i]);
    }
  });
}

// Every core takes some columns, whose ends so far stay in its cache.
inline void min_max_columns(const R* r, float* r_min, float* r_max, int64_t m, int64_t n, int64_t c) {
#pragma omp parallel for collapse(2)
  for (int64_t i = 0; i < m; i++)
    for (int64_t first = 0; first < c; first += SCALES) {
      Key<R> most[SCALES], nearest[SCALES];
      Bare<R> least[SCALES];
      const int64_t width = std::min(SCALES, c - first);
      std::fill(most, most + width, Ends<R>().most);
      std::fill(nearest, nearest + width, Ends<R>().nearest);
      std::fill(least, least + width, Ends<R>().least);
      for (int64_t k = 0; k < n; k++) {
        const R* x = r + (i * n + k) * c + first;
        over(width, [&](int64_t j, auto N) {
          ask_for(x + j, N, NEXT * c);
#pragma omp simd
          for (int64_t l = j; l < j + N; l++) {
            const Key<R> key = same_bits<Key<R>>(x[l]);
            most[l] = std::max(most[l], key);
            least[l] = std::max(least[l], static_cast<Bare<R>>(key));
            nearest[l] = std::min(nearest[l], key);
          }
        });
      }
      for (int64_t l = 0; l < width; l++)
        as_floats<R>(most[l], nearest[l], least[l], r_min[i * c + first + l], r_max[i * c + first + l]);
    }
}

// --- scale and zero point of a range that holds 0: affine.safe_qparams ---
inline float rounded(float x) { return (x + MIDDLE) - MIDDLE; }  // for |x| < 2^22; halves go to the even one

struct Choose {
  float low, high; bool symmetric; int s_type;
  void operator()(int64_t count, const float* r_min, const float* r_max, float* s, float* z) const {
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
#pragma omp simd
    for (int64_t k = 0; k < count; k++) {
      const float zero = rounded(clipped(low - r_min[k] / s[k], low, high));
      z[k] = symmetric || s[k] < TINY ? 0 : zero;
      s[k] = s[k] < TINY ? 1 : s[k];
    }
  }
};

// Some rows at a time: their ends, their scales, and their codes while r is in the cache. With the
// codes memory is asked for the rows that come next.
inline void choose_rows(const R* r, void* s_out, Q* z_out, Q* q, int64_t m, int64_t n, const Choose& choose,
                        const Quantize<false>& quantize) {
  const int64_t height = rows_at_once(n, TILE);
  const bool far = is_far(m * n);
#pragma omp parallel
  {
#pragma omp for
    for (int64_t i = 0; i < m; i += height) {
      Key<R> most[SCALES];
      Bare<R> least[SCALES];
      float r_min[SCALES], r_max[SCALES];
      Steps steps;
      const int64_t count = std::min(height, m - i);
      known(n, [=, &most, &least](auto n) {
        for (int64_t k = 0; k < count; k++) {
          const Ends<R> e = ends_of<true>(r + (i + k) * n, n);
          most[k] = e.most;
          least[k] = e.least;
        }
      });
#pragma omp simd
      for (int64_t k = 0; k < count; k++) as_floats<R>(most[k], 0, least[k], r_min[k], r_max[k]);
      choose(count, r_min, r_max, steps.s, steps.z);
      write(steps.s, s_out, choose.s_type, i, count);
      for (int64_t k = 0; k < count; k++) z_out[i + k] = static_cast<Q>(static_cast<int32_t>(steps.z[k]));
      quantize.prepare(steps, count, r_min, r_max);
      known(n, [=, &quantize, &steps](auto n) {
        for (int64_t k = 0; k < count; k++) {
          const int64_t at = (i + k) * n;
          row(quantize, r + at, q + at, Quantize<false>::step(steps, k), n, count * n, far);
        }
      });
    }
    end_far();
  }
}

// --- what Python calls ---
extern "C" void quantize(const R* r, const void* s, const void* z, Q* q, int64_t m, int64_t n, int64_t c,
                         int s_type, int z_type, float low, float high, bool inside) {
  const Given given{s, s_type, z, z_type};
  const Quantize<true> f{low, high, inside};
  c == 1 ? rows(f, r, given, q, m, n) : columns(f, r, given, q, m, n, c);
}

extern "C" void dequantize(const Q* q, const void* s, const void* z, R* r_hat, int64_t m, int64_t n, int64_t c,
                           int s_type, int z_type) {
  const Given given{s, s_type, z, z_type};
  c == 1 ? rows(Dequantize(), q, given, r_hat, m, n) : columns(Dequantize(), q, given, r_hat, m, n, c);
}

extern "C" void min_max(const R* r, float* r_min, float* r_max, int64_t m, int64_t n, int64_t c) {
  c == 1 ? min_max_rows(r, r_min, r_max, m, n) : min_max_columns(r, r_min, r_max, m, n, c);
}

extern "C" void choose_and_quantize(const R* r, void* s, Q* z, Q* q, int64_t m, int64_t n, int s_type,
                                    float low, float high, bool inside, bool symmetric) {
  choose_rows(r, s, z, q, m, n, {low, high, symmetric, s_type}, {low, high, inside});
}

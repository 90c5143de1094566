// What runs on a processor: the formulas between one reading of a tensor and one store.
//
//     q     = clip(round(r / s + z), low, high)
//     r_hat = s * (q - z)
//
// Compiled for a type REAL of r, a type CODE of q, and a z that is added before rounding (INSIDE) or after.
// An inner loop has a known length and does nothing but arithmetic: so every compiler makes vectors of it,
// on every processor. What lies in memory as [m, n, c] has an s and a z for each [m, c]; c = 1 are rows.

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "loops_ends.h"
#include "loops_formulas.h"
#include "loops_numbers.h"

constexpr int64_t TILE = 16384 / sizeof(R);  // values that stay in the nearest cache, with those that come next
constexpr int64_t PIECE = 32768;         // values for one core at a time, where nothing must stay
constexpr int64_t HIGH = 4;               // rows of columns at a time
constexpr int64_t TALL = 1 << 23;         // bytes of SCALES columns, from which on threads share them
constexpr int64_t FEW = 1 << 19;          // the same where there are fewer strips than threads

namespace {
// --- loops over n values ---
inline bool is_far(int64_t values, How how) { return values * static_cast<int64_t>(sizeof(R) + sizeof(Q)) >= how.far; }

// step(j, N) for blocks of N values from j on, where the compiler knows N.
template <typename Step>
IN_PLACE void over(int64_t n, const Step& step) {
  int64_t j = 0;
  for (; j + 64 <= n; j += 64) step(j, std::integral_constant<int64_t, 64>());
  for (; j + 32 <= n; j += 32) step(j, std::integral_constant<int64_t, 32>());
  for (; j + 16 <= n; j += 16) step(j, std::integral_constant<int64_t, 16>());
  for (; j + 8 <= n; j += 8) step(j, std::integral_constant<int64_t, 8>());
  for (; j < n; j++) step(j, std::integral_constant<int64_t, 1>());
}

// y[k] = value(x[k], k) of formula f for N values of each of H rows: what it needs of k is read once for
// all of them. Rows that are far lie in a page each, and took a fifth more time in vectors of 64 bytes.
template <int64_t N, int64_t H, bool FAR_ROWS, typename X, typename Y, typename V, typename F>
IN_PLACE void near_block(const X* x, int64_t x_row, Y* y, int64_t y_row, const V& value, const F& f) {
  using Z = decltype(value(0.0f, 0));  // float or int32_t
  if constexpr (CONVERTS && (std::is_class_v<X> || sizeof(X) == 1)) {
    std::conditional_t<std::is_class_v<X>, float, int32_t> held[H * N];
    for (int64_t h = 0; h < H; h++) convert<N>(x + h * x_row, held + h * N);
    near_block<N, H, FAR_ROWS>(held, N, y, y_row, value, f);
  } else if constexpr (CONVERTS && (std::is_class_v<Y> || sizeof(Y) == 1)) {
    Z held[H * N];
    near_block<N, H, FAR_ROWS>(x, x_row, held, N, value, f);
    for (int64_t h = 0; h < H; h++) f.template store<N>(held + h * N, y + h * y_row);
  } else {
    constexpr int64_t lanes = FAR_ROWS ? std::min<int64_t>(LANES<float>, 8) : LANES<float>;
#pragma omp simd simdlen(lanes)
    for (int64_t k = 0; k < N; k++)
      for (int64_t h = 0; h < H; h++) y[h * y_row + k] = from_float<Y>(value(to_float(x[h * x_row + k]), k));
  }
}

template <int64_t N, int64_t H, typename X, typename Y, typename V, typename F>
IN_PLACE void block(const X* x, int64_t x_row, Y* y, int64_t y_row, const V& value, const F& f, bool far) {
  if constexpr (N * sizeof(Y) % LINE_PART == 0)
    if (far) {
      alignas(LINE_PART) Y held[H * N];
      near_block<N, H, (H > 1)>(x, x_row, held, N, value, f);
      for (int64_t h = 0; h < H; h++) write_far<N>(held + h * N, y + h * y_row);
      return;
    }
  near_block<N, H, false>(x, x_row, y, y_row, value, f);
}

// y[j] = value(x[j]) of formula f for n values.
template <typename V, typename F, typename X, typename Y>
IN_PLACE void values(const X* x, Y* y, const V& value, const F& f, int64_t n, int64_t ahead, bool far) {
  const auto all = [=](auto far) __attribute__((always_inline)) {
    over(n, [=](int64_t j, auto N) __attribute__((always_inline)) {
      if (N > 1) ask_for(x + j, N, ahead);
      block<N, 1>(x + j, 0, y + j, 0, value, f, far);
    });
  };
  far && may_be_far(y) ? all(std::true_type()) : all(std::false_type());
}

template <typename F, typename X, typename Y>
void rare_row(const F& f, const X* x, Y* y, typename F::Step k, int64_t n, int64_t ahead, bool far) {
  if constexpr (std::is_class_v<Y>)  // an instruction that makes bfloat16 takes the smallest for 0
    for (int64_t j = 0; j < n; j++) y[j] = from_float<Y>(F::always(to_float(x[j]), k));
  else
    values(x, y, [=](float v, int64_t) { return F::always(v, k); }, f, n, ahead, far);
}

// n values with one s and z; rare says whether k may be so.
template <typename F, typename X, typename Y>
IN_PLACE void row(const F& f, const X* x, Y* y, typename F::Step k, bool rare, int64_t n, int64_t ahead, bool far) {
  if (rare && F::is_rare(k)) return rare_row(f, x, y, k, n, ahead, far);
  values(x, y, [=](float v, int64_t) { return F::value(v, k); }, f, n, ahead, far);
}

// What is known when it is compiled is faster: the commonest groups, where nothing is rare.
template <typename F>
inline void known(int64_t n, bool rare, const F& f) {
  if (rare || (n != 32 && n != 128)) f(n, rare);
  else if (n == 32) f(std::integral_constant<int64_t, 32>(), std::false_type());
  else f(std::integral_constant<int64_t, 128>(), std::false_type());
}

// count rows of `width`, of n that lie in memory, with an s and a z for each.
template <typename F, typename X, typename Y>
ONCE void some_rows(const F& f, const X* x, Y* y, const Steps& steps, bool rare, int64_t count, int64_t n, int64_t width,
                    int64_t ahead, bool far) {
  known(width, rare, [=, &steps](auto width, auto rare) {
    for (int64_t k = 0; k < count; k++) row(f, x + k * n, y + k * n, F::step(steps, k), rare, width, ahead, far);
  });
}

inline int64_t rows_at_once(int64_t n, int64_t values) { return std::max<int64_t>(1, std::min(SCALES, values / n)); }

template <typename F, typename X, typename Y>
inline void rows(const F& f, const X* x, const Given& given, Y* y, int64_t m, int64_t n, How how) {
  const int64_t height = rows_at_once(n, PIECE), ahead = how.ahead / static_cast<int64_t>(sizeof(X));
  const bool far = is_far(m * n, how);
#pragma omp parallel num_threads(how.threads)
  {
#pragma omp for collapse(2)
    for (int64_t i = 0; i < m; i += height)
      for (int64_t first = 0; first < n; first += PIECE) {
        Steps steps;
        const int64_t count = std::min(height, m - i), width = std::min(PIECE, n - first);
        until_it_fits<F::SATURATES>([&](bool careful) {
          read(given.s, given.s_type, i, count, steps.s);
          read(given.z, given.z_type, i, count, steps.z);
          const bool rare = f.prepare(steps, count, careful);
          const int64_t at = i * n + first;
          some_rows(f, x + at, y + at, steps, rare, count, n, width, ahead, far);
        });
      }
    end_far();
  }
}

// f(k, H) for H rows from k on, until all n have had their turn.
template <typename F>
IN_PLACE void over_rows(int64_t n, const F& f) {
  int64_t k = 0;
  for (; k + HIGH <= n; k += HIGH) f(k, std::integral_constant<int64_t, HIGH>());
  for (; k < n; k++) f(k, std::integral_constant<int64_t, 1>());
}

// width columns of n rows, with an s and z for each column. Where one step is rare, all are prepared as such.
template <typename F, typename X, typename Y>
ONCE void strip(const F& f, const X* x, int64_t x_row, Y* y, int64_t y_row, const Steps& steps, bool rare,
                int64_t n, int64_t width, bool far) {
  over_rows(n, [=, &steps](int64_t k, auto H) {
    const X* from = x + k * x_row;
    Y* to = y + k * y_row;
    if (rare && std::is_class_v<Y>)  // as in rare_row
      for (int64_t h = 0; h < H; h++)
        for (int64_t l = 0; l < width; l++)
          rare_row(f, from + h * x_row + l, to + h * y_row + l, F::step(steps, l), 1, 0, false);
    else if (rare)
      over(width, [=, &steps](int64_t j, auto N) {
        const auto value = [=, &steps](float v, int64_t l) { return F::always(v, F::step(steps, j + l)); };
        block<N, H>(from + j, x_row, to + j, y_row, value, f, false);
      });
    else
      over(width, [=, &steps](int64_t j, auto N) {
        for (int64_t h = 0; h < H; h++) ask_for(from + h * x_row + j, N, HIGH * x_row);
        const auto value = [=, &steps](float v, int64_t l) { return F::value(v, F::step(steps, j + l)); };
        block<N, H>(from + j, x_row, to + j, y_row, value, f, far && may_be_far(to) && may_be_far(to + y_row));
      });
  });
}

template <typename F, typename X, typename Y>
inline void columns(const F& f, const X* x, const Given& given, Y* y, int64_t m, int64_t n, int64_t c, How how) {
  constexpr int64_t HEIGHT = 256;
  const bool far = is_far(m * n * c, how);
#pragma omp parallel num_threads(how.threads)
  {
#pragma omp for collapse(3)
    for (int64_t i = 0; i < m; i++)
      for (int64_t top = 0; top < n; top += HEIGHT)
        for (int64_t first = 0; first < c; first += STRIP) {
          Steps steps;
          const int64_t width = std::min(STRIP, c - first), at = (i * n + top) * c + first;
          until_it_fits<F::SATURATES>([&](bool careful) {
            read(given.s, given.s_type, i * c + first, width, steps.s);
            read(given.z, given.z_type, i * c + first, width, steps.z);
            const bool rare = f.prepare(steps, width, careful) && f.prepare(steps, width, true);
            strip(f, x + at, c, y + at, c, steps, rare, std::min(HEIGHT, n - top), width, far);
          });
        }
    end_far();
  }
}

// --- the smallest and the largest value ---
inline void min_max_rows(const R* r, float* r_min, float* r_max, int64_t m, int64_t n, How how) {
  const int64_t ahead = how.ahead / static_cast<int64_t>(sizeof(R));
  known(n, false, [=](auto n, auto) {
#pragma omp parallel for num_threads(how.threads)
    for (int64_t i = 0; i < m; i++) {
      const Ends<R> e = ends_of(r + i * n, n, ahead);
      as_floats<R>(e.most, e.nearest, e.least, r_min[i], r_max[i]);
    }
  });
}

// Of N columns or fewer, whose ends so far stay in the nearest caches.
template <int64_t N>
struct EndsOfStrip {
  Key<R> most[N], nearest[N];
  Bare<R> least[N];
  explicit EndsOfStrip(int64_t width) {
    std::fill_n(most, width, Ends<R>().most);
    std::fill_n(nearest, width, Ends<R>().nearest);
    std::fill_n(least, width, Ends<R>().least);
  }
  void look_at(const EndsOfStrip& other, int64_t width) {
    for (int64_t l = 0; l < width; l++) {
      most[l] = std::max(most[l], other.most[l]);
      nearest[l] = std::min(nearest[l], other.nearest[l]);
      least[l] = std::max(least[l], other.least[l]);
    }
  }
};

template <typename Found>
ONCE void look_at_strip(const R* r, int64_t n, int64_t c, int64_t width, Found& found) {
  over_rows(n, [=, &found](int64_t k, auto H) {
    over(width, [=, &found](int64_t j, auto N) {
      const R* x = r + k * c + j;
      for (int64_t h = 0; h < H; h++) ask_for(x + h * c, N, HIGH * c);
#pragma omp simd
      for (int64_t l = 0; l < N; l++) {
        Ends<R> e{found.most[j + l], found.nearest[j + l], found.least[j + l]};
        for (int64_t h = 0; h < H; h++) {
          const Key<R> key = same_bits<Key<R>>(x[h * c + l]);
          e.most = std::max(e.most, key);
          e.nearest = std::min(e.nearest, key);
          e.least = std::max(e.least, static_cast<Bare<R>>(key));
        }
        found.most[j + l] = e.most, found.nearest[j + l] = e.nearest, found.least[j + l] = e.least;
      }
    });
  });
}

// Columns that have left the caches when their last row is read, or are too few for all threads: then threads share
// rows, which are read in longer runs, and the second time the last ones come first, as the last cache holds them.
inline bool is_tall(int64_t m, int64_t n, int64_t c, int64_t threads) {
  const int64_t strips = m * ((c + SCALES - 1) / SCALES), bytes = n * std::min(c, SCALES) * sizeof(R);
  return bytes >= TALL || (strips < threads && bytes >= FEW);
}

// f(top, count) for some rows at a time
template <typename F>
inline void over_parts(int64_t n, int64_t width, bool backwards, const F& f) {
  const int64_t height = std::max(HIGH, 4 * PIECE / width), parts = (n + height - 1) / height;
#pragma omp for
  for (int64_t j = 0; j < parts; j++) {
    const int64_t top = (backwards ? parts - 1 - j : j) * height;
    f(top, std::min(height, n - top));
  }
}

// f(i, first, width, ends, tall) for the columns of each i < m, some at a time: alone where they are tall, and else in
// a thread of many.
template <typename F>
inline void over_strips(const R* r, int64_t m, int64_t n, int64_t c, How how, const F& f) {
  const bool tall = is_tall(m, n, c, how.threads);
  for (int64_t i = 0; tall && i < m; i++)
    for (int64_t first = 0; first < c; first += STRIP) {
      const int64_t width = std::min(STRIP, c - first);
      EndsOfStrip<STRIP> ends(width);
#pragma omp parallel num_threads(how.threads)
      {
        EndsOfStrip<STRIP> some(width);
        over_parts(n, width, false, [=, &some](int64_t top, int64_t count) {
          look_at_strip(r + (i * n + top) * c + first, count, c, width, some);
        });
#pragma omp critical
        ends.look_at(some, width);
      }
      f(i, first, width, ends, true);
    }
  if (tall) return;
#pragma omp parallel num_threads(how.threads)
  {
#pragma omp for collapse(2)
    for (int64_t i = 0; i < m; i++)
      for (int64_t first = 0; first < c; first += SCALES) {
        const int64_t width = std::min(SCALES, c - first);
        EndsOfStrip<SCALES> ends(width);
        look_at_strip(r + i * n * c + first, n, c, width, ends);
        f(i, first, width, ends, false);
      }
    end_far();
  }
}

inline void min_max_columns(const R* r, float* r_min, float* r_max, int64_t m, int64_t n, int64_t c, How how) {
  over_strips(r, m, n, c, how, [=](int64_t i, int64_t first, int64_t width, const auto& e, bool) {
    for (int64_t l = 0, at = i * c + first; l < width; l++, at++)
      as_floats<R>(e.most[l], e.nearest[l], e.least[l], r_min[at], r_max[at]);
  });
}

// The scales and zero points of N ends or fewer; whether a step of theirs is rare.
template <size_t N, typename F>
inline bool chosen(const Key<R> (&most)[N], const Bare<R> (&least)[N], Steps& steps, void* s_out, Q* z_out, int64_t at,
                   int64_t count, const Choose& choose, const F& quantize) {
  float r_min[N], r_max[N];
#pragma omp simd
  for (int64_t k = 0; k < count; k++) as_floats<R>(most[k], 0, least[k], r_min[k], r_max[k]);
  choose(count, r_min, r_max, steps.s, steps.z);
  write(steps.s, s_out, choose.s_type, at, count);
  for (int64_t k = 0; k < count; k++) z_out[at + k] = static_cast<Q>(static_cast<int32_t>(steps.z[k]));
  ask_to_write(z_out + at + count, count);
  return quantize.prepare(steps, count, false);
}

// Some rows at a time: their ends, their scales, and their codes while r is in the cache. With the
// codes memory is asked for the rows that come next, with the ends for some of those after them.
inline void choose_rows(const R* r, void* s_out, Q* z_out, Q* q, int64_t m, int64_t n, const Choose& choose,
                        const Quantize& quantize, How how) {
  const int64_t height = rows_at_once(n, TILE);
  const bool far = is_far(m * n, how);
#pragma omp parallel num_threads(how.threads)
  {
#pragma omp for
    for (int64_t i = 0; i < m; i += height) {
      Key<R> most[SCALES];
      Bare<R> least[SCALES];
      Steps steps;
      const int64_t count = std::min(height, m - i);
      ends_of_rows(r + i * n, count, n, most, least, 2 * count * n);
      const bool rare = chosen(most, least, steps, s_out, z_out, i, count, choose, quantize);
      some_rows(quantize, r + i * n, q + i * n, steps, rare, count, n, n, count * n, far);
    }
    end_far();
  }
}

// Some columns at a time, read twice: their codes need the ends of all rows.
inline void choose_columns(const R* r, void* s_out, Q* z_out, Q* q, int64_t m, int64_t n, int64_t c,
                           const Choose& choose, const Quantize& quantize, How how) {
  const bool far = is_far(m * n * c, how);
  over_strips(r, m, n, c, how, [=, &choose, &quantize](int64_t i, int64_t first, int64_t width, const auto& e, bool tall) {
    Steps steps;
    const bool one = chosen(e.most, e.least, steps, s_out, z_out, i * c + first, width, choose, quantize);
    const bool rare = one && quantize.prepare(steps, width, true);
    const auto codes = [=, &steps](int64_t top, int64_t count) {
      const int64_t at = (i * n + top) * c + first;
      strip(quantize, r + at, c, q + at, c, steps, rare, count, width, far);
    };
    if (!tall) return codes(0, n);
#pragma omp parallel num_threads(how.threads)
    {
      over_parts(n, width, true, codes);
      end_far();
    }
  });
}
}  // namespace
// --- what Python calls ---
extern "C" void quantize(const R* r, const void* s, const void* z, Q* q, int64_t m, int64_t n, int64_t c,
                         int64_t ahead, int64_t far, int64_t threads, int s_type, int z_type, float low, float high) {
  const Given given{s, s_type, z, z_type};
  const Quantize f{low, high};
  c == 1 ? rows(f, r, given, q, m, n, {ahead, far, threads}) : columns(f, r, given, q, m, n, c, {ahead, far, threads});
}

#if INSIDE  // where it makes no difference, this library has it and the other need not
extern "C" void dequantize(const Q* q, const void* s, const void* z, R* r_hat, int64_t m, int64_t n, int64_t c,
                           int64_t ahead, int64_t far, int64_t threads, int s_type, int z_type) {
  const Given given{s, s_type, z, z_type};
  const How how{ahead, far, threads};
  c == 1 ? rows(Dequantize(), q, given, r_hat, m, n, how) : columns(Dequantize(), q, given, r_hat, m, n, c, how);
}

extern "C" void min_max(const R* r, float* r_min, float* r_max, int64_t m, int64_t n, int64_t c, int64_t ahead,
                        int64_t far, int64_t threads) {
  const How how{ahead, far, threads};
  c == 1 ? min_max_rows(r, r_min, r_max, m, n, how) : min_max_columns(r, r_min, r_max, m, n, c, how);
}
#endif

// Gives the largest scale.
extern "C" float choose_and_quantize(const R* r, void* s, Q* z, Q* q, int64_t m, int64_t n, int64_t c, int64_t ahead,
                                     int64_t far, int64_t threads, int s_type, float low, float high, bool symmetric) {
  const Choose choose{low, high, symmetric, s_type};
  const How how{ahead, far, threads};
  c == 1 ? choose_rows(r, s, z, q, m, n, choose, {low, high}, how)
         : choose_columns(r, s, z, q, m, n, c, choose, {low, high}, how);
  return same_bits<float>(choose.largest.load());
}

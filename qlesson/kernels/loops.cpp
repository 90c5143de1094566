// What runs on a processor: the formula between one reading of r and one store of q.
//
//     q = clip(round(r / s + z), low, high)
//
// Floats holds as many values as one instruction takes: 16 with AVX-512, 8 with AVX2, 4 with NEON.
// r lies in memory as [m, n, c], with a scale s and a zero point z for each [m, c].

#include <torch/csrc/inductor/cpp_prefix.h>

using Floats = at::vec::Vectorized<float>;
constexpr int64_t LANES = Floats::size();

// Some values as floats; the memory `ahead` of them is asked for, so that it is there when needed.
template <typename R>
inline Floats load(const R* r, int64_t count, int64_t ahead) {
  __builtin_prefetch(r + ahead);
  if constexpr (std::is_same_v<R, float>)
    return Floats::loadu(r, count);
  else
    return at::vec::convert<float>(at::vec::Vectorized<R>::loadu(r, count));
}

// clamp keeps NaN in two instructions; the cast makes it 0. torch.compile's clip takes eight.
template <typename Q>
inline void code(Floats r, Floats s, Floats z, Q* q, int64_t count, Floats low, Floats high, bool inside) {
  Floats x = r / s;
  x = inside ? (x + z).round() : x.round() + z;
  x = at::vec::clamp(x, low, high);
  at::vec::convert<Q>(at::vec::convert<int32_t>(x)).store(q, count);
}

// step(j, count) for count = LANES values from j at a time, and for the rest.
template <typename Step>
inline void vectors(int64_t n, Step step) {
  int64_t j = 0;
  for (; j + LANES <= n; j += LANES) step(j, LANES);
  if (j < n) step(j, n - j);
}

// Rows of n values (c = 1): a scale for each row.
template <typename R, typename Q>
void quantize_rows(const R* r, const float* s, const float* z, Q* q, int64_t m, int64_t n,
                   float low, float high, bool inside, int64_t ahead) {
#pragma omp parallel for
  for (int64_t i = 0; i < m; i++) {
    const R* row = r + i * n;
    vectors(n, [&](int64_t j, int64_t count) {
      code<Q>(load(row + j, count, ahead), s[i], z[i], q + i * n + j, count, low, high, inside);
    });
  }
}

// n rows of c columns, m times: a scale for each column. Every core takes some rows, or some columns.
template <typename R, typename Q>
void quantize_columns(const R* r, const float* s, const float* z, Q* q, int64_t m, int64_t n, int64_t c,
                      float low, float high, bool inside, int64_t ahead) {
  constexpr int64_t WIDTH = 4096;
#pragma omp parallel for collapse(3)
  for (int64_t i = 0; i < m; i++)
    for (int64_t k = 0; k < n; k++)
      for (int64_t first = 0; first < c; first += WIDTH) {
        const int64_t at = i * c + first, from = (i * n + k) * c + first;
        vectors(std::min(WIDTH, c - first), [&](int64_t j, int64_t count) {
          code<Q>(load(r + from + j, count, ahead), Floats::loadu(s + at + j, count),
                  Floats::loadu(z + at + j, count), q + from + j, count, low, high, inside);
        });
      }
}

// The smallest and the largest value of each row. minimum and maximum keep NaN.
template <typename R>
void min_max_rows(const R* r, float* r_min, float* r_max, int64_t m, int64_t n) {
#pragma omp parallel for
  for (int64_t i = 0; i < m; i++) {
    const R* row = r + i * n;
    Floats low(static_cast<float>(row[0])), high = low;
    vectors(n, [&](int64_t j, int64_t count) {
      const Floats x = load(row + j, count, 2048 / sizeof(R));
      low = Floats::set(low, at::vec::minimum(low, x), count);
      high = Floats::set(high, at::vec::maximum(high, x), count);
    });
    r_min[i] = at::vec::vec_reduce_all<float>([](auto& a, auto& b) { return at::vec::minimum(a, b); }, low);
    r_max[i] = at::vec::vec_reduce_all<float>([](auto& a, auto& b) { return at::vec::maximum(a, b); }, high);
  }
}

// The same of each column. Every core takes some columns, whose ends so far stay in its cache.
template <typename R>
void min_max_columns(const R* r, float* r_min, float* r_max, int64_t m, int64_t n, int64_t c) {
  constexpr int64_t WIDTH = 512;
#pragma omp parallel for collapse(2)
  for (int64_t i = 0; i < m; i++)
    for (int64_t first = 0; first < c; first += WIDTH)
      for (int64_t k = 0; k < n; k++) {
        const R* row = r + (i * n + k) * c + first;
        float *low = r_min + i * c + first, *high = r_max + i * c + first;
        vectors(std::min(WIDTH, c - first), [&](int64_t j, int64_t count) {
          const Floats x = load(row + j, count, c);
          (k ? at::vec::minimum(Floats::loadu(low + j, count), x) : x).store(low + j, count);
          (k ? at::vec::maximum(Floats::loadu(high + j, count), x) : x).store(high + j, count);
        });
      }
}

// What Python calls: quantize_float32_int8, ..., min_max_float16.
#define QUANTIZE(R, Q, name)                                                                                     \
  extern "C" void quantize_##name(const R* r, const float* s, const float* z, Q* q, int64_t m, int64_t n,        \
                                  int64_t c, float low, float high, bool inside, int64_t ahead) {                \
    if (c == 1)                                                                                                  \
      quantize_rows(r, s, z, q, m, n, low, high, inside, ahead);                                                 \
    else                                                                                                         \
      quantize_columns(r, s, z, q, m, n, c, low, high, inside, ahead);                                           \
  }
#define MIN_MAX(R, name)                                                                                         \
  extern "C" void min_max_##name(const R* r, float* r_min, float* r_max, int64_t m, int64_t n, int64_t c) {      \
    if (c == 1)                                                                                                  \
      min_max_rows(r, r_min, r_max, m, n);                                                                       \
    else                                                                                                         \
      min_max_columns(r, r_min, r_max, m, n, c);                                                                 \
  }
#define EVERY(R, name)                     \
  QUANTIZE(R, int8_t, name##_int8)         \
  QUANTIZE(R, uint8_t, name##_uint8)       \
  MIN_MAX(R, name)

EVERY(float, float32)
EVERY(at::BFloat16, bfloat16)
EVERY(at::Half, float16)

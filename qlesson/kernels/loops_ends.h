// The smallest and the largest of many numbers, by their bits.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "loops_numbers.h"

// Of floats' bits as whole numbers the largest is the largest float, the largest unsigned is the
// float farthest below 0, and the smallest is the float nearest to 0 where all have one sign. A NaN is
// beyond infinity on the side of its sign, so no end forgets it.
template <typename R>
using Key = std::conditional_t<sizeof(R) == 4, int32_t, int16_t>;
template <typename R>
using Bare = std::make_unsigned_t<Key<R>>;

template <typename R>
struct Ends {
  Key<R> most = std::numeric_limits<Key<R>>::min(), nearest = std::numeric_limits<Key<R>>::max();
  Bare<R> least = 0;
};

// Both as floats; a NaN makes both NaN.
template <typename R>
inline void as_floats(Key<R> most, Key<R> nearest, Bare<R> least, float& r_min, float& r_max) {
  const Key<R> low = static_cast<Key<R>>(least), high = most;
  const float a = to_float(same_bits<R>(low < 0 ? low : nearest));
  const float b = to_float(same_bits<R>(high < 0 ? nearest : high));
  r_min = b == b ? a : b;
  r_max = a == a ? b : a;
}

template <typename R>
inline Ends<R> ends_of(const R* r, int64_t n) {
  const Ends<R> none;
  Key<R> most = none.most, nearest = none.nearest;
  Bare<R> least = none.least;
#pragma omp simd reduction(max : most, least) reduction(min : nearest)
  for (int64_t j = 0; j < n; j++) {
    const Key<R> k = same_bits<Key<R>>(r[j]);
    most = std::max(most, k);
    least = std::max(least, static_cast<Bare<R>>(k));
    nearest = std::min(nearest, k);
  }
  return Ends<R>{most, nearest, least};
}

// Of a range that holds 0, and of two halves at once: what is near is read sooner than a comparison
// is done. From far they are slower than one row, a third in whole tensors.
template <typename R>
inline Ends<R> ends_with_0(const R* r, int64_t n) {
  const int64_t half = n / 2;
  Key<R> most = 0;
  Bare<R> least = 0;
#pragma omp simd reduction(max : most, least)
  for (int64_t j = 0; j < half; j++) {
    const Key<R> k = same_bits<Key<R>>(r[j]), l = same_bits<Key<R>>(r[j + half]);
    most = std::max(most, std::max(k, l));
    least = std::max(least, std::max(static_cast<Bare<R>>(k), static_cast<Bare<R>>(l)));
  }
  if (n % 2) {
    const Key<R> k = same_bits<Key<R>>(r[n - 1]);
    most = std::max(most, k);
    least = std::max(least, static_cast<Bare<R>>(k));
  }
  return Ends<R>{most, 0, least};
}

// --- of many short rows that lie one after the other, in a range that holds 0 ---
// So many values in a vector: rows first become as short as that. Groups of 32 took a third less time
// APART, in a function of their own, with AVX-512, and a fifth more with AVX2.
#if defined(__AVX512F__)
#define APART __attribute__((noinline))
template <typename R>
constexpr int64_t LANES = 64 / sizeof(R);
#elif defined(__AVX2__)
#define APART inline
template <typename R>
constexpr int64_t LANES = 32 / sizeof(R);
#else
#define APART inline
template <typename R>
constexpr int64_t LANES = 16 / sizeof(R);
#endif

// The larger of each two neighbours of N values.
template <int64_t N, typename T>
IN_PLACE void larger_neighbours(const T* x, T* y) {
#if defined(__AVX2__) && !defined(__AVX512F__)
  if constexpr (sizeof(T) == 4 && N >= 16) {  // two shuffles and one, where compilers take six
    for (int64_t k = 0; k < N / 2; k += 8) {
      const auto in = [=](int64_t j) { return _mm256_loadu_ps(reinterpret_cast<const float*>(x + 2 * k + j)); };
      const __m256i even = _mm256_castps_si256(_mm256_shuffle_ps(in(0), in(8), 0x88));
      const __m256i odd = _mm256_castps_si256(_mm256_shuffle_ps(in(0), in(8), 0xdd));
      const __m256i larger = std::is_signed_v<T> ? _mm256_max_epi32(even, odd) : _mm256_max_epu32(even, odd);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(y + k), _mm256_permute4x64_epi64(larger, 0xd8));
    }
    return;
  }
#endif
#pragma omp simd
  for (int64_t k = 0; k < N / 2; k++) y[k] = std::max(x[2 * k], x[2 * k + 1]);
}

// And of those again, down to LAST: all rows become shorter at once, and no vector is reduced alone.
template <int64_t N, int64_t LAST, typename T>
IN_PLACE void largest_neighbours(const T* x, T* y) {
  if constexpr (N / 2 == LAST) return larger_neighbours<N>(x, y);
  T half[N / 2];
  larger_neighbours<N>(x, half);
  if constexpr (N / 2 > LAST) largest_neighbours<N / 2, LAST>(half, y);
}

// The largest of N values, of which only every LANES-th is looked at.
template <int64_t N, typename T, typename R>
IN_PLACE T largest_apart(const R* r) {
  if constexpr (N == LANES<R>) return same_bits<T>(*r);
  else return std::max(largest_apart<N / 2, T>(r), largest_apart<N / 2, T>(r + N / 2));
}

// LANES rows of N values, N a power of 2.
template <int64_t N, typename R>
APART void ends_of_lanes(const R* r, Key<R>* most, Bare<R>* least, int64_t ahead) {
  constexpr int64_t L = LANES<R>;
  Key<R> high[L * L];
  Bare<R> low[L * L];
  for (int64_t i = 0; i < L; i++) {
    ask_for_some(r + i * N, N, ahead);
#pragma omp simd
    for (int64_t l = 0; l < L; l++) {
      high[i * L + l] = largest_apart<N, Key<R>>(r + i * N + l);
      low[i * L + l] = largest_apart<N, Bare<R>>(r + i * N + l);
    }
  }
  largest_neighbours<L * L, L>(high, most);
  largest_neighbours<L * L, L>(low, least);
}

// Rows of the usual lengths together, others and the last ones one by one, in pieces. Meanwhile some
// memory is asked for.
template <typename R>
inline void ends_of_rows(const R* r, int64_t count, int64_t n, Key<R>* most, Bare<R>* least, int64_t ahead) {
  constexpr int64_t L = LANES<R>, PART = 512;
  int64_t k = 0;
  if constexpr (L <= 16)
    for (; n == 16 && k + L <= count; k += L) ends_of_lanes<16>(r + k * n, most + k, least + k, ahead);
  for (; n == 32 && k + L <= count; k += L) ends_of_lanes<32>(r + k * n, most + k, least + k, ahead);
  for (; n == 64 && k + L <= count; k += L) ends_of_lanes<64>(r + k * n, most + k, least + k, ahead);
  for (; n == 128 && k + L <= count; k += L) ends_of_lanes<128>(r + k * n, most + k, least + k, ahead);
  for (; k < count; k++) {
    Ends<R> all;
    for (int64_t first = 0; first < n; first += PART) {
      const int64_t size = std::min(PART, n - first);
      ask_for_some(r + k * n + first, size, ahead);
      const Ends<R> e = ends_with_0(r + k * n + first, size);
      all.most = std::max(all.most, e.most);
      all.least = std::max(all.least, e.least);
    }
    most[k] = all.most;
    least[k] = all.least;
  }
}

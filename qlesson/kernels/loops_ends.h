// The smallest and the largest of many numbers, by their bits.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "loops_numbers.h"

namespace {

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
inline Ends<R> ends_of(const R* r, int64_t n, int64_t ahead) {
  constexpr int64_t PART = 4096 / sizeof(R);
  const Ends<R> none;
  Key<R> most = none.most, nearest = none.nearest;
  Bare<R> least = none.least;
  for (int64_t first = 0; first < n; first += PART) {
    const int64_t end = std::min(first + PART, n);
    ask_for(r + first, end - first, ahead);
#pragma omp simd reduction(max : most, least) reduction(min : nearest)
    for (int64_t j = first; j < end; j++) {
      const Key<R> k = same_bits<Key<R>>(r[j]);
      most = std::max(most, k);
      least = std::max(least, static_cast<Bare<R>>(k));
      nearest = std::min(nearest, k);
    }
  }
  return Ends<R>{most, nearest, least};
}

// --- of many short rows that lie one after the other, in a range that holds 0 ---
// So many values in a vector: rows first become as short as that. Groups of 32 took a third less time
// APART, in a function of their own, with AVX-512, and a fifth more with AVX2.
#if defined(__AVX512BW__)
#define APART __attribute__((noinline))
constexpr int64_t VECTOR = 64;
#elif defined(__AVX2__)
#define APART inline
constexpr int64_t VECTOR = 32;
#else
#define APART inline
constexpr int64_t VECTOR = 16;
#endif
template <typename R>
constexpr int64_t LANES = VECTOR / sizeof(R);
template <typename T>
struct Together { typedef T Vector __attribute__((vector_size(VECTOR))); };
template <typename R>
using Keys = typename Together<Key<R>>::Vector;
template <typename R>
using Bares = typename Together<Bare<R>>::Vector;

// The largest so far, in each place of a vector, and those of N more vectors.
template <int64_t N, typename R>
IN_PLACE void look_at(const R* r, Keys<R>& high, Bares<R>& low) {
  for (int64_t i = 0; i < N; i++) {
    Keys<R> k;
    std::memcpy(&k, r + i * LANES<R>, sizeof k);
    high = k > high ? k : high;
    low = (Bares<R>)k > low ? (Bares<R>)k : low;
  }
}

// The larger of each two neighbours of N values, and of those again, down to LAST: all rows become
// shorter at once, and no vector is reduced alone.
template <int64_t N, int64_t LAST, typename T>
IN_PLACE void largest_neighbours(const T* x, T* y) {
  T half[N / 2];
#pragma omp simd
  for (int64_t k = 0; k < N / 2; k++) (N / 2 == LAST ? y : half)[k] = std::max(x[2 * k], x[2 * k + 1]);
  if constexpr (N / 2 > LAST) largest_neighbours<N / 2, LAST>(half, y);
}

#if defined(__AVX512BW__)
#define WORDS(of_32_bytes, of_64) of_64
using Words = __m512i;
using WordsAsFloats = __m512;
#elif defined(__AVX2__)
#define WORDS(of_32_bytes, of_64) of_32_bytes
using Words = __m256i;
using WordsAsFloats = __m256;
#endif

// The same of as many rows of as many values as a vector has.
template <typename T>
IN_PLACE void largest_of_each(const typename Together<T>::Vector* rows, typename Together<T>::Vector& largest) {
#ifdef WORDS  // three or five instructions a step, where compilers take nine
  using V = typename Together<T>::Vector;
  constexpr int64_t N = VECTOR / 4;
  const auto larger = [](auto a, auto b) { return (Words)((V)a > (V)b ? (V)a : (V)b); };
  Words v[N];
  for (int64_t i = 0; i < N; i++)
    if constexpr (sizeof(T) == 4) v[i] = (Words)rows[i];
    else {  // each word then has a value of either row
      const Words a = (Words)rows[2 * i], b = (Words)rows[2 * i + 1];
      const Words b_up = WORDS(_mm256_slli_epi32(b, 16), _mm512_slli_epi32(b, 16));
      const Words a_down = WORDS(_mm256_srli_epi32(a, 16), _mm512_srli_epi32(a, 16));
      v[i] = larger(WORDS(_mm256_blend_epi16(a, b_up, 0xaa), _mm512_mask_blend_epi16(0xaaaaaaaa, a, b_up)),
                    WORDS(_mm256_blend_epi16(a_down, b, 0xaa), _mm512_mask_blend_epi16(0xaaaaaaaa, a_down, b)));
    }
  for (int64_t n = N / 2; n >= N / 4; n /= 2)  // neighbours in each 16 bytes
    for (int64_t i = 0; i < n; i++) {
      const WordsAsFloats a = (WordsAsFloats)v[2 * i], b = (WordsAsFloats)v[2 * i + 1];
      v[i] = larger(WORDS(_mm256_shuffle_ps(a, b, 0x88), _mm512_shuffle_ps(a, b, 0x88)),
                    WORDS(_mm256_shuffle_ps(a, b, 0xdd), _mm512_shuffle_ps(a, b, 0xdd)));
    }
  for (int64_t n = N / 8; n >= 1; n /= 2)  // 16 bytes and the next 16
    for (int64_t i = 0; i < n; i++) {
      const Words a = v[2 * i], b = v[2 * i + 1];
      v[i] = larger(WORDS(_mm256_permute2x128_si256(a, b, 0x20), _mm512_shuffle_i32x4(a, b, 0x88)),
                    WORDS(_mm256_permute2x128_si256(a, b, 0x31), _mm512_shuffle_i32x4(a, b, 0xdd)));
    }
  largest = (V)v[0];
#else
  largest_neighbours<LANES<T> * LANES<T>, LANES<T>>((const T*)rows, (T*)&largest);
#endif
}

// The largest of one row, in each place of a vector. The last vector overlaps: what is met twice changes
// nothing. Meanwhile some memory is asked for, but with rows so short that arithmetic takes longer.
template <typename R, typename Length>
IN_PLACE void look_at_row(const R* r, Length n, Keys<R>& high, Bares<R>& low, int64_t ahead) {
  constexpr int64_t L = LANES<R>, PART = 512;
  Keys<R> h = {};
  Bares<R> l = {};
  int64_t j = 0;
  if (32 <= n && n < 4 * L) ask_for_some(r, n, ahead);
  for (; j + 4 * L <= n; j += 4 * L) {
    if (j % PART == 0) ask_for_some(r + j, std::min<int64_t>(PART, n), ahead);
    look_at<4>(r + j, h, l);
  }
  for (; j + L <= n; j += L) look_at<1>(r + j, h, l);
  if (j < n && n > L) look_at<1>(r + n - L, h, l);
  if (n < L) {
    R few[L] = {};
    std::memcpy(few, r, n * sizeof(R));
    look_at<1>(few, h, l);
  }
  high = h;
  low = l;
}

// Some rows, at most as many as a vector has values.
template <typename R, typename Count, typename Length>
APART void ends_of_some(const R* r, Count count, Length n, Key<R>* most, Bare<R>* least, int64_t ahead) {
  Keys<R> high[LANES<R>], most_yet;
  Bares<R> low[LANES<R>], least_yet;
  for (int64_t i = 0; i < count; i++) look_at_row(r + i * n, n, high[i], low[i], ahead);
  for (int64_t i = count; i < LANES<R>; i++) high[i] = Keys<R>{}, low[i] = Bares<R>{};
  largest_of_each<Key<R>>(high, most_yet);
  largest_of_each<Bare<R>>(low, least_yet);
  std::memcpy(most, &most_yet, count * sizeof *most);
  std::memcpy(least, &least_yet, count * sizeof *least);
}

template <typename R>
inline void ends_of_rows(const R* r, int64_t count, int64_t n, Key<R>* most, Bare<R>* least, int64_t ahead) {
  const auto all = [=](auto n) {
    constexpr int64_t L = LANES<R>;
    int64_t k = 0;
    for (; k + L <= count; k += L) ends_of_some(r + k * n, std::integral_constant<int64_t, L>(), n, most + k, least + k, ahead);
    if (k < count) ends_of_some(r + k * n, count - k, n, most + k, least + k, ahead);
  };
  if (n == 16) all(std::integral_constant<int64_t, 16>());
  else if (n == 32) all(std::integral_constant<int64_t, 32>());
  else if (n == 64) all(std::integral_constant<int64_t, 64>());
  else if (n == 128) all(std::integral_constant<int64_t, 128>());
  else all(n);
}

}  // namespace

// Exact sums of small whole numbers: codes times 8-bit inputs.

#pragma once

#include "product_codes.h"

namespace {

#if defined(HAS_64_BYTES) && defined(__AVX512VNNI__)
#define MULTIPLIES_64_BYTES
typedef WideWords Quads;  // fours of codes, as one instruction takes them
typedef WideInts Sums;
#else
typedef Words Quads;
typedef Ints Sums;
#endif
constexpr int64_t QUADS = sizeof(Quads) / 4;

// Sums of products of four neighbours each, exact: `flush` after at most MANY.
#if defined(__AVX2__) && !defined(__AVXVNNI__) && !defined(MULTIPLIES_64_BYTES)

// The instruction adds two products in 16 bits: there they stay, as many as fit.
template <typename V>
struct Dots {
  static constexpr int64_t CHAINS = 1, MANY = BITS == 8 ? 8 : std::min(8, 32767 / (256 * ((1 << BITS) - 1)));
  Ints sums = {};
  __m256i pairs = _mm256_setzero_si256();
  void add(Words u, Words x) {
    if (BITS < 8) {
      pairs = _mm256_add_epi16(pairs, _mm256_maddubs_epi16((__m256i)u, (__m256i)x));
      return;
    }
    const __m256i even = _mm256_madd_epi16(_mm256_and_si256((__m256i)u, _mm256_set1_epi16(255)),
                                           _mm256_srai_epi16(_mm256_slli_epi16((__m256i)x, 8), 8));
    const __m256i odd = _mm256_madd_epi16(_mm256_srli_epi16((__m256i)u, 8), _mm256_srai_epi16((__m256i)x, 8));
    sums += (Ints)_mm256_add_epi32(even, odd);
  }
  void flush() {
    if (BITS == 8) return;
    sums += (Ints)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
    pairs = _mm256_setzero_si256();
  }
};

#else

inline Ints with_products(Ints sums, Words u, Words x) {
#if defined(MULTIPLIES_64_BYTES)
  return (Ints)_mm256_dpbusd_epi32((__m256i)sums, (__m256i)u, (__m256i)x);
#elif defined(__AVXVNNI__)
  return (Ints)_mm256_dpbusd_avx_epi32((__m256i)sums, (__m256i)u, (__m256i)x);
#else
  for (int64_t i = 0; i < BLOCK; i++)
    sums[i / 4] += static_cast<int32_t>(u[i / 4] >> 8 * (i % 4) & 255) * static_cast<int8_t>(x[i / 4] >> 8 * (i % 4));
  return sums;
#endif
}
#if defined(MULTIPLIES_64_BYTES)
inline WideInts with_products(WideInts sums, WideWords u, WideWords x) {
  return (WideInts)_mm512_dpbusd_epi32((__m512i)sums, (__m512i)u, (__m512i)x);
}
#endif

template <typename V>
struct Dots {
  static constexpr int64_t CHAINS = 2, MANY = 8;  // a sum waits for the one before it
  std::conditional_t<sizeof(V) == sizeof(Words), Ints, WideInts> sums = {};
  void add(V u, V x) { sums = with_products(sums, u, x); }
  void flush() {}
};

#endif

template <typename V>
IN_PLACE auto products(V u, V x) {
  Dots<V> of;
  of.add(u, x);
  of.flush();
  return of.sums;
}

// modulo 2^32, as what follows
inline Ints minus(Ints x, Ints z) { return (Ints)((Words)x - (Words)z); }
inline Ints folded(Ints x) { return x; }
#if defined(HAS_64_BYTES)
inline WideInts minus(WideInts x, WideInts z) { return (WideInts)((WideWords)x - (WideWords)z); }
inline Ints folded(WideInts x) {
  return (Ints)((Words)_mm512_castsi512_si256((__m512i)x) + (Words)_mm512_extracti32x8_epi32((__m512i)x, 1));
}
#endif

inline int32_t sum(Ints x) {
#if defined(__AVX2__)
  const __m128i fours = _mm_add_epi32(_mm256_castsi256_si128((__m256i)x), _mm256_extracti128_si256((__m256i)x, 1));
  const __m128i twos = _mm_add_epi32(fours, _mm_unpackhi_epi64(fours, fours));
  return _mm_cvtsi128_si32(_mm_add_epi32(twos, _mm_shuffle_epi32(twos, 1)));
#else
  int32_t y = 0;
  for (int i = 0; i < 8; i++) y += x[i];
  return y;
#endif
}

constexpr int64_t LONG_QUADS = LONG / (4 * QUADS);

// The codes of a block of 256. What lies `ahead` is asked for.
IN_PLACE void long_codes(const uint8_t* b, Quads* u, int64_t ahead = AHEAD) {
#pragma GCC unroll 8
  for (int64_t v = 0; v < LONG_QUADS; v++) {
    u[v] = decode_long<Quads>(b, v);
    if (v * 4 * QUADS * BITS / 8 % 64 == 0) __builtin_prefetch(b + ahead + v * 4 * QUADS * BITS / 8, 0, NEAREST);
  }
}

// Sums over each block of 32 of a block of 256 of R rows u, of codes times each of P planes [P, 256] of
// inputs; to be folded.
template <int P, int R>
IN_PLACE void plane_products(const Quads (*u)[LONG_QUADS], const int8_t* x, Sums (*y)[P]) {
  constexpr int64_t CHAINS = R > 1 ? 1 : Dots<Quads>::CHAINS, MANY = Dots<Quads>::MANY;  // rows are chains enough
  Dots<Quads> d[R][CHAINS][P];
#pragma GCC unroll 8
  for (int64_t v = 0; v < LONG_QUADS; v++)
#pragma GCC unroll 4
    for (int64_t p = 0; p < P; p++) {
      const Quads some = R > 1 ? load_once<Quads>(x + p * LONG + v * 4 * QUADS) : load<Quads>(x + p * LONG + v * 4 * QUADS);
      for (int r = 0; r < R; r++) {
        Dots<Quads>& one = d[r][v % CHAINS][p];
        one.add(u[r][v], some);
        if (v / CHAINS % MANY == MANY - 1) one.flush();
      }
    }
  for (int r = 0; r < R; r++)
    for (int64_t p = 0; p < P; p++) y[r][p] = CHAINS == 1 ? d[r][0][p].sums : d[r][0][p].sums + d[r][CHAINS - 1][p].sums;
}

// --- eight sums of one row, or of two side by side ---

inline void folded_beside(const Sums* x, Ints& y) { y = folded(x[0]); }
inline void beside(const float* x, const float*, Floats& y) { y = load<Floats>(x); }
#if defined(HAS_64_BYTES)
inline void folded_beside(const WideInts* x, WideInts& y) {
  y = (WideInts)((WideWords)_mm512_inserti64x4((__m512i)x[0], _mm512_castsi512_si256((__m512i)x[1]), 1) +
                 (WideWords)_mm512_shuffle_i64x2((__m512i)x[0], (__m512i)x[1], 0xee));
}
inline void beside(const float* x, const float* z, WideFloats& y) {
  y = (WideFloats)_mm512_insertf32x8(_mm512_castps256_ps512(load<__m256>(x)), load<__m256>(z), 1);
}
#endif
template <typename V, typename X>
inline V repeated(X x) {
  if constexpr (sizeof(V) == sizeof(X)) return x;
  else return (V)both((Words)x);
}

}  // namespace

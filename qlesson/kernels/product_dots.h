// Exact sums of small whole numbers: codes times 8-bit inputs.

#pragma once

#include "product_codes.h"

namespace {

#if defined(HAS_64_BYTES) && defined(__AVX512VNNI__)
typedef WideWords Quads;  // fours of codes, as one instruction takes them
typedef WideInts Sums;
#else
typedef Words Quads;
typedef Ints Sums;
#endif
constexpr int64_t QUADS = sizeof(Quads) / 4;

// Sums of products of four neighbours each, exact: `flush` after at most MANY.
#if defined(__AVX2__) && !defined(__AVXVNNI__) && !(defined(HAS_64_BYTES) && defined(__AVX512VNNI__))

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
#if defined(HAS_64_BYTES) && defined(__AVX512VNNI__)
  return (Ints)_mm256_dpbusd_epi32((__m256i)sums, (__m256i)u, (__m256i)x);
#elif defined(__AVXVNNI__)
  return (Ints)_mm256_dpbusd_avx_epi32((__m256i)sums, (__m256i)u, (__m256i)x);
#else
  for (int64_t i = 0; i < BLOCK; i++)
    sums[i / 4] += static_cast<int32_t>(u[i / 4] >> 8 * (i % 4) & 255) * static_cast<int8_t>(x[i / 4] >> 8 * (i % 4));
  return sums;
#endif
}
#if defined(HAS_64_BYTES) && defined(__AVX512VNNI__)
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

inline Ints folded(Ints x) { return x; }
#if defined(HAS_64_BYTES)
inline Ints folded(WideInts x) {
  return (Ints)_mm512_castsi512_si256((__m512i)x) + (Ints)_mm512_extracti32x8_epi32((__m512i)x, 1);
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

// The codes of a block of 256. What follows is asked for.
IN_PLACE void long_codes(const uint8_t* b, Quads* u) {
#pragma GCC unroll 8
  for (int64_t v = 0; v < LONG_QUADS; v++) {
    u[v] = decode_long<Quads>(b, v);
    if (v * 4 * QUADS * BITS / 8 % 64 == 0) __builtin_prefetch(b + AHEAD + v * 4 * QUADS * BITS / 8);
  }
}

// Sums over each block of 32 of a block of 256, of codes times each of P planes [P, 256] of inputs; to be folded.
template <int P>
IN_PLACE void plane_products(const Quads* u, const int8_t* x, Sums* y) {
  constexpr int64_t CHAINS = Dots<Quads>::CHAINS, MANY = Dots<Quads>::MANY;
  Dots<Quads> d[CHAINS][P];
  for (int64_t v = 0; v < LONG_QUADS; v++)
    for (int64_t p = 0; p < P; p++) {
      Dots<Quads>& one = d[v % CHAINS][p];
      one.add(u[v], load<Quads>(x + p * LONG + v * 4 * QUADS));
      if (v / CHAINS % MANY == MANY - 1) one.flush();
    }
  for (int64_t p = 0; p < P; p++) y[p] = CHAINS == 1 ? d[0][p].sums : d[0][p].sums + d[CHAINS - 1][p].sums;
}

}  // namespace

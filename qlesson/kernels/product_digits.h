// Float inputs as whole numbers of some digits: an instruction multiplies 32 bytes, or 64, and 8 floats, or 16.
//
// Each 32 neighbours x have a step, the smallest power of two above a 0x7f7f7f-th of the largest: n = round(x / step)
// has three digits to the base 256, each from -128 to 127: n = 65536 d2 + 256 d1 + d0. In
//
//     sum x (u - zero) = step (65536 sum d2 (u - zero) + sum (256 d1 + d0) (u - zero))
//
// both sums over 32 products are exact in 32 bits, and all of it is where no |u - zero| is more than 8, since
// 32 * 8 * 0x7f7f7f < 2^31. So rounding is that of n: at most a 0x7f7f7f-th, 2^-22.99, of the largest x of the 32, or
// 2^-127; and at most a 0x3f7f7f-th for unsigned codes of up to 4 bits without zeros and minima, so that one sum does
// for them too. In bfloat16 y is rounded to 8 bits in the end, and two digits will do: at most a 0x7f7f-th, 2^-14.99.

#pragma once

#include "product_dots.h"
#include "product_numbers.h"

#if defined(__AVX2__)

namespace {

constexpr int64_t DIGITS = std::is_same_v<Real, bfloat16> ? 2 : 3;
constexpr float LARGEST = DIGITS == 3 ? 0x7f7f7f : 0x7f7f;
// Where no instruction takes bytes of 8-bit codes, d2 and 256 d1 + d0 have 16 bits each.
constexpr bool BYTES = BITS < 8 || Dots<Quads>::CHAINS > 1;
constexpr int64_t PLANES = BYTES ? DIGITS : 2 * DIGITS - 2;
// Whether d2 has a sum of its own.
constexpr bool SPLIT = DIGITS == 3 && (OFFSET || BITS > 4);
inline float largest(const Weight& w) { return DIGITS == 3 && !SPLIT && !w.low ? 0x3f7f7f : LARGEST; }
constexpr int32_t BIAS = BYTES ? 0x808080 : 0x8000;  // half of each digit's range: digits are (n + BIAS) ^ BIAS

// Sums over each block of 32 of a block of 256, of codes times n modulo 2^32, or, SPLIT, times 256 d1 + d0 and
// times d2. I are Ints of one row u, or WideInts of two.
template <typename I>
IN_PLACE void digit_products(const Quads (*u)[LONG_QUADS], const int8_t* x, I& upper, I& lower) {
  constexpr int R = sizeof(I) / sizeof(Ints);
  upper = lower = I{};
  if constexpr (BYTES) {
    Sums d[R][PLANES], high[R], low[R];
    plane_products<PLANES, R>(u, x, d);
    for (int r = 0; r < R; r++) {
      low[r] = d[r][1] * 256 + d[r][0], high[r] = d[r][PLANES - 1];
      if (DIGITS == 3 && !SPLIT) low[r] = (Sums)((Quads)low[r] + ((Quads)high[r] << 16));
    }
    folded_beside(low, lower);
    if (SPLIT) folded_beside(high, upper);
  } else {
    for (int64_t v = 0; v < LONG / 32; v++) {
      const Words quads = load_once<Words>(&u[0][v]);
      const Ints even = (Ints)(quads & 0x00ff00ffu), odd = (Ints)(quads >> 8 & 0x00ff00ffu);
      const auto times = [=](Ints pairs, int64_t p) {
        return (I)_mm256_madd_epi16((__m256i)pairs, load<__m256i>(x + p * LONG + v * 32));
      };
      lower += times(even, 0) + times(odd, 1);
      if (SPLIT) upper += times(even, 2) + times(odd, 3);
    }
  }
}

struct Digits {
  struct Part {         // a block of 256, eight of 32
    Ints upper, lower;  // the sums without codes; times the zero, where all codes have the same
    Floats step;
    alignas(64) int8_t planes[PLANES * LONG];  // a digit of each input, in the order of the packed codes
  };
  Buffer<Part> parts;  // [blocks of 256, m]
  Digits(const Weight& w, const Real* x, int64_t m) : parts(w.longs() * m), most(largest(w)) {
    Quads ones[1][LONG_QUADS];
    std::fill_n(ones[0], LONG_QUADS, Quads{} + mask(1));
    const int32_t low = ZERO_POINTS ? 1 : static_cast<int32_t>(w.low);
    for (int64_t i = 0; i < w.longs(); i++)
      for (int64_t t = 0; t < m; t++) {
        Part& part = parts[i * m + t];
        split(x + t * w.k + i * LONG, part);
        digit_products(ones, part.planes, part.upper, part.lower);
        part.upper *= low;
        part.lower *= low;
      }
  }
  bool finite() const { return spoilt == 0; }

 private:
  float most, spoilt = 0;  // the largest n; NaN where an input is not finite

  void split(const Real* x, Part& to) {
    Floats some[8] = {}, wrong = {};
    for (int64_t j = 0; j < 8; j++)
      for (int64_t f = 0; f < BLOCK; f += 8) {
        const Floats one = floats(x + j * BLOCK + f);
        some[j] = (Floats)_mm256_max_ps((__m256)some[j], (__m256)((Words)one & 0x7fffffffu));
        wrong += one - one;
      }
    spoilt += sum(wrong);
    transpose(some);
    for (int64_t j = 1; j < 8; j++) some[0] = (Floats)_mm256_max_ps((__m256)some[0], (__m256)some[j]);
    const Words exponent = ((Words)(some[0] / most) >> 23) + 1;
    alignas(32) float inverse[8];
    to.step = (Floats)(exponent << 23);
    store(inverse, (254 - exponent) << 23);
    const __m128i order = BYTES ? _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15)
                                : _mm_setr_epi8(0, 1, 8, 9, 4, 5, 12, 13, 2, 3, 10, 11, 6, 7, 14, 15);
    for (int64_t f = 0; f < BLOCK; f += 8) {
      for (int64_t j = 0; j < 8; j++) {
        const Ints n = (Ints)_mm256_cvtps_epi32((__m256)(floats(x + j * BLOCK + f) * inverse[j]));
        some[j] = (Floats)_mm256_shuffle_epi8((__m256i)((n + BIAS) ^ BIAS), _mm256_broadcastsi128_si256(order));
      }
      transpose(some);  // from four bytes of each plane, for two fours of a block, to eight blocks of each
      for (int64_t p = 0; p < PLANES; p++)
        for (int64_t four = 0; four < 2; four++) store(&to.planes[p * LONG + (f / 4 + four) * BLOCK], some[4 * four + p]);
    }
  }
};

// Adds to y [m] the products of `count` blocks of 256 from the block `first` on, of a row or of two, as F are
// Floats or WideFloats, whose numbers are `at` and whose steps are read. M is m, or 0.
template <int M, typename F>
IN_PLACE void add_digits(const Weight& w, const Row* rows, const int64_t* at, const Digits& x, int64_t m, int64_t first,
                         int64_t count, int64_t ahead, F* y) {
  typedef std::conditional_t<sizeof(F) == sizeof(Floats), Ints, WideInts> I;
  constexpr int R = sizeof(F) / sizeof(Floats);
  const Digits::Part* part = x.parts.data() + first * m;
  F held[M ? M : 1], *sums = M ? held : y;  // in registers, where a compiler may think that all is memory
  if (M) std::memcpy(held, y, sizeof(held));
  for (int64_t i = 0; i < count; i++) {
    Quads u[R][LONG_QUADS];
    for (int r = 0; r < R; r++) long_codes(w.row(at[r]) + (first + i) * (LONG / 8 * BITS), u[r], ahead);
    F s, zeros = {};
    beside(&rows[0].s[8 * i], &rows[R - 1].s[8 * i], s);
    if (ZERO_POINTS) beside(&rows[0].zero[8 * i], &rows[R - 1].zero[8 * i], zeros);
    const I zero = __builtin_convertvector(zeros, I);
    for (int64_t t = 0; t < (M ? M : m); t++, part++) {
      I upper, lower;
      digit_products(u, part->planes, upper, lower);
      lower = minus(lower, ZERO_POINTS ? zero * repeated<I>(part->lower) : repeated<I>(part->lower));
      F n = __builtin_convertvector(lower, F);
      if (SPLIT) {
        upper -= ZERO_POINTS ? zero * repeated<I>(part->upper) : repeated<I>(part->upper);
        n = multiply_add(__builtin_convertvector(upper, F), F{} + 65536, n);
      }
      sums[t] = multiply_add(n * repeated<F>(part->step), s, sums[t]);
    }
  }
  if (M) std::memcpy(y, held, sizeof(held));
}

}  // namespace

#endif

// Float inputs as whole numbers of three digits: an instruction multiplies 32 bytes, or 64, and 8 floats, or 16.
//
// Each 32 neighbours x have a step, the smallest power of two for which no n = round(x / step) is beyond
// three digits to the base 256, each from -128 to 127: n = 65536 d2 + 256 d1 + d0. With both sums over 32
// products exact in 32 bits,
//
//     sum x (u - zero) = step (65536 sum d2 (u - zero) + sum (256 d1 + d0) (u - zero))
//
// so that rounding is that of n: at most 2^-23 of the largest x of the 32, or 2^-127.

#pragma once

#include "product_dots.h"
#include "product_numbers.h"

#if defined(__AVX2__)

namespace {

// Where no instruction takes bytes of 8-bit codes, d2 and 256 d1 + d0 have 16 bits each.
constexpr bool BYTES = BITS < 8 || Dots<Quads>::CHAINS > 1;
constexpr int64_t PLANES = BYTES ? 3 : 4;
constexpr int32_t BIAS = BYTES ? 0x808080 : 0x8000;  // half of each digit's range: digits are (n + BIAS) ^ BIAS

// Sums over each block of 32 of a block of 256, of codes times d2 and times 256 d1 + d0.
IN_PLACE void digit_products(const Quads* u, const int8_t* x, Ints* upper, Ints* lower) {
  if constexpr (BYTES) {
    Sums d[3];
    plane_products<3>(u, x, d);
    *upper = folded(d[2]);
    *lower = folded(d[1] * 256 + d[0]);
  } else {
    *upper = *lower = Ints{};
    for (int64_t v = 0; v < LONG / 32; v++) {
      const Ints even = (Ints)(load<Words>(&u[v]) & 0x00ff00ffu), odd = (Ints)(load<Words>(&u[v]) >> 8 & 0x00ff00ffu);
      const auto times = [&](Ints pairs, int64_t p) {
        return (Ints)_mm256_madd_epi16((__m256i)pairs, load<__m256i>(x + p * LONG + v * 32));
      };
      *lower += times(even, 0) + times(odd, 1);
      *upper += times(even, 2) + times(odd, 3);
    }
  }
}

struct Digits {
  struct Part {         // a block of 256, eight of 32
    Ints upper, lower;  // the sums of d2 and of 256 d1 + d0; times the zero, where all codes have the same
    Floats step;
    alignas(64) int8_t planes[PLANES * LONG];  // a digit of each input, in the order of the packed codes
  };
  Buffer<Part> parts;  // [blocks of 256, m]
  Digits(const Weight& w, const float* x, int64_t m) : parts(w.longs() * m) {
    Quads ones[LONG_QUADS];
    std::fill_n(ones, LONG_QUADS, Quads{} + mask(1));
    const int32_t low = ZERO_POINTS ? 1 : static_cast<int32_t>(w.low);
    for (int64_t i = 0; i < w.longs(); i++)
      for (int64_t t = 0; t < m; t++) {
        Part& part = parts[i * m + t];
        split(x + t * w.k + i * LONG, part);
        digit_products(ones, part.planes, &part.upper, &part.lower);
        part.upper *= low;
        part.lower *= low;
      }
  }
  bool finite() const { return spoilt == 0; }

 private:
  float spoilt = 0;  // NaN where an input is not finite

  void split(const float* x, Part& to) {
    Floats some[8] = {}, wrong = {};
    for (int64_t j = 0; j < 8; j++)
      for (int64_t f = 0; f < BLOCK; f += 8) {
        const Floats one = load<Floats>(x + j * BLOCK + f);
        some[j] = (Floats)_mm256_max_ps((__m256)some[j], (__m256)((Words)one & 0x7fffffffu));
        wrong += one - one;
      }
    spoilt += sum(wrong);
    transpose(some);
    for (int64_t j = 1; j < 8; j++) some[0] = (Floats)_mm256_max_ps((__m256)some[0], (__m256)some[j]);
    const Words exponent = ((Words)(some[0] / 0x7f7f7fp0f) >> 23) + 1;  // 0x7f7f7f has three digits
    alignas(32) float inverse[8];
    to.step = (Floats)(exponent << 23);
    store(inverse, (254 - exponent) << 23);
    const __m128i order = BYTES ? _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15)
                                : _mm_setr_epi8(0, 1, 8, 9, 4, 5, 12, 13, 2, 3, 10, 11, 6, 7, 14, 15);
    for (int64_t f = 0; f < BLOCK; f += 8) {
      for (int64_t j = 0; j < 8; j++) {
        const Ints n = (Ints)_mm256_cvtps_epi32((__m256)(load<Floats>(x + j * BLOCK + f) * inverse[j]));
        some[j] = (Floats)_mm256_shuffle_epi8((__m256i)((n + BIAS) ^ BIAS), _mm256_broadcastsi128_si256(order));
      }
      transpose(some);  // from four bytes of each plane, for two fours of a block, to eight blocks of each
      for (int64_t p = 0; p < PLANES; p++)
        for (int64_t four = 0; four < 2; four++) store(&to.planes[p * LONG + (f / 4 + four) * BLOCK], some[4 * four + p]);
    }
  }
};

// Adds to y [m] the products of some blocks of 256 of a row, whose steps are read. M is m, or 0.
template <int M>
IN_PLACE void add_digits(const Row& row, const uint8_t* packed, const Digits::Part* x, int64_t m, int64_t count, Floats* y) {
  for (int64_t i = 0; i < count; i++, packed += LONG / 8 * BITS) {
    Quads u[LONG_QUADS];
    long_codes(packed, u);
    const Ints zero = ZERO_POINTS ? __builtin_convertvector(load<Floats>(&row.zero[8 * i]), Ints) : Ints{} + 1;
    for (int64_t t = 0; t < (M ? M : m); t++, x++) {
      Ints upper, lower;
      digit_products(u, x->planes, &upper, &lower);
      upper -= zero * x->upper;
      lower -= zero * x->lower;
      const Floats n = multiply_add(__builtin_convertvector(upper, Floats), Floats{} + 65536, __builtin_convertvector(lower, Floats));
      y[t] = multiply_add(n * x->step, load<Floats>(&row.s[8 * i]), y[t]);
    }
  }
}

}  // namespace

#endif

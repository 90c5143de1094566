// Tiles of some rows of a weight, and of inputs with a lane for each: what `product_many` sums in registers.

#pragma once

#include <numeric>

#include "product_numbers.h"

namespace {

constexpr int64_t ROWS = 6;               // of a tile, in registers
constexpr int64_t COLUMNS = 2 * LONG;     // of it that stay in the cache

// Inputs as `In`, each of some columns: [place][lane].
template <typename In>
struct Batch {
  int64_t first, count, vectors;
  Buffer<In> x;
  Buffer<float> sums;  // [block][lane], where a tile asks for them
  const In* at(int64_t place) const { return &x[place * vectors * LANES]; }
};

// f(the vectors of a batch, where the compiler knows them)
template <typename F>
IN_PLACE void with_vectors(int64_t vectors, const F& f) {
  if (vectors == 1) return f(std::integral_constant<int, 1>());
  if (vectors == 2) return f(std::integral_constant<int, 2>());
  if constexpr (VECTORS == 4)
    return vectors == 3 ? f(std::integral_constant<int, 3>()) : f(std::integral_constant<int, 4>());
}

// --- w_hat in float32, each time for all inputs ---
struct FloatTile {
  typedef float In;
  static constexpr int64_t PER = 1;  // columns of an In
  alignas(64) float w_hat[ROWS * COLUMNS];

  // The place of each column: vectors of words hold those of several groups.
  static std::vector<int64_t> places(const Weight& w) {
    std::vector<int64_t> places(w.blocks() * BLOCK);
    std::iota(places.begin(), places.end(), 0);
    if (w.aligned())
      over_places(w, 0, [&](int64_t i, int64_t first, const int32_t* order) {
        for (int64_t lane = 0; lane < LANES; lane++) places[first + order[lane]] = i + lane;
      });
    return places;
  }
  static Floats eight(const Real* x) { return floats(x); }
  static Floats added(Floats sum, Floats) { return sum; }

  // The r-th of the tile is `row`, of which the blocks from `first` to `last` are read.
  void take(const Weight& w, Row& row, int64_t at, int64_t first, int64_t last, int64_t r) {
    float* out = w_hat + r * COLUMNS;
    if (!w.aligned()) return plain_values(w, at, first, last, out);
    row.read(w, at, first, last);
    values(w, row, first, last, out);
    if (last == w.blocks()) empty_rest(w, out + (last - first - 1) * BLOCK);
  }

  // Adds to acc [ROWS, VECTORS] the products of the columns taken.
  template <int C>
  void products(const Weight&, const Batch<float>& batch, int64_t first, int64_t last, WideFloats* acc) const {
    const float* x = batch.at(first * BLOCK);
    WideFloats sums[ROWS][C];
    for (int64_t r = 0; r < ROWS; r++)
      for (int c = 0; c < C; c++) sums[r][c] = acc[r * VECTORS + c];
    for (int64_t i = 0; i < (last - first) * BLOCK; i++) {
      WideFloats some[C];
      for (int c = 0; c < C; c++) some[c] = load<WideFloats>(x + (i * C + c) * LANES);
#pragma GCC unroll 6  // without which one vector's sums went through memory: a third of the speed
      for (int64_t r = 0; r < ROWS; r++)
        for (int c = 0; c < C; c++) sums[r][c] = multiply_add(w_hat[r * COLUMNS + i] - WideFloats{}, some[c], sums[r][c]);
    }
    for (int64_t r = 0; r < ROWS; r++)
      for (int c = 0; c < C; c++) acc[r * VECTORS + c] = sums[r][c];
  }

 private:
  // What fills up the last block of 32 meets inputs of 0: large scales must not make it infinite.
  static void empty_rest(const Weight& w, float* out) {
    static const std::vector<int32_t> order = order_of_blocks();
    for (int64_t i = 0; w.k % BLOCK && i < BLOCK; i++)
      if (order[i] >= w.k % BLOCK) out[i] = 0;
  }
  // s (u - zero) or with a minimum, the bits that `dequantize` gives, of some blocks of a row that was read.
  static void values(const Weight& w, const Row& row, int64_t first, int64_t end, float* out) {
    typedef Number N;
    const int64_t longs = std::min(end / 8, w.longs()) - first / 8;
    N numbers(w);
    for (int64_t i = 0; i < longs; i++) {
      WideFloats s[N::SLOTS], m[N::SLOTS], u[4];
      N::spread(load<Floats>(&row.s[8 * i]), s);
      if (MINIMA) N::spread(load<Floats>(&row.m[8 * i]), m);
      if (ZERO_POINTS) numbers.take(load<Floats>(&row.zero[8 * i]));
      float* to = out + i * LONG;
      for (int64_t j = 0; j < 8 * FIELD / LANES; j++)
#pragma GCC unroll 2
        for (int part = 0; part < 8 / FIELD; part++) {
          numbers(load<WideWords>(row.words + i * 32 * FIELD + j * WIDE), part, u);
#pragma GCC unroll 4
          for (int f = 0; f < 4; f++, to += LANES) {
            WideFloats value = s[N::slot(f)] * u[f];
            if (MINIMA) value += m[N::slot(f)];
            store(to, value);
          }
        }
    }
    for (int64_t i = longs * 8; i < end - first; i++) {
      WideFloats u[BLOCK / LANES];
      block(numbers, row.words_of(w, first + i), row.zero[i] - WideFloats{}, u);
      for (int64_t f = 0; f < BLOCK / LANES; f++) {
        WideFloats value = row.s[i] * u[f];
        if (MINIMA) value += row.m[i];
        store(out + i * BLOCK + f * LANES, value);
      }
    }
  }
};

#if defined(__AVX512BF16__)

// --- u - zero in bfloat16, where an instruction multiplies two of them at once ---
// They are whole numbers of eight bits at most, so nothing is rounded but sums, as in float32. The scale
// follows each block of 32. The instruction takes what is below 2^-126 for 0: `suits` keeps that away.
struct PairTile {
  typedef uint32_t In;
  static constexpr int64_t PER = 2;
  alignas(64) uint32_t pairs[ROWS][COLUMNS / 2];  // of blocks of 256 in the order in which they are packed
  float s[ROWS][COLUMNS / BLOCK], m[ROWS][COLUMNS / BLOCK];

  // No input is so small that a product, or what is left of two, might be.
  static bool suits(const Weight& w, const Real* x, int64_t n) {
    const __m512i size = _mm512_set1_epi16(0x7fff), least = _mm512_set1_epi16((127 - 100) << 7);
    __mmask32 small = 0;
    for (int64_t i = 0; i < n; i += 32) {
      const __mmask32 there = n - i < 32 ? (1u << (n - i)) - 1 : ~0u;
      const __m512i some = _mm512_and_si512(_mm512_maskz_loadu_epi16(there, x + i), size);
      small |= _mm512_mask_cmplt_epu16_mask(_mm512_test_epi16_mask(some, some), some, least);
    }
    return w.aligned() && !small;
  }
  static std::vector<int64_t> places(const Weight& w) {
    std::vector<int64_t> places(w.blocks() * BLOCK / 2);
    std::iota(places.begin(), places.end(), 0);
    return places;
  }
  static Floats eight(const Real* x) { return load<Floats>(x); }
  static Floats added(Floats sum, Floats pairs) {
    return (sum + (Floats)((Words)pairs << 16)) + (Floats)((Words)pairs & 0xffff0000u);
  }

  void take(const Weight& w, Row& row, int64_t at, int64_t first, int64_t last, int64_t r) {
    row.read_steps(w, at, first, last);
    const int64_t longs = std::min(last / 8, w.longs()) - first / 8;
    uint8_t codes[COLUMNS];
    unpack_longs(w.row(at) + first * 4 * BITS, longs, codes);
    for (int64_t i = 0; i < longs * 8; i++) {
      const float* zero = &row.zero[i / 8 * 8];
      write(codes + i * BLOCK, fours_of(zero), fours_of(zero + 4), &pairs[r][i * BLOCK / 2]);
    }
    for (int64_t i = longs * 8; i < last - first; i++) {
      const uint8_t* words = row.words_of(w, first + i);
      store(codes, FIELD == 4 ? fours(words) : load<Words>(words));
      const WideFloats zero = row.zero[i] - WideFloats{};
      write(codes, zero, zero, &pairs[r][i * BLOCK / 2]);
    }
    std::copy_n(&row.s[0], last - first, s[r]);
    if (MINIMA) std::copy_n(&row.m[0], last - first, m[r]);
  }

  template <int C>
  void products(const Weight& w, const Batch<uint32_t>& batch, int64_t first, int64_t last, WideFloats* acc) const {
    for (int64_t i = 0; i < last - first; i++) {
      const uint32_t* x = batch.at((first + i) * BLOCK / 2);
      const bool packed = first + i < w.longs() * 8;
      WideFloats sums[ROWS][C] = {};
      packed ? add<C, true>(&pairs[0][i / 8 * LONG / 2 + i % 8 * 2], x, sums) : add<C, false>(&pairs[0][i * BLOCK / 2], x, sums);
      for (int64_t r = 0; r < ROWS; r++)
        for (int c = 0; c < C; c++) {
          WideFloats& y = acc[r * VECTORS + c];
          y = multiply_add(s[r][i] - WideFloats{}, sums[r][c], y);
          if (MINIMA) y += m[r][i] * load<WideFloats>(&batch.sums[((first + i) * C + c) * LANES]);
        }
    }
  }

 private:
  static WideFloats fours_of(const float* zero) {
    const __m512i four = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
    return (WideFloats)_mm512_permutexvar_ps(four, _mm512_castps128_ps512(_mm_loadu_ps(zero)));
  }
  static void write(const uint8_t* u, WideFloats zero, WideFloats other, uint32_t* to) {
    const __m512 low = (__m512)difference(u, zero), high = (__m512)difference(u + LANES, other);
    _mm512_store_si512(to, (__m512i)_mm512_cvtne2ps_pbh(high, low));
  }
  // The sixteen pairs of a block of 32: two by two in eights of blocks, or one after the other.
  template <int C, bool PACKED>
  IN_PLACE static void add(const uint32_t* u, const uint32_t* x, WideFloats (&sums)[ROWS][C]) {
#pragma GCC unroll 4
    for (int64_t i = 0; i < BLOCK / 2; i++) {
      __m512bh some[C];
      for (int c = 0; c < C; c++) some[c] = (__m512bh)load<__m512i>(x + (i * C + c) * LANES);
#pragma GCC unroll 6
      for (int64_t r = 0; r < ROWS; r++) {
        const uint32_t pair = u[r * COLUMNS / 2 + (PACKED ? i / 2 * (BLOCK / 2) + i % 2 : i)];
        const __m512bh both = (__m512bh)_mm512_set1_epi32(static_cast<int32_t>(pair));
        for (int c = 0; c < C; c++) sums[r][c] = (WideFloats)_mm512_dpbf16_ps((__m512)sums[r][c], some[c], both);
      }
    }
  }
};

#endif

}  // namespace

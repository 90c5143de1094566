// Tiles of some rows of a weight, and of inputs with a lane for each: what `product_many` sums in registers.

#pragma once

#include <numeric>

#include "product_numbers.h"

namespace {

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
  if constexpr (MOST_VECTORS == 4)
    return vectors == 3 ? f(std::integral_constant<int, 3>()) : f(std::integral_constant<int, 4>());
}

// --- w_hat in float32, each time for all inputs ---
struct FloatTile {
  typedef float In;
  static constexpr int64_t ROWS = 6, VECTORS = MOST_VECTORS;  // of sums in registers
  static constexpr int64_t COLUMNS = 2 * LONG, PANEL = 96;    // that stay in the first cache, and rows whose sums do in the second
  static constexpr int64_t PER = 1, PARTS = 1;                // columns of an In, and In of an input
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
  static Floats eight(const Real* x, int64_t) { return floats(x); }
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
// follows. The instructions take what is below 2^-126 for 0: `suits` keeps that away.
template <int64_t N, int64_t NEAR>
struct PairRows {
  typedef uint32_t In;
  static constexpr int64_t ROWS = N, COLUMNS = NEAR, PER = 2, PAIRS = BLOCK / PER;
  alignas(64) uint32_t pairs[COLUMNS / BLOCK][ROWS][PAIRS];
  float s[ROWS][COLUMNS / BLOCK], m[ROWS][COLUMNS / BLOCK];

  // No input is so small that a product, or what is left of two, might be; nor so large that a sum ends.
  static bool suits(const Weight& w, const Real* x, int64_t n) {
    constexpr uint32_t least = (127 - 100) << 23, most = (127 + 100) << 23;
    const Ints none = {};
    Ints bad = {};
    for (int64_t i = 0; i < n; i += 8) {
      Real last[8] = {};
      if (i + 8 > n) std::copy(x + i, x + n, last);
      const Words size = (Words)floats(i + 8 > n ? last : x + i) & 0x7fffffff;
      bad |= (size != 0) & (size - least >= most - least);
    }
    return w.aligned() && std::memcmp(&bad, &none, sizeof(bad)) == 0;
  }
  static Floats added(Floats sum, Floats pairs) {
    return (sum + (Floats)((Words)pairs << 16)) + (Floats)((Words)pairs & 0xffff0000u);
  }

  void take(const Weight& w, Row& row, int64_t at, int64_t first, int64_t last, int64_t r) {
    row.read_steps(w, at, first, last);
    ask_for(w.row(std::min(at + 16, w.n - 1)) + first * 4 * BITS, (last - first) * 4 * BITS, 0);
    const int64_t longs = std::min(last / 8, w.longs()) - first / 8;
    uint8_t codes[COLUMNS];
    unpack_longs(w.row(at) + first * 4 * BITS, longs, codes);
    for (int64_t i = 0; i < longs; i++) in_columns(codes + i * LONG, codes + i * LONG);
    for (int64_t i = longs * 8; i < last - first; i++) {
      const uint8_t* words = row.words_of(w, first + i);
      store(codes + i * BLOCK, FIELD == 4 ? fours(words) : load<Words>(words));
    }
    for (int64_t i = 0; i < last - first; i++) {
      const WideFloats zero = row.zero[i] - WideFloats{};
      const uint8_t* u = codes + i * BLOCK;
      const __m512 low = (__m512)difference(u, zero), high = (__m512)difference(u + LANES, zero);
      _mm512_store_si512(pairs[i][r], (__m512i)_mm512_cvtne2ps_pbh(high, low));
    }
    std::copy_n(&row.s[0], last - first, s[r]);
    if (MINIMA) std::copy_n(&row.m[0], last - first, m[r]);
  }
};

struct PairTile : PairRows<6, 2 * LONG> {
  static constexpr int64_t VECTORS = MOST_VECTORS, PANEL = 96, PARTS = 1;

  static std::vector<int64_t> places(const Weight& w) {
    std::vector<int64_t> places(w.blocks() * BLOCK / PER);
    std::iota(places.begin(), places.end(), 0);
    return places;
  }
  static Floats eight(const Real* x, int64_t) { return load<Floats>(x); }

  template <int C>
  void products(const Weight&, const Batch<uint32_t>& batch, int64_t first, int64_t last, WideFloats* acc) const {
    for (int64_t i = 0; i < last - first; i++) {
      const uint32_t* x = batch.at((first + i) * BLOCK / PER);
      WideFloats sums[ROWS][C] = {};
#pragma GCC unroll 4
      for (int64_t pair = 0; pair < PAIRS; pair++) {
        __m512bh some[C];
        for (int c = 0; c < C; c++) some[c] = (__m512bh)load<__m512i>(x + (pair * C + c) * LANES);
#pragma GCC unroll 6
        for (int64_t r = 0; r < ROWS; r++) {
          const __m512bh both = (__m512bh)_mm512_set1_epi32(static_cast<int32_t>(pairs[i][r][pair]));
          for (int c = 0; c < C; c++) sums[r][c] = (WideFloats)_mm512_dpbf16_ps((__m512)sums[r][c], some[c], both);
        }
      }
      for (int64_t r = 0; r < ROWS; r++)
        for (int c = 0; c < C; c++) {
          WideFloats& y = acc[r * VECTORS + c];
          y = multiply_add(s[r][i] - WideFloats{}, sums[r][c], y);
          if (MINIMA) y += m[r][i] * load<WideFloats>(&batch.sums[((first + i) * C + c) * LANES]);
        }
    }
  }
};

#if defined(HAS_MATRICES)

// --- the same as matrices in registers ---
// An input is the sum of its parts in bfloat16, of eight bits each, so that none of its bits is lost.
struct MatrixTile : PairRows<HEIGHT, LONG> {
  static constexpr int64_t VECTORS = 1, PANEL = 6 * HEIGHT;
  static constexpr int64_t PARTS = sizeof(Real) == 4 ? 3 : std::is_same_v<Real, float16> ? 2 : 1;
  static constexpr int64_t GO = 2;  // products that go before their sums are read again
  Matrices<float> matrices;

  // Parts of a block lie one after the other.
  static std::vector<int64_t> places(const Weight& w) {
    std::vector<int64_t> places(w.blocks() * PAIRS);
    for (int64_t i = 0; i < w.blocks() * PAIRS; i++) places[i] = i / PAIRS * PAIRS * PARTS + i % PAIRS;
    return places;
  }
  // The upper half of sixteen inputs' bits, or of what is left of them.
  static Floats eight(const Real* x, int64_t part) {
    if constexpr (PARTS == 1) return load<Floats>(x);
    alignas(64) float from[16];
    convert<16>(x, from);
    WideFloats some = load<WideFloats>(from);
    for (int64_t i = 0; i < part; i++) some -= (WideFloats)((WideWords)some & 0xffff0000u);
    return (Floats)_mm512_cvtepi32_epi16((__m512i)((WideWords)some >> 16));
  }

  template <int>
  void products(const Weight&, const Batch<uint32_t>& batch, int64_t first, int64_t last, WideFloats* acc) {
    for (int64_t i = first, end; i < last; i = end) {
      end = std::min(last, i + GO);
      go(batch.at(i * PAIRS * PARTS), i - first, end - i, acc);
      for (int64_t j = i; MINIMA && j < end; j++)
        for (int64_t r = 0; r < ROWS; r++) acc[r] += m[r][j - first] * load<WideFloats>(&batch.sums[j * LANES]);
    }
  }

 private:
  // Sums go through memory, and are not to be waited for.
  IN_PLACE void go(const uint32_t* x, int64_t i, int64_t count, WideFloats* acc) {
    alignas(64) float sums[GO][ROWS][SIDE];
    for (int64_t j = 0; j < count; j++) {
      matrices.clear();
      for (int64_t part = 0; part < PARTS; part++, x += PAIRS * LANES)
        matrices.add_pairs(pairs[i + j], x);
      matrices.store(sums[j]);
    }
    for (int64_t half = 0; half < ROWS; half += SIDE) {
      WideFloats y[SIDE];
      for (int64_t r = 0; r < SIDE; r++) y[r] = acc[half + r];
      for (int64_t j = 0; j < count; j++)
#pragma GCC unroll 16
        for (int64_t r = 0; r < SIDE; r++) y[r] = multiply_add(s[half + r][i + j] - WideFloats{}, load<WideFloats>(sums[j][half + r]), y[r]);
      for (int64_t r = 0; r < SIDE; r++) acc[half + r] = y[r];
    }
  }
};

#endif
#endif

}  // namespace

// Float inputs times packed codes.
//
// A block of 256 codes is read as words of 32 bits, in each of whose lanes all codes belong to one
// group of 32. A field of a word becomes a float without moving: its bits, put under the exponent of
// 2^(23 - place), are the float 2^(23 - place) + u, and what is too much is subtracted with the zero.
// So inputs are put into the order of the fields once, and scales are multiplied lane by lane.

#pragma once

#include "product_codes.h"

namespace {

template <typename F>
inline F multiply_add(F a, F b, F c) {
#if defined(HAS_64_BYTES)
  if constexpr (sizeof(F) == 64) return (F)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#endif
#if defined(__FMA__) && defined(__AVX2__)
  if constexpr (sizeof(F) == 32) return (F)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#endif
  return a * b + c;
}

inline Floats folded(Floats x) { return x; }
#if defined(HAS_64_BYTES)
inline Floats folded(WideFloats x) {
  return (Floats)_mm512_castps512_ps256((__m512)x) + (Floats)_mm512_extractf32x8_ps((__m512)x, 1);
}
#endif

inline float sum(Floats x) {
  float y = 0;
  for (int i = 0; i < 8; i++) y += x[i];
  return y;
}

inline float with_bias(float y, const float* bias, int64_t row) { return bias ? y + bias[row] : y; }

// The f-th field of P bits of each word: u - zero.
template <int P, typename F, typename W>
inline F difference(W w, int f, F zero) {
  const bool high = (f + 1) * P > 23;
  const int place = high ? f * P - 16 : f * P;
  if (high) w >>= 16;
  const W x = (w & (((1u << P) - 1) << place)) | (static_cast<uint32_t>(127 + 23 - place) << 23);
  return (F)x - (zero + static_cast<float>(1 << (23 - place)));
}

// Bits of the fields in which a weight's words are read: other codes are unpacked to bytes before.
inline int64_t field_bits(const Weight& w) { return w.bits == 4 ? 4 : 8; }

// The column, within a block of 256, of each place in that order.
inline std::vector<int32_t> order_of(int64_t p) {
  std::vector<int32_t> order(LONG);
  for (int64_t i = 0; i < LONG; i++) {
    const int64_t f = i / LANES % (32 / p), word = i / LANES / (32 / p) * LANES + i % LANES;
    const int64_t code = p == 8 ? 4 * word + f : 4 * word + f / 2 + 128 * (f % 2);
    order[i] = static_cast<int32_t>(32 * (code % 32 / 4) + 4 * (code / 32) + code % 4);
  }
  return order;
}

// The column of each place of a row, the last block of 32 filled up.
inline std::vector<int32_t> columns_of(const Weight& w) {
  static const std::vector<int32_t> by_fours = order_of(4), by_eights = order_of(8);
  const std::vector<int32_t>& order = field_bits(w) == 4 ? by_fours : by_eights;
  std::vector<int32_t> columns(w.blocks() * BLOCK);
  const int64_t long_end = w.aligned() ? w.longs() * LONG : 0, size = columns.size();
  for (int64_t i = 0; i < long_end; i += LONG)
    for (int64_t j = 0; j < LONG; j++) columns[i + j] = static_cast<int32_t>(i) + order[j];
  for (int64_t i = long_end; i < size; i++)
    columns[i] = static_cast<int32_t>(w.aligned() ? i / BLOCK * BLOCK + i % 8 * 4 + i % BLOCK / 8 : i);
  return columns;
}

// A row, some blocks of 32 of it: its words, and its steps for each block. Groups are whole blocks.
struct Row {
  const uint8_t* words = nullptr;  // of the blocks of 256
  Buffer<uint8_t> unpacked, rest;
  Buffer<float> s, m, zero, of_groups;
  explicit Row(const Weight& w)
      : unpacked(w.bits == 4 || w.bits == 8 ? 0 : w.k), rest(LONG), s(w.blocks() + 8), m(s.size()),
        zero(s.size(), static_cast<float>(w.low)), of_groups(w.groups + 8) {}
  // blocks from `first`, the first of a block of 256, to `end`
  void read(const Weight& w, int64_t row, int64_t first, int64_t end) {
    const int64_t long_end = std::min(end / 8, w.longs());
    words = w.row(row) + first * 4 * w.bits;
    if (!unpacked.empty()) {
      with_bits(w.bits, [&](auto bits) { unpack_longs<bits>(words, long_end - first / 8, unpacked.data()); });
      words = unpacked.data();
    }
    if (end > long_end * 8) unpack_rest(w, row, rest.data());
    each(w, first, end, s.data(), [&](int64_t g, int64_t n, float* to) { steps(w, w.scale, row, g, n, to); });
    if (w.offset_kind == 1)
      each(w, first, end, zero.data(), [&](int64_t g, int64_t n, float* to) { zeros(w, row, g, n, to); });
    if (w.offset_kind == 2)
      each(w, first, end, m.data(), [&](int64_t g, int64_t n, float* to) { steps(w, w.offset, row, g, n, to); });
  }
  // of(first group, count, to) for each block
  template <typename F>
  void each(const Weight& w, int64_t first, int64_t end, float* to, F of) {
    const int64_t many = w.per_group();
    if (many == 1) return of(first, end - first, to);
    const int64_t g = first / many, last = (end + many - 1) / many;
    of(g, last - g, of_groups.data());
    for (int64_t i = g; i < last; i++)
      std::fill(to + std::max<int64_t>(0, i * many - first), to + std::min(end, (i + 1) * many) - first, of_groups[i - g]);
  }
};

// --- few inputs ---

struct FewInputs {
  Buffer<float> x, sums;  // [count, k in order], filled up with zeros; [count, blocks]
  int64_t width, blocks;
  FewInputs(const Weight& w, const float* given, int64_t m, int64_t count)
      : x(count * w.blocks() * BLOCK), sums(count * (w.blocks() + 8)), width(w.blocks() * BLOCK), blocks(w.blocks() + 8) {
    const std::vector<int32_t> columns = columns_of(w);
    const int64_t long_end = w.longs() * LONG;
    for (int64_t t = 0; t < m; t++) {
      const float* from = given + t * w.k;
      float* to = &x[t * width];
      for (int64_t i = 0; i < long_end; i++) to[i] = from[columns[i]];
      for (int64_t i = long_end; i < width; i++) to[i] = columns[i] < w.k ? from[columns[i]] : 0;
      for (int64_t i = 0; i < w.k && w.offset_kind == 2; i++) sums[t * blocks + i / BLOCK] += from[i];
    }
  }
};

// T inputs times R rows of codes in fields of P bits.
template <int P, int R, int T>
void few_products(const Weight& w, const Row* rows, const FewInputs& x, float* out) {
  constexpr int CHAINS = R * T == 1 ? 2 : 1;  // a sum waits for the one before it
  constexpr int64_t WORDS = 8 * P / LANES, FIELDS = 32 / P;
  const int64_t longs = w.longs(), blocks = w.blocks();
  const bool minima = w.offset_kind == 2;
  Floats y[R][T] = {};
  for (int64_t i = 0; i < longs; i++) {
    WideFloats sums[CHAINS][R][T] = {}, zero[R];
    for (int r = 0; r < R; r++) zero[r] = (WideFloats)both(load<Words>(&rows[r].zero[8 * i]));
    for (int64_t j = 0; j < WORDS; j++) {
      WideWords words[R];
      for (int r = 0; r < R; r++) words[r] = load<WideWords>(rows[r].words + (i * WORDS + j) * WIDE);
      for (int r = 0; r < R; r++) __builtin_prefetch(rows[r].words + (i * WORDS + j) * WIDE + AHEAD);
#pragma GCC unroll 8
      for (int f = 0; f < FIELDS; f++) {
        WideFloats u[R];
        for (int r = 0; r < R; r++) u[r] = difference<P>(words[r], f, zero[r]);
        for (int t = 0; t < T; t++) {
          const WideFloats some = load<WideFloats>(&x.x[t * x.width + i * LONG + (j * FIELDS + f) * LANES]);
          for (int r = 0; r < R; r++)
            sums[f % CHAINS][r][t] = multiply_add(u[r], some, sums[f % CHAINS][r][t]);
        }
      }
    }
    for (int r = 0; r < R; r++)
      for (int t = 0; t < T; t++) {
        for (int c = 1; c < CHAINS; c++) sums[0][r][t] += sums[c][r][t];
        y[r][t] = multiply_add(folded(sums[0][r][t]), load<Floats>(&rows[r].s[8 * i]), y[r][t]);
        if (minima)
          y[r][t] = multiply_add(load<Floats>(&rows[r].m[8 * i]), load<Floats>(&x.sums[t * x.blocks + 8 * i]), y[r][t]);
      }
  }
  for (int64_t i = longs * 8; i < blocks; i++)
    for (int r = 0; r < R; r++) {
      const Words words = load<Words>(&rows[r].rest[(i - longs * 8) * BLOCK]);
      const float s = rows[r].s[i];
      Floats u[4];
      for (int f = 0; f < 4; f++) u[f] = difference<8>(words, f, rows[r].zero[i] - Floats{});
      for (int t = 0; t < T; t++) {
        Floats sums = {};
        for (int f = 0; f < 4; f++) sums = multiply_add(u[f], load<Floats>(&x.x[t * x.width + i * BLOCK + f * 8]), sums);
        y[r][t] = multiply_add(sums, s - Floats{}, y[r][t]);
        if (minima) y[r][t][0] += rows[r].m[i] * x.sums[t * x.blocks + i];
      }
    }
  for (int r = 0; r < R; r++)
    for (int t = 0; t < T; t++) out[r * T + t] = sum(y[r][t]);
}

template <int P, int T>
void few_rows(const Weight& w, const FewInputs& x, int64_t m, const float* bias, int64_t begin, int64_t end, float* y) {
  constexpr int R = T <= 2 ? 1 : 2;
  std::vector<Row> rows(R, Row(w));
  for (int64_t first = begin; first < end; first += R) {
    float found[R * T];
    for (int64_t r = 0; r < R; r++) rows[r].read(w, std::min(first + r, end - 1), 0, w.blocks());
    few_products<P, R, T>(w, rows.data(), x, found);
    for (int64_t t = 0; t < m; t++)
      for (int64_t r = 0; r < std::min<int64_t>(R, end - first); r++) y[t * w.n + first + r] = with_bias(found[r * T + t], bias, first + r);
  }
}

inline void few_floats(const Weight& w, const float* x, int64_t m, const float* bias, float* y, int64_t threads) {
  const int64_t count = m <= 2 ? m : m <= 4 ? 4 : FEW;
  const FewInputs inputs(w, x, m, count);
  share(w.n, threads, 16, [&](int64_t from, int64_t to) {
    auto run = [&](auto p) {
      if (count == 1) return few_rows<p, 1>(w, inputs, m, bias, from, to, y);
      if (count == 2) return few_rows<p, 2>(w, inputs, m, bias, from, to, y);
      if (count == 4) return few_rows<p, 4>(w, inputs, m, bias, from, to, y);
      return few_rows<p, FEW>(w, inputs, m, bias, from, to, y);
    };
    if (field_bits(w) == 4) return run(std::integral_constant<int, 4>());
    return run(std::integral_constant<int, 8>());
  });
}

// --- many inputs: a lane for each of them, and some rows of w_hat in the cache ---

constexpr int64_t ROWS = 6, VECTORS = WIDE == 64 ? 4 : 2;  // a tile, in registers
constexpr int64_t COLUMNS = 2 * LONG, PANEL = 16 * ROWS;   // what stays in the cache

// s (u - zero) or with a minimum, the bits that `dequantize` gives, of some blocks of a row that was read.
template <int P>
void values(const Weight& w, const Row& row, int64_t first, int64_t end, float* out) {
  constexpr int64_t WORDS = 8 * P / LANES, FIELDS = 32 / P;
  const bool minima = w.offset_kind == 2;
  const int64_t longs = std::min(end / 8, w.longs()) - first / 8;
  for (int64_t i = 0; i < longs; i++) {
    const WideFloats s = (WideFloats)both(load<Words>(&row.s[8 * i])), m = (WideFloats)both(load<Words>(&row.m[8 * i])),
                     zero = (WideFloats)both(load<Words>(&row.zero[8 * i]));
    for (int64_t j = 0; j < WORDS; j++) {
      const WideWords words = load<WideWords>(row.words + (i * WORDS + j) * WIDE);
#pragma GCC unroll 8
      for (int f = 0; f < FIELDS; f++) {
        WideFloats value = s * difference<P>(words, f, zero);
        if (minima) value += m;
        store(out + i * LONG + (j * FIELDS + f) * LANES, value);
      }
    }
  }
  for (int64_t i = longs * 8; i < end - first; i++)
    for (int f = 0; f < 4; f++) {
      const Words words = load<Words>(&row.rest[(i - longs * 8) * BLOCK]);
      Floats value = row.s[i] * difference<8>(words, f, row.zero[i] - Floats{});
      if (minima) value += row.m[i];
      store(out + i * BLOCK + f * 8, value);
    }
}

// The same of any groups, in the columns' own order, filled up with zeros.
inline void plain_values(const Weight& w, int64_t row, int64_t first, int64_t end, float* out) {
  std::vector<uint8_t> u(w.blocks() * BLOCK);
  std::vector<float> s(w.groups + 8), m(w.groups + 8), zero(w.groups, static_cast<float>(w.low));
  unpack_row(w, row, u.data());
  steps(w, w.scale, row, 0, w.groups, s.data());
  if (w.offset_kind == 1) zeros(w, row, 0, w.groups, zero.data());
  if (w.offset_kind == 2) steps(w, w.offset, row, 0, w.groups, m.data());
  std::fill(out, out + (end - first) * BLOCK, 0.0f);
  for (int64_t i = first * BLOCK; i < std::min(w.k, end * BLOCK); i++) {
    const int64_t g = i / w.group;
    const float value = s[g] * (u[i] - zero[g]);
    out[i - first * BLOCK] = w.offset_kind == 2 ? value + m[g] : value;
  }
}

struct Batch {  // up to VECTORS * LANES inputs, as [place][lane]
  int64_t first, count, vectors;
  Buffer<float> x;
};

// Adds to acc [ROWS, VECTORS] the products of `width` columns: w [ROWS, COLUMNS], x [width, C].
template <int C>
void tile_products(const float* w, const float* x, int64_t width, WideFloats* acc) {
  WideFloats sums[ROWS][C];
  for (int64_t r = 0; r < ROWS; r++)
    for (int c = 0; c < C; c++) sums[r][c] = acc[r * VECTORS + c];
  for (int64_t i = 0; i < width; i++) {
    WideFloats some[C];
    for (int c = 0; c < C; c++) some[c] = load<WideFloats>(x + (i * C + c) * LANES);
    for (int64_t r = 0; r < ROWS; r++)
      for (int c = 0; c < C; c++) sums[r][c] = multiply_add(w[r * COLUMNS + i] - WideFloats{}, some[c], sums[r][c]);
  }
  for (int64_t r = 0; r < ROWS; r++)
    for (int c = 0; c < C; c++) acc[r * VECTORS + c] = sums[r][c];
}

inline void tile_of(const float* w, const Batch& x, int64_t at, int64_t width, WideFloats* acc) {
  const float* from = &x.x[at * x.vectors * LANES];
  if (x.vectors == 1) return tile_products<1>(w, from, width, acc);
  if (x.vectors == 2) return tile_products<2>(w, from, width, acc);
  if constexpr (VECTORS == 4)
    return x.vectors == 3 ? tile_products<3>(w, from, width, acc) : tile_products<4>(w, from, width, acc);
}

inline std::vector<Batch> batches_of(const Weight& w, const float* x, int64_t m, int64_t threads) {
  const std::vector<int32_t> columns = columns_of(w);
  std::vector<Batch> batches;
  for (int64_t t = 0; t < m; t += VECTORS * LANES) {
    const int64_t count = std::min(VECTORS * LANES, m - t), vectors = (count + LANES - 1) / LANES;
    batches.push_back({t, count, vectors, Buffer<float>(columns.size() * vectors * LANES)});
  }
  const int64_t width = columns.size();
  share(width * batches.size(), threads, BLOCK, [&](int64_t from, int64_t to) {
    for (int64_t i = from; i < to; i++) {
      Batch& b = batches[i / width];
      const int64_t column = columns[i % width];
      float* line = &b.x[i % width * b.vectors * LANES];
      for (int64_t t = 0; t < b.count && column < w.k; t++) line[t] = x[(b.first + t) * w.k + column];
    }
  });
  return batches;
}

// The rows from `begin` to `end`, at most PANEL.
inline void panel(const Weight& w, const std::vector<Batch>& batches, int64_t begin, int64_t end, Row& row, const float* bias, float* y) {
  const int64_t count = batches.size(), tiles = (end - begin + ROWS - 1) / ROWS;
  Buffer<WideFloats> acc(tiles * count * ROWS * VECTORS);
  alignas(64) float w_hat[ROWS * COLUMNS];
  for (int64_t first = 0; first < w.blocks(); first += COLUMNS / BLOCK) {
    const int64_t last = std::min(w.blocks(), first + COLUMNS / BLOCK);
    for (int64_t i = 0; i < tiles; i++) {
      for (int64_t r = 0; r < ROWS; r++) {
        const int64_t at = std::min(begin + i * ROWS + r, end - 1);
        float* out = w_hat + r * COLUMNS;
        if (!w.aligned()) {
          plain_values(w, at, first, last, out);
          continue;
        }
        row.read(w, at, first, last);
        field_bits(w) == 4 ? values<4>(w, row, first, last, out) : values<8>(w, row, first, last, out);
      }
      for (int64_t b = 0; b < count; b++)
        tile_of(w_hat, batches[b], first * BLOCK, (last - first) * BLOCK, &acc[(i * count + b) * ROWS * VECTORS]);
    }
  }
  for (const Batch& b : batches)
    for (int64_t t = 0; t < b.count; t++)
      for (int64_t r = 0; r < end - begin; r++)
        y[(b.first + t) * w.n + begin + r] =
            with_bias(acc[((r / ROWS * count + (&b - &batches[0])) * ROWS + r % ROWS) * VECTORS + t / LANES][t % LANES], bias,
                      begin + r);
}

inline void many_floats(const Weight& w, const float* x, int64_t m, const float* bias, float* y, int64_t threads) {
  const std::vector<Batch> batches = batches_of(w, x, m, threads);
  share(w.n, threads, PANEL, [&](int64_t from, int64_t to) {
    Row row(w);
    for (int64_t i = from; i < to; i += PANEL) panel(w, batches, i, std::min(to, i + PANEL), row, bias, y);
  });
}

}  // namespace

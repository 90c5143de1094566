// Many float inputs times packed codes: a lane for each input, and some rows of w_hat in the cache.

#include <numeric>

#include "product_numbers.h"

namespace {

constexpr int64_t ROWS = 6;  // of a tile, in registers
constexpr int64_t COLUMNS = 2 * LONG, PANEL = 16 * ROWS;   // what stays in the cache

// s (u - zero) or with a minimum, the bits that `dequantize` gives, of some blocks of a row that was read.
inline void values(const Weight& w, const Row& row, int64_t first, int64_t end, float* out) {
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
    const uint8_t* words = first + i < w.whole() ? row.others + (i - longs * 8) * BLOCK_BYTES : row.last_block(w);
    block(numbers, words, row.zero[i] - WideFloats{}, u);
    for (int64_t f = 0; f < BLOCK / LANES; f++) {
      WideFloats value = row.s[i] * u[f];
      if (MINIMA) value += row.m[i];
      store(out + i * BLOCK + f * LANES, value);
    }
  }
}

struct Batch {  // up to BATCH inputs, as [place][lane]
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
#pragma GCC unroll 6  // without which one vector's sums went through memory: a third of the speed
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

inline std::vector<Batch> batches_of(const Weight& w, const Real* x, int64_t m, int64_t threads) {
  std::vector<int64_t> columns(w.blocks() * BLOCK);
  std::iota(columns.begin(), columns.end(), 0);
  if (w.aligned())
    over_places(w, 0, [&](int64_t i, int64_t first, const int32_t* order) {
      for (int64_t lane = 0; lane < LANES; lane++) columns[i + lane] = first + order[lane];
    });
  std::vector<Batch> batches;
  for (int64_t t = 0; t < m; t += BATCH) {
    const int64_t count = std::min(BATCH, m - t), vectors = (count + LANES - 1) / LANES;
    batches.push_back({t, count, vectors, Buffer<float>(columns.size() * vectors * LANES)});
  }
  const int64_t width = columns.size();
  share(width * batches.size(), threads, BLOCK, [&](int64_t from, int64_t to) {
    for (int64_t i = from; i < to; i++) {
      Batch& b = batches[i / width];
      const int64_t column = columns[i % width];
      float* line = &b.x[i % width * b.vectors * LANES];
      for (int64_t t = 0; t < b.count && column < w.k; t++) line[t] = to_float(x[(b.first + t) * w.k + column]);
    }
  });
  return batches;
}

// The rows from `begin` to `end`, at most PANEL.
inline void panel(const Weight& w, const std::vector<Batch>& batches, int64_t begin, int64_t end, Row& row, const float* bias, Real* y) {
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
        values(w, row, first, last, out);
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

}  // namespace

// y = x w_hat^T + bias
extern "C" void linear(const Linear* of) {
  const Weight& w = *of->w;
  const std::vector<Batch> batches = batches_of(w, of->x, of->m, of->threads);
  share(w.n, of->threads, PANEL, [&](int64_t from, int64_t to) {
    Row row(w);
    for (int64_t i = from; i < to; i += PANEL) panel(w, batches, i, std::min(to, i + PANEL), row, of->bias, of->y);
  });
}

// Many float inputs times packed codes: a lane for each input, and some rows of the weight in the cache.

#include "product_tiles.h"

namespace {

constexpr int64_t APART = 1 << 17;  // inputs, from which on several threads put them in order
constexpr int64_t MOST = 1 << 24;   // values of inputs that are put in order at a time: up to 100 MB

// A part of eight inputs of a tile, from the column `at` of x [k] on; behind the last there are zeros.
template <typename Tile>
Floats eight(const Real* x, int64_t at, int64_t k, int64_t part) {
  constexpr int64_t N = 8 * Tile::PER;
  if (at + N <= k) return Tile::eight(x + at, part);
  Real last[N] = {};
  if (at < k) std::copy(x + at, x + k, last);
  return Tile::eight(last, part);
}

// Up to BATCH inputs each.
template <typename Tile>
std::vector<Batch<typename Tile::In>> batches_of(const Weight& w, const Real* x, int64_t m, int64_t threads) {
  const std::vector<int64_t> places = Tile::places(w);
  const int64_t width = places.size(), in_block = BLOCK / Tile::PER, parts = Tile::PARTS;
  std::vector<Batch<typename Tile::In>> batches;
  constexpr int64_t BATCH = Tile::VECTORS * LANES;
  for (int64_t t = 0; t < m; t += BATCH) {
    const int64_t count = std::min(BATCH, m - t), lanes = (count + LANES - 1) / LANES * LANES;
    const int64_t blocks = Tile::PER > 1 && MINIMA ? w.blocks() : 0;
    batches.push_back({t, count, lanes / LANES, Buffer<typename Tile::In>(width * parts * lanes), Buffer<float>(blocks * lanes)});
  }
  share(width * batches.size(), m * w.k < APART ? 1 : threads, in_block, [&](int64_t from, int64_t to) {
    for (int64_t i = from; i < to; i += 8) {
      auto& b = batches[i / width];
      const int64_t first = i % width, lanes = b.vectors * LANES;
      for (int64_t t = 0; t < b.count; t += 8)
        for (int64_t part = 0; part < parts; part++) {
          Floats some[8] = {};
          for (int64_t r = 0; r < std::min<int64_t>(8, b.count - t); r++)
            some[r] = eight<Tile>(x + (b.first + t + r) * w.k, first * Tile::PER, w.k, part);
          transpose(some);
          for (int64_t j = 0; j < 8; j++) store(&b.x[(places[first + j] + part * in_block) * lanes + t], some[j]);
          if (b.sums.empty()) continue;
          float* sums = &b.sums[first / in_block * lanes + t];
          for (int64_t j = 0; j < 8; j++) store(sums, Tile::added(load<Floats>(sums), some[j]));
        }
    }
  });
  return batches;
}

// The rows from `begin` to `end`, at most Tile::PANEL.
template <typename Tile>
void panel(const Weight& w, const std::vector<Batch<typename Tile::In>>& batches, int64_t begin, int64_t end,
           const float* bias, Real* y) {
  constexpr int64_t ROWS = Tile::ROWS, VECTORS = Tile::VECTORS, COLUMNS = Tile::COLUMNS;
  const int64_t count = batches.size(), tiles = (end - begin + ROWS - 1) / ROWS;
  Buffer<WideFloats> acc(tiles * count * ROWS * VECTORS);
  Tile tile;
  Row row(w);
  for (int64_t first = 0; first < w.blocks(); first += COLUMNS / BLOCK) {
    const int64_t last = std::min(w.blocks(), first + COLUMNS / BLOCK);
    for (int64_t i = 0; i < tiles; i++) {
      for (int64_t r = 0; r < ROWS; r++) tile.take(w, row, std::min(begin + i * ROWS + r, end - 1), first, last, r);
      for (int64_t b = 0; b < count; b++)
        with_vectors(batches[b].vectors, [&](auto C) {
          tile.template products<C>(w, batches[b], first, last, &acc[(i * count + b) * ROWS * VECTORS]);
        });
    }
  }
  for (int64_t b = 0; b < count; b++)
    for (int64_t r = 0; r < end - begin; r += TOGETHER)
      for (int64_t t = 0; t < batches[b].count; t += 8) {
        const auto sums = [&](int64_t i) {
          const int64_t tile = (r + i) / ROWS, of_tile = (r + i) % ROWS;
          return reinterpret_cast<const float*>(&acc[((tile * count + b) * ROWS + of_tile) * VECTORS]) + t;
        };
        const int64_t rows = std::min(TOGETHER, end - begin - r), inputs = std::min<int64_t>(8, batches[b].count - t);
        store_square(sums, bias, begin + r, rows, inputs, w.n, y + (batches[b].first + t) * w.n);
      }
}

template <typename Tile>
void many(const Linear& of) {
  const Weight& w = *of.w;
  const auto batches = batches_of<Tile>(w, of.x, of.m, of.threads);
  const int64_t panels = std::max<int64_t>(1, (w.n / of.threads + Tile::PANEL - 1) / Tile::PANEL);  // of each thread, alike
  share(w.n, of.threads, Tile::ROWS, [&](int64_t from, int64_t to) { panel<Tile>(w, batches, from, to, of.bias, of.y); }, panels);
}

inline void by_tiles(const Linear& of) {
#if defined(HAS_MATRICES)
  if (Matrices<float>::allowed() && MatrixTile::suits(*of.w, of.x, of.m * of.w->k)) return many<MatrixTile>(of);
#elif defined(__AVX512BF16__)
  if constexpr (std::is_same_v<Real, bfloat16>)
    if (PairTile::suits(*of.w, of.x, of.m * of.w->k)) return many<PairTile>(of);
#endif
  many<FloatTile>(of);
}

}  // namespace

// y = x w_hat^T + bias
extern "C" int linear(const Linear* of) {
  return unless_short([&] {
    const int64_t k = of->w->k, step = std::max<int64_t>(1, MOST / k / 64) * 64;
    for (int64_t t = 0; t < of->m; t += step)
      by_tiles({of->w, of->x + t * k, std::min(step, of->m - t), of->bias, of->y + t * of->w->n, of->threads});
    return 1;
  });
}

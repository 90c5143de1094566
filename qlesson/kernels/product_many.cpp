// Many float inputs times packed codes: a lane for each input, and some rows of the weight in the cache.

#include "product_tiles.h"

namespace {

constexpr int64_t PANEL = 16 * ROWS;  // rows whose sums stay in the cache

// Up to BATCH inputs each.
template <typename Tile>
std::vector<Batch<typename Tile::In>> batches_of(const Weight& w, const Real* x, int64_t m, int64_t threads) {
  const std::vector<int64_t> columns = Tile::columns(w);
  const int64_t width = columns.size(), in_block = BLOCK / Tile::PER;
  std::vector<Batch<typename Tile::In>> batches;
  for (int64_t t = 0; t < m; t += BATCH) {
    const int64_t count = std::min(BATCH, m - t), lanes = (count + LANES - 1) / LANES * LANES;
    const int64_t blocks = Tile::PER > 1 && MINIMA ? w.blocks() : 0;
    batches.push_back({t, count, lanes / LANES, Buffer<typename Tile::In>(width * lanes), Buffer<float>(blocks * lanes)});
  }
  share(width * batches.size(), threads, in_block, [&](int64_t from, int64_t to) {
    for (int64_t i = from; i < to; i++) {
      auto& b = batches[i / width];
      const int64_t place = i % width, column = columns[place], lanes = b.vectors * LANES;
      for (int64_t t = 0; t < b.count && column < w.k; t++) {
        const Real* in = x + (b.first + t) * w.k + column;
        b.x[place * lanes + t] = Tile::in(in, w.k - column);
        for (int64_t j = 0; j < std::min(Tile::PER, w.k - column) && !b.sums.empty(); j++)
          b.sums[place / in_block * lanes + t] += to_float(in[j]);
      }
    }
  });
  return batches;
}

// The rows from `begin` to `end`, at most PANEL.
template <typename Tile>
void panel(const Weight& w, const std::vector<Batch<typename Tile::In>>& batches, int64_t begin, int64_t end, Row& row,
           const float* bias, Real* y) {
  const int64_t count = batches.size(), tiles = (end - begin + ROWS - 1) / ROWS;
  Buffer<WideFloats> acc(tiles * count * ROWS * VECTORS);
  Tile tile;
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
  for (const auto& b : batches)
    for (int64_t t = 0; t < b.count; t++)
      for (int64_t r = 0; r < end - begin; r++)
        y[(b.first + t) * w.n + begin + r] =
            with_bias(acc[((r / ROWS * count + (&b - &batches[0])) * ROWS + r % ROWS) * VECTORS + t / LANES][t % LANES], bias,
                      begin + r);
}

template <typename Tile>
void many(const Linear& of) {
  const Weight& w = *of.w;
  const auto batches = batches_of<Tile>(w, of.x, of.m, of.threads);
  share(w.n, of.threads, PANEL, [&](int64_t from, int64_t to) {
    Row row(w);
    for (int64_t i = from; i < to; i += PANEL) panel<Tile>(w, batches, i, std::min(to, i + PANEL), row, of.bias, of.y);
  });
}

}  // namespace

// y = x w_hat^T + bias
extern "C" void linear(const Linear* of) {
#if defined(__AVX512BF16__)
  if constexpr (std::is_same_v<Real, bfloat16>)
    if (PairTile::suits(*of->w, of->x, of->m * of->w->k)) return many<PairTile>(*of);
#endif
  many<FloatTile>(*of);
}

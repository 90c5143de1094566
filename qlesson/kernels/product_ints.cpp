// Inputs of 8-bit codes times packed codes: the same bits on every processor.
//
// Integer products are exact in 32 bits inside a group of columns, and the groups are added in their
// order, each rounded product to a rounded sum.

#include "product_int_tiles.h"

namespace {

// --- few inputs: a row is multiplied as it is read, and eight rows are added up beside each other ---

// Inputs that go together: T of them stand beside each other in a vector, eight blocks, or groups, of each.
constexpr int PAIR = QUADS == 16 ? 2 : 1;
template <int T>
using Several = std::conditional_t<T == 1, Ints, WideInts>;
template <int T>
constexpr int64_t place_of(int64_t i, int64_t t) { return i / 8 * 8 * T + t * 8 + i % 8; }

// m inputs of `all`, filled up with zeros: each whole block of 256 of all of them in the order in which codes are
// packed, [block, input], and then what is left of each, filled up to whole blocks of 32.
inline Buffer<int8_t> in_packed_order(const Weight& w, const int8_t* x, int64_t m, int64_t all) {
  const int64_t whole = w.longs() * LONG, left = w.blocks() * BLOCK - whole;
  Buffer<int8_t> y(all * (whole + left));
  for (int64_t t = 0; t < m; t++) {
    const int8_t* from = x + t * w.k;
    for (int64_t i = 0; i < whole; i += LONG)
      for (int64_t j = 0; j < 8; j++)
        for (int64_t v = 0; v < 8; v++) std::copy_n(from + i + 32 * j + 4 * v, 4, &y[i * all + t * LONG + 32 * v + 4 * j]);
    std::copy(from + whole, from + w.k, &y[whole * all + t * left]);
  }
  return y;
}

// Sums over each block of 32 of a row times m inputs in that order, T beside each other, to acc [m / T, step, T]; of
// the codes alone too, where `u_sums` is given.
template <int T>
inline void block_sums(const Weight& w, int64_t row, const int8_t* x, int64_t m, int64_t step, int32_t* acc, int32_t* u_sums) {
  const int64_t longs = w.longs(), left = w.blocks() - longs * 8;
  const uint8_t* b = w.row(row);
  const Quads ones = Quads{} + mask(1);
  for (int64_t i = 0; i < longs; i++, b += LONG / 8 * BITS) {
    Quads u[1][LONG_QUADS];
    long_codes(b, u[0]);
    for (int64_t t = 0; t < m; t += T, x += T * LONG) {
      Sums sums[1][T];
      Several<T> found;
      plane_products<T, 1>(u, x, sums);
      folded_beside(sums[0], found);
      store(acc + t * step + 8 * T * i, found);
    }
    if (!u_sums) continue;
    Sums d = {};
    for (int64_t v = 0; v < LONG_QUADS; v++) d += products(u[0][v], ones);
    store(u_sums + 8 * i, folded(d));
  }
  if (!left) return;
  uint8_t rest[LONG];
  unpack_rest(w, row, rest);
  for (int64_t i = 0; i < left; i++) {
    const Words words = load<Words>(rest + i * BLOCK);
    for (int64_t t = 0; t < m; t++)
      acc[t / T * T * step + place_of<T>(longs * 8 + i, t % T)] = sum(products(words, load<Words>(x + (t * left + i) * BLOCK)));
    if (u_sums) u_sums[longs * 8 + i] = sum(products(words, Words{} + mask(1)));
  }
}

// From sums of blocks to sums of groups, of T inputs.
template <int T>
IN_PLACE void join(const Weight& w, int32_t* acc) {
  const int64_t many = w.per_group();
  if (many == 1) return;
  for (int64_t g = 0; g < w.groups; g++)
    for (int64_t t = 0; t < T; t++) {
      int32_t y = 0;
      for (int64_t i = g * many; i < std::min(w.blocks(), (g + 1) * many); i++) y += acc[place_of<T>(i, t)];
      acc[place_of<T>(g, t)] = y;
    }
}

// Some inputs, FEW at most, as rows meet them.
template <int T>
struct IntGo {
  int64_t first, m, all;  // the number of the first; how many there are, and are with those that fill up
  Buffer<int8_t> codes;   // in packed order
  Buffer<int32_t> sums;   // [all / T, groups, T] of the codes
  Buffer<float> scale;    // [all, 8]
  Buffer<int32_t> zero;
  IntGo(const Weight& w, const Inputs& x, int64_t first, int64_t m)
      : first(first), m(m), all((m + T - 1) / T * T), codes(in_packed_order(w, x.codes + first * w.k, m, all)),
        sums(all * x.g8), scale(all * 8), zero(all * 8) {
    for (int64_t t = 0; t < m; t++) {
      for (int64_t g = 0; g < x.g8; g++) sums[t / T * T * x.g8 + place_of<T>(g, t % T)] = x.sums[(first + t) * x.g8 + g];
      std::fill_n(&scale[t * 8], 8, x.scale[first + t]);
      std::fill_n(&zero[t * 8], 8, x.zero[first + t]);
    }
  }

  void rows(const Weight& w, const Inputs& x, int64_t begin, int64_t end, float* y) const {
    typedef Several<T> I;
    typedef std::conditional_t<T == 1, Floats, WideFloats> F;
    const int64_t g8 = x.g8, step = std::max(g8, w.blocks() + 8), row_step = all * step;
    Buffer<int32_t> acc(TOGETHER * row_step), u_sums(TOGETHER * step), zeros_of(TOGETHER * g8, static_cast<int32_t>(w.low));
    Buffer<int32_t> counts(g8);
    Buffer<float> s(TOGETHER * g8);
    for (int64_t g = 0; g < w.groups; g++) counts[g] = static_cast<int32_t>(w.end(g) - w.first(g));
    for (int64_t top = begin; top < end; top += TOGETHER) {
      const int64_t count = std::min(TOGETHER, end - top);
      for (int64_t r = 0; r < count; r++) {
        int32_t* alone = x.centred ? nullptr : &u_sums[r * step];
        block_sums<T>(w, top + r, codes.data(), all, step, &acc[r * row_step], alone);
        for (int64_t t = 0; t < all; t += T) join<T>(w, &acc[r * row_step + t * step]);
        if (alone) join<1>(w, alone);
        steps(w, w.scale, top + r, 0, w.groups, &s[r * g8]);
        if (ZERO_POINTS) zeros(w, top + r, 0, w.groups, &zeros_of[r * g8]);
      }
      for (int64_t t = 0; t < all; t += T) {
        const F s_x = load<F>(&scale[t * 8]);
        const I z_x = load<I>(&zero[t * 8]);
        F found = {};
        for (int64_t g = 0; g < g8; g += 8) {
          if (t == 0) ask_for(w.row(top + count) + 64 * g, 512, AHEAD);  // memory does not rest meanwhile
          const I x_sums = load<I>(&sums[t * g8 + T * g]), in_group = repeated<I>(load<Ints>(&counts[g]));
          const I by_low = x_sums * static_cast<int32_t>(w.low);
          F terms[TOGETHER];
          for (int64_t r = 0; r < TOGETHER; r++) {
            const I z = repeated<I>(load<Ints>(&zeros_of[r * g8 + g]));
            I total = load<I>(&acc[r * row_step + t * step + T * g]) - (ZERO_POINTS ? z * x_sums : by_low);
            if (!x.centred) total -= z_x * (repeated<I>(load<Ints>(&u_sums[r * step + g])) - in_group * z);
            terms[r] = __builtin_convertvector(total, F) * (s_x * repeated<F>(load<Floats>(&s[r * g8 + g])));
          }
          transpose(terms);
          if (g + 8 <= w.groups)
            for (const F& one : terms) found += one;
          else
            for (int64_t i = 0; g + i < w.groups; i++) found += terms[i];
        }
        alignas(64) float of[8 * T];
        store(of, in_order(found));
        for (int64_t i = 0; i < std::min<int64_t>(T, m - t); i++) std::copy_n(of + 8 * i, count, y + (first + t + i) * w.n + top);
      }
    }
  }
};

// --- many inputs: a lane for each of them ---

// Without an instruction for four products of small codes, goes of FEW take less time than any batch.
constexpr bool ALWAYS_FEW = Dots<Quads>::CHAINS == 1 && BITS < 8;

template <typename Tile>
inline void int_tiles(const Weight& w, const Inputs& x, const Fours& fours, const std::vector<IntBatch>& batches,
                      int64_t begin, int64_t end, float* y) {
  constexpr int64_t ROWS = Tile::ROWS;
  const int64_t count = batches.size(), together = Tile::together(w);
  Tile tile(w, fours);
  Buffer<Terms> found(count * ROWS);
  for (int64_t first = begin; first < end; first += ROWS) {
    const int64_t rows = std::min(ROWS, end - first);
    for (int64_t r = 0; r < rows; r++) tile.read(w, fours, first + r, r, x.centred);
    std::fill(found.begin(), found.end(), Terms{});
    for (int64_t g = 0; g < w.groups; g += together)
      for (int64_t b = 0; b < count; b++)
        tile.products(w, fours, batches[b], x.centred, g, std::min(w.groups, g + together), &found[b * ROWS]);
    for (int64_t t = 0; t < std::min(count * QUADS, x.m); t += 8)
      for (int64_t r = 0; r < rows; r += TOGETHER) {
        const auto sums = [&](int64_t i) { return reinterpret_cast<const float*>(&found[t / QUADS * ROWS + r + i]) + t % QUADS; };
        store_square(sums, nullptr, first + r, std::min(TOGETHER, rows - r), std::min<int64_t>(8, x.m - t), w.n, y + t * w.n);
      }
  }
}

inline void many_ints(const Weight& w, const Inputs& x, int64_t many, float* y, int64_t threads) {
  const Fours fours(w);
  std::vector<IntBatch> batches;
  for (int64_t t = 0; t < many; t += QUADS) batches.emplace_back(w, x, fours, t);
  share_rows(w, threads, [&](int64_t from, int64_t to) {
#if defined(HAS_MATRICES)
    if (w.aligned() && Matrices<int32_t>::allowed()) return int_tiles<ByteTile>(w, x, fours, batches, from, to, y);
#endif
    int_tiles<QuadTile>(w, x, fours, batches, from, to, y);
  });
}

// Those from t0 on, in goes for which some rows stay in the cache. The widest vectors multiply faster than
// the second cache gives, so a go is what the first one holds, with its sums.
template <int T>
inline void few_ints(const Weight& w, const Inputs& x, int64_t t0, float* y, int64_t threads) {
  const int64_t few = x.m - t0, go = QUADS == 16 && FEW * w.blocks() * BLOCK > 16384 ? FEW / 2 : FEW;
  const int64_t near = few > go ? rows_nearby(w) : w.n;
  std::vector<IntGo<T>> goes;
  for (int64_t t = t0; t < x.m; t += go) goes.emplace_back(w, x, t, std::min(go, x.m - t));
  share_rows(w, threads, [&](int64_t from, int64_t to) {
    for (int64_t first = from; first < to; first += near)
      for (const IntGo<T>& one : goes) one.rows(w, x, first, std::min(to, first + near), y);
  });
}

// How many of the last go as few.
inline int64_t last_as_few(const Weight& w, const Inputs& x) {
#if defined(HAS_MATRICES)
  if (Matrices<int32_t>::allowed()) return as_few(w, x.m, x.m, FEW);
#endif
  return ALWAYS_FEW && w.aligned() ? x.m : as_few(w, x.m, QUADS, QUADS == 16 ? FEW : 6);
}

inline void int_products(const Weight& w, const Inputs& x, float* y, int64_t threads) {
  const int64_t few = last_as_few(w, x);
  if (few < x.m) many_ints(w, x, x.m - few, y, threads);
  if (few == 1 || few == 3) few_ints<1>(w, x, x.m - few, y, threads);  // half a pair costs more than it saves
  else if (few) few_ints<PAIR>(w, x, x.m - few, y, threads);
}

struct IntLinear {  // as product.py packs it
  const Weight* w;
  const int8_t* codes;  // [m, k]
  const float* scale;   // [m]
  const int32_t* zero;  // [m]
  int64_t m;
  float* y;  // [m, n]
  int64_t threads;
};

}  // namespace

// y for inputs of 8-bit codes with scales and zero points
extern "C" int int_linear(const IntLinear* of) {
  return unless_short([&] {
    int_products(*of->w, Inputs(*of->w, of->codes, of->scale, of->zero, of->m), of->y, of->threads);
    return 1;
  });
}

// The same plus a bias, of x, which is quantized before. Returns 0 where x has no finite range.
extern "C" int quantized_linear(const Linear* of, const Scheme* scheme) {
  return unless_short([&] {
    const Weight& w = *of->w;
    Buffer<int8_t> codes(of->m * w.k);
    Buffer<float> scale(of->m);
    Buffer<int32_t> zero(of->m);
    if (!quantize_inputs(of->x, of->m, w.k, *scheme, codes.data(), scale.data(), zero.data())) return 0;
    int_products(w, Inputs(w, codes.data(), scale.data(), zero.data(), of->m), of->y, of->threads);
    for (int64_t t = 0; of->bias && t < of->m; t++)
      for (int64_t i = 0; i < w.n; i++) of->y[t * w.n + i] += of->bias[i];
    return 1;
  });
}

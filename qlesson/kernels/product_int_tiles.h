// Tiles of some rows of codes, and of inputs of 8-bit codes with a lane for each: what `product_ints` sums in
// registers where inputs are many.

#pragma once

#include "product_dots.h"
#include "product_inputs.h"
#include "product_reals.h"

namespace {

struct Inputs {
  const int8_t* codes;  // [m, k]
  const float* scale;   // [m]
  const int32_t* zero;  // [m]
  int64_t m;
  bool centred;          // all zero points are 0
  Buffer<int32_t> sums;  // [m, groups up to whole eights] of the codes
  int64_t g8;
  Inputs(const Weight& w, const int8_t* codes, const float* scale, const int32_t* zero, int64_t m)
      : codes(codes), scale(scale), zero(zero), m(m), centred(std::all_of(zero, zero + m, [](int32_t z) { return z == 0; })),
        g8((w.groups + 7) / 8 * 8) {
    sums.resize(m * g8);
    for (int64_t t = 0; t < m; t++)
      for (int64_t g = 0; g < w.groups; g++) {
        int32_t acc = 0;
        for (int64_t i = w.first(g); i < w.end(g); i++) acc += codes[t * w.k + i];
        sums[t * g8 + g] = acc;
      }
  }
};

typedef float Terms __attribute__((vector_size(sizeof(Sums))));

// The fours of columns, each group filled up to whole fours, so that no four has two scales, and the
// last of whole blocks to a whole one.
struct Fours {
  std::vector<int64_t> first;  // of each group, and the end of the last
  explicit Fours(const Weight& w) : first(1, 0) {
    for (int64_t g = 0; g < w.groups; g++) first.push_back(first.back() + (w.end(g) - w.first(g) + 3) / 4);
    if (w.aligned()) first.back() = w.blocks() * BLOCK / 4;
  }
  int64_t columns() const { return 4 * first.back(); }
  template <typename T>
  void fill(const Weight& w, const T* from, T* to) const {
    for (int64_t g = 0; g < w.groups; g++) {
      std::fill(to + 4 * first[g], to + 4 * first[g + 1], T(0));
      std::copy(from + w.first(g), from + w.end(g), to + 4 * first[g]);
    }
  }
};

// QUADS inputs: their codes as [four][lane][4], and what belongs to each.
struct IntBatch {
  Buffer<int8_t> codes;
  Buffer<int32_t> sums;  // [groups][lane]
  float scale[QUADS] = {};
  int32_t zero[QUADS] = {};
  IntBatch(const Weight& w, const Inputs& x, const Fours& fours, int64_t from)
      : codes(fours.columns() * QUADS), sums(w.groups * QUADS) {
    std::vector<int8_t> filled(fours.columns());
    for (int64_t t = 0; t < std::min(QUADS, x.m - from); t++) {
      fours.fill(w, x.codes + (from + t) * w.k, filled.data());
      for (int64_t i = 0; i < fours.columns(); i += 4) std::memcpy(&codes[i * QUADS + 4 * t], &filled[i], 4);
      for (int64_t g = 0; g < w.groups; g++) sums[g * QUADS + t] = x.sums[(from + t) * x.g8 + g];
      scale[t] = x.scale[from + t];
      zero[t] = x.zero[from + t];
    }
  }
};

template <int64_t N>
struct IntTile {  // some rows of codes, and their steps
  static constexpr int64_t ROWS = N;
  int64_t width;  // of a row: no power of two, for whose multiples a cache has few places
  Buffer<uint8_t> u;
  std::vector<float> s, own_s;                  // [groups][row], and of one row
  std::vector<int32_t> zero, own_zero, u_sums;  // the same
  IntTile(const Weight& w, const Fours& fours)
      : width(fours.columns() + 64), u(ROWS * width), s(ROWS * w.groups), own_s(w.groups + 8),
        zero(s.size(), static_cast<int32_t>(w.low)), own_zero(own_s.size()), u_sums(s.size()) {}
  void read(const Weight& w, const Fours& fours, int64_t row, int64_t r, bool centred) {
    uint8_t* codes = &u[r * width];
    if (w.aligned()) {
      unpack_row(w, row, codes);
    } else {
      std::vector<uint8_t> own(w.blocks() * BLOCK);
      unpack_row(w, row, own.data());
      fours.fill(w, own.data(), codes);
    }
    steps(w, w.scale, row, 0, w.groups, own_s.data());
    if (ZERO_POINTS) zeros(w, row, 0, w.groups, own_zero.data());
    for (int64_t g = 0, at = r; g < w.groups; g++, at += ROWS) {
      s[at] = own_s[g];
      if (ZERO_POINTS) zero[at] = own_zero[g];
      if (!centred) u_sums[at] = sum_of(codes + 4 * fours.first[g], codes + 4 * fours.first[g + 1]);
    }
  }
  static int32_t sum_of(const uint8_t* u, const uint8_t* end) {
    int32_t y = 0;
    for (; u + BLOCK <= end; u += BLOCK) y += sum(::products(load<Words>(u), Words{} + mask(1)));
    for (; u < end; u++) y += *u;
    return y;
  }
  // The terms of group g, whose sums these are, of some rows from `first` on.
  template <int64_t COUNT>
  IN_PLACE void add_terms(const Weight& w, const IntBatch& x, int64_t g, bool centred, int64_t first, const Sums* acc, Terms* y) const {
    const Terms s_x = load<Terms>(x.scale);
    const Sums sums = load<Sums>(&x.sums[g * QUADS]), by_low = sums * static_cast<int32_t>(w.low);
    const int32_t count = static_cast<int32_t>(w.end(g) - w.first(g));
#pragma GCC unroll 16
    for (int64_t r = 0; r < COUNT; r++) {
      const int64_t at = g * ROWS + first + r;
      Sums total = load<Sums>(acc + r) - (ZERO_POINTS ? sums * zero[at] : by_low);
      if (!centred) total -= load<Sums>(x.zero) * (u_sums[at] - count * zero[at]);
      y[r] += __builtin_convertvector(total, Terms) * (s_x * s[at]);
    }
  }
};

// One batch times some rows, summed in registers: the terms of the groups from g to `end` are added to y [row].
struct QuadTile : IntTile<6> {
  using IntTile::IntTile;
  static int64_t together(const Weight& w) { return w.groups; }
  void products(const Weight& w, const Fours& fours, const IntBatch& x, bool centred, int64_t g, int64_t end, Terms* to) const {
    Terms y[ROWS] = {};
    for (; g < end; g++) {
      Dots<Quads> acc[ROWS];
      for (int64_t i = fours.first[g]; i < fours.first[g + 1];) {
        for (const int64_t last = std::min(fours.first[g + 1], i + Dots<Quads>::MANY); i < last; i++) {
          const Quads some = load<Quads>(&x.codes[4 * i * QUADS]);
          for (int64_t r = 0; r < ROWS; r++) acc[r].add(Quads{} + load<uint32_t>(&u[r * width + 4 * i]), some);
        }
        for (Dots<Quads>& one : acc) one.flush();
      }
      Sums sums[ROWS];
      for (int64_t r = 0; r < ROWS; r++) sums[r] = acc[r].sums;
      add_terms<ROWS>(w, x, g, centred, 0, sums, y);
    }
    for (int64_t r = 0; r < ROWS; r++) to[r] = y[r];
  }
};

#if defined(HAS_MATRICES)

// The same as matrices in registers. Their sums go through memory, and are not to be waited for.
struct ByteTile : IntTile<HEIGHT> {
  static constexpr int64_t GO = 4;  // groups whose sums are read together
  Matrices<int32_t> matrices;
  using IntTile::IntTile;
  static int64_t together(const Weight& w) { return std::max<int64_t>(1, 2 * LONG / w.group); }  // what stays in the first cache
  void products(const Weight& w, const Fours& fours, const IntBatch& x, bool centred, int64_t g, int64_t end, Terms* y) {
    alignas(64) int32_t sums[GO][HEIGHT][SIDE];
    for (int64_t last; g < end; g = last) {
      last = std::min(end, g + GO);
      for (int64_t j = g; j < last; j++) {
        matrices.clear();
        int64_t i = 4 * fours.first[j];
        for (; i + 64 <= 4 * fours.first[j + 1]; i += 64) matrices.add_bytes<64>(&u[i], width, &x.codes[i * QUADS]);
        if (i < 4 * fours.first[j + 1]) matrices.add_bytes<32>(&u[i], width, &x.codes[i * QUADS]);
        matrices.store(sums[j - g]);
      }
      for (int64_t r = 0; r < HEIGHT; r += 8) {
        Terms some[8];
        for (int64_t i = 0; i < 8; i++) some[i] = y[r + i];
        for (int64_t j = g; j < last; j++) add_terms<8>(w, x, j, centred, r, reinterpret_cast<const Sums*>(sums[j - g][r]), some);
        for (int64_t i = 0; i < 8; i++) y[r + i] = some[i];
      }
    }
  }
};

#endif

}  // namespace

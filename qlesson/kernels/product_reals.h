// Float inputs and outputs, in float32 or in halves: what is computed is floats.

#pragma once

#include "product_codes.h"
#include "product_matrices.h"

namespace {

using Real = REAL;

struct Linear {  // as product.py packs it
  const Weight* w;
  const Real* x;  // [m, k]
  int64_t m;
  const float* bias;  // [n], or null
  Real* y;            // [m, n]
  int64_t threads;
};

// Eight of them.
inline Floats floats(const Real* x) {
  if (sizeof(Real) == 4) return load<Floats>(x);
  alignas(32) float y[8];
  convert<8>(x, y);
  return load<Floats>(y);
}

// y rounded once; what is no number stays none.
template <typename T = Real>
inline T as_real(float y) {
  if constexpr (sizeof(T) == 4) return y;
  else return y == y ? from_float<T>(y) : T{std::is_same_v<T, float16> ? 0x7e00 : 0x7fc0};
}

inline Real with_bias(float y, const float* bias, int64_t row) { return as_real(bias ? y + bias[row] : y); }

// y + bias of some rows, eight at most
IN_PLACE void store_rows(Floats sums, const float* bias, int64_t row, int64_t count, Real* y) {
  if (sizeof(Real) == 4 && count == TOGETHER) return store(y + row, bias ? sums + load<Floats>(bias + row) : sums);
  for (int64_t r = 0; r < count; r++) y[row + r] = with_bias(sums[r], bias, row + r);
}

// The same of a square, eight inputs at most, whose sums are eight lanes each of sums(row): y [input, n].
template <typename F>
IN_PLACE void store_square(const F& sums, const float* bias, int64_t row, int64_t rows, int64_t inputs, int64_t n, Real* y) {
  Floats some[TOGETHER] = {};
  for (int64_t r = 0; r < rows; r++) some[r] = load<Floats>(sums(r));
  transpose(some);
  for (int64_t i = 0; i < inputs; i++) store_rows(some[i], bias, row, rows, y + i * n);
}

// --- how inputs are shared out among those that go as few and those that go as many ---

constexpr int64_t MOST_VECTORS = WIDE == 64 ? 4 : 2;  // of inputs, of which a tile has as many as registers hold
constexpr int64_t BATCH = MOST_VECTORS * LANES;

}  // namespace

// As _product in product.py, which asks no library of many for 3 * FEW. Matrices take any number, and less time for
// more than two goes.
extern "C" int64_t few_of(const Weight* w, int64_t m) {
#if defined(HAS_MATRICES)
  if (Matrices<float>::allowed()) return as_few(*w, m, m, 2 * FEW);
#endif
  return as_few(*w, m, BATCH, 3 * FEW);
}

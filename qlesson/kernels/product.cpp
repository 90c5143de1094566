// Inputs times packed codes, each packed byte read once. Plain C++ that gcc and clang understand.

#include "product_floats.h"
#include "product_inputs.h"
#include "product_ints.h"

// y [m, n] = x w_hat^T + bias for x, float32 [m, k]; the bias may be missing.
extern "C" void linear(const Weight* w, const float* x, int64_t m, const float* bias, float* y, int64_t threads) {
  if (m <= FEW && w->aligned()) return few_floats(*w, x, m, bias, y, threads);
  many_floats(*w, x, m, bias, y, threads);
}

// y [m, n] for inputs of 8-bit codes, int8 [m, k], with scales and zero points [m].
extern "C" void int_linear(const Weight* w, const int8_t* codes, const float* scale, const int32_t* zero, int64_t m,
                           float* y, int64_t threads) {
  int_products(*w, Inputs(*w, codes, scale, zero, m), y, threads);
}

// The same plus a bias, which may be missing, of x, float32 [m, k], which is quantized before to codes
// from `low` to `high`, with one scale or one for each row. Returns 0 where x has no finite range.
extern "C" int quantized_linear(const Weight* w, const float* x, int64_t m, int64_t low, int64_t high, int symmetric,
                                int by_row, const float* bias, float* y, int64_t threads) {
  Buffer<int8_t> codes(m * w->k);
  Buffer<float> scale(m);
  Buffer<int32_t> zero(m);
  const Scheme scheme{static_cast<float>(low), static_cast<float>(high), symmetric != 0};
  if (!quantize_inputs(x, m, w->k, scheme, by_row, codes.data(), scale.data(), zero.data())) return 0;
  int_linear(w, codes.data(), scale.data(), zero.data(), m, y, threads);
  for (int64_t t = 0; bias && t < m; t++)
    for (int64_t i = 0; i < w->n; i++) y[t * w->n + i] += bias[i];
  return 1;
}

// w_hat of some rows, float32 [count, k], the bits that `dequantize` gives.
extern "C" void rows(const Weight* w, const int64_t* ids, int64_t count, float* out) {
  std::vector<float> filled(w->blocks() * BLOCK);
  for (int64_t i = 0; i < count; i++) {
    plain_values(*w, ids[i], 0, w->blocks(), filled.data());
    std::copy_n(filled.data(), w->k, out + i * w->k);
  }
}

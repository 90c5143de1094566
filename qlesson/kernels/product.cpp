// Inputs times packed codes, each packed byte read once. Plain C++ that gcc and clang understand.
//
// Compiled for float inputs, or with INTS for those of 8-bit codes: a model seldom has both.

#if INTS
#include "product_inputs.h"
#include "product_ints.h"
#else
#include "product_few.h"
#include "product_many.h"
#endif

// As product.py packs them, in 8 bytes each.
struct Linear {
  const Weight* w;
  const float* x;  // [m, k]
  int64_t m;
  const float* bias;  // [n], or null
  float* y;           // [m, n]
  int64_t threads;
};

#if INTS

struct IntLinear {
  const Weight* w;
  const int8_t* codes;  // [m, k]
  const float* scale;   // [m]
  const int32_t* zero;  // [m]
  int64_t m;
  float* y;  // [m, n]
  int64_t threads;
};

// y for inputs of 8-bit codes with scales and zero points
extern "C" void int_linear(const IntLinear* of) {
  int_products(*of->w, Inputs(*of->w, of->codes, of->scale, of->zero, of->m), of->y, of->threads);
}

// The same plus a bias, of x, which is quantized before. Returns 0 where x has no finite range.
extern "C" int quantized_linear(const Linear* of, const Scheme* scheme) {
  const Weight& w = *of->w;
  Buffer<int8_t> codes(of->m * w.k);
  Buffer<float> scale(of->m);
  Buffer<int32_t> zero(of->m);
  if (!quantize_inputs(of->x, of->m, w.k, *scheme, codes.data(), scale.data(), zero.data())) return 0;
  int_products(w, Inputs(w, codes.data(), scale.data(), zero.data(), of->m), of->y, of->threads);
  for (int64_t t = 0; of->bias && t < of->m; t++)
    for (int64_t i = 0; i < w.n; i++) of->y[t * w.n + i] += of->bias[i];
  return 1;
}

#else

// y = x w_hat^T + bias
extern "C" void linear(const Linear* of) {
  const Weight& w = *of->w;
  const int64_t many = of->m - as_few(w, of->m, BATCH, 3 * FEW);
  if (many) many_floats(w, of->x, many, of->bias, of->y, of->threads);
  for (int64_t t = many; t < of->m; t += FEW)
    few_floats(w, of->x + t * w.k, std::min(FEW, of->m - t), of->bias, of->y + t * w.n, of->threads);
}

struct Rows {
  const Weight* w;
  const int64_t* ids;
  int64_t count;
  float* out;  // [count, k]
};

// w_hat of some rows, the bits that `dequantize` gives. Returns 0 where a number is none of a row.
extern "C" int rows(const Rows* of) {
  const Weight& w = *of->w;
  for (int64_t i = 0; i < of->count; i++)
    if (of->ids[i] < 0 || of->ids[i] >= w.n) return 0;
  std::vector<float> filled(w.blocks() * BLOCK);
  for (int64_t i = 0; i < of->count; i++) {
    plain_values(w, of->ids[i], 0, w.blocks(), filled.data());
    std::copy_n(filled.data(), w.k, of->out + i * w.k);
  }
  return 1;
}

#endif

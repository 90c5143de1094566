// What rounding and clipping leave of rows of values, for some scales and zero points of each row: a
// search for a range compares it (limits.py).

#include <algorithm>
#include <cstdint>

#include "loops_formulas.h"

namespace {

constexpr int64_t PART = 2048;    // values that stay in the nearest cache with their weights
constexpr int64_t TOGETHER = 16;  // of the scales of a row, which meet a part one after the other
constexpr int64_t THREAD = 1 << 16;  // values times scales, for which another thread pays

// sum of weight (small (r_hat - r))^2, in float64
inline double error(const float* r, const double* weight, int64_t n, float s, float z, float low, float high, double small) {
  const float least = low - z, most = high - z;
  double total = 0;
#pragma omp simd reduction(+ : total)
  for (int64_t j = 0; j < n; j++) {
    const float x = clipped(r[j] / s, least, most);
    const float code = INSIDE ? rounded(x + z) : rounded(x) + z;
    const double off = small * (s * (code - z) - r[j]);
    total += weight[j] * (off * off);
  }
  return total;
}

}  // namespace

// Adds to errors [scales, m] those of r [m, n], with s and z [scales, m] and small [m].
extern "C" void add_errors(const float* r, const double* weight, const float* s, const float* z, const double* small,
                           double* errors, int64_t m, int64_t n, int64_t scales, int64_t threads, float low, float high) {
#pragma omp parallel for num_threads(threads) collapse(2) if (m * n * scales >= THREAD)
  for (int64_t i = 0; i < m; i++)
    for (int64_t top = 0; top < scales; top += TOGETHER)
      for (int64_t first = 0; first < n; first += PART)
        for (int64_t k = top; k < std::min(scales, top + TOGETHER); k++) {
          const int64_t at = i * n + first, of = k * m + i;
          errors[of] += error(r + at, weight + at, std::min(PART, n - first), s[of], z[of], low, high, small[i]);
        }
}

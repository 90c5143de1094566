// The smallest and the largest of many numbers, by their bits.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "loops_numbers.h"

// Of floats' bits as whole numbers the largest is the largest float, the largest unsigned is the
// float farthest below 0, and the smallest is the float nearest to 0 where all have one sign. A NaN is
// beyond infinity on the side of its sign, so no end forgets it.
template <typename R>
using Key = std::conditional_t<sizeof(R) == 4, int32_t, int16_t>;
template <typename R>
using Bare = std::make_unsigned_t<Key<R>>;

template <typename R>
struct Ends {
  Key<R> most = std::numeric_limits<Key<R>>::min(), nearest = std::numeric_limits<Key<R>>::max();
  Bare<R> least = 0;
};

// Both as floats; a NaN makes both NaN.
template <typename R>
inline void as_floats(Key<R> most, Key<R> nearest, Bare<R> least, float& r_min, float& r_max) {
  const Key<R> low = static_cast<Key<R>>(least), high = most;
  const float a = to_float(same_bits<R>(low < 0 ? low : nearest));
  const float b = to_float(same_bits<R>(high < 0 ? nearest : high));
  r_min = b == b ? a : b;
  r_max = a == a ? b : a;
}

// HOLDS_0: of a range that holds 0, whose nearest value to 0 is 0.
template <bool HOLDS_0, typename R>
inline Ends<R> ends_of(const R* r, int64_t n) {
  const Ends<R> none;
  Key<R> most = none.most, nearest = HOLDS_0 ? 0 : none.nearest;
  Bare<R> least = none.least;
#pragma omp simd reduction(max : most, least) reduction(min : nearest)
  for (int64_t j = 0; j < n; j++) {
    const Key<R> k = same_bits<Key<R>>(r[j]);
    most = std::max(most, k);
    least = std::max(least, static_cast<Bare<R>>(k));
    if (!HOLDS_0) nearest = std::min(nearest, k);
  }
  return Ends<R>{most, nearest, least};
}

// Inputs times packed codes, each packed byte read once. Plain C++ that gcc and clang understand;
// what a processor does in one instruction is behind an #ifdef, with loops of the same bits beside.
//
// How a row is packed is told in packed.py. A code u is unsigned; with `zero` the code of 0.0 as u,
//
//     w_hat = s (u - zero)    or, with a minimum m,    w_hat = s (u - low) + m
//
// Integer products are exact in 32 bits inside a group of columns, and the groups are added in their
// order, each rounded product to a rounded sum: the bits are the same whatever the processor.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace {

constexpr int64_t BLOCK = 32;

typedef uint8_t Bytes __attribute__((vector_size(32)));
typedef uint32_t Words __attribute__((vector_size(32)));
typedef uint64_t Longs __attribute__((vector_size(32)));
typedef int32_t Ints __attribute__((vector_size(32)));
typedef float Floats __attribute__((vector_size(32)));
#if defined(__AVX512F__)
typedef float Lanes __attribute__((vector_size(64)));
#else
typedef float Lanes __attribute__((vector_size(32)));
#endif
constexpr int64_t LANES = sizeof(Lanes) / 4;

template <typename T>
inline T load(const void* from) {
  T x;
  std::memcpy(&x, from, sizeof(T));
  return x;
}

template <typename T>
inline void store(void* to, T x) {
  std::memcpy(to, &x, sizeof(T));
}

// --- the weight ---

struct Weight {
  const uint8_t* packed;  // [n, row_bytes]
  const void* scale;      // [n, groups], or [1, groups] for all rows
  const void* offset;     // like the scale: zero points of one byte, or minima in the scale's type
  int64_t n, k, row_bytes, groups, group;
  int64_t bits, low;     // u = q + low
  int64_t scale_type;    // 0 float, 1 half, 2 bfloat16
  int64_t offset_kind;   // 0 none, 1 zero points, 2 minima
  int64_t shared;        // whether all rows have the same scales
  int64_t first(int64_t g) const { return g * group; }
  int64_t end(int64_t g) const { return std::min(k, (g + 1) * group); }
  bool aligned() const { return group % BLOCK == 0 || groups == 1; }
};

inline float from_half(uint16_t h) {
  const uint32_t magnitude = (h & 0x7fffu) << 13, sign = (h & 0x8000u) << 16;
  float x;
  if ((h & 0x7c00u) == 0) {
    x = static_cast<float>(h & 0x3ffu) * 0x1p-24f;
  } else {
    const uint32_t bits = magnitude + ((h & 0x7c00u) == 0x7c00u ? 0x70000000u : 0x38000000u);
    std::memcpy(&x, &bits, 4);
  }
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  bits |= sign;
  std::memcpy(&x, &bits, 4);
  return x;
}

// count steps (scales or minima) from `at` on, as floats
void steps(const void* from, int64_t type, int64_t at, int64_t count, float* out) {
  if (type == 0) {
    std::memcpy(out, static_cast<const float*>(from) + at, count * 4);
    return;
  }
  const uint16_t* halves = static_cast<const uint16_t*>(from) + at;
  int64_t i = 0;
  if (type == 2) {
    for (; i < count; i++) {
      const uint32_t bits = static_cast<uint32_t>(halves[i]) << 16;
      std::memcpy(out + i, &bits, 4);
    }
    return;
  }
#if defined(__F16C__) && defined(__AVX2__)
  for (; i + 8 <= count; i += 8)
    _mm256_storeu_ps(out + i, _mm256_cvtph_ps(load<__m128i>(halves + i)));
#endif
  for (; i < count; i++) out[i] = from_half(halves[i]);
}

// zero[g] of a row
void zeros(const Weight& w, int64_t row, int32_t* out) {
  const int32_t low = static_cast<int32_t>(w.low);
  if (w.offset_kind != 1) {
    std::fill(out, out + w.groups, low);
    return;
  }
  const uint8_t* z = static_cast<const uint8_t*>(w.offset) + (w.shared ? 0 : row * w.groups);
  for (int64_t g = 0; g < w.groups; g++)
    out[g] = low + (w.low ? static_cast<int8_t>(z[g]) : static_cast<int32_t>(z[g]));
}

// --- one block of 32 codes, as bytes ---

// Fields of p bits from 4p bytes: they come once for each field in a byte, shifted to its place.
inline Bytes ones(const uint8_t* b) {
  const Words w = load<uint32_t>(b) - Words{};
  return (Bytes)(w >> Words{0, 1, 2, 3, 4, 5, 6, 7}) & 1;
}
inline Bytes twos(const uint8_t* b) {
  const Longs w = load<uint64_t>(b) - Longs{};
  return (Bytes)(w >> Longs{0, 2, 4, 6}) & 3;
}
inline Bytes fours(const uint8_t* b) {
#if defined(__AVX2__)
  const Longs w = (Longs)_mm256_broadcastsi128_si256(load<__m128i>(b));
#else
  const uint64_t first = load<uint64_t>(b), second = load<uint64_t>(b + 8);
  const Longs w = {first, second, first, second};
#endif
  return (Bytes)(w >> Longs{0, 0, 4, 4}) & 15;
}

template <int BITS>
inline Bytes decode(const uint8_t* b) {
  if constexpr (BITS == 8) return load<Bytes>(b);
  if constexpr (BITS == 4) return fours(b);
  if constexpr (BITS == 2) return twos(b);
  if constexpr (BITS == 3) return twos(b) | (ones(b + 8) << 2);
  if constexpr (BITS == 5) return fours(b) | (ones(b + 16) << 4);
  if constexpr (BITS == 6) return fours(b) | (twos(b + 16) << 4);
  if constexpr (BITS == 7) return fours(b) | (twos(b + 16) << 4) | (ones(b + 24) << 6);
}

// The last block of a row, of `count` codes, filled up with zeros.
void decode_last(const uint8_t* b, int64_t bits, int64_t count, uint8_t* out) {
  const int64_t narrow = bits & -bits, step = 8 / narrow;
  const int64_t size = (count + step - 1) / step * step;
  std::memset(out, 0, BLOCK);
  int64_t shift = 0;
  for (int64_t p = 8; p; p /= 2) {
    if (!(bits & p)) continue;
    const int64_t n = size * p / 8;
    for (int64_t j = 0; j < count; j++)
      out[j] |= ((b[j % n] >> (j / n * p)) & ((1 << p) - 1)) << shift;
    b += n;
    shift += p;
  }
}

// All codes of a row; `out` has room for whole blocks.
template <int BITS>
void unpack_row(const Weight& w, int64_t row, uint8_t* out) {
  const uint8_t* b = w.packed + row * w.row_bytes;
  const int64_t whole = w.k / BLOCK;
  for (int64_t i = 0; i < whole; i++) store(out + i * BLOCK, decode<BITS>(b + i * 4 * BITS));
  if (w.k % BLOCK) decode_last(b + whole * 4 * BITS, BITS, w.k % BLOCK, out + whole * BLOCK);
}

// f(the bits as a constant)
template <typename F>
inline void with_bits(int64_t bits, F f) {
  switch (bits) {
    case 2: return f(std::integral_constant<int, 2>());
    case 3: return f(std::integral_constant<int, 3>());
    case 4: return f(std::integral_constant<int, 4>());
    case 5: return f(std::integral_constant<int, 5>());
    case 6: return f(std::integral_constant<int, 6>());
    case 7: return f(std::integral_constant<int, 7>());
    default: return f(std::integral_constant<int, 8>());
  }
}

// --- float inputs ---

inline Lanes as_floats(const uint8_t* u) {
#if defined(__AVX512F__)
  return (Lanes)_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(load<__m128i>(u)));
#elif defined(__AVX2__)
  return (Lanes)_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)u)));
#else
  Lanes x;
  for (int64_t i = 0; i < LANES; i++) x[i] = u[i];
  return x;
#endif
}

inline Lanes multiply_add(Lanes a, Lanes b, Lanes c) {
#if defined(__AVX512F__)
  return (Lanes)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__) && defined(__AVX2__)
  return (Lanes)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
  return a * b + c;
#endif
}

inline float sum(Lanes x) {
  float y = 0;
  for (int64_t i = 0; i < LANES; i++) y += x[i];
  return y;
}

// What a thread needs for a row; all with room for whole blocks.
struct Row {
  std::vector<uint8_t> u;
  std::vector<float> s, m, w;
  std::vector<int32_t> zero;
  explicit Row(const Weight& w)
      : u(w.k + 2 * BLOCK), s(w.groups + 8), m(w.groups + 8), w(w.k + 2 * BLOCK), zero(w.groups + 8) {}
  void read_steps(const Weight& w, int64_t row) {
    const int64_t at = w.shared ? 0 : row * w.groups;
    steps(w.scale, w.scale_type, at, w.groups, s.data());
    if (w.offset_kind == 2) steps(w.offset, w.scale_type, at, w.groups, m.data());
    zeros(w, row, zero.data());
  }
};

// A row of w_hat: the bits that `dequantize` gives.
void values_of_row(const Weight& w, int64_t row, Row& held, float* out) {
  with_bits(w.bits, [&](auto bits) { unpack_row<bits>(w, row, held.u.data()); });
  held.read_steps(w, row);
  for (int64_t g = 0; g < w.groups; g++) {
    const float s = held.s[g], m = held.m[g], zero = static_cast<float>(held.zero[g]);
    const uint8_t* u = held.u.data();
    if (w.offset_kind == 2)
      for (int64_t i = w.first(g); i < w.end(g); i++) out[i] = s * (u[i] - zero) + m;
    else
      for (int64_t i = w.first(g); i < w.end(g); i++) out[i] = s * (u[i] - zero);
  }
}

// One input and one row whose groups are whole blocks: every byte becomes floats in registers.
template <int BITS>
float fused_row(const Weight& w, int64_t row, const float* x, Row& held) {
  held.read_steps(w, row);
  const uint8_t* b = w.packed + row * w.row_bytes;
  const int64_t whole = w.k / BLOCK, blocks = (w.k + BLOCK - 1) / BLOCK;
  const int64_t per_group = w.groups == 1 ? blocks : w.group / BLOCK;
  alignas(64) uint8_t u[BLOCK];
  if (whole < blocks) decode_last(b + whole * 4 * BITS, BITS, w.k % BLOCK, held.u.data());
  Lanes y[2] = {};
  for (int64_t g = 0, i = 0; g < w.groups; g++) {
    const Lanes zero = static_cast<float>(held.zero[g]) - Lanes{};
    const Lanes s = held.s[g] - Lanes{}, m = held.m[g] - Lanes{};
    Lanes sums[2] = {};
    for (const int64_t end = std::min(blocks, i + per_group); i < end; i++) {
      __builtin_prefetch(b + i * 4 * BITS + 1024);
      store(u, i < whole ? decode<BITS>(b + i * 4 * BITS) : load<Bytes>(held.u.data()));
      for (int64_t j = 0; j < BLOCK / LANES; j++) {
        Lanes q = as_floats(u + j * LANES) - zero;
        if (w.offset_kind == 2) q = multiply_add(q, s, m);
        sums[j % 2] = multiply_add(q, load<Lanes>(x + i * BLOCK + j * LANES), sums[j % 2]);
      }
    }
    if (w.offset_kind == 2) {
      y[0] += sums[0];
      y[1] += sums[1];
    } else {
      y[0] = multiply_add(sums[0], s, y[0]);
      y[1] = multiply_add(sums[1], s, y[1]);
    }
  }
  return sum(y[0] + y[1]);
}

// T inputs times one row of floats.
template <int T>
void dots(const float* w, const float* x, int64_t k, int64_t x_row, float* y, int64_t y_row) {
  Lanes sums[T][2] = {};
  for (int64_t i = 0; i < k; i += 2 * LANES)
    for (int t = 0; t < T; t++)
      for (int j = 0; j < 2; j++)
        sums[t][j] = multiply_add(load<Lanes>(w + i + j * LANES), load<Lanes>(x + t * x_row + i + j * LANES), sums[t][j]);
  for (int t = 0; t < T; t++) y[t * y_row] = sum(sums[t][0] + sums[t][1]);
}

// --- 8-bit inputs ---

// Adds products of four neighbours to each of 8 sums. Exact: none saturates.
template <bool NARROW>  // u is below 128
inline Ints add_products(Ints sums, Bytes u, Bytes x) {
#if defined(__AVX512VNNI__) && defined(__AVX512VL__)
  return (Ints)_mm256_dpbusd_epi32((__m256i)sums, (__m256i)u, (__m256i)x);
#elif defined(__AVXVNNI__)
  return (Ints)_mm256_dpbusd_avx_epi32((__m256i)sums, (__m256i)u, (__m256i)x);
#elif defined(__AVX2__)
  if (NARROW) {
    const __m256i pairs = _mm256_maddubs_epi16((__m256i)u, (__m256i)x);
    return sums + (Ints)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
  }
  const __m256i even = _mm256_madd_epi16(_mm256_and_si256((__m256i)u, _mm256_set1_epi16(255)),
                                         _mm256_srai_epi16(_mm256_slli_epi16((__m256i)x, 8), 8));
  const __m256i odd = _mm256_madd_epi16(_mm256_srli_epi16((__m256i)u, 8), _mm256_srai_epi16((__m256i)x, 8));
  return sums + (Ints)_mm256_add_epi32(even, odd);
#else
  for (int i = 0; i < 32; i++) sums[i / 4] += u[i] * static_cast<int8_t>(x[i]);
  return sums;
#endif
}

// The totals of 8 vectors of sums, in one.
inline Ints totals(const Ints* d) {
#if defined(__AVX2__)
  __m256i v[4];
  for (int i = 0; i < 4; i++) v[i] = _mm256_hadd_epi32((__m256i)d[2 * i], (__m256i)d[2 * i + 1]);
  const __m256i a = _mm256_hadd_epi32(v[0], v[1]), b = _mm256_hadd_epi32(v[2], v[3]);
  return (Ints)_mm256_add_epi32(_mm256_permute2x128_si256(a, b, 0x20), _mm256_permute2x128_si256(a, b, 0x31));
#else
  Ints y = {};
  for (int i = 0; i < 8; i++)
    for (int j = 0; j < 8; j++) y[i] += d[i][j];
  return y;
#endif
}

struct Inputs {
  const int8_t* codes;   // [m, k_padded], filled up with zeros
  const float* scale;    // [m]
  const int32_t* zero;   // [m]
  const int32_t* sums;   // [m, groups] of the codes
  int64_t m, k_padded;
  bool centred;          // all zero points are 0
};

// acc[g] of one input and one row; u_sums[g] are those of the row's codes, where they are needed.
template <int BITS>
void products(const Weight& w, const uint8_t* b, const uint8_t* last, const int8_t* x, int32_t* out) {
  const int64_t whole = w.k / BLOCK, blocks = (w.k + BLOCK - 1) / BLOCK;
  const int64_t per_group = w.groups == 1 ? blocks : w.group / BLOCK;
  int64_t i = 0, g = 0;
  for (; g + 8 <= w.groups && (per_group == 1) && i + 8 <= whole; g += 8, i += 8) {
    Ints d[8];
    __builtin_prefetch(b + i * 4 * BITS + 1024);
    if (BITS > 4) __builtin_prefetch(b + i * 4 * BITS + 1152);
    for (int j = 0; j < 8; j++)
      d[j] = add_products<BITS != 8>(Ints{}, decode<BITS>(b + (i + j) * 4 * BITS), load<Bytes>(x + (i + j) * BLOCK));
    store(out + g, totals(d));
  }
  for (; g < w.groups; g += 8) {
    Ints d[8] = {};
    for (int64_t j = 0; j < std::min<int64_t>(8, w.groups - g); j++)
      for (const int64_t end = std::min(blocks, i + per_group); i < end; i++)
        d[j] = add_products<BITS != 8>(d[j], i < whole ? decode<BITS>(b + i * 4 * BITS) : load<Bytes>(last),
                                       load<Bytes>(x + i * BLOCK));
    store(out + g, totals(d));
  }
}

// The same of groups that begin anywhere.
void ragged_products(const Weight& w, const uint8_t* u, const int8_t* x, int32_t* out) {
  for (int64_t g = 0; g < w.groups; g++) {
    int32_t acc = 0;
    for (int64_t i = w.first(g); i < w.end(g); i++) acc += static_cast<int16_t>(u[i]) * static_cast<int16_t>(x[i]);
    out[g] = acc;
  }
}

// (x - z_x)(u - zero), summed over each group, times s_x s_w: what is added up, in its order.
void terms(const Weight& w, const Row& held, const int32_t* u_sums, const Inputs& x, int64_t t, const int32_t* acc,
           float* out) {
  const int32_t* sums = x.sums + t * w.groups;
  const float s_x = x.scale[t];
  const int32_t z_x = x.zero[t];
  const int32_t* zero = held.zero.data();
  const float* s = held.s.data();
  if (x.centred) {
    for (int64_t g = 0; g < w.groups; g++) out[g] = static_cast<float>(acc[g] - zero[g] * sums[g]) * (s_x * s[g]);
    return;
  }
  for (int64_t g = 0; g < w.groups; g++) {
    const int32_t count = static_cast<int32_t>(w.end(g) - w.first(g));
    const int32_t total = acc[g] - zero[g] * sums[g] - z_x * (u_sums[g] - count * zero[g]);
    out[g] = static_cast<float>(total) * (s_x * s[g]);
  }
}

constexpr int64_t TOGETHER = 4;  // rows whose sums are added at once: one alone waits for itself

template <int BITS>
void int_rows(const Weight& w, const Inputs& x, int64_t begin, int64_t end, float* y) {
  Row held(w);
  const int64_t g8 = w.groups + 8;
  std::vector<float> found(TOGETHER * x.m * g8);
  std::vector<int32_t> acc(g8), u_sums(g8);
  std::vector<int8_t> counted(x.k_padded + BLOCK);
  std::fill(counted.begin(), counted.begin() + w.k, 1);
  Weight bytes = w;  // the row once it is unpacked
  bytes.bits = 8;
  for (int64_t first = begin; first < end; first += TOGETHER) {
    const int64_t rows = std::min(TOGETHER, end - first);
    for (int64_t r = 0; r < rows; r++) {
      const uint8_t* b = w.packed + (first + r) * w.row_bytes;
      held.read_steps(w, first + r);
      const bool fused = w.aligned() && x.m == 1 && x.centred;
      if (fused) {
        if (w.k % BLOCK) decode_last(b + w.k / BLOCK * 4 * BITS, BITS, w.k % BLOCK, held.u.data());
        products<BITS>(w, b, held.u.data(), x.codes, acc.data());
        terms(w, held, u_sums.data(), x, 0, acc.data(), &found[r * g8]);
        continue;
      }
      unpack_row<BITS>(w, first + r, held.u.data());
      const uint8_t *u = held.u.data(), *last = u + w.k / BLOCK * BLOCK;
      auto of = [&](const int8_t* codes, int32_t* out) {
        if (w.aligned())
          products<8>(bytes, u, last, codes, out);
        else
          ragged_products(w, u, codes, out);
      };
      if (!x.centred) of(counted.data(), u_sums.data());
      for (int64_t t = 0; t < x.m; t++) {
        of(x.codes + t * x.k_padded, acc.data());
        terms(w, held, u_sums.data(), x, t, acc.data(), &found[(t * TOGETHER + r) * g8]);
      }
    }
    for (int64_t t = 0; t < x.m; t++) {
      const float* part = &found[t * TOGETHER * g8];
      float sums[TOGETHER] = {};
      for (int64_t g = 0; g < w.groups; g++)
        for (int64_t r = 0; r < TOGETHER; r++) sums[r] += part[r * g8 + g];
      std::copy(sums, sums + rows, y + t * w.n + first);
    }
  }
}

Weight weight(const void* packed, const void* scale, const void* offset, const int64_t* sizes) {
  Weight w;
  w.packed = static_cast<const uint8_t*>(packed);
  w.scale = scale;
  w.offset = offset;
  std::memcpy(&w.n, sizes, 10 * sizeof(int64_t));
  return w;
}

// f(first row, last row) in parts of whole cache lines of y
template <typename F>
void share(int64_t n, int64_t threads, F f) {
  const int64_t part = std::max<int64_t>(16, (n / (threads * 8) + 15) / 16 * 16);
#pragma omp parallel for num_threads(threads) schedule(dynamic)
  for (int64_t i = 0; i < n; i += part) f(i, std::min(n, i + part));
}

}  // namespace

// sizes: n, k, row_bytes, groups, group, bits, low, scale_type, offset_kind, shared

// w_hat of the rows from `first` to `end`, float32 [end - first, k].
extern "C" void values(const void* packed, const void* scale, const void* offset, const int64_t* sizes, int64_t first,
                       int64_t end, float* out, int64_t threads) {
  const Weight w = weight(packed, scale, offset, sizes);
  share(end - first, threads, [&](int64_t from, int64_t to) {
    Row held(w);
    for (int64_t r = from; r < to; r++) values_of_row(w, first + r, held, out + r * w.k);
  });
}

// y [m, n] = x w_hat^T for few inputs x, float32 [m, k_padded] filled up with zeros to whole blocks.
extern "C" void linear(const void* packed, const void* scale, const void* offset, const int64_t* sizes, const float* x,
                       int64_t m, int64_t k_padded, float* y, int64_t threads) {
  const Weight w = weight(packed, scale, offset, sizes);
  share(w.n, threads, [&](int64_t from, int64_t to) {
    Row held(w);
    for (int64_t r = from; r < to; r++) {
      if (m == 1 && w.aligned()) {
        with_bits(w.bits, [&](auto bits) { y[r] = fused_row<bits>(w, r, x, held); });
        continue;
      }
      values_of_row(w, r, held, held.w.data());
      int64_t t = 0;
      for (; t + 4 <= m; t += 4) dots<4>(held.w.data(), x + t * k_padded, k_padded, k_padded, y + t * w.n + r, w.n);
      for (; t < m; t++) dots<1>(held.w.data(), x + t * k_padded, k_padded, k_padded, y + t * w.n + r, w.n);
    }
  });
}

// y [m, n] for few inputs of 8-bit codes, int8 [m, k_padded] filled up with zeros.
extern "C" void int_linear(const void* packed, const void* scale, const void* offset, const int64_t* sizes,
                           const int8_t* codes, const float* x_scale, const int32_t* x_zero, int64_t m,
                           int64_t k_padded, float* y, int64_t threads) {
  const Weight w = weight(packed, scale, offset, sizes);
  std::vector<int32_t> sums(m * w.groups);
  bool centred = true;
  for (int64_t t = 0; t < m; t++) {
    centred = centred && x_zero[t] == 0;
    for (int64_t g = 0; g < w.groups; g++) {
      int32_t acc = 0;
      for (int64_t i = w.first(g); i < w.end(g); i++) acc += codes[t * k_padded + i];
      sums[t * w.groups + g] = acc;
    }
  }
  const Inputs x{codes, x_scale, x_zero, sums.data(), m, k_padded, centred};
  share(w.n, threads, [&](int64_t from, int64_t to) {
    with_bits(w.bits, [&](auto bits) { int_rows<bits>(w, x, from, to, y); });
  });
}

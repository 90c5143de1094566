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

constexpr int64_t BLOCK = 32, LONG = 256;
constexpr int64_t FEW = 8;  // inputs, up to which a row is multiplied as it is read

typedef uint8_t Bytes __attribute__((vector_size(32)));
typedef uint16_t Shorts __attribute__((vector_size(32)));
typedef uint32_t Words __attribute__((vector_size(32)));
typedef uint64_t Longs __attribute__((vector_size(32)));
typedef int32_t Ints __attribute__((vector_size(32)));
typedef float Floats __attribute__((vector_size(32)));
#if defined(__AVX512F__)
typedef float Lanes __attribute__((vector_size(64)));
#else
typedef float Lanes __attribute__((vector_size(32)));
#endif
#if defined(__AVX512VNNI__)
constexpr int WIDE = 64;
#else
constexpr int WIDE = 32;
#endif
typedef int32_t WideInts __attribute__((vector_size(WIDE)));
typedef float WideFloats __attribute__((vector_size(WIDE)));
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
  int64_t whole() const { return k / BLOCK; }
  int64_t blocks() const { return (k + BLOCK - 1) / BLOCK; }
  int64_t longs() const { return k / LONG; }
  int64_t per_group() const { return groups == 1 ? blocks() : group / BLOCK; }
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

// --- codes as bytes ---

// The v-th 32 codes of a block of 256, one field.
template <int P>
inline Bytes field(const uint8_t* b, int v) {
  if constexpr (P == 8) return load<Bytes>(b + 32 * v);
  const Shorts w = load<Shorts>(b + 32 * v % (32 * P));
  return (Bytes)(w >> static_cast<uint16_t>(P * (v / P))) & static_cast<uint8_t>((1 << P) - 1);
}

template <int BITS>
inline Bytes decode_long(const uint8_t* b, int v) {
  if constexpr (BITS == 8 || BITS == 4 || BITS == 2) return field<BITS>(b, v);
  if constexpr (BITS == 3) return field<2>(b, v) | (field<1>(b + 64, v) << 2);
  if constexpr (BITS == 5) return field<4>(b, v) | (field<1>(b + 128, v) << 4);
  if constexpr (BITS == 6) return field<4>(b, v) | (field<2>(b + 128, v) << 4);
  if constexpr (BITS == 7) return field<4>(b, v) | (field<2>(b + 128, v) << 4) | (field<1>(b + 192, v) << 6);
}

// Fields of a block of 32: they come once for each field in a byte, shifted to its place.
inline Bytes ones(const uint8_t* b) {
  const Words w = load<uint32_t>(b) - Words{};
  return (Bytes)(w >> Words{0, 1, 2, 3, 4, 5, 6, 7}) & 1;
}
inline Bytes twos(const uint8_t* b) {
  const Longs w = load<uint64_t>(b) - Longs{};
  return (Bytes)(w >> Longs{0, 2, 4, 6}) & 3;
}
inline Bytes fours(const uint8_t* b) {
  const uint64_t first = load<uint64_t>(b), second = load<uint64_t>(b + 8);
  const Longs w = {first, second, first, second};
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

// All codes of a row, in the order in which they are packed or in their own; `out` has room for
// whole blocks.
template <int BITS>
void unpack_row(const Weight& w, int64_t row, uint8_t* out, bool in_order = true) {
  const uint8_t* b = w.packed + row * w.row_bytes;
  for (int64_t i = 0; i < w.longs(); i++) {
    const uint8_t* block = b + i * LONG / 8 * BITS;
    uint8_t* to = out + i * LONG;
    for (int v = 0; v < 8; v++) {
      const Bytes u = decode_long<BITS>(block, v);
      if (in_order)
        for (int j = 0; j < 8; j++) std::memcpy(to + 32 * j + 4 * v, reinterpret_cast<const uint8_t*>(&u) + 4 * j, 4);
      else
        store(to + 32 * v, u);
    }
  }
  for (int64_t i = w.longs() * 8; i < w.whole(); i++) store(out + i * BLOCK, decode<BITS>(b + i * 4 * BITS));
  if (w.k % BLOCK) decode_last(b + w.whole() * 4 * BITS, BITS, w.k % BLOCK, out + w.whole() * BLOCK);
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

// The part-th LANES bytes as floats.
inline Lanes as_floats(Bytes u, int part) {
#if defined(__AVX512F__)
  const __m128i half = part ? _mm256_extracti128_si256((__m256i)u, 1) : _mm256_castsi256_si128((__m256i)u);
  return (Lanes)_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(half));
#elif defined(__AVX2__)
  const __m128i half = part / 2 ? _mm256_extracti128_si256((__m256i)u, 1) : _mm256_castsi256_si128((__m256i)u);
  return (Lanes)_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(part % 2 ? _mm_srli_si128(half, 8) : half));
#else
  Lanes x;
  for (int64_t i = 0; i < LANES; i++) x[i] = u[part * LANES + i];
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
  std::vector<float> s4, m4, zero4;  // of each block of 32, four times
  explicit Row(const Weight& w)
      : u(w.k + 2 * BLOCK), s(w.groups + 8), m(w.groups + 8), w(w.k + 2 * BLOCK), zero(w.groups + 8),
        s4(4 * w.blocks()), m4(4 * w.blocks()), zero4(4 * w.blocks(), static_cast<float>(w.low)) {}
  void read_steps(const Weight& w, int64_t row) {
    const int64_t at = w.shared ? 0 : row * w.groups;
    steps(w.scale, w.scale_type, at, w.groups, s.data());
    if (w.offset_kind == 2) steps(w.offset, w.scale_type, at, w.groups, m.data());
    zeros(w, row, zero.data());
  }
  void repeat(const Weight& w) {
    spread(w, s.data(), s4.data());
    if (w.offset_kind == 2) spread(w, m.data(), m4.data());
    if (w.offset_kind == 1) spread(w, zero.data(), zero4.data());
  }
  template <typename T>
  static void spread(const Weight& w, const T* from, float* to) {
    const int64_t per_group = w.per_group();
    if (per_group == 1) {
      for (int64_t i = 0; i < w.blocks(); i++)
        for (int j = 0; j < 4; j++) to[4 * i + j] = static_cast<float>(from[i]);
      return;
    }
    for (int64_t g = 0; g < w.groups; g++)
      std::fill(to + 4 * g * per_group, to + 4 * std::min(w.blocks(), (g + 1) * per_group), static_cast<float>(from[g]));
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

// One input, in the order of the codes, and one row whose groups are whole blocks: every byte becomes
// a float in a register.
template <int BITS, int KIND>
float fused_row(const Weight& w, int64_t row, const float* x, Row& held) {
  constexpr int PARTS = BLOCK / LANES;
  held.read_steps(w, row);
  held.repeat(w);
  const uint8_t* b = w.packed + row * w.row_bytes;
  Lanes y[PARTS] = {};
  for (int64_t i = 0; i < w.longs(); i++, b += LONG / 8 * BITS) {
    for (int j = 0; j < BITS / 2; j++) __builtin_prefetch(b + 2048 + 64 * j);
    Lanes s[PARTS], m[PARTS], zero[PARTS], sums[PARTS] = {};
    for (int p = 0; p < PARTS; p++) {
      const int64_t at = i * 32 + p * LANES;
      s[p] = load<Lanes>(&held.s4[at]);
      zero[p] = load<Lanes>(&held.zero4[at]);
      if (KIND == 2) m[p] = load<Lanes>(&held.m4[at]);
    }
    for (int v = 0; v < 8; v++) {
      const Bytes u = decode_long<BITS>(b, v);
      for (int p = 0; p < PARTS; p++) {
        Lanes q = as_floats(u, p) - zero[p];
        if (KIND == 2) q = multiply_add(q, s[p], m[p]);
        sums[p] = multiply_add(q, load<Lanes>(x + i * LONG + 32 * v + p * LANES), sums[p]);
      }
    }
    for (int p = 0; p < PARTS; p++) y[p] = KIND == 2 ? y[p] + sums[p] : multiply_add(sums[p], s[p], y[p]);
  }
  for (int64_t i = w.longs() * 8; i < w.blocks(); i++, b += 4 * BITS) {
    if (i == w.whole()) decode_last(b, BITS, w.k % BLOCK, held.u.data());
    const Bytes u = i < w.whole() ? decode<BITS>(b) : load<Bytes>(held.u.data());
    const float s = held.s4[4 * i], m = held.m4[4 * i], zero = held.zero4[4 * i];
    for (int p = 0; p < PARTS; p++) {
      const Lanes q = as_floats(u, p) - zero, some = load<Lanes>(x + i * BLOCK + p * LANES);
      y[p] = multiply_add(KIND == 2 ? multiply_add(q, s - Lanes{}, m - Lanes{}) : q * s, some, y[p]);
    }
  }
  for (int p = 1; p < PARTS; p++) y[0] += y[p];
  return sum(y[0]);
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

inline int32_t total(Ints d) {
  int32_t y = 0;
  for (int i = 0; i < 8; i++) y += d[i];
  return y;
}

struct Inputs {
  const int8_t* codes;   // [m, k_padded], filled up with zeros
  const int8_t* ordered; // the same in the order of the packed codes
  const float* scale;    // [m]
  const int32_t* zero;   // [m]
  const int32_t* sums;   // [m, groups] of the codes
  int64_t m, k_padded;
  bool centred;          // all zero points are 0
};

// acc[g] of one input and one row, both in the order of the packed codes; for groups of one block.
// `decoded` gives the v-th 32 codes of a long block, and a block of 32.
template <bool NARROW, typename Decode, typename Short>
void products(const Weight& w, Decode decoded, Short block, const int8_t* x, int32_t* out) {
  for (int64_t i = 0; i < w.longs(); i++) {
    Ints d[2] = {};
    for (int v = 0; v < 8; v++) d[v % 2] = add_products<NARROW>(d[v % 2], decoded(i, v), load<Bytes>(x + i * LONG + 32 * v));
    store(out + 8 * i, d[0] + d[1]);
  }
  for (int64_t i = w.longs() * 8; i < w.blocks(); i++)
    out[i] = total(add_products<NARROW>(Ints{}, block(i), load<Bytes>(x + i * BLOCK)));
}

// From sums of blocks to sums of groups.
void join(const Weight& w, int32_t* acc) {
  const int64_t per_group = w.per_group();
  if (per_group == 1) return;
  for (int64_t g = 0; g < w.groups; g++) {
    int32_t y = 0;
    for (int64_t i = g * per_group; i < std::min(w.blocks(), (g + 1) * per_group); i++) y += acc[i];
    acc[g] = y;
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
  std::vector<int32_t> acc(std::max(g8, w.blocks())), u_sums(acc.size());
  std::vector<int8_t> counted(x.k_padded + LONG);  // in any order of the blocks of 256 they are ones
  std::fill(counted.begin(), counted.begin() + w.k, 1);
  for (int64_t first = begin; first < end; first += TOGETHER) {
    const int64_t rows = std::min(TOGETHER, end - first);
    for (int64_t r = 0; r < rows; r++) {
      const uint8_t* b = w.packed + (first + r) * w.row_bytes;
      uint8_t* u = held.u.data();
      held.read_steps(w, first + r);
      if (w.aligned() && x.m == 1 && x.centred) {
        if (w.k % BLOCK) decode_last(b + w.whole() * 4 * BITS, BITS, w.k % BLOCK, u);
        auto decoded = [&](int64_t i, int v) {
          if (v % 2 == 0 && v < BITS) __builtin_prefetch(b + i * LONG / 8 * BITS + 2048 + 32 * v);
          return decode_long<BITS>(b + i * LONG / 8 * BITS, v);
        };
        auto block = [&](int64_t i) { return i < w.whole() ? decode<BITS>(b + i * 4 * BITS) : load<Bytes>(u); };
        products<BITS != 8>(w, decoded, block, x.ordered, acc.data());
        join(w, acc.data());
        terms(w, held, u_sums.data(), x, 0, acc.data(), &found[r * g8]);
        continue;
      }
      unpack_row<BITS>(w, first + r, u, !w.aligned());
      auto of = [&](const int8_t* codes, int32_t* out) {
        if (!w.aligned()) return ragged_products(w, u, codes, out);
        auto decoded = [&](int64_t i, int v) { return load<Bytes>(u + i * LONG + 32 * v); };
        auto block = [&](int64_t i) { return load<Bytes>(u + i * BLOCK); };
        products<BITS != 8>(w, decoded, block, codes, out);
        join(w, out);
      };
      if (!x.centred) of(counted.data(), u_sums.data());
      for (int64_t t = 0; t < x.m; t++) {
        of((w.aligned() ? x.ordered : x.codes) + t * x.k_padded, acc.data());
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

// --- many 8-bit inputs: a lane for each of them ---

constexpr int64_t TOKENS = WIDE / 4, ROWS = 6;

// Each byte times its own, four neighbours added up to each lane. Exact.
template <bool NARROW>
inline WideInts add_wide(WideInts sums, const uint8_t* u, const int8_t* x) {
#if defined(__AVX512VNNI__)
  return (WideInts)_mm512_dpbusd_epi32((__m512i)sums, _mm512_set1_epi32(load<int32_t>(u)), load<__m512i>(x));
#else
  return add_products<NARROW>(sums, (Bytes)(Words{} + load<uint32_t>(u)), load<Bytes>(x));
#endif
}

// The columns with each group filled up to whole fours, so that no four has two scales.
struct Columns {
  std::vector<int64_t> first;  // of each group, and the end of the last
  explicit Columns(const Weight& w) : first(1, 0) {
    for (int64_t g = 0; g < w.groups; g++) first.push_back(first.back() + (w.end(g) - w.first(g) + 3) / 4 * 4);
  }
  int64_t width() const { return first.back(); }
  template <typename T>
  void place(const Weight& w, const T* from, T* to) const {
    for (int64_t g = 0; g < w.groups; g++) {
      std::fill(to + first[g], to + first[g + 1], T(0));
      std::copy(from + w.first(g), from + w.end(g), to + first[g]);
    }
  }
};

// TOKENS inputs: their codes as [column / 4][lane][4], and what belongs to each.
struct Batch {
  std::vector<int8_t> codes;
  std::vector<int32_t> sums;  // [groups][lane]
  WideFloats scale{};
  WideInts zero{};
  Batch(const Weight& w, const Inputs& x, const Columns& columns, int64_t from)
      : codes(columns.width() * TOKENS), sums(w.groups * TOKENS) {
    std::vector<int8_t> placed(columns.width());
    for (int64_t t = 0; t < std::min(TOKENS, x.m - from); t++) {
      columns.place(w, x.codes + (from + t) * x.k_padded, placed.data());
      for (int64_t i = 0; i < columns.width(); i += 4) std::memcpy(&codes[(i * TOKENS) + t * 4], &placed[i], 4);
      for (int64_t g = 0; g < w.groups; g++) sums[g * TOKENS + t] = x.sums[(from + t) * w.groups + g];
      scale[t] = x.scale[from + t];
      zero[t] = x.zero[from + t];
    }
  }
};

struct Tile {  // some rows of codes, placed, and their steps
  const uint8_t* u[ROWS];
  const float* s[ROWS];
  const int32_t *zero[ROWS], *u_sums[ROWS];
};

// One batch times ROWS rows: sums of a group, then the terms of every lane, in registers.
template <bool NARROW>
void tile_product(const Weight& w, const Columns& columns, const Batch& x, const Tile& tile, bool centred, WideFloats* y) {
  for (int r = 0; r < ROWS; r++) y[r] = WideFloats{};
  for (int64_t g = 0; g < w.groups; g++) {
    WideInts acc[ROWS] = {};
    for (int64_t i = columns.first[g]; i < columns.first[g + 1]; i += 4)
      for (int r = 0; r < ROWS; r++) acc[r] = add_wide<NARROW>(acc[r], tile.u[r] + i, &x.codes[i * TOKENS]);
    const WideInts sums = load<WideInts>(&x.sums[g * TOKENS]);
    const int32_t count = static_cast<int32_t>(w.end(g) - w.first(g));
    for (int r = 0; r < ROWS; r++) {
      WideInts total = acc[r] - sums * tile.zero[r][g];
      if (!centred) total -= x.zero * (tile.u_sums[r][g] - count * tile.zero[r][g]);
      y[r] += __builtin_convertvector(total, WideFloats) * (x.scale * tile.s[r][g]);
    }
  }
}

void tile_rows(const Weight& w, const Inputs& x, const Columns& columns, const std::vector<Batch>& batches, int64_t begin,
               int64_t end, float* y) {
  Row held(w);
  std::vector<uint8_t> u(ROWS * columns.width());
  std::vector<float> s(ROWS * w.groups);
  std::vector<int32_t> zero(ROWS * w.groups), u_sums(ROWS * w.groups);
  Tile tile;
  for (int64_t r = 0; r < ROWS; r++)
    tile.u[r] = &u[r * columns.width()], tile.s[r] = &s[r * w.groups], tile.zero[r] = &zero[r * w.groups],
    tile.u_sums[r] = &u_sums[r * w.groups];
  for (int64_t first = begin; first < end; first += ROWS) {
    const int64_t rows = std::min(ROWS, end - first);
    for (int64_t r = 0; r < rows; r++) {
      with_bits(w.bits, [&](auto bits) { unpack_row<bits>(w, first + r, held.u.data()); });
      columns.place(w, held.u.data(), &u[r * columns.width()]);
      held.read_steps(w, first + r);
      std::copy_n(held.s.data(), w.groups, &s[r * w.groups]);
      std::copy_n(held.zero.data(), w.groups, &zero[r * w.groups]);
      for (int64_t g = 0; g < w.groups && !x.centred; g++) {
        int32_t sum = 0;
        for (int64_t i = columns.first[g]; i < columns.first[g + 1]; i++) sum += u[r * columns.width() + i];
        u_sums[r * w.groups + g] = sum;
      }
    }
    for (int64_t b = 0; b < static_cast<int64_t>(batches.size()); b++) {
      WideFloats found[ROWS];
      if (w.bits == 8)
        tile_product<false>(w, columns, batches[b], tile, x.centred, found);
      else
        tile_product<true>(w, columns, batches[b], tile, x.centred, found);
      for (int64_t t = 0; t < std::min(TOKENS, x.m - b * TOKENS); t++)
        for (int64_t r = 0; r < rows; r++) y[(b * TOKENS + t) * w.n + first + r] = found[r][t];
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

// x [m, k] with each whole block of 256 in the order of the packed codes.
template <typename T>
std::vector<T> in_packed_order(const T* x, int64_t m, int64_t k) {
  std::vector<T> y(x, x + m * k);
  for (int64_t t = 0; t < m; t++)
    for (int64_t i = 0; i + LONG <= k; i += LONG)
      for (int64_t j = 0; j < 8; j++)
        for (int64_t v = 0; v < 8; v++) std::copy_n(x + t * k + i + 32 * j + 4 * v, 4, &y[t * k + i + 32 * v + 4 * j]);
  return y;
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
  const bool fused = m == 1 && w.aligned();
  const std::vector<float> ordered = fused ? in_packed_order(x, 1, k_padded) : std::vector<float>();
  share(w.n, threads, [&](int64_t from, int64_t to) {
    Row held(w);
    if (fused) {
      with_bits(w.bits, [&](auto bits) {
        for (int64_t r = from; r < to; r++)
          y[r] = w.offset_kind == 2 ? fused_row<bits, 2>(w, r, ordered.data(), held)
                                    : fused_row<bits, 1>(w, r, ordered.data(), held);
      });
      return;
    }
    for (int64_t r = from; r < to; r++) {
      values_of_row(w, r, held, held.w.data());
      int64_t t = 0;
      for (; t + 4 <= m; t += 4) dots<4>(held.w.data(), x + t * k_padded, k_padded, k_padded, y + t * w.n + r, w.n);
      for (; t < m; t++) dots<1>(held.w.data(), x + t * k_padded, k_padded, k_padded, y + t * w.n + r, w.n);
    }
  });
}

// y [m, n] for inputs of 8-bit codes, int8 [m, k_padded] filled up with zeros.
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
  const std::vector<int8_t> ordered = in_packed_order(codes, m, k_padded);
  const Inputs x{codes, ordered.data(), x_scale, x_zero, sums.data(), m, k_padded, centred};
  if (m > FEW) {
    const Columns columns(w);
    std::vector<Batch> batches;
    for (int64_t t = 0; t < m; t += TOKENS) batches.emplace_back(w, x, columns, t);
    share(w.n, threads, [&](int64_t from, int64_t to) { tile_rows(w, x, columns, batches, from, to, y); });
    return;
  }
  share(w.n, threads, [&](int64_t from, int64_t to) {
    with_bits(w.bits, [&](auto bits) { int_rows<bits>(w, x, from, to, y); });
  });
}

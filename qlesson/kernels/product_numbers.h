// Packed codes as floats, in registers.
//
// A block of 256 codes is read as vectors of 32-bit words, in each of which all codes belong to one
// group of 32. A vector becomes vectors of floats in few instructions (`Numbers`), and inputs are put
// into the order in which they come once.

#pragma once

#include "product_reals.h"

namespace {

template <typename F>
inline F multiply_add(F a, F b, F c) {
#if defined(HAS_64_BYTES)
  if constexpr (sizeof(F) == 64) return (F)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#endif
#if defined(__FMA__) && defined(__AVX2__)
  if constexpr (sizeof(F) == 32) return (F)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#endif
  return a * b + c;
}

inline Floats folded(Floats x) { return x; }
#if defined(HAS_64_BYTES)
inline Floats folded(WideFloats x) {
  return (Floats)_mm512_castps512_ps256((__m512)x) + (Floats)_mm512_extractf32x8_ps((__m512)x, 1);
}
#endif

inline float sum(Floats x) {
#if defined(__AVX2__)
  const __m128 fours = _mm_add_ps(_mm256_castps256_ps128((__m256)x), _mm256_extractf128_ps((__m256)x, 1));
  const __m128 twos = _mm_add_ps(fours, _mm_movehl_ps(fours, fours));
  return _mm_cvtss_f32(_mm_add_ss(twos, _mm_movehdup_ps(twos)));
#else
  float y = 0;
  for (int i = 0; i < 8; i++) y += x[i];
  return y;
#endif
}

// The f-th field of P bits of each word: u - zero. Its bits, put under the exponent of 2^(23 - place),
// are the float 2^(23 - place) + u, and what is too much is subtracted with the zero.
template <int P, typename F, typename W>
inline F difference(W w, int f, F zero) {
  const bool high = (f + 1) * P > 23;
  const int place = high ? f * P - 16 : f * P;
  if (high) w >>= 16;
  const W x = (w & (((1u << P) - 1) << place)) | (static_cast<uint32_t>(127 + 23 - place) << 23);
  return (F)x - (zero + static_cast<float>(1 << (23 - place)));
}

// Bytes as u - zero.
inline WideFloats difference(const uint8_t* u, WideFloats zero) {
#if defined(HAS_64_BYTES)
  return (WideFloats)_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(load<__m128i>(u))) - zero;
#else
  return __builtin_convertvector(widened(u), Floats) - zero;
#endif
}

// Bits of the fields in which a weight's words are read: other codes are unpacked to bytes before.
constexpr int FIELD = BITS == 4 ? 4 : 8;
constexpr int64_t BLOCK_BYTES = BLOCK * FIELD / 8;

// Vectors of words as u - zero, four vectors of floats at a time: part 0 of P = 8, parts 0 and 1 of 4.
// Lanes of the f-th have the groups of `spread`'s vector slot(f); ONE says that all zeros are w.low.
#if defined(__AVX2__) && !defined(HAS_64_BYTES)

inline __m256i in_each(uint32_t bits) { return _mm256_set1_epi32(static_cast<int32_t>(bits)); }

template <int P, bool ONE>
struct Numbers;

// Bytes under the exponent of 2^23.
template <bool ONE>
struct Numbers<8, ONE> {
  static constexpr int SLOTS = 4;
  static constexpr int slot(int f) { return f; }
  static int64_t code(int64_t vector, int64_t, int64_t f, int64_t lane) { return 32 * vector + 16 * (lane / 4) + 4 * f + lane % 4; }
  static void spread(Floats x, Floats* to) {
    to[0] = (Floats)_mm256_permute_ps((__m256)x, 0x00);
    to[1] = (Floats)_mm256_permute_ps((__m256)x, 0x55);
    to[2] = (Floats)_mm256_permute_ps((__m256)x, 0xaa);
    to[3] = (Floats)_mm256_permute_ps((__m256)x, 0xff);
  }
  Floats zero[SLOTS];
  explicit Numbers(const Weight& w) { take(static_cast<float>(w.low) - Floats{}); }
  void take(Floats zeros) { spread(zeros + 0x1p23f, zero); }
  void operator()(Words w, int, Floats* u) const {
    const __m256i exponent = _mm256_set1_epi16(0x4b00), none = _mm256_setzero_si256();
    const __m256i low = _mm256_unpacklo_epi8((__m256i)w, none), high = _mm256_unpackhi_epi8((__m256i)w, none);
    u[0] = (Floats)_mm256_unpacklo_epi16(low, exponent) - zero[0];
    u[1] = (Floats)_mm256_unpackhi_epi16(low, exponent) - zero[ONE ? 0 : 1];
    u[2] = (Floats)_mm256_unpacklo_epi16(high, exponent) - zero[ONE ? 0 : 2];
    u[3] = (Floats)_mm256_unpackhi_epi16(high, exponent) - zero[ONE ? 0 : 3];
  }
};

// Two tables give the two upper bytes of the float, whose lower ones are 0.
template <bool ONE>
struct Numbers<4, ONE> {
  static constexpr int SLOTS = 2;
  static constexpr int slot(int f) { return f / 2; }
  static int64_t code(int64_t vector, int64_t part, int64_t f, int64_t lane) {
    return 128 * part + 32 * vector + 16 * (lane / 4) + 8 * (f / 2) + 2 * (lane % 4) + f % 2;
  }
  static void spread(Floats x, Floats* to) {
    to[0] = (Floats)_mm256_unpacklo_ps((__m256)x, (__m256)x);
    to[1] = (Floats)_mm256_unpackhi_ps((__m256)x, (__m256)x);
  }
  __m256i upper, lower;
  Floats zero[SLOTS];
  explicit Numbers(const Weight& w) {
    uint8_t bytes[2][32];
    for (int i = 0; i < 32; i++) {
      const float x = static_cast<float>(i % 16 - (ONE ? w.low : 0));
      uint32_t bits;
      std::memcpy(&bits, &x, 4);
      bytes[0][i] = static_cast<uint8_t>(bits >> 16);
      bytes[1][i] = static_cast<uint8_t>(bits >> 24);
    }
    lower = load<__m256i>(bytes[0]);
    upper = load<__m256i>(bytes[1]);
  }
  void take(Floats zeros) { spread(zeros, zero); }
  void operator()(Words w, int part, Floats* u) const {
    const __m256i n = (__m256i)((part ? w >> 4 : w) & mask(4)), half = in_each(0xffff0000u);
    const __m256i a = _mm256_shuffle_epi8(lower, n), b = _mm256_shuffle_epi8(upper, n);
    const __m256i low = _mm256_unpacklo_epi8(a, b), high = _mm256_unpackhi_epi8(a, b);
    u[0] = (Floats)_mm256_slli_epi32(low, 16);
    u[1] = (Floats)_mm256_and_si256(low, half);
    u[2] = (Floats)_mm256_slli_epi32(high, 16);
    u[3] = (Floats)_mm256_and_si256(high, half);
    for (int f = 0; f < 4 && !ONE; f++) u[f] -= zero[slot(f)];
  }
};

#else

template <int P, bool ONE>
struct Numbers {
  static constexpr int SLOTS = 1;
  static constexpr int slot(int) { return 0; }
  static int64_t code(int64_t vector, int64_t part, int64_t f, int64_t lane) {
    const int64_t word = vector * LANES + lane;
    return P == 8 ? 4 * word + f : 4 * word + 2 * part + f / 2 + 128 * (f % 2);
  }
  static void spread(Floats x, WideFloats* to) { to[0] = (WideFloats)both((Words)x); }
  WideFloats zero[SLOTS];
#if defined(HAS_64_BYTES)
  __m512 table;  // of the sixteen codes of 4 bits
#endif
  explicit Numbers(const Weight& w) {
    take(static_cast<float>(w.low) - Floats{});
#if defined(HAS_64_BYTES)
    float all[16];
    for (int i = 0; i < 16; i++) all[i] = static_cast<float>(i - (ONE ? w.low : 0));
    table = load<__m512>(all);
#endif
  }
  void take(Floats zeros) { spread(zeros, zero); }
  void operator()(WideWords w, int part, WideFloats* u) const {
    for (int f = 0; f < 4; f++) {
#if defined(HAS_64_BYTES)
      if constexpr (P == 4 && ONE) {
        const uint32_t shift = static_cast<uint32_t>(4 * (4 * part + f));  // what is above 4 bits is not looked at
        u[f] = (WideFloats)_mm512_permutexvar_ps((__m512i)(w >> shift), table);
        continue;
      }
#endif
      u[f] = difference<P>(w, 4 * part + f, zero[0]);
    }
  }
};

#endif

using Number = Numbers<FIELD, !ZERO_POINTS>;

// A block of 32 as u - zero, vector after vector: the f-th has the codes `code_in_block`.
#if defined(__AVX2__) && !defined(HAS_64_BYTES)
inline int64_t code_in_block(int64_t f, int64_t lane) { return Number::code(0, 0, f, lane); }
IN_PLACE void block(Number numbers, const uint8_t* b, Floats zero, Floats* u) {
  if (ZERO_POINTS) numbers.take(zero);
  numbers(FIELD == 4 ? fours(b) : load<Words>(b), 0, u);
}
#else
inline int64_t code_in_block(int64_t f, int64_t lane) { return f * LANES + lane; }
IN_PLACE void block(const Number& numbers, const uint8_t* b, WideFloats zero, WideFloats* u) {
#if defined(HAS_64_BYTES)
  if constexpr (FIELD == 4) {
    const __m512i words = _mm512_cvtepu8_epi32(load<__m128i>(b));
    u[0] = (WideFloats)_mm512_permutexvar_ps(words, numbers.table);
    u[1] = (WideFloats)_mm512_permutexvar_ps(_mm512_srli_epi32(words, 4), numbers.table);
    for (int f = 0; f < 2 && ZERO_POINTS; f++) u[f] -= zero;
    return;
  }
#endif
  uint8_t codes[BLOCK];
  store(codes, FIELD == 4 ? fours(b) : load<Words>(b));
  for (int64_t f = 0; f < BLOCK / LANES; f++) u[f] = difference(codes + f * LANES, zero);
}
#endif

// The column, within a block of 256, of each place in that order.
inline std::vector<int32_t> order_of_longs() {
  std::vector<int32_t> order(LONG);
  for (int64_t i = 0; i < LONG; i++) {
    const int64_t f = i / LANES % (32 / FIELD), vector = i / LANES / (32 / FIELD);
    const int64_t code = Number::code(vector, f / 4, f % 4, i % LANES);
    order[i] = static_cast<int32_t>(32 * (code % 32 / 4) + 4 * (code / 32) + code % 4);
  }
  return order;
}

inline std::vector<int32_t> order_of_blocks() {
  std::vector<int32_t> order(BLOCK);
  for (int64_t i = 0; i < BLOCK; i++) order[i] = static_cast<int32_t>(code_in_block(i / LANES, i % LANES));
  return order;
}

// f(place, first, order) for each vector of a row, the last block of 32 filled up: the LANES places from
// `place` on have the columns first + order[0], first + order[1], ...
template <typename F>
IN_PLACE void over_places(const Weight& w, int64_t from, const F& f) {
  static const std::vector<int32_t> of_longs = order_of_longs(), of_blocks = order_of_blocks();
  const int64_t long_end = w.longs() * LONG, end = w.blocks() * BLOCK;
  for (int64_t at = from; at < long_end; at += LONG)
    for (int64_t i = 0; i < LONG; i += LANES) f(at + i, at, &of_longs[i]);
  for (int64_t at = long_end; at < end; at += BLOCK)
    for (int64_t i = 0; i < BLOCK; i += LANES) f(at + i, at, &of_blocks[i]);
}

// A row, some blocks of 32 of it: its words, and its steps for each block. Groups are whole blocks.
struct Row {
  const uint8_t* words = nullptr;  // of the blocks of 256
  const uint8_t* others = nullptr;  // of the whole blocks behind them
  alignas(64) uint8_t last[LONG] = {};  // the same where codes are unpacked, and the block that is not whole
  Buffer<uint8_t> unpacked;
  Buffer<float> s, zero, m, of_groups;  // the last two where there are minima, and groups of many blocks
  explicit Row(const Weight& w)
      : unpacked(BITS == FIELD ? 0 : w.k), s(w.blocks() + 8), zero(s.size(), static_cast<float>(w.low)),
        m(MINIMA ? s.size() : 0), of_groups(w.per_group() > 1 ? w.groups + 8 : 0) {}
  // blocks from `first`, the first of a block of 256, to `end`
  IN_PLACE void read(const Weight& w, int64_t row, int64_t first, int64_t end) {
    const int64_t long_end = std::min(end / 8, w.longs());
    words = w.row(row) + first * 4 * BITS;
    if (BITS != FIELD) {
      unpack_longs(words, long_end - first / 8, unpacked.data());
      words = unpacked.data();
    }
    read_steps(w, row, first, end);
  }
  // The same without the words of the blocks of 256.
  IN_PLACE void read_steps(const Weight& w, int64_t row, int64_t first, int64_t end) {
    if (end > w.longs() * 8) read_rest(w, row);
    each(w, first, end, s.data(), [&](int64_t g, int64_t n, float* to) { steps(w, w.scale, row, g, n, to); });
    if (ZERO_POINTS)
      each(w, first, end, zero.data(), [&](int64_t g, int64_t n, float* to) { zeros(w, row, g, n, to); });
    if (MINIMA) {
      each(w, first, end, m.data(), [&](int64_t g, int64_t n, float* to) { steps(w, w.offset, row, g, n, to); });
      store(&m[end - first], Floats{});  // what fills up whole eights
    }
  }
  IN_PLACE void read_rest(const Weight& w, int64_t row) {
    others = BITS == FIELD ? w.row(row) + w.longs() * LONG / 8 * BITS : last;
    if (BITS != FIELD) return unpack_rest(w, row, last);
    if (w.k % BLOCK == 0) return;
    decode_last(others + (w.whole() - w.longs() * 8) * BLOCK_BYTES, w.k % BLOCK, last);
    for (int64_t i = 0; FIELD == 4 && i < BLOCK_BYTES; i++) last[i] |= last[i + BLOCK_BYTES] << 4;
  }
  // The words of a block of 32 behind those of 256; the one that is not whole lies elsewhere.
  const uint8_t* words_of(const Weight& w, int64_t block) const {
    if (block < w.whole()) return others + (block - w.longs() * 8) * BLOCK_BYTES;
    return BITS == FIELD ? last : last + (w.whole() - w.longs() * 8) * BLOCK_BYTES;
  }
  // of(first group, count, to) for each block
  template <typename F>
  void each(const Weight& w, int64_t first, int64_t end, float* to, F of) {
    const int64_t many = w.per_group();
    if (many == 1) return of(first, end - first, to);
    const int64_t g = first / many, last = (end + many - 1) / many;
    of(g, last - g, of_groups.data());
    for (int64_t i = g; i < last; i++)
      std::fill(to + std::max<int64_t>(0, i * many - first), to + std::min(end, (i + 1) * many) - first, of_groups[i - g]);
  }
};

// w_hat, the bits that `dequantize` gives, of some blocks of a row with any groups, in the columns' own order, filled
// up with zeros.
inline void plain_values(const Weight& w, int64_t row, int64_t first, int64_t end, float* out) {
  std::vector<uint8_t> u(w.blocks() * BLOCK);
  std::vector<float> s(w.groups + 8), m(w.groups + 8), zero(w.groups + 8, static_cast<float>(w.low));
  unpack_row(w, row, u.data());
  steps(w, w.scale, row, 0, w.groups, s.data());
  if (ZERO_POINTS) zeros(w, row, 0, w.groups, zero.data());
  if (MINIMA) steps(w, w.offset, row, 0, w.groups, m.data());
  std::fill(out, out + (end - first) * BLOCK, 0.0f);
  for (int64_t i = first * BLOCK; i < std::min(w.k, end * BLOCK); i++) {
    const int64_t g = i / w.group;
    const float value = s[g] * (u[i] - zero[g]);
    out[i - first * BLOCK] = MINIMA ? value + m[g] : value;
  }
}

}  // namespace

// A weight of packed codes, and what its bytes mean. How a row is packed is told in packed.py.
//
// Compiled for one kind of weight: codes of CODE_BITS bits, whose offset is OFFSET; and where inputs are
// floats, for those of type REAL.
//
// A code u is unsigned; with `zero` the code of 0.0 as u,
//
//     w_hat = s (u - zero)    or, with a minimum m,    w_hat = s (u - low) + m
//
// Vectors are gcc's and clang's own, of 32 bytes, and of 64 where a processor has them; what it does
// in one instruction is behind an #ifdef, with loops of the same bits beside.

#pragma once

#include <atomic>
#include <new>
#include <vector>

#include "loops_numbers.h"

namespace {

constexpr int BITS = CODE_BITS;
constexpr bool ZERO_POINTS = OFFSET == 1, MINIMA = OFFSET == 2;
constexpr int64_t FEW = 8;  // inputs, up to which a row is multiplied as it is read
constexpr int64_t BLOCK = 32, LONG = 256;
constexpr int64_t TOGETHER = 8;  // rows whose sums are folded at once
constexpr int64_t AHEAD = 12288;  // bytes, before they are needed, memory is asked for
constexpr int64_t STEPS_AHEAD = 2048;  // of the steps: so little of them is read at a time that a processor does not see what comes

typedef uint8_t Bytes __attribute__((vector_size(32)));
typedef uint32_t Words __attribute__((vector_size(32)));
typedef uint64_t Longs __attribute__((vector_size(32)));
typedef int32_t Ints __attribute__((vector_size(32)));
typedef float Floats __attribute__((vector_size(32)));
#if defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#define HAS_64_BYTES
constexpr int64_t WIDE = 64;
#else
constexpr int64_t WIDE = 32;
#endif
typedef uint32_t WideWords __attribute__((vector_size(WIDE)));
typedef int32_t WideInts __attribute__((vector_size(WIDE)));
typedef float WideFloats __attribute__((vector_size(WIDE)));
constexpr int64_t LANES = WIDE / 4;

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

// x, read from memory once. A compiler reads it again for each use where an instruction can, and all
// of these reads wait for a line that is on its way.
template <typename T>
inline T load_once(const void* from) {
  T x = load<T>(from);
#if defined(HAS_64_BYTES)
  asm("" : "+v"(x));
#elif defined(__AVX2__)
  asm("" : "+x"(x));
#endif
  return x;
}

// Memory in which no vector crosses a line of the cache: reading one that does takes twice as long.
template <typename T>
struct Aligned {
  typedef T value_type;
  Aligned() = default;
  template <typename U>
  Aligned(const Aligned<U>&) {}
  T* allocate(size_t n) { return static_cast<T*>(::operator new(n * sizeof(T), std::align_val_t(64))); }
  void deallocate(T* p, size_t) { ::operator delete(p, std::align_val_t(64)); }
  bool operator==(const Aligned&) const { return true; }
  bool operator!=(const Aligned&) const { return false; }
};
template <typename T>
using Buffer = std::vector<T, Aligned<T>>;

// Eight lanes, twice where a vector has sixteen.
inline WideWords both(Words x) {
#if defined(HAS_64_BYTES)
  return (WideWords)_mm512_broadcast_i32x8((__m256i)x);
#else
  return x;
#endif
}

// Vector r holds eight values of row r, and then value r of eight rows.
IN_PLACE void transpose(Floats* x) {
#if defined(__AVX2__)
  __m256 a[8], b[8];
  for (int i = 0; i < 8; i++) a[i] = (__m256)x[i];
  for (int i = 0; i < 8; i += 2) b[i] = _mm256_unpacklo_ps(a[i], a[i + 1]), b[i + 1] = _mm256_unpackhi_ps(a[i], a[i + 1]);
  for (int i = 0; i < 8; i += 4)
    for (int j = 0; j < 2; j++) {
      a[i + 2 * j] = _mm256_shuffle_ps(b[i + j], b[i + j + 2], 0x44);
      a[i + 2 * j + 1] = _mm256_shuffle_ps(b[i + j], b[i + j + 2], 0xee);
    }
  for (int i = 0; i < 4; i++) {
    x[i] = (Floats)_mm256_permute2f128_ps(a[i], a[i + 4], 0x20);
    x[i + 4] = (Floats)_mm256_permute2f128_ps(a[i], a[i + 4], 0x31);
  }
#else
  for (int i = 0; i < 8; i++)
    for (int j = 0; j < i; j++) {
      const float held = x[i][j];
      x[i][j] = x[j][i];
      x[j][i] = held;
    }
#endif
}

inline Floats in_order(Floats x) { return x; }
#if defined(HAS_64_BYTES)
// The same of two such squares beside each other; in each vector then four of the first, four of the second, and so on.
IN_PLACE void transpose(WideFloats* x) {
  __m512 a[8], b[8];
  for (int i = 0; i < 8; i++) a[i] = (__m512)x[i];
  for (int i = 0; i < 8; i += 2) b[i] = _mm512_unpacklo_ps(a[i], a[i + 1]), b[i + 1] = _mm512_unpackhi_ps(a[i], a[i + 1]);
  for (int i = 0; i < 8; i += 4)
    for (int j = 0; j < 2; j++) {
      a[i + 2 * j] = _mm512_shuffle_ps(b[i + j], b[i + j + 2], 0x44);
      a[i + 2 * j + 1] = _mm512_shuffle_ps(b[i + j], b[i + j + 2], 0xee);
    }
  for (int i = 0; i < 4; i++) {
    x[i] = (WideFloats)_mm512_shuffle_f32x4(a[i], a[i + 4], 0x88);
    x[i + 4] = (WideFloats)_mm512_shuffle_f32x4(a[i], a[i + 4], 0xdd);
  }
}
inline WideFloats in_order(WideFloats x) { return (WideFloats)_mm512_shuffle_f32x4((__m512)x, (__m512)x, 0xd8); }
#endif

// --- the weight ---

struct Weight {  // as product.py lays it out
  const uint8_t* packed;  // [n, row_bytes]
  const void* scale;      // [n, groups], or [1, groups] for all rows
  const void* offset;     // like the scale: zero points of one byte, or minima in the scale's type
  int64_t n, k, row_bytes, groups, group;
  int64_t low;           // u = q + low
  int64_t scale_type;    // 0 float, 1 half, 2 bfloat16
  int64_t shared;        // whether all rows have the same scales
  int64_t first(int64_t g) const { return g * group; }
  int64_t end(int64_t g) const { return std::min(k, (g + 1) * group); }
  bool aligned() const { return group % BLOCK == 0 || groups == 1; }
  int64_t whole() const { return k / BLOCK; }
  int64_t blocks() const { return (k + BLOCK - 1) / BLOCK; }
  int64_t longs() const { return k / LONG; }
  int64_t per_group() const { return groups == 1 ? blocks() : group / BLOCK; }
  const uint8_t* row(int64_t r) const { return packed + r * row_bytes; }
};

// count steps (scales or minima) of the row from group g on, as floats; up to seven more are written.
inline void steps(const Weight& w, const void* from, int64_t row, int64_t g, int64_t count, float* out) {
  const int64_t at = (w.shared ? 0 : row * w.groups) + g, readable = (w.shared ? 1 : w.n) * w.groups - at;
  const int64_t size = w.scale_type == 0 ? 4 : 2;
  ask_for(static_cast<const uint8_t*>(from) + at * size, count * size, STEPS_AHEAD);
  const auto typed = [=](const auto* all) {
    int64_t i = 0;
    for (; i < count && i + 8 <= readable; i += 8) convert<8>(all + at + i, out + i);
    for (; i < count; i++) out[i] = to_float(all[at + i]);
  };
  if (w.scale_type == 0) std::memcpy(out, static_cast<const float*>(from) + at, count * 4);
  if (w.scale_type == 1) typed(static_cast<const float16*>(from));
  if (w.scale_type == 2) typed(static_cast<const bfloat16*>(from));
}

// Eight bytes as numbers.
inline Ints widened(const uint8_t* from) {
#if defined(__AVX2__)
  return (Ints)_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)));
#else
  Ints x;
  for (int i = 0; i < 8; i++) x[i] = from[i];
  return x;
#endif
}

// zero of count groups from g on, as numbers or as floats; up to seven more are written.
template <typename T>
IN_PLACE void zeros(const Weight& w, int64_t row, int64_t g, int64_t count, T* out) {
  typedef T Eight __attribute__((vector_size(8 * sizeof(T))));
  const int64_t at = (w.shared ? 0 : row * w.groups) + g, all = (w.shared ? 1 : w.n) * w.groups;
  const uint8_t* z = static_cast<const uint8_t*>(w.offset) + at;
  const int32_t flipped = w.low ? 128 : 0, low = static_cast<int32_t>(w.low) - flipped;  // z is signed where u is not q
  uint8_t last[8] = {};
  ask_for(z, count, STEPS_AHEAD);
  for (int64_t i = 0; i < count; i += 8) {
    if (at + i + 8 > all) std::copy(z + i, z + (all - at), last);
    const Ints x = (widened(at + i + 8 > all ? last : z + i) ^ flipped) + low;
    store(out + i, __builtin_convertvector(x, Eight));
  }
}

// --- codes as bytes ---

constexpr uint32_t mask(int p) { return 0x01010101u * ((1u << p) - 1); }

// One field of the i-th sizeof(V) codes of a block of 256. Four bytes are shifted at once: what
// comes over from a neighbour is masked away.
template <int P, typename V>
inline V field(const uint8_t* b, int64_t i) {
  constexpr int64_t size = sizeof(V), n = LONG * P / 8;
  if constexpr (P == 8) return load<V>(b + size * i);
#if defined(HAS_64_BYTES)
  if constexpr (n < size) {
    const uint32_t s = static_cast<uint32_t>(2 * i);
    const WideWords shift = {s, s, s, s, s, s, s, s, s + 1, s + 1, s + 1, s + 1, s + 1, s + 1, s + 1, s + 1};
    return (both(load<Words>(b)) >> shift) & mask(P);
  } else
#endif
    return (load<V>(b + size * i % n) >> static_cast<uint32_t>(P * (size * i / n))) & mask(P);
}

template <typename V>
inline V decode_long(const uint8_t* b, int64_t i) {
  if constexpr (BITS == 8 || BITS == 4 || BITS == 2) return field<BITS, V>(b, i);
  if constexpr (BITS == 3) return field<2, V>(b, i) | (field<1, V>(b + 64, i) << 2);
  if constexpr (BITS == 5) return field<4, V>(b, i) | (field<1, V>(b + 128, i) << 4);
  if constexpr (BITS == 6) return field<4, V>(b, i) | (field<2, V>(b + 128, i) << 4);
  if constexpr (BITS == 7)
    return field<4, V>(b, i) | (field<2, V>(b + 128, i) << 4) | (field<1, V>(b + 192, i) << 6);
}

// Fields of a block of 32: they come once for each field in a byte, shifted to its place.
inline Words ones(const uint8_t* b) {
  const Words w = load<uint32_t>(b) - Words{};
  return (w >> Words{0, 1, 2, 3, 4, 5, 6, 7}) & mask(1);
}
inline Words twos(const uint8_t* b) {
  const Longs w = load<uint64_t>(b) - Longs{};
  return (Words)(w >> Longs{0, 2, 4, 6}) & mask(2);
}
inline Words fours(const uint8_t* b) {
#if defined(__AVX2__)
  const Longs w = (Longs)_mm256_broadcastsi128_si256(load<__m128i>(b));
#else
  const uint64_t first = load<uint64_t>(b), second = load<uint64_t>(b + 8);
  const Longs w = {first, second, first, second};
#endif
  return (Words)(w >> Longs{0, 0, 4, 4}) & mask(4);
}

inline Words decode(const uint8_t* b) {
  if constexpr (BITS == 8) return load<Words>(b);
  if constexpr (BITS == 4) return fours(b);
  if constexpr (BITS == 2) return twos(b);
  if constexpr (BITS == 3) return twos(b) | (ones(b + 8) << 2);
  if constexpr (BITS == 5) return fours(b) | (ones(b + 16) << 4);
  if constexpr (BITS == 6) return fours(b) | (twos(b + 16) << 4);
  if constexpr (BITS == 7) return fours(b) | (twos(b + 16) << 4) | (ones(b + 24) << 6);
}

// The last block of a row, of `count` codes, filled up with zeros.
inline void decode_last(const uint8_t* b, int64_t count, uint8_t* out) {
  constexpr int64_t step = 8 / (BITS & -BITS);
  const int64_t size = (count + step - 1) / step * step;
  std::memset(out, 0, BLOCK);
  int64_t shift = 0;
  for (int64_t p = 8; p; p /= 2) {
    if (!(BITS & p)) continue;
    const int64_t n = size * p / 8;
    for (int64_t j = 0; j < count; j++) out[j] |= ((b[j % n] >> (j / n * p)) & ((1 << p) - 1)) << shift;
    b += n;
    shift += p;
  }
}

// Some blocks of 256 of a row as bytes, in the order in which they are packed.
inline void unpack_longs(const uint8_t* b, int64_t count, uint8_t* out) {
  for (int64_t i = 0; i < count; i++)
    for (int64_t v = 0; v < LONG / WIDE; v++)
      store(out + i * LONG + WIDE * v, decode_long<WideWords>(b + i * LONG / 8 * BITS, v));
}

// What a row holds behind its blocks of 256, as bytes in their own order, filled up to whole blocks.
inline void unpack_rest(const Weight& w, int64_t row, uint8_t* out) {
  const uint8_t* b = w.row(row) + w.longs() * LONG / 8 * BITS;
  const int64_t count = w.whole() - w.longs() * 8;
  for (int64_t i = 0; i < count; i++) store(out + i * BLOCK, decode(b + i * 4 * BITS));
  if (w.k % BLOCK) decode_last(b + count * 4 * BITS, w.k % BLOCK, out + count * BLOCK);
}

// Those of a block of 256 in their own order; `out` may be `u`.
IN_PLACE void in_columns(const uint8_t* u, uint8_t* out) {
  Floats x[8];
  for (int64_t v = 0; v < 8; v++) x[v] = load<Floats>(u + 32 * v);
  transpose(x);
  for (int64_t j = 0; j < 8; j++) store(out + 32 * j, x[j]);
}

// All codes of a row in their own order; `out` has room for whole blocks.
inline void unpack_row(const Weight& w, int64_t row, uint8_t* out) {
  unpack_longs(w.row(row), w.longs(), out);
  for (int64_t i = 0; i < w.longs(); i++) in_columns(out + i * LONG, out + i * LONG);
  unpack_rest(w, row, out + w.longs() * LONG);
}

// Of m inputs, how many of the last go as few: all, or those behind whole batches, where they are at most so many that
// goes of FEW take less time than one more batch.
inline int64_t as_few(const Weight& w, int64_t m, int64_t batch, int64_t most) {
  const int64_t last = m <= most ? m : m % batch;
  return w.aligned() && last <= most ? last : 0;
}

// Rows that stay in the second cache, while one go of inputs after another meets them.
inline int64_t rows_nearby(const Weight& w) { return std::max<int64_t>(16, (1 << 18) / w.row_bytes / 8 * 8); }

// f(first row, last row) in parts of so many rows or a multiple, about `goes` of each thread. A thread takes its own
// parts one after the other, so that memory is asked for what comes next, and then those of others. Where memory is
// short in one thread, it is for all: no exception may leave a thread.
template <typename F>
inline void share(int64_t n, int64_t threads, int64_t unit, F f, int64_t goes = 8) {
  const int64_t part = std::max<int64_t>(unit, (n / (threads * goes) + unit - 1) / unit * unit), parts = (n + part - 1) / part;
  const auto one = [=, &f](int64_t i) { f(i * part, std::min(n, (i + 1) * part)); };
  if (threads == 1) {
    for (int64_t i = 0; i < parts; i++) one(i);
    return;
  }
  std::vector<std::atomic<int64_t>> taken(threads);
  std::atomic<bool> is_short{false};
#pragma omp parallel for num_threads(threads) schedule(static, 1)
  for (int64_t t = 0; t < threads; t++) try {
      for (int64_t i = 0; i < threads; i++) {
        const int64_t of = (t + i) % threads, first = of * parts / threads, end = (of + 1) * parts / threads;
        for (int64_t next; (next = first + taken[of]++) < end;) one(next);
      }
    } catch (const std::bad_alloc&) {
      is_short = true;
    }
  if (is_short) throw std::bad_alloc();
}

// What f gives; -1 where memory is short: no exception may reach Python.
template <typename F>
inline int unless_short(const F& f) {
  try {
    return f();
  } catch (const std::bad_alloc&) {
    return -1;
  }
}

// The rows of a weight. Where each part begins memory is waited for, so parts are no shorter than that is worth.
template <typename F>
inline void share_rows(const Weight& w, int64_t threads, F f) {
  constexpr int64_t PART = 1 << 18;  // bytes
  share(w.n, threads, 16, f, std::clamp<int64_t>(w.n * w.row_bytes / (threads * PART), 1, 8));
}

}  // namespace

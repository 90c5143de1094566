// Numbers in float32, in halves and in whole numbers of 8 bits, and from one to another: one at a
// time, and many in the processor's own words where no compiler finds them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>
#ifdef __SSE2__
#include <immintrin.h>
#endif

// What runs for some values: a compiler stops to put it in place where there is much of it.
#define IN_PLACE inline __attribute__((always_inline))
// What runs for thousands: put in each of its places, it would be compiled for each.
#define ONCE __attribute__((noinline))

struct bfloat16 { uint16_t bits; };
struct float16 { uint16_t bits; };

template <typename To, typename From>
inline To same_bits(From x) {
  static_assert(sizeof(To) == sizeof(From));
  To y;
  std::memcpy(&y, &x, sizeof y);
  return y;
}

// --- a number as a float ---
template <typename T>
inline float to_float(T x) { return static_cast<float>(x); }
template <>
inline float to_float(bfloat16 x) { return same_bits<float>(static_cast<uint32_t>(x.bits) << 16); }
template <>
inline float to_float(float16 x) {
  const uint32_t size = x.bits & 0x7fff, sign = static_cast<uint32_t>(x.bits & 0x8000) << 16;
  const uint32_t more = 112u << 23;  // float32's exponents begin 112 earlier
  const uint32_t whole = (size << 13) + more + (size >= 0x7c00 ? more : 0);
  const float small = static_cast<float>(static_cast<int32_t>(size)) * 0x1p-24f;
  return same_bits<float>((size < 0x0400 ? same_bits<uint32_t>(small) : whole) | sign);
}

// --- and back, rounded once; no NaN ---
template <typename T, typename X>
inline T from_float(X x) { return static_cast<T>(x); }
template <>
inline bfloat16 from_float(float x) {
  const uint32_t bits = same_bits<uint32_t>(x);
  return {static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}
template <>
inline float16 from_float(float x) {
  const uint32_t bits = same_bits<uint32_t>(x), size = bits & 0x7fffffff;
  const uint32_t whole = (size - (112u << 23) + 0xfff + (size >> 13 & 1)) >> 13;
  const uint32_t small = same_bits<uint32_t>(same_bits<float>(size) + 0.5f) - (126u << 23);
  const uint32_t half = size < 113u << 23 ? small : whole;
  return {static_cast<uint16_t>(std::min(half, 0x7c00u) | (bits >> 16 & 0x8000))};
}

// N values from one type to another; what no compiler finds is said in the processor's own words.
template <int64_t N, typename X, typename Y>
IN_PLACE void convert(const X* x, Y* y) {
  constexpr bool from_f16 = std::is_same_v<X, float16>, to_f16 = std::is_same_v<Y, float16>;
  constexpr bool from_bf16 = std::is_same_v<X, bfloat16>, to_bf16 = std::is_same_v<Y, bfloat16>;
  constexpr bool from_codes = sizeof(X) == 1;
  int64_t k = 0;
#ifdef __AVX512F__
  const auto to = [=](int64_t k) { return reinterpret_cast<__m256i*>(y + k); };
  for (; (from_f16 || from_bf16 || to_f16 || from_codes) && k + 16 <= N; k += 16) {
    if constexpr (from_f16) _mm512_storeu_ps(y + k, _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)(x + k))));
    if constexpr (from_bf16) {
      const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)(x + k)));
      _mm512_storeu_si512(y + k, _mm512_slli_epi32(wide, 16));
    }
    if constexpr (to_f16) _mm256_storeu_si256(to(k), _mm512_cvtps_ph(_mm512_loadu_ps(x + k), 0));
    if constexpr (from_codes) {
      const __m128i in = _mm_loadu_si128((const __m128i*)(x + k));
      _mm512_storeu_si512(y + k, std::is_signed_v<X> ? _mm512_cvtepi8_epi32(in) : _mm512_cvtepu8_epi32(in));
    }
  }
#endif
#ifdef __AVX512BF16__
  for (; to_bf16 && k + 16 <= N; k += 16)
    if constexpr (to_bf16) _mm256_storeu_si256(to(k), (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(x + k)));
#endif
#ifdef __AVX2__
  for (; (from_f16 || from_bf16 || to_f16 || from_codes) && k + 8 <= N; k += 8) {
    if constexpr (from_f16) _mm256_storeu_ps(y + k, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(x + k))));
    if constexpr (from_bf16) {
      const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)(x + k)));
      _mm256_storeu_si256((__m256i*)(y + k), _mm256_slli_epi32(wide, 16));
    }
    if constexpr (to_f16) _mm_storeu_si128((__m128i*)(y + k), _mm256_cvtps_ph(_mm256_loadu_ps(x + k), 0));
    if constexpr (from_codes) {
      const __m128i in = _mm_loadl_epi64((const __m128i*)(x + k));
      _mm256_storeu_si256((__m256i*)(y + k), std::is_signed_v<X> ? _mm256_cvtepi8_epi32(in) : _mm256_cvtepu8_epi32(in));
    }
  }
  if constexpr (to_bf16)
    for (; k + 16 <= N; k += 16) {
      const auto half = [=](int64_t j) {
        const __m256i bits = _mm256_loadu_si256((const __m256i*)(x + k + j)), last = _mm256_srli_epi32(bits, 16);
        const __m256i up = _mm256_add_epi32(_mm256_and_si256(last, _mm256_set1_epi32(1)), _mm256_set1_epi32(0x7fff));
        return _mm256_srli_epi32(_mm256_add_epi32(bits, up), 16);
      };
      _mm256_storeu_si256((__m256i*)(y + k), _mm256_permute4x64_epi64(_mm256_packus_epi32(half(0), half(8)), 0xd8));
    }
#endif
  if (k < N) {
#pragma omp simd
    for (int64_t j = 0; j < N; j++) {
      if constexpr (std::is_integral_v<X>) y[j] = static_cast<Y>(x[j]);
      else y[j] = from_float<Y>(to_float(x[j]));
    }
  }
}

#if defined(__AVX2__) && defined(__FMA__)
constexpr bool CONVERTS = true;
// N floats, rounded to codes from low to high. What no int32 can hold becomes the lowest, and is noted.
template <int64_t N, typename Q>
IN_PLACE void saturate(const float* x, Q* y, Q low, Q high) {
  constexpr bool with_sign = std::is_signed_v<Q>;
  int64_t k = 0;
#ifdef __AVX512BW__
  for (; k + 64 <= N; k += 64) {  // to 16 bits, to 8, and back into their order
    const auto in = [=](int64_t j) { return _mm512_cvtps_epi32(_mm512_loadu_ps(x + k + j)); };
    const __m512i a = _mm512_packs_epi32(in(0), in(16)), b = _mm512_packs_epi32(in(32), in(48));
    const __m512i bytes = with_sign ? _mm512_packs_epi16(a, b) : _mm512_packus_epi16(a, b);
    const __m512i l = _mm512_set1_epi8(low), h = _mm512_set1_epi8(high);
    const __m512i above = with_sign ? _mm512_max_epi8(bytes, l) : _mm512_max_epu8(bytes, l);
    const __m512i inside = with_sign ? _mm512_min_epi8(above, h) : _mm512_min_epu8(above, h);
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    _mm512_storeu_si512(y + k, _mm512_permutexvar_epi32(order, inside));
  }
  for (; k + 32 <= N; k += 32) {
    const auto in = [=](int64_t j) { return _mm512_cvtps_epi32(_mm512_loadu_ps(x + k + j)); };
    const __m512i above = _mm512_max_epi16(_mm512_packs_epi32(in(0), in(16)), _mm512_set1_epi16(low));
    const __m256i bytes = _mm512_cvtepi16_epi8(_mm512_min_epi16(above, _mm512_set1_epi16(high)));
    const __m256i order = _mm256_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7);
    _mm256_storeu_si256((__m256i*)(y + k), _mm256_permutevar8x32_epi32(bytes, order));
  }
#else
  for (; k + 32 <= N; k += 32) {
    const auto in = [=](int64_t j) { return _mm256_cvtps_epi32(_mm256_loadu_ps(x + k + j)); };
    const __m256i a = _mm256_packs_epi32(in(0), in(8)), b = _mm256_packs_epi32(in(16), in(24));
    const __m256i bytes = with_sign ? _mm256_packs_epi16(a, b) : _mm256_packus_epi16(a, b);
    const __m256i l = _mm256_set1_epi8(low), h = _mm256_set1_epi8(high);
    const __m256i above = with_sign ? _mm256_max_epi8(bytes, l) : _mm256_max_epu8(bytes, l);
    const __m256i inside = with_sign ? _mm256_min_epi8(above, h) : _mm256_min_epu8(above, h);
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    _mm256_storeu_si256((__m256i*)(y + k), _mm256_permutevar8x32_epi32(inside, order));
  }
#endif
  for (; k + 8 <= N; k += 8) {
    const __m256i whole = _mm256_cvtps_epi32(_mm256_loadu_ps(x + k));
    const __m256i above = _mm256_max_epi32(whole, _mm256_set1_epi32(low));
    const __m256i inside = _mm256_min_epi32(above, _mm256_set1_epi32(high));
    const __m128i half = _mm_packs_epi32(_mm256_castsi256_si128(inside), _mm256_extracti128_si256(inside, 1));
    _mm_storel_epi64((__m128i*)(y + k), with_sign ? _mm_packs_epi16(half, half) : _mm_packus_epi16(half, half));
  }
  for (; k < N; k++)
    y[k] = static_cast<Q>(std::min<int32_t>(std::max<int32_t>(_mm_cvtss_si32(_mm_set_ss(x[k])), low), high));
}
#else
constexpr bool CONVERTS = false;
template <int64_t N, typename Q>
inline void saturate(const float*, Q*, Q, Q) {}
#endif

// f(careful): without care, and with it where the processor then has noted what fits no int32, if that is to
// be LOOKED_AT. Its notes are left as they were.
template <bool LOOKED_AT, typename F>
inline void until_it_fits(const F& f) {
#ifdef __SSE2__
  if constexpr (LOOKED_AT) {
    constexpr unsigned INVALID = 1, NO_TRAP = 0x80;
    const unsigned before = _mm_getcsr();
    _mm_setcsr((before | NO_TRAP) & ~INVALID);
    f(false);
    asm volatile("" ::: "memory");  // what was computed is stored
    const bool noted = _mm_getcsr() & INVALID;
    _mm_setcsr(before);
    if (noted) f(true);
    return;
  }
#endif
  f(false);
}

// --- before memory is needed, and past the caches ---
// It is asked for `ahead` bytes early; what moves `far` bytes or more is written past the caches.
struct How { int64_t ahead, far, threads; };

// Intel's processors have few places for what is on its way to the first cache, and more for the second: there it is
// asked for, and not by a loop that reads faster than it comes.
#if defined(INTEL)
constexpr int NEAREST = 2;  // as __builtin_prefetch counts: the second cache
#else
constexpr int NEAREST = 3;
#endif

template <typename T>
IN_PLACE void ask_for(const T* x, int64_t values, int64_t ahead) {
  for (int64_t k = 0; k < values; k += 64 / sizeof(T)) __builtin_prefetch(x + k + ahead, 0, NEAREST);
}

// Half of that: where a loop is so short that the rest is asked for elsewhere. Not of halves,
// which are fewer bytes: with them loops took longer; nor on Intel's processors.
template <typename T>
IN_PLACE void ask_for_some(const T* x, int64_t values, int64_t ahead) {
  for (int64_t k = 0; k < values && sizeof(T) == 4 && NEAREST == 3; k += 128 / sizeof(T)) __builtin_prefetch(x + k + ahead);
}

// The same where it is written.
template <typename T>
IN_PLACE void ask_to_write(T* x, int64_t values) {
  for (int64_t k = 0; k < values; k += 64 / sizeof(T)) __builtin_prefetch(x + k, 1);
}

// A processor that writes a line reads it first, unless it is told that nobody reads it soon. Those
// other than x86 see by themselves that line after line is written.
constexpr int64_t LINE_PART = 16;  // bytes that are written at once

template <typename T>
inline bool may_be_far(const T* y) { return reinterpret_cast<uintptr_t>(y) % LINE_PART == 0; }

template <int64_t N, typename T>
inline void write_far(const T* x, T* y) {
#ifdef __SSE2__
  for (int64_t k = 0; k < N; k += LINE_PART / sizeof(T))
    _mm_stream_si128(reinterpret_cast<__m128i*>(y + k), *reinterpret_cast<const __m128i*>(x + k));
#else
  std::memcpy(y, x, N * sizeof(T));
#endif
}

// Before another core may read what was written so.
inline void end_far() {
#ifdef __SSE2__
  _mm_sfence();
#endif
}

// Matrices in registers: an instruction multiplies sixteen rows by sixteen lanes, on processors with Intel's AMX.
// One of the right is multiplied with four of the left, since reading them takes longer.
//
// Where PLAY_MATRICES is defined loops do what these instructions do, on any processor: for tests.

#pragma once

#include "loops_numbers.h"

#if defined(__AVX512BF16__) && defined(__AVX512VNNI__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#if defined(PLAY_MATRICES)
#define HAS_MATRICES
#elif defined(__AMX_BF16__) && defined(__AMX_INT8__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#define HAS_MATRICES
#endif
#endif

#if defined(HAS_MATRICES)

namespace {

constexpr int64_t SIDE = 16, HEIGHT = 4 * SIDE;  // lanes, and rows, of the sums that are held

#if !defined(PLAY_MATRICES)

// A thread multiplies matrices as long as it holds one of these; sums are floats, or whole numbers.
template <typename Sum>
struct Matrices {
  // The system is asked once: it then keeps room for what these registers hold.
  static bool allowed() {
    static const bool said = syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* their data */) == 0;
    return said;
  }
  Matrices() {
    alignas(64) const struct {
      uint8_t palette = 1, start = 0, none[14] = {};
      uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 32};
      uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 8, 16};
    } shapes;
    _tile_loadconfig(&shapes);
  }
  ~Matrices() { _tile_release(); }
  Matrices(const Matrices&) = delete;

#define FOUR_TIMES(WHAT) WHAT(0) WHAT(1) WHAT(2) WHAT(3)
  void clear() {
#define CLEAR(i) _tile_zero(i);
    FOUR_TIMES(CLEAR)
  }
  void store(Sum (*to)[SIDE]) {
#define STORE(i) _tile_stored(i, to + i * SIDE, 64);
    FOUR_TIMES(STORE)
  }
  // sums [row, lane] += left [row, 16] times right [16, lane], pairs in bfloat16
  void add_pairs(const uint32_t (*left)[SIDE], const uint32_t* right) {
    _tile_loadd(4, right, 64);
#define ADD_PAIRS(i) _tile_loadd(5, left + i * SIDE, 64); _tile_dpbf16ps(i, 5, 4);
    FOUR_TIMES(ADD_PAIRS)
  }
  // sums [row, lane] += u [row, COUNT] times x [COUNT / 4, lane, 4], of 64 columns or 32; rows of u are apart so many bytes
  template <int COUNT>
  void add_bytes(const uint8_t* u, int64_t apart, const int8_t* x) {
    if constexpr (COUNT == 64) {
      _tile_loadd(4, x, 64);
#define ADD_64(i) _tile_loadd(5, u + i * SIDE * apart, apart); _tile_dpbusd(i, 5, 4);
      FOUR_TIMES(ADD_64)
    } else {
      _tile_loadd(6, x, 64);
#define ADD_32(i) _tile_loadd(7, u + i * SIDE * apart, apart); _tile_dpbusd(i, 7, 6);
      FOUR_TIMES(ADD_32)
    }
  }
};

#else

template <typename Sum>
struct Matrices {
  static bool allowed() { return true; }
  Sum sums[HEIGHT][SIDE];

  void clear() { std::memset(sums, 0, sizeof(sums)); }
  void store(Sum (*to)[SIDE]) { std::memcpy(to, sums, sizeof(sums)); }
  void add_pairs(const uint32_t (*left)[SIDE], const uint32_t* right) {
    over_sums([&](int64_t r, int64_t lane) {
      Sum sum = 0;
      for (int64_t i = 0; i < SIDE; i++) {
        const uint32_t a = left[r][i], b = right[i * SIDE + lane];
        sum += same_bits<float>(a << 16) * same_bits<float>(b << 16);
        sum += same_bits<float>(a & 0xffff0000u) * same_bits<float>(b & 0xffff0000u);
      }
      return sum;
    });
  }
  template <int COUNT>
  void add_bytes(const uint8_t* u, int64_t apart, const int8_t* x) {
    over_sums([&](int64_t r, int64_t lane) {
      Sum sum = 0;
      for (int64_t i = 0; i < COUNT; i++) sum += u[r * apart + i] * x[i / 4 * 64 + lane * 4 + i % 4];
      return sum;
    });
  }

 private:
  template <typename F>
  void over_sums(F f) {
    for (int64_t r = 0; r < HEIGHT; r++)
      for (int64_t lane = 0; lane < SIDE; lane++) sums[r][lane] += f(r, lane);
  }
};

#endif

}  // namespace

#endif

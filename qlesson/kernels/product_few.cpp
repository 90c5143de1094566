// Few float inputs times packed codes.
//
// Where a processor multiplies bytes, the inputs become digits. Elsewhere a row becomes numbers in
// registers, and is multiplied there: for one input or two, products are summed in each lane, and the sums
// multiplied by the scale of the lane's group; for more, the numbers are multiplied by their scales first.

#include <cmath>

#include "product_digits.h"

namespace {

struct FewInputs {
  int64_t count, blocks;  // inputs, those that fill up with zeros too
  int64_t begin;          // the first place that is held, of a block
  Buffer<float> x, sums;  // [places / LANES, count, LANES] in order, filled up with zeros; [count, blocks] for minima
  IN_PLACE FewInputs(const Weight& w, const Real* given, int64_t m, int64_t count, int64_t begin = 0)
      : count(count), blocks(w.blocks() + 8), begin(begin), x(count * ((w.blocks() + 1) * BLOCK - begin)),
        sums(MINIMA ? count * blocks : 0) {
    for (int64_t t = 0; t < m; t++) {
      const Real* from = given + t * w.k;
      over_places(w, begin, [&](int64_t i, int64_t first, const int32_t* order) {
        for (int64_t lane = 0; lane < LANES; lane++)
          if (const int64_t column = first + order[lane]; column < w.k) x[place(t, i) + lane] = to_float(from[column]);
      });
      for (int64_t i = 0; MINIMA && i < w.k; i++) sums[t * blocks + i / BLOCK] += to_float(from[i]);
    }
  }
  // An inf among a sum's inputs times its minimum meets another inf: as one of many it meets W_hat.
  bool finite() const {
    float off = 0;
    for (const float sum : sums) off += sum - sum;
    return off == 0;
  }
  int64_t place(int64_t t, uint64_t i) const { return ((i - begin) / LANES * count + t) * LANES + i % LANES; }
};

// A compiler knows four counts of inputs; others are filled up.
constexpr int64_t filled_up(int64_t m) { return m <= 2 ? m : m <= 4 ? 4 : FEW; }

// f(the count), where the compiler knows it; M is m, or 0
template <int M, typename F>
IN_PLACE void with_count(int64_t m, const F& f) {
  if (M == 1 || m == 1) return f(std::integral_constant<int, 1>());
  if (filled_up(m) == 2) return f(std::integral_constant<int, 2>());
  return filled_up(m) == 4 ? f(std::integral_constant<int, 4>()) : f(std::integral_constant<int, FEW>());
}

// Adds to y [T] the products of the blocks of 256 of a row: without AVX2, so that a vector has one group a lane.
template <int T>
void sum_groups(const Weight& w, Number numbers, const Row& row, const FewInputs& x, WideFloats* y) {
  constexpr int SUMS = T == 1 ? 4 : 2;  // a sum waits for the one before it
  const uint8_t* at = row.words;
  const float* some = x.x.data();
  for (int64_t i = 0; i < w.longs(); i++) {
    WideFloats sums[SUMS][T] = {}, s[Number::SLOTS], u[4];
    if (ZERO_POINTS) numbers.take(load<Floats>(&row.zero[8 * i]));
#pragma GCC unroll 8
    for (int64_t j = 0; j < 8 * FIELD / LANES; j++, at += WIDE) {
      const WideWords words = load_once<WideWords>(at);
      if (j * WIDE % 64 == 0) __builtin_prefetch(at + AHEAD, 0, NEAREST);
#pragma GCC unroll 2
      for (int part = 0; part < 8 / FIELD; part++) {
        numbers(words, part, u);
#pragma GCC unroll 4
        for (int f = 0; f < 4; f++)
          for (int t = 0; t < T; t++, some += LANES) {
            WideFloats& sum = sums[f * SUMS / 4][t];
            sum = multiply_add(u[f], load<WideFloats>(some), sum);
          }
      }
    }
    Number::spread(load<Floats>(&row.s[8 * i]), s);
    for (int t = 0; t < T; t++) {
      for (int c = 1; c < SUMS; c++) sums[0][t] += sums[c][t];
      y[t] = multiply_add(sums[0][t], s[0], y[t]);
    }
  }
}

// Adds to y [T] the products of a block of 32. Of one that is not whole they are summed before: what fills it up
// is 0 times a scale, and a scale may be infinite.
template <int T>
IN_PLACE void add_block(const Number& numbers, const uint8_t* words, float s, float zero, const float* x, WideFloats* y,
                        bool whole = true) {
  WideFloats u[BLOCK / LANES];
  block(numbers, words, zero - WideFloats{}, u);
  for (int t = 0; t < T; t++) {
    WideFloats sum = u[0] * load<WideFloats>(x + t * LANES);
    for (int64_t f = 1; f < BLOCK / LANES; f++) sum = multiply_add(u[f], load<WideFloats>(x + (f * T + t) * LANES), sum);
    if (whole) y[t] = multiply_add(sum, s - WideFloats{}, y[t]);
    else y[t][0] += s * ::sum(folded(sum));
  }
}

// And of those behind the blocks of 256 of a row that was read from the block `first` on.
template <int T>
IN_PLACE void add_rest(const Weight& w, const Number& numbers, const Row& row, const FewInputs& x, int64_t first, WideFloats* y) {
  for (int64_t i = w.longs() * 8; i < w.blocks(); i++)
    add_block<T>(numbers, row.words_of(w, i), row.s[i - first], row.zero[i - first], &x.x[x.place(0, i * BLOCK)], y,
                 i < w.whole());
}

// Adds to y [T] what minima add, in blocks from `first`, the first of a block of 256, to `end`.
template <int T>
IN_PLACE void add_minima(const Row& row, const FewInputs& x, int64_t first, int64_t end, Floats* y) {
  for (int64_t i = first; MINIMA && i < end; i += 8)
    for (int t = 0; t < T; t++)
      y[t] = multiply_add(load<Floats>(&row.m[i - first]), load<Floats>(&x.sums[t * x.blocks + i]), y[t]);
}

// y of some rows, eight at most, from the eight lanes of each: they are added up.
IN_PLACE void store_sums(Floats* x, const float* bias, int64_t row, int64_t count, Real* y) {
  transpose(x);
  store_rows(((x[0] + x[1]) + (x[2] + x[3])) + ((x[4] + x[5]) + (x[6] + x[7])), bias, row, count, y);
}

template <int T>
void row_by_row(const Weight& given, const FewInputs& x, int64_t m, const float* bias, int64_t begin, int64_t end, Real* y) {
  const Weight w = given;  // nothing that is written can change a copy
  Row row(w);
  const Number numbers(w);
  Floats all[T][TOGETHER] = {};
  for (int64_t top = begin; top < end; top += TOGETHER) {
    const int64_t count = std::min(TOGETHER, end - top);
    for (int64_t r = 0; r < count; r++) {
      WideFloats found[T] = {};
      Floats others[T] = {};
      row.read(w, top + r, 0, w.blocks());
      sum_groups<T>(w, numbers, row, x, found);
      add_rest<T>(w, numbers, row, x, 0, found);
      add_minima<T>(row, x, 0, w.blocks(), others);
      for (int t = 0; t < T; t++) all[t][r] = folded(found[t]) + others[t];
    }
    for (int64_t t = 0; t < m; t++) store_sums(all[t], bias, top, count, y + t * w.n);
  }
}

// Rows of less than 256 codes: what is asked for each row takes as long as its products, so a `Row` is too much.
inline bool is_short(const Weight& w) {
  return BITS == FIELD && !MINIMA && w.k < LONG && w.k % BLOCK == 0 && w.per_group() == 1;
}

template <int T>
void short_rows(const Weight& given, const FewInputs& x, int64_t m, const float* bias, int64_t begin, int64_t end, Real* y) {
  const Weight w = given;
  const Number numbers(w);
  const int64_t blocks = w.whole(), to_next = w.shared ? 0 : blocks;
  Floats all[T][TOGETHER] = {};
  alignas(32) float s[(TOGETHER + 1) * 8], zero[(TOGETHER + 1) * 8] = {static_cast<float>(w.low)};
  for (int64_t top = begin; top < end; top += TOGETHER) {
    const int64_t count = std::min(TOGETHER, end - top), held = std::max(blocks, to_next * count);
    steps(w, w.scale, top, 0, held, s);
    if (ZERO_POINTS) zeros(w, top, 0, held, zero);
    for (int64_t r = 0; r < count; r++) {
      WideFloats found[T] = {};
      for (int64_t i = 0; i < blocks; i++) {
        const int64_t step = r * to_next + i;
        add_block<T>(numbers, w.row(top + r) + i * BLOCK_BYTES, s[step], zero[ZERO_POINTS ? step : 0], &x.x[i * BLOCK * T], found);
      }
      for (int t = 0; t < T; t++) all[t][r] = folded(found[t]);
    }
    for (int64_t t = 0; t < m; t++) store_sums(all[t], bias, top, count, y + t * w.n);
  }
}

// Adds to y [R, T] the products of some blocks of 256 of R rows, their numbers multiplied by their scales.
template <int R, int T>
void scale_first(Number given, const Row* rows, const float* x, int64_t count, int64_t ahead, WideFloats* y) {
  WideFloats sums[R][T], s[R][Number::SLOTS], u[R][4];
  std::memcpy(sums, y, sizeof(sums));
  for (int64_t i = 0; i < count; i++) {
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) Number::spread(load<Floats>(&rows[r].s[8 * i]), s[r]);
    for (int64_t j = 0; j < 8 * FIELD / LANES; j++) {
#pragma GCC unroll 2
      for (int part = 0; part < 8 / FIELD; part++) {
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
          const uint8_t* at = rows[r].words + i * 32 * FIELD + j * WIDE;
          if (part == 0 && j * WIDE % 64 == 0) __builtin_prefetch(at + ahead, 0, NEAREST);
          if (ZERO_POINTS) given.take(load<Floats>(&rows[r].zero[8 * i]));
          given(load_once<WideWords>(at), part, u[r]);
#pragma GCC unroll 4
          for (int f = 0; f < 4; f++) u[r][f] *= s[r][Number::slot(f)];
        }
#pragma GCC unroll 4
        for (int f = 0; f < 4; f++)
#pragma GCC unroll 8
          for (int t = 0; t < T; t++, x += LANES) {
            const WideFloats some = load_once<WideFloats>(x);
#pragma GCC unroll 8
            for (int r = 0; r < R; r++) sums[r][t] = multiply_add(u[r][f], some, sums[r][t]);
          }
      }
    }
  }
  std::memcpy(y, sums, sizeof(sums));
}

// The inputs of `near` blocks stay in the first cache, while some rows go by.
template <int T>
void rows_by_columns(const Weight& w, const FewInputs& x, int64_t m, const float* bias, int64_t begin, int64_t end, Real* y) {
  constexpr int R = WIDE < 64 ? 8 / T : 2;  // as many sums as there are registers for
  constexpr int64_t TILE = 12, near = 32 / T;
  const Number numbers(w);
  std::vector<Row> rows(R, Row(w));
  for (int64_t top = begin; top < end; top += TILE) {
    const int64_t count = std::min(TILE, end - top);
    alignas(64) WideFloats sums[TILE * T] = {};
    Floats others[TILE * T] = {};
    for (int64_t first = 0; first == 0 || first < w.longs(); first += near) {
      const int64_t last = std::min(first + near, w.longs()), blocks = last == w.longs() ? w.blocks() : last * 8;
      for (int64_t at = 0; at < count; at += R) {
        for (int64_t r = 0; r < R; r++) rows[r].read(w, std::min(top + at + r, end - 1), first * 8, blocks);
        const float* from = &x.x[x.place(0, first * LONG)];
        scale_first<R, T>(numbers, rows.data(), from, last - first, 2 * R * w.row_bytes, sums + at * T);
        for (int64_t r = 0; r < R; r++) {
          if (last == w.longs()) add_rest<T>(w, numbers, rows[r], x, first * 8, sums + (at + r) * T);
          add_minima<T>(rows[r], x, first * 8, blocks, others + (at + r) * T);
        }
      }
    }
    for (int64_t t = 0; t < m; t++)
      for (int64_t r = 0; r < count; r++)
        y[t * w.n + top + r] = with_bias(sum(folded(sums[r * T + t]) + others[r * T + t]), bias, top + r);
  }
}

#if defined(__AVX2__)

// Of eight rows some blocks of 256 go by after another: how far on lies what is read AHEAD bytes later.
struct Ahead {
  int64_t rows, within, beyond;  // rows later; the bytes to there, in these blocks and past the eighth row
  Ahead(const Weight& w, int64_t first, int64_t last, int64_t beside) {
    constexpr int64_t LONG_BYTES = LONG / 8 * BITS;
    const bool whole = first == 0 && last == w.longs();  // rows go by as they lie
    const int64_t part = (last - first) * LONG_BYTES;
    const int64_t to_next = last < w.longs() ? part : TOGETHER * w.row_bytes - first * LONG_BYTES;
    rows = whole ? 0 : std::clamp(AHEAD / part / beside * beside, beside, TOGETHER);
    within = whole ? AHEAD : rows * w.row_bytes;
    beyond = (rows - TOGETHER) * w.row_bytes + to_next;
  }
  int64_t of(int64_t row) const { return row + rows < TOGETHER ? within : beyond; }
};

// Inputs as whole numbers: the parts of `near` blocks of 256 stay in the first cache, while eight rows go
// by. M is m where it is known: one row goes by after another, as memory gives them soonest. For more inputs
// two do, where a vector holds the sums of both.
template <int M>
void digits_by_row(const Weight& given, const Digits& digits, const FewInputs& behind, int64_t m, const float* bias,
                   int64_t begin, int64_t end, Real* y) {
  typedef std::conditional_t<M || QUADS == 8, Floats, WideFloats> F;
  constexpr int64_t R = sizeof(F) / sizeof(Floats), CACHE = 28 << 10;
  const Weight w = given;
  const int64_t longs = w.longs(), fit = CACHE / sizeof(Digits::Part) / m;
  const int64_t goes = (longs + fit - 1) / fit, near = longs ? (longs + goes - 1) / goes : 1;  // alike
  const bool beyond = MINIMA || w.blocks() > longs * 8;
  const Number numbers(w);
  Row rows[] = {Row(w), Row(R > 1 ? w : Weight{})};
  for (int64_t top = begin; top < end; top += TOGETHER) {
    const int64_t count = std::min(TOGETHER, end - top);
    F sums[TOGETHER / R][M ? M : FEW] = {};
    Floats others[R > 1 ? TOGETHER : 1][FEW] = {};
    for (int64_t next = 0; next == 0 || (!M && next < longs); next += near) {
      const int64_t first = M ? 0 : next, last = M ? longs : std::min(next + near, longs);
      const int64_t blocks = last == longs ? w.blocks() : last * 8;
      const Ahead ahead(w, first, last, R);
      for (int64_t r = 0; r < count; r += R) {
        int64_t at[R];
        for (int64_t i = 0; i < R; i++) {
          at[i] = std::min(top + r + i, end - 1);
          rows[i].read_steps(w, at[i], first * 8, blocks);
        }
        for (int64_t i = 0; beyond && i < R; i++)
          with_count<M>(m, [&](auto T) {
            Floats* more = R > 1 ? others[r + i] : reinterpret_cast<Floats*>(sums[r]);
            WideFloats rest[T] = {};
            if (last == longs) add_rest<T>(w, numbers, rows[i], behind, first * 8, rest);
            add_minima<T>(rows[i], behind, first * 8, blocks, more);
            for (int t = 0; t < T; t++) more[t] += folded(rest[t]);
          });
        add_digits<M>(w, rows, at, digits, m, first, last - first, ahead.of(r), sums[r / R]);
      }
    }
    for (int64_t t = 0; t < m; t++) {
      Floats found[TOGETHER];
      for (int64_t r = 0; r < TOGETHER; r++) {
        found[r] = load<Floats>(reinterpret_cast<const Floats*>(&sums[r / R][t]) + r % R);
        if (R > 1) found[r] += others[r][t];
      }
      store_sums(found, bias, top, count, y + t * w.n);
    }
  }
}

// Up to how many inputs go as digits. Two of 16 bits, for codes of 8, cost more than three of bytes.
constexpr int64_t AS_DIGITS = BYTES || DIGITS == 2 ? FEW : 6;
#else
constexpr int64_t AS_DIGITS = 0;
struct Digits {
  Digits(const Weight&, const Real*, int64_t) {}
  bool finite() const { return true; }
};
#endif

// Up to FEW inputs, ready for all rows.
struct Go {
  int64_t m;
  bool shorts, as_digits;
  Digits digits;
  FewInputs inputs;  // and with digits, those behind the blocks of 256
  Go(const Weight& w, const Real* x, int64_t m)
      : m(m), shorts(is_short(w)), as_digits(m <= AS_DIGITS && !shorts), digits(w, x, as_digits ? m : 0),
        inputs(w, x, m, filled_up(m), as_digits ? w.longs() * LONG : 0) {}

  bool finite() const { return digits.finite() && inputs.finite(); }

  void rows(const Weight& w, const float* bias, int64_t begin, int64_t end, Real* y) const {
    if (shorts) return with_count<0>(m, [&](auto T) { short_rows<T>(w, inputs, m, bias, begin, end, y); });
#if defined(__AVX2__)
    if (as_digits && m == 1) return digits_by_row<1>(w, digits, inputs, m, bias, begin, end, y);
    if (as_digits) return digits_by_row<0>(w, digits, inputs, m, bias, begin, end, y);
    if constexpr (AS_DIGITS < FEW) rows_by_columns<FEW>(w, inputs, m, bias, begin, end, y);
#else
    with_count<0>(m, [&](auto T) {
      if constexpr (T <= 2) row_by_row<T>(w, inputs, m, bias, begin, end, y);
      else rows_by_columns<T>(w, inputs, m, bias, begin, end, y);
    });
#endif
  }
};

struct Rows {  // as product.py packs it
  const Weight* w;
  const int64_t* ids;
  int64_t count;
  Real* out;  // [count, k]
};

// A finite number that does not fit a half becomes its largest.
inline Real fitting(float value) {
  constexpr float most = std::is_same_v<Real, float16> ? 65504 : 0x1.fep127f;
  return as_real(sizeof(Real) == 2 && std::isfinite(value) ? std::clamp(value, -most, most) : value);
}

}  // namespace

// y = x w_hat^T + bias, for blocks of 32 that have one scale. Returns 0 where an input is not finite, since whole
// numbers know no inf and no NaN, or with minima a sum of inputs: it goes as one of many.
extern "C" int linear(const Linear* of) {
  return unless_short([&] {
    const Weight& w = *of->w;
    std::vector<Go> goes;
    goes.reserve((of->m + FEW - 1) / FEW);
    for (int64_t t = 0; t < of->m; t += FEW) {
      goes.emplace_back(w, of->x + t * w.k, std::min(FEW, of->m - t));
      if (!goes.back().finite()) return 0;
    }
    const int64_t near = goes.size() > 1 ? rows_nearby(w) : w.n;
    share_rows(w, of->threads, [&](int64_t from, int64_t to) {
      for (int64_t first = from; first < to; first += near)
        for (size_t i = 0; i < goes.size(); i++)
          goes[i].rows(w, of->bias, first, std::min(to, first + near), of->y + i * FEW * w.n);
    });
    return 1;
  });
}

// w_hat of some rows, the bits that `dequantize` gives. Returns 0 where a number is none of a row.
extern "C" int rows(const Rows* of) {
  return unless_short([&] {
    const Weight& w = *of->w;
    for (int64_t i = 0; i < of->count; i++)
      if (of->ids[i] < 0 || of->ids[i] >= w.n) return 0;
    std::vector<float> filled(w.blocks() * BLOCK);
    for (int64_t i = 0; i < of->count; i++) {
      plain_values(w, of->ids[i], 0, w.blocks(), filled.data());
      std::transform(filled.data(), filled.data() + w.k, of->out + i * w.k, fitting);
    }
    return 1;
  });
}

"""The live figures of notebooks 00 to 06."""

import warnings
from functools import cache, partial

import torch

import qlesson as ql
from qlesson.error import ErrorShares, error_shares
from qlesson.qtensor import qparams_from_range
from qlesson.teach import figures
from qlesson.teach.draws import randn
from qlesson.teach.figures.drawing import evenly
from qlesson.teach.widgets import Slider, Switch, declare

_T = torch.tensor([[191.6, -13.5, 728.6], [92.14, 295.5, -184], [0, 684.6, 245.5]])
_BITS = partial(Slider, "bits", 2, 8, 1)
_grey_picture = cache(figures.grey_picture)


@cache
def _normals(rows, cols=None):
    shape = (rows,) if cols is None else (rows, cols)
    return randn(*shape, generator=torch.Generator().manual_seed(0))


@declare(
    "00",
    "A grey picture with 32 bits for each pixel, and the same pixels with fewer bits.",
    bits=_BITS(start=3),
)
def _fewer_bits(bits):
    picture = _grey_picture()
    fewer = ql.fake_quantize(picture, ql.Scheme(bits))
    sentences = [
        f"{bits} bits for each pixel, in place of 32.",
        f"Pixels: {picture.numel()} before, {fewer.numel()} after.",
        f"Levels of grey: {picture.unique().numel()} before, {fewer.unique().numel()} after.",
    ]
    return sentences, partial(figures.pictures, {"32 bits": picture, f"{bits} bits": fewer})


@declare(
    "01",
    "Nine values, what they come back as, and their errors.",
    s=Slider("scale s", 3.0, 5.0, 0.01, 3.5),
    z=Slider("zero point z", -110, -40, 1, -70),
)
def _guess(s, z):
    formula = ql.choose_qparams(_T)
    mine = _rounding_and_clipping(s, z)
    best = _rounding_and_clipping(*formula)
    low, high = ql.dequantize_affine(torch.tensor([-128, 127]), s, z)
    sentences = [
        f"s = {s:.2f}, z = {z}: the codes reach from {low:.1f} to {high:.1f}.",
        f"MSE {sum(mine):.3f} = rounding {mine.rounding:.3f} + clipping {mine.clipping:.3f}.",
        f"The formula, s = {formula.scale:.4f}, z = {formula.zero_point}: MSE {sum(best):.3f}.",
    ]
    return sentences, partial(figures.guess, _T, s, z, -128, 127)


def _rounding_and_clipping(s, z):
    q = ql.quantize_affine(_T, s, z, -128, 127)
    return error_shares(_T, ql.dequantize_affine(q, s, z), s)


@declare(
    "02",
    "A range of real values and the codes it maps to, and how many values each code gets.",
    r_min=Slider("r_min", -2.0, 3.0, 0.1, 2.0),
    r_max=Slider("r_max", 4.0, 8.0, 0.1, 6.0),
    include_zero=Switch("hold 0", False),
)
def _pile_up(r_min, r_max, include_zero):
    values = evenly(2, 6, 200)
    scheme = ql.Scheme(bits=5, include_zero=include_zero)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ql.ZeroPointClipped)
        qparams = qparams_from_range(torch.tensor(r_min), torch.tensor(r_max), scheme)
    x = ql.quantize(values, scheme, qparams)
    used, counts = x.q.unique(return_counts=True)
    codes = torch.tensor([scheme.quant_min, scheme.quant_max])
    low, high = ql.dequantize_affine(codes, *qparams)
    sentences = [
        f"Range {r_min:z.1f} to {r_max:.1f}, hold 0 {'on' if include_zero else 'off'}: "
        f"scale {x.scale:.4f}, zero point {x.zero_point} (codes {codes[0]} to {codes[1]}).",
        f"The codes mean {low:z.2f} to {high:.2f}; the values lie from 2 to 6.",
        f"{len(values)} different values go in, {len(used)} come back; "
        f"{counts.max()} of the {len(values)} share code {used[counts.argmax()]}.",
    ]
    return sentences, partial(figures.pile_up, values, r_min, r_max, scheme)


@declare(
    "03",
    "The values and the range that each mapping covers; what holds no value is hatched.",
    shift=Slider("shift", 0.0, 5.0, 0.25, 2.0),
    relu=Switch("ReLU", False),
)
def _one_sided(shift, relu):
    r = _normals(10_000) + shift
    r = r.relu() if relu else r
    symmetric = ql.quantize(r, ql.Scheme(8, "symmetric"))
    asymmetric = ql.quantize(r, ql.Scheme(8))
    seven = ql.fake_quantize(r, ql.Scheme(7))
    equal = (symmetric.dequantize() == seven).sum()
    wasted = torch.log2(symmetric.scale / asymmetric.scale)
    sentences = [
        f"Step at 8 bits: asymmetric {asymmetric.scale:.4f}, symmetric {symmetric.scale:.4f}: "
        f"{wasted:.2f} bits wasted.",
        f"Symmetric mode uses {symmetric.q.min()} to {symmetric.q.max()} of its codes -127 to 127.",
        f"8 bits symmetric and 7 bits asymmetric give the same for {equal} of {len(r)} values.",
    ]
    rows = {}
    for name, x in (("asymmetric", asymmetric), ("symmetric", symmetric)):
        codes = torch.tensor([x.scheme.quant_min, x.scheme.quant_max])
        rows[name] = (r, *ql.dequantize_affine(codes, x.scale, x.zero_point))
    return sentences, partial(figures.two_ranges, rows)


@declare(
    "04",
    "The staircase of a grey picture, and the picture that comes back.",
    bits=_BITS(start=3),
)
def _survivors(bits):
    picture, scheme = _grey_picture(), ql.Scheme(bits)
    x = ql.quantize(picture, scheme)
    r_hat = x.dequantize()
    survivors = r_hat.unique()
    named = ", ".join(f"{v:z.3f}" for v in survivors[:8])
    sentences = [
        f"{bits} bits: of {picture.unique().numel()} different values, "
        f"{len(survivors)} survive, {x.scale:.4f} apart.",
        f"They are {named}{' and higher' if len(survivors) > 8 else ''}.",
        f"No pixel is off by more than {ql.max_abs_error(picture, r_hat):.4f}.",
    ]
    return sentences, partial(figures.staircase_and_picture, picture, scheme)


@cache
def _normals_with_ten_outliers():
    r = _normals(10_000).clone()
    r[:5], r[5:10] = 20.0, -20.0
    return r


@cache
def _shares(bits, limit):
    r, scheme = _normals_with_ten_outliers(), ql.Scheme(bits, "symmetric")
    qparams = ql.symmetric_qparams(limit, scheme.quant_max)
    shares = error_shares(r, ql.quantize(r, scheme, qparams).dequantize(), qparams.scale)
    return ErrorShares(*(share.item() for share in shares))


@declare(
    "05",
    "Rounding error, clipping error and their sum, for every clip limit.",
    bits=_BITS(start=4),
    limit=Slider("clip limit", 1.0, 20.0, 0.5, 20.0),
)
def _clip(bits, limit):
    limits = [i / 2 for i in range(2, 41)]
    here = _shares(bits, limit)
    best = min(limits, key=lambda x: sum(_shares(bits, x)))
    sentences = [
        f"{bits} bits, range -{limit:.1f} to {limit:.1f}: "
        f"rounding {here.rounding:.4f} + clipping {here.clipping:.4f} = MSE {sum(here):.4f}.",
        f"The smallest MSE at {bits} bits: {sum(_shares(bits, best)):.4f}, at limit {best:.1f}.",
    ]
    r = _normals_with_ten_outliers()
    shares_at = partial(_shares, bits)
    return sentences, partial(figures.clip_sweep, r, bits, limits, limit, shares_at)


_WAYS = {
    "one scale per row": ql.PerAxis(0),
    "groups of 32": ql.PerGroup(32),
    "groups of 16": ql.PerGroup(16),
}


@cache
def _price_and_sqnr(times, bits, way):
    w = _normals(64, 1024).clone()
    w[:, ::128] *= times
    x = ql.quantize(w, ql.Scheme(bits, "symmetric", _WAYS[way]))
    return x.bits_per_value, ql.sqnr(w, x.dequantize()).item()


@declare(
    "06",
    "SQNR against bits per value, for a scale per row and for two sizes of groups.",
    times=Slider("8 columns times", 1, 12, 1, 1),
    price=Slider("bits per value", 4, 6, 1, 5),
)
def _equal_price(times, price):
    offers = zip((price, price - 1, price - 2), _WAYS, strict=True)
    bought = {(bits, way): _price_and_sqnr(times, bits, way) for bits, way in offers}
    best_bits, best_way = max(bought, key=lambda offer: bought[offer][1])
    larger = f", 8 of the columns {times} times as large" if times > 1 else ""
    sentences = [f"64 x 1024 normal weights{larger}."]
    for (bits, way), (cost, db) in bought.items():
        sentences.append(f"{bits} bits, {way}: {cost:.2f} bits per value, {db:.2f} dB.")
    sentences.append(f"Best at this price: {best_bits} bits, {best_way}.")

    def draw():
        curves = {}
        for way in _WAYS:
            points = [_price_and_sqnr(times, bits, way) for bits in (2, 3, 4, 5, 6)]
            curves[way] = (*zip(*points, strict=True), ["2", "3", "4", "5", "6"])
        return figures.error_by_price(curves, equal_price=price)

    return sentences, draw

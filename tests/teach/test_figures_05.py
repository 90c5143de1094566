"""The figures of notebook 05 draw what they say: errors."""

import numpy as np
import torch
from drawn import NORMAL, OUTLIERS, T, close, line, lines, steps, words

import qlesson as ql
from qlesson.error import error_shares
from qlesson.qtensor import qparams_from_range
from qlesson.teach import figures

BITS = [2, 3, 4, 5]


def clipped_to(limit, bits=4):
    scheme = ql.Scheme(bits, "symmetric")
    limit = torch.tensor(float(limit))
    return ql.quantize(OUTLIERS, scheme, qparams_from_range(-limit, limit, scheme))


CASES = {
    "error_band": [0.5, 0, -4, 3, -3.0, 2.5],
    "error_histogram": [OUTLIERS, clipped_to(3).dequantize(), clipped_to(3).scale.item()],
    "clip_sweep": [OUTLIERS, 4, [2.0, 4.0, 7.0, 10.0, 15.0, 20.0], 7.0],
    "sqnr_by_bits": [
        {"even": (BITS, [8.9, 16.2, 22.9, 29.3]), "other": (BITS[:2], [4.1, 9.0])},
    ],
}
# More data for the checks of the looks: crowded, narrow, empty, one-sided.
EXTRA = {
    "error_band": [[3.5788, -77, -128, 127, -184, 728.6]],
    "error_histogram": [
        [T, T + 0.5, 2.0],
        [NORMAL, NORMAL, 1.0],
        [T, T + 100, 2.0],
    ],
    "clip_sweep": [[OUTLIERS, 8, np.linspace(1, 21, 21), 20]],
    "sqnr_by_bits": [[{"even": ([2, 3, 4, 8, 16], [9, 16.4, 22.9, 48, 96.3])}]],
}


def draw(name, data=None):
    return getattr(figures, name)(*(CASES[name] if data is None else data))


def test_error_histogram():
    r, r_hat, scale = CASES["error_histogram"]
    shares = error_shares(r, r_hat, scale)
    fig = draw("error_histogram")
    assert fig.get_suptitle() == f"MSE = {ql.mse(r, r_hat):.4g}"
    off = (r_hat - r).abs() > scale / 2 + 1e-6
    for ax, name, count in zip(fig.axes, ("rounding", "clipping"), (~off, off), strict=True):
        share = getattr(shares, name)
        counts, edges, _ = steps(ax, f"{name} share {share:.6g}")
        assert counts.sum() == count.sum() > 0
        percent = 100 * share / ql.mse(r, r_hat)
        noun = f"{count.sum():,} values"
        assert ax.get_title("left") == f"{name}: {noun}, {percent:.3g} % of the MSE"
        sides = sorted({*x.get_xdata()}.pop() for x in ax.lines)
        close(sides, [-scale / 2, scale / 2])


def test_clip_sweep():
    r, bits, limits, chosen = CASES["clip_sweep"]
    ax = draw("clip_sweep").axes[0]
    total = line(ax, "rounding")[1] + np.nan_to_num(line(ax, "clipping")[1])
    x, seen = line(ax, "both: the MSE")
    close(x, [7.0, 10.0, 15.0, 20.0])
    close(seen, total[2:])
    by_hand = []
    for limit in limits:
        scale = torch.tensor(limit) / 7
        q = torch.clamp(torch.round(r / scale), -7, 7)
        by_hand.append(ql.mse(r, q * scale).item())
    close(total, by_hand)
    between = draw("clip_sweep", [r, bits, limits, 8.0]).axes[0]
    close(line(between, "both: the MSE")[0], [8.0, 10.0, 15.0, 20.0])
    close(line(ax, "chosen"), [[chosen], [by_hand[limits.index(chosen)]]])
    shares = [line(ax, name)[1][limits.index(7.0)] for name in ("rounding", "clipping")]
    assert ax.get_title("left") == (
        f"4 bits, limit 7: MSE {sum(shares):.4g}, rounding {shares[0]:.4g}, "
        f"clipping {shares[1]:.4g}"
    )
    assert ax.get_yscale() == "log"


def test_clipping_is_drawn_where_something_is_clipped():
    limits = [10.0, 15.0, 20.0]
    ax = figures.clip_sweep(OUTLIERS, 8, limits, 10.0).axes[0]
    x, y = line(ax, "clipping")
    assert [*np.isnan(y)] == [False, False, True]
    assert (y[:2] > 0).all() and list(x) == limits


def test_sqnr_by_bits():
    ax = draw("sqnr_by_bits").axes[0]
    close(line(ax, "even"), [BITS, [8.9, 16.2, 22.9, 29.3]])
    close(line(ax, "other")[1], [4.1, 9])
    x, y = line(ax, "6.02 dB per bit")
    close(np.diff(y), 6.02)
    assert words(ax) == ["+7.3", "+6.7", "+6.4"]
    ax = draw("sqnr_by_bits", EXTRA["sqnr_by_bits"][0]).axes[0]
    assert words(ax)[-1] == "+6.0 a bit"


def test_error_band_is_the_error_of_fake_quantize():
    (ax,) = draw("error_band").axes
    drawn = {}
    for label in ("rounded", "clipped"):
        x, y = line(ax, label)
        there = ~np.isnan(y)
        r = torch.tensor(x[there], dtype=torch.float32)
        close(y[there], ql.fake_quantize(r, ql.Scheme(3), ql.QParams(0.5, 0)) - r)
        drawn[label] = r, np.abs(y[there]).max()
    assert drawn["rounded"][1] <= 0.25 + 1e-6 < drawn["clipped"][1]
    assert drawn["clipped"][0].abs().min() >= 1.75 and drawn["rounded"][0].abs().max() <= 2.25
    assert sum(map(len, (r for r, _ in drawn.values()))) == 1401
    assert sorted(v for x in lines(ax, "s/2 = 0.25") for v in {*x.get_ydata()}) == [-0.25, 0.25]

"""What the live figure of notebook 05 says is true: where the range stops."""

import numpy as np
import torch

import qlesson as ql
from qlesson.error import error_shares
from qlesson.teach import play
from qlesson.teach.widgets import declarations

LIMITS = declarations()["05"].controls["limit"].values


def normals():
    r = torch.randn(10_000, generator=torch.Generator().manual_seed(0))
    r[:5], r[5:10] = 20.0, -20.0
    return r


def shares_of(r, bits, limit):
    last = 2 ** (bits - 1) - 1
    s, z = ql.symmetric_qparams(limit, last)
    q = ql.quantize_affine(r, s, z, -last, last)
    return [x.item() for x in error_shares(r, ql.dequantize_affine(q, s, z), s)]


def test_the_least_error_lies_inside(said):
    r, best_limits = normals(), []
    for bits in (2, 3, 4, 5, 6, 8):
        shares = [shares_of(r, bits, limit) for limit in LIMITS]
        rounding, clipping = torch.tensor(shares).T
        assert (clipping.diff() <= 0).all()
        assert bits < 4 or (rounding.diff() > 0).all()  # with few codes most values go to 0
        i = int((rounding + clipping).argmin())
        best_limits.append(LIMITS[i])
        text, _ = said("05", bits=bits, limit=LIMITS[i])
        a, b = shares[i]
        assert f"MSE {a + b:.4f}: rounding {a:.4f}, clipping {b:.4f}." in text
        assert f"step {LIMITS[i] / (2 ** (bits - 1) - 1):.4g}, " in text
        outside = int((r.abs() > LIMITS[i]).sum())
        assert f", {outside} of 10,000 values lie outside." in text
    assert all(1 < limit < 20 for limit in best_limits[:4])  # inside
    assert best_limits == sorted(best_limits)  # further out with more bits
    assert best_limits[2] == 7.5  # of 4 bits, as the notebook says


def test_at_8_bits_the_best_limit_clips_and_gains_next_to_nothing():
    """Near 19.9, between the last two limits of the Play; all ten lie outside."""
    r = normals()
    mse = {limit: sum(shares_of(r, 8, limit)) for limit in (i / 50 for i in range(900, 1001))}
    best = min(mse, key=mse.get)
    assert abs(best - 19.9) < 0.03 and 0.99 < mse[best] / mse[20] < 1
    assert list(LIMITS[-2:]) == [19.5, 20] and mse[19.5] > mse[20]


def test_a_bit_is_worth_six_decibels_once_the_step_is_small_beside_most_values():
    r = normals()
    mse = {bits: sum(shares_of(r, bits, 20.0)) for bits in (2, 3, 7, 8)}
    coarse, fine = (torch.tensor(mse[b] / mse[b + 1]).log10().item() * 10 for b in (2, 7))
    assert coarse < 0.1 and abs(fine - 6) < 0.1


def test_where_the_sum_is_least_is_found_by_moving_the_limit(said):
    """At the start one sum is in view, and the words of no setting name the best limit."""
    figure = play("05")
    total = next(x for x in figure.figure.axes[0].lines if x.get_label() == "both: the MSE")
    assert set(total.get_xdata()) == {20}
    assert "7.5" not in said("05", limit=20)[0]
    figure.controls["limit"].value = 7.0
    total = next(x for x in figure.figure.axes[0].lines if x.get_label() == "both: the MSE")
    assert list(total.get_xdata()) == [limit for limit in LIMITS if limit >= 7]


def test_the_line_of_clipping_ends_where_the_last_value_is_clipped():
    """With 8 bits ten values are clipped until their error is half a step, at 19.92."""
    figure = play("05")
    figure.controls["bits"].value = 8
    line = next(x for x in figure.figure.axes[0].lines if x.get_label() == "clipping")
    limits, clipping = np.asarray(line.get_data())
    drawn = limits[~np.isnan(clipping)]
    assert (clipping[:-1] > 0).all() and list(limits[-2:]) == [drawn[-1], 20] == [19.5, 20]

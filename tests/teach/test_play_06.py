"""What the live figure of notebook 06 says is true: another bit or smaller groups."""

import pytest
import torch

import qlesson as ql
from qlesson.teach import play, randn

HALF = torch.float16


def weights(times):
    w = randn(64, 1024, generator=torch.Generator().manual_seed(0))
    w[:, ::128] *= times
    return w


def priced(w, bits, granularity, scale_dtype):
    x = ql.quantize(w, ql.Scheme(bits, "symmetric", granularity, scale_dtype=scale_dtype))
    return x.bits_per_value, ql.sqnr(w, x.dequantize()).item()


def rows_at(w, price, scale_dtype):
    """SQNR on the straight line between the two numbers of bits around the price."""
    points = [priced(w, bits, ql.PerAxis(0), scale_dtype) for bits in range(2, 8)]
    for (a, low), (b, high) in zip(points, points[1:], strict=False):
        if a <= price <= b:
            return low + (high - low) * (price - a) / (b - a)
    raise AssertionError(price)


def sentence(way, price, db, rows):
    side = f"{abs(db - rows):.1f} {'above' if db > rows else 'below'} the rows' line."
    return f"4 bits, {way}: {price:.2f} bits per value, {db:.2f} dB, {side}"


@pytest.mark.parametrize("scales, scale_dtype", [("float16", HALF), ("float32", torch.float32)])
@pytest.mark.parametrize("times", [1, 2, 3, 10])
def test_groups_against_the_line_of_the_rows(said, times, scales, scale_dtype):
    w = weights(times)
    text, _ = said("06", times=times, scales=scales)
    price, db = priced(w, 4, ql.PerAxis(0), scale_dtype)
    assert f"4 bits, one scale per row: {price:.2f} bits per value, {db:.2f} dB." in text
    for size in (32, 16):
        price, db = priced(w, 4, ql.PerGroup(size), scale_dtype)
        assert sentence(f"groups of {size}", price, db, rows_at(w, price, scale_dtype)) in text


@pytest.mark.parametrize("times", [1, 5])  # at 5 the second digit tells them from exact ones
def test_scales_of_eight_bits(said, times):
    """The same with the two levels written out: code = round(s / S), S a float16 per row."""
    w = weights(times)
    text, _ = said("06", times=times, scales="8-bit")
    for size in (32, 16):
        scale = w.view(64, -1, size).abs().amax(2) / 7
        step = (scale.amax(1, keepdim=True) / 255).half().float()
        scale = (step * (scale / step).round().clamp(max=255)).unsqueeze(2)
        codes = (w.view(64, -1, size) / scale).round().clamp(-7, 7)
        db = ql.sqnr(w, (codes * scale).view_as(w)).item()
        price = 4 + 8 / size + (16 + 8) / 1024
        assert sentence(f"groups of {size}", price, db, rows_at(w, price, HALF)) in text


def test_the_factor_at_which_groups_of_16_cross_the_line(said):
    last = [said("06", times=times)[0].splitlines()[-1] for times in range(1, 13)]
    assert all("groups of 16" in line for line in last)
    assert [" above " in line for line in last] == [False, False] + [True] * 10


def test_which_scales_pay_on_normal_values(said):
    """With 8 bits both groups, with float32 neither, with float16 groups of 32 alone."""
    for scales, pays in (("8-bit", [1, 1]), ("float32", [0, 0]), ("float16", [1, 0])):
        lines = said("06", times=1, scales=scales)[0].splitlines()[-2:]
        assert [" above the" in line for line in lines] == pays


def test_groups_of_32_pay_on_normal_values_from_4_bits_on():
    (ax,) = play("06").figure.axes
    (heights,) = (x.get_ydata() for x in ax.get_lines() if x.get_label() == "groups of 32")
    assert [height > 0 for height in heights] == [False, False, True, True, True]  # 2 to 6 bits


@pytest.mark.parametrize("times", [1, 6])
def test_the_curves_are_heights_above_the_line_of_the_rows(times):
    figure = play("06")
    figure.controls["times"].value = times
    (ax,) = figure.figure.axes
    w = weights(times)
    curves = {line.get_label(): line.get_xydata().tolist() for line in ax.get_lines()}
    rows = curves.pop("one scale per row")
    assert [y for _, y in rows] == pytest.approx([0.0] * len(rows))
    assert list(curves) == ["groups of 32", "groups of 16"]
    for label, points in curves.items():
        for bits, point in zip(range(2, 7), points, strict=True):
            price, db = priced(w, bits, ql.PerGroup(int(label[-2:])), HALF)
            assert point == pytest.approx([price, db - rows_at(w, price, HALF)], abs=1e-4)

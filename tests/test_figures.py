"""Every figure draws what it says: its data, its words inside the canvas, its colours readable."""

import functools
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from looks import assert_looks, contrast

import qlesson as ql
from qlesson.error import error_shares
from qlesson.qtensor import qparams_from_range
from qlesson.teach import figures
from qlesson.teach.figures import drawing
from qlesson.teach.show import facts, png

T = torch.tensor([[191.6, -13.5, 728.6], [92.14, 295.5, -184], [0, 684.6, 245.5]])
FOUR = torch.tensor([-1.9, -0.4, 1.2, 2.9])
_G = torch.Generator().manual_seed(0)
NORMAL = torch.randn(2000, generator=_G)
OUTLIERS = torch.cat([NORMAL, torch.tensor([20.0, -20.0] * 3)])
RELU = NORMAL.clamp(min=0)
PICTURE = figures.grey_picture(32)
BITS = [2, 3, 4, 5]
GRANULARITIES = {
    "tensor": ql.PerTensor(),
    "row": ql.PerAxis(0),
    "column": ql.PerAxis(1),
    "pairs": ql.PerGroup(2),
}


def clipped_to(limit, bits=4):
    scheme = ql.Scheme(bits, "symmetric")
    limit = torch.tensor(float(limit))
    return ql.quantize(OUTLIERS, scheme, qparams_from_range(-limit, limit, scheme))


CASES = {
    "number_lines": [
        {"half": (FOUR, 0.5, -1, -8, 7), "quarter": (FOUR, 0.25, -2, -8, 7)},
        -5.0,
        6.0,
    ],
    "number_to_code": [T.flatten(), 3.5, -70, -128, 127],
    "round_half_even": [],
    "clip_or_wrap": [3.5, -70, -128, 127],
    "guess": [T.flatten(), 3.5, -70, -128, 127],
    "range_map": [2.0, 3.0, 1 / 255, -128, -128, 127, -638],
    "pile_up": [torch.linspace(2, 6, 50), 1.5, 5.5, ql.Scheme(5, include_zero=False)],
    "code_counts": [{"asymmetric": ql.quantize(RELU).q, "T": ql.quantize(T).q}, -128, 127],
    "two_ranges": [{"asymmetric": (RELU, 0.0, 5.0), "symmetric": (RELU, -5.0, 5.0)}],
    "staircase": [0.5, 0, -4, 3, -3.0, 2.5],
    "staircase_and_picture": [PICTURE, ql.Scheme(3)],
    "pictures": [{f"{b} bits": ql.fake_quantize(PICTURE, ql.Scheme(b)) for b in (8, 4, 2)}],
    "heatmaps": [{"T": T, "few": FOUR[None, :2]}],
    "error_histogram": [OUTLIERS, clipped_to(3).dequantize(), clipped_to(3).scale.item()],
    "clip_sweep": [OUTLIERS, 4, [2.0, 4.0, 7.0, 10.0, 15.0, 20.0], 7.0],
    "sqnr_by_bits": [
        {"even": (BITS, [8.9, 16.2, 22.9, 29.3]), "other": (BITS[:2], [4.1, 9.0])},
    ],
    "shared_scales": [(3, 4), GRANULARITIES],
    "error_by_price": [
        {
            "4 bits": ([4.01, 4.25, 5.5], [11.3, 15.2, 17.9], ["tensor", "row", "8"]),
            "5 bits": ([5.01], [17.1], ["tensor"]),
        },
        5.2,
    ],
    "memory": [
        {"7B": 7e9, "70B": 7e10},
        [32, 16, 8, 4],
        {"phone": 8.0, "laptop": 16.0, "GPU": 24.0},
    ],
    "perplexity_by_bits": [
        {"tensor": ([8, 4, 3, 2], [4.5, 7.2, 60.1, 903.0]), "row": ([8, 2], [4.4, 201.0])},
        4.4,
    ],
}
# More data for the checks of the looks: crowded, narrow, empty, one-sided.
SCHEME16 = ql.choose_qparams(T, ql.Scheme(16))
NAMES = ["tensor", "row", "32"]
EXTRA = {
    "number_lines": [
        [
            {
                "8 bits": (T, *ql.choose_qparams(T), -128, 127),
                "16": (T, *SCHEME16, -32768, 32767),
                "far": (T, 0.1, 0, -8, 7),
                "3 bits": (T, *ql.choose_qparams(T, ql.Scheme(3)), -4, 3),
            }
        ],
    ],
    "guess": [[torch.linspace(-3, 3, 40), 0.1, 3, -8, 7], [T, 4.17, -84, -128, 127]],
    "range_map": [
        [-184, 728.6, 3.5788, -77, -128, 127],
        [-728.6, 728.6, 5.737, 0, -127, 127],
        [2.99, 3.0, 0.01 / 255, -128, -128, 127, -76373],
        [-40, -30, 10 / 255, 127, -128, 127, 892],
    ],
    "pile_up": [
        [NORMAL, -1.0, 4.0, ql.Scheme(8)],
        [NORMAL - 6, -7.0, -3.0, ql.Scheme(4, include_zero=False)],
        [NORMAL, -1.0, 4.0, ql.Scheme(4, "symmetric")],
        [torch.zeros(5), 0.0, 0.0, ql.Scheme(4)],
    ],
    "code_counts": [[{"5 bits": ql.quantize(NORMAL, ql.Scheme(5, signed=False)).q}, 0, 31]],
    "staircase": [[3.5788, -77, -128, 127, -184, 728.6]],
    "staircase_and_picture": [[PICTURE, ql.Scheme(4, "symmetric")]],
    "pictures": [[{"one": PICTURE}], [{str(k): PICTURE for k in range(5)}]],
    "heatmaps": [
        [
            {
                n: T - ql.fake_quantize(T, ql.Scheme(granularity=g))
                for n, g in GRANULARITIES.items()
            },
            "{:.2f}",
            "r_hat − r",
            True,
            True,
        ],
        [{f"no. {k}": 99 * NORMAL[9 * k : 9 * k + 9].view(3, 3) for k in range(7)}, "{:.2f}", "r"],
        [{"a": NORMAL[:48].view(6, 8), "b": NORMAL[48:96].view(6, 8)}, "{:.1f}", "", False],
        [{"zeros": torch.zeros(2, 2)}, "{:.0f}", "", True, True],
    ],
    "error_histogram": [
        [T, T + 0.5, 2.0],
        [NORMAL, NORMAL, 1.0],
        [T, T + 100, 2.0],
    ],
    "clip_sweep": [[OUTLIERS, 8, np.linspace(1, 21, 21), 20]],
    "sqnr_by_bits": [[{"even": ([2, 3, 4, 8, 16], [9, 16.4, 22.9, 48, 96.3])}]],
    "shared_scales": [
        [(3, 3), {k: GRANULARITIES[k] for k in ("tensor", "row", "column")}],
        [(2, 7), {"threes": ql.PerGroup(3), "down": ql.PerGroup(2, 0)}],
    ],
    "error_by_price": [
        [
            {
                f"{b} bits": ([b, b + 0.25, b + 1], [6 * b - 15, 6 * b - 10, 6 * b - 7], NAMES)
                for b in (3, 4, 5)
            }
        ],
    ],
    "memory": [[{"7B": 7e9, "13B": 13e9, "70B": 7e10}, [16, 8], {"phone": 8, "GPU": 80}]],
    "perplexity_by_bits": [[{"the GPT": ([32, 8, 4, 3, 2], [4.4, 4.41, 5.2, 21.0, 700.0])}]],
}
EVERY = [
    pytest.param(name, data, id=f"{name}-{i}")
    for name, first in CASES.items()
    for i, data in enumerate([first, *EXTRA.get(name, [])])
]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """On tensors as small as these, waiting for a second core takes longer than the work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def draw(name, data=None):
    return getattr(figures, name)(*(CASES[name] if data is None else data))


@functools.cache
def expected(name):
    return facts(draw(name))


def lines(ax, label):
    return [x for x in ax.lines if x.get_label() == label]


def line(ax, label):
    (found,) = lines(ax, label)
    return tuple(np.asarray(v, dtype=float) for v in found.get_data())


def words(ax):
    return [t.get_text() for t in ax.texts]


def steps(ax, label):
    (found,) = [p for p in ax.patches if p.get_label() == label]
    return found.get_data()


def close(a, b):
    np.testing.assert_allclose(np.asarray(a, dtype=float), np.asarray(b, dtype=float), rtol=1e-6)


def minus(text):
    return text.replace("-", "−")


def test_every_figure_has_a_case_and_names_its_notebook():
    part_one = [f"qlesson.teach.figures.f0{n}" for n in range(7)] + [drawing.__name__]
    public = {n for n in figures.__all__ if getattr(figures, n).__module__ in part_one}
    assert public == set(CASES) | {"grey_picture", "drawing_into"}
    for name in public - {"drawing_into"}:
        first = getattr(figures, name).__doc__.split("\n\n")[0]
        assert re.search(r"\((?:notebooks? )?0\d(, \d\d)*(, Play)?\)", first), name


# ------------------------------------------------------------ what each one draws


def test_number_lines():
    ax = draw("number_lines").axes[0]
    q = ql.quantize_affine(FOUR, 0.5, -1, -8, 7)
    x, y = line(ax, "r, half")
    close(x, FOUR)
    close(line(ax, "r_hat, half")[0], ql.dequantize_affine(q, 0.5, -1))
    assert (y > line(ax, "r_hat, half")[1]).all()
    for label, scale, z in (("half", 0.5, -1), ("quarter", 0.25, -2)):
        (grid,) = [c for c in ax.collections if c.get_label() == f"grid, {label}"]
        at = [s[0][0] for s in grid.get_segments()]
        codes = torch.arange(-8, 8)
        wanted = [v for v in ql.dequantize_affine(codes, scale, z).tolist() if -5 <= v <= 6]
        close(at, wanted)
    assert [t.get_text() for t in ax.get_yticklabels()] == ["half", "quarter"]
    falls = [c.get_segments() for c in ax.collections if c.get_gid() == "aside"]
    falls = np.concatenate([f for f in falls if len(f)])
    assert len(falls) == 8
    close(sorted(s[0][0] for s in falls[:4]), sorted(FOUR))


def test_number_lines_shows_everything_by_default_and_a_part_on_request():
    row = {"T": (T, 3.5, -70, -128, 127)}
    ax = figures.number_lines(row).axes[0]
    low, high = ax.get_xlim()
    assert low < 3.5 * (-128 + 70) and high > 728.6
    ax = figures.number_lines(row, 0, 300).axes[0]
    assert sorted(line(ax, "r, T")[0]) == pytest.approx([0, 92.14, 191.6, 245.5, 295.5])
    assert -10 < ax.get_xlim()[0] <= 0 and 300 <= ax.get_xlim()[1] < 310


def test_number_to_code():
    ax = draw("number_to_code").axes[0]
    q = ql.quantize_affine(T.flatten(), 3.5, -70, -128, 127)
    close(line(ax, "r")[0], T.flatten())
    close(line(ax, "r_hat")[0], ql.dequantize_affine(q, 3.5, -70))
    for value in ("191.6", "−13.5", "728.6", "−184"):
        assert value in words(ax)
    for code in {*q.tolist(), -128, 127}:
        assert minus(str(code)) in words(ax)
    bent = lines(ax, "clipped")
    assert len(bent) == 1
    close(bent[0].get_xdata(), [728.6, 728.6, 689.5])


def test_round_half_even():
    ax = draw("round_half_even").axes[0]
    x, y = line(ax, "tie")
    close(x, [-2.5, -1.5, -0.5, 0.5, 1.5, 2.5])
    close(y, [-2, -2, 0, 0, 2, 2])
    close(line(ax, "not here")[1], [-3, -1, -1, 1, 1, 3])
    for stair in (c for c in ax.collections if c.get_label() == "round(x)"):
        (((a, n), (b, _)),) = stair.get_segments()
        middle = torch.linspace(a, b, 12)[1:-1]
        assert (torch.round(middle) == n).all()
    assert "2.5 → 2" in words(ax) and "−0.5 → 0" in words(ax)


@pytest.mark.parametrize(
    "z, low, high, kind", [(-70, -128, 127, torch.int8), (58, 0, 255, torch.uint8)]
)
def test_clip_or_wrap(z, low, high, kind):
    ax = figures.clip_or_wrap(3.5, z, low, high).axes[0]
    x, y = line(ax, "clip, then cast: saturates")
    r = torch.tensor(x, dtype=torch.float32)
    close(y, ql.quantize_affine(r, 3.5, z, low, high, kind))
    assert y.min() == low and y.max() == high
    x, y = line(ax, "cast alone: wraps around")
    x, y = x[~np.isnan(x)], y[~np.isnan(x)]
    close(y, torch.round(torch.tensor(x) / 3.5 + z).to(torch.int32).to(kind))
    assert f"{high + 1} becomes {minus(str(low))}" in words(ax)
    assert f"{minus(str(low - 1))} becomes {high}" in words(ax)


def test_guess():
    top, below = draw("guess").axes
    r_hat = ql.dequantize_affine(ql.quantize_affine(T, 3.5, -70, -128, 127), 3.5, -70)
    close(line(top, "r")[0], T.flatten())
    close(line(top, "r_hat")[0], r_hat.flatten())
    (shaded,) = top.patches
    close(shaded.get_bbox().intervalx, [-203, 689.5])
    assert top.get_title("left").split() == "s = 3.5 z = −70 MSE = 170.9".split()
    order = T.flatten().argsort()
    error = (r_hat - T).flatten()[order]
    x, y = line(below, "clipped")
    close((x, y), ([8], [error[8]]))
    x, y = line(below, "rounded")
    close(y, error[:8])
    assert [t.get_text() for t in below.get_xticklabels()][:2] == ["−184", "−13.5"]


def test_range_map():
    ax = figures.range_map(-184, 728.6, 3.5788, -77, -128, 127).axes[0]
    assert {"−184", "0", "728.6", "−128", "z = −77", "127"} == set(words(ax))
    (zero,) = [x for x in ax.lines if x.get_label().startswith("0 to z")]
    close(zero.get_xdata(), [-128 + 184 / 912.6 * 255, -77])
    for name, code in (("r_min", -128), ("r_max", 127)):
        (edge,) = [x for x in ax.lines if x.get_label().startswith(name)]
        close(edge.get_xdata(), [code, code])
    assert not lines(ax, "z before the clip")


def test_range_map_draws_a_clipped_zero_point_beyond_the_wall():
    ax = draw("range_map").axes[0]
    close(line(ax, "z before the clip")[0], [-128 - 1.2 * 255])  # further off than the view
    close(line(ax, "r_min = 2")[0], [-128, 127])  # what the clipped zero point makes of 2 and of 3
    close(line(ax, "r_max = 3")[0], [127, 127])
    close(line(ax, "z")[0], [-128])
    assert lines(ax, "z before the clip")[0].get_markerfacecolor() == "white"
    assert lines(ax, "0")[0].get_markerfacecolor() == "white"
    assert "−638" in words(ax) and "z = −128" in words(ax)
    (arrow,) = [t for t in ax.texts if getattr(t, "arrow_patch", None)]
    assert arrow.xy[0] == -128


@pytest.mark.parametrize(
    "scheme", [ql.Scheme(5, include_zero=False), ql.Scheme(5), ql.Scheme(4, "symmetric")]
)
@pytest.mark.filterwarnings("error")
def test_pile_up(scheme):
    values = torch.linspace(-1, 6, 50)
    top, below = figures.pile_up(values, 1.5, 5.5, scheme).axes
    with pytest.warns(ql.ZeroPointClipped) if not scheme.include_zero else _nothing():
        qparams = qparams_from_range(torch.tensor(1.5), torch.tensor(5.5), scheme)
    q = ql.quantize(values, scheme, qparams).q
    (bars,) = below.containers
    heights = {round(b.get_x() + 0.5): b.get_height() for b in bars}
    assert sum(heights.values()) == len(values)
    assert list(heights) == list(range(scheme.quant_min, scheme.quant_max + 1))
    for code, height in heights.items():
        assert height == (q == code).sum()
    distinct = len(q.unique())
    assert top.get_title("left") == f"50 distinct values go in, {distinct} come back"
    beyond = lines(top, "z before the clip")
    assert len(beyond) == (not scheme.include_zero)
    start = 1.5 if not scheme.include_zero else 0 if scheme.mapping == "asymmetric" else -5.5
    assert minus(f"{start:g}") in words(top)
    if beyond:
        close(beyond[0].get_xdata(), [round(-16 - 1.5 / (4 / 31))])


class _nothing:
    def __enter__(self):
        pass

    def __exit__(self, *_):
        pass


def test_code_counts():
    rows = CASES["code_counts"][0]
    fig = draw("code_counts")
    for ax, (label, q) in zip(fig.axes, rows.items(), strict=True):
        counts, edges, _ = steps(ax, "count")
        unused, _, _ = steps(ax, "never used")
        assert counts.sum() == q.numel() and len(edges) == 257 and edges[0] == -128.5
        for code in q.unique().tolist():
            assert counts[code + 128] == (q == code).sum()
        close(unused, counts == 0)
        share = 100 * (256 - len(q.unique())) / 256
        assert ax.get_title("left") == f"{label}: {share:.3g} % of the 256 codes never used"


def test_two_ranges():
    fig = draw("two_ranges")
    empty = ((0, 5 - RELU.max()), (-5, 10 - RELU.max()))
    for ax, (low, share) in zip(fig.axes, empty, strict=True):
        counts, edges, _ = steps(ax, "values")
        assert counts.sum() == len(RELU)
        close(edges[[0, -1]], [0, RELU.max()])
        boxes = [p.get_bbox().intervalx for p in ax.patches if p.get_label() == ""]
        close(boxes[0], [low, 5])
        hatched = sum(np.ptp(b) for b in boxes[1:])
        assert hatched == pytest.approx(float(share))
        assert f"{100 * share / (5 - low):.1f} % of it holds no value" in ax.get_title("left")


def test_staircase_is_fake_quantize():
    top, below = draw("staircase").axes
    scheme = ql.Scheme(3)
    drawn = {}
    for label in ("rounded", "clipped"):
        x, y = line(top, label)
        there = ~np.isnan(y)
        assert there.any()
        r = torch.tensor(x[there], dtype=torch.float32)
        close(y[there], ql.fake_quantize(r, scheme, ql.QParams(0.5, 0)))
        drawn[label] = r
    assert drawn["clipped"].abs().min() >= 1.75 and drawn["rounded"].abs().max() <= 2.25
    assert len(drawn["rounded"]) + len(drawn["clipped"]) == 1401
    close(line(top, "r_hat = r"), [[-3, 2.5], [-3, 2.5]])
    x, y = line(below, "rounding")
    there = ~np.isnan(y)
    r = torch.tensor(x[there], dtype=torch.float32)
    close(y[there], ql.fake_quantize(r, scheme, ql.QParams(0.5, 0)) - r)
    assert np.abs(y[there]).max() <= 0.25 + 1e-6
    assert sorted(v for x in lines(below, "s/2 = 0.25") for v in {*x.get_ydata()}) == [-0.25, 0.25]


def test_staircase_and_picture():
    left, right = draw("staircase_and_picture").axes
    back = ql.fake_quantize(PICTURE, ql.Scheme(3))
    close(right.images[0].get_array(), back)
    assert right.images[0].get_clim() == (0, 1)
    assert right.get_title("left") == f"{len(back.unique())} distinct values survive"
    qparams = ql.choose_qparams(PICTURE, ql.Scheme(3))
    x, y = line(left, "rounded")
    close(y, ql.fake_quantize(torch.tensor(x, dtype=torch.float32), ql.Scheme(3), qparams))
    close(x[[0, -1]], [PICTURE.min(), PICTURE.max()])


def test_pictures():
    named = CASES["pictures"][0]
    fig = draw("pictures")
    for ax, (label, picture) in zip(fig.axes, named.items(), strict=True):
        close(ax.images[0].get_array(), picture)
        assert ax.images[0].get_clim() == (0, 1) and ax.get_xlabel() == label
        pixels = ax.get_window_extent().width / 32
        assert pixels == pytest.approx(round(pixels)), "a pixel of ours is a whole number of theirs"


def test_grey_picture():
    picture = figures.grey_picture()
    assert picture.shape == (64, 64) and picture.dtype == torch.float32
    assert torch.equal(picture, figures.grey_picture(64))
    assert picture.min() == 0 and picture.max() == 1
    assert len(picture.unique()) > 2000
    levels = [len(ql.fake_quantize(picture, ql.Scheme(b)).unique()) for b in (2, 3, 4, 8)]
    assert levels[:3] == [4, 8, 16] and levels[3] > 200


def test_heatmaps():
    fig = figures.heatmaps({"T": T, "tiny": T * 0 - 0.01}, unit="r")
    assert fig.get_supxlabel() == "r"
    left, right = fig.axes
    close(left.images[0].get_array(), T)
    assert left.images[0].get_clim() == right.images[0].get_clim()
    assert words(left) == [minus(f"{v:.1f}") for v in T.flatten().tolist()]
    assert words(right) == ["0.0"] * 9, "minus zero is zero"
    for t, (i, j) in zip(left.texts, np.ndindex(3, 3), strict=True):
        assert t.get_position() == (j, i)


def test_heatmaps_alone_and_diverging():
    fig = figures.heatmaps({"T": T, "half": T / 2}, shared=False)
    limits = [ax.images[0].get_clim() for ax in fig.axes]
    close(limits, [[-184, 728.6], [-92, 364.3]])
    fig = figures.heatmaps({"T": T}, diverging=True)
    close(fig.axes[0].images[0].get_clim(), [-728.6, 728.6])


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
    x, total = line(ax, "both: the MSE")
    close(x, limits)
    close(total, line(ax, "rounding")[1] + line(ax, "clipping")[1])
    by_hand = []
    for limit in limits:
        scale = torch.tensor(limit) / 7
        q = torch.clamp(torch.round(r / scale), -7, 7)
        by_hand.append(ql.mse(r, q * scale).item())
    close(total, by_hand)
    best = int(np.argmin(by_hand))
    (star,) = [x for x in ax.lines if x.get_label().startswith("smallest")]
    close(star.get_data(), [[limits[best]], [by_hand[best]]])
    assert 0 < best < len(limits) - 1
    close(line(ax, "chosen"), [[chosen], [by_hand[limits.index(chosen)]]])
    shares = [line(ax, name)[1][limits.index(7.0)] for name in ("rounding", "clipping")]
    assert ax.get_title("left") == (
        f"4 bits, limit 7: rounding {shares[0]:.4g} + clipping {shares[1]:.4g} = "
        f"MSE {sum(shares):.4g}"
    )
    assert ax.get_yscale() == "log"


def test_sqnr_by_bits():
    ax = draw("sqnr_by_bits").axes[0]
    close(line(ax, "even"), [BITS, [8.9, 16.2, 22.9, 29.3]])
    close(line(ax, "other")[1], [4.1, 9])
    x, y = line(ax, "6.02 dB per bit")
    close(np.diff(y), 6.02)
    assert words(ax) == ["+7.3", "+6.7", "+6.4"]
    ax = draw("sqnr_by_bits", EXTRA["sqnr_by_bits"][0]).axes[0]
    assert words(ax)[-1] == "+6.0 a bit"


def test_shared_scales():
    r = NORMAL[:12].view(3, 4)
    fig = draw("shared_scales")
    for ax, (title, granularity) in zip(fig.axes, GRANULARITIES.items(), strict=True):
        qparams = ql.choose_qparams(r, ql.Scheme(granularity=granularity))
        shape = tuple(qparams.scale.shape)
        assert ax.get_title("left") == title and f"scale {shape}" in words(ax)
        n = qparams.scale.numel()
        numbers = [int(w) for w in words(ax) if w.isdigit()]
        assert numbers[:n] == list(range(n)), "the scales, in order"
        # A cell has the number of the scale that changes when the cell becomes the largest.
        for cell, number in enumerate(numbers[n : n + 12]):
            larger = r.clone().flatten()
            larger[cell] = 100
            scale = ql.choose_qparams(larger.view(3, 4), ql.Scheme(granularity=granularity)).scale
            changed = (scale != qparams.scale).flatten().nonzero().flatten().tolist()
            assert changed == [number]
        small, large = (np.asarray(image.get_array()) for image in ax.images)
        close(small.flatten(), np.arange(n) % 8)
        close(large.flatten(), np.array(numbers[n : n + 12]) % 8)


def test_error_by_price():
    curves, price = CASES["error_by_price"]
    ax = draw("error_by_price").axes[0]
    for label, (x, y, _) in curves.items():
        close(line(ax, label), [x, y])
    close({*line(ax, "5.2 bits per value")[0]}.pop(), price)
    places = {(t.get_text(), tuple(t.xy)) for t in ax.texts}
    assert places == {(n, (x, y)) for c in curves.values() for x, y, n in zip(*c, strict=True)}


def test_error_by_price_keeps_its_words_off_the_curves():
    falling = {
        "down": ([3, 4, 5, 6], [30, 22, 13, 5], ["one", "two", "three", "four"]),
        "up": ([3, 4, 5, 6], [4, 12, 21, 29], ["five", "six", "seven", "eight"]),
    }
    fig = figures.error_by_price(falling)
    fig.draw_without_rendering()
    (ax,) = fig.axes
    for text in ax.texts:
        box = text.get_window_extent()
        for label in falling:
            x, y = line(ax, label)
            t = np.linspace(3, 6, 200)
            at = ax.transData.transform(np.column_stack([t, np.interp(t, x, y)]))
            assert not any(box.contains(*p) for p in at), text.get_text()


def test_memory():
    ax = draw("memory").axes[0]
    assert [c.get_label() for c in ax.containers] == ["7B", "70B"]
    close([b.get_width() for b in ax.containers[0]], [28, 14, 7, 3.5])
    close([b.get_width() for b in ax.containers[1]], [280, 140, 70, 35])
    for bar, word in zip(ax.containers[0], ("28 GB", "14 GB", "7 GB", "3.5 GB"), strict=True):
        (text,) = [t for t in ax.texts if t.get_text() == word]
        close(text.xy, [bar.get_width(), bar.get_y() + bar.get_height() / 2])
    for name, size in (("phone", 8), ("laptop", 16), ("GPU", 24)):
        close({*line(ax, name)[0]}.pop(), size)
        assert f"{name}\n{size} GB" in words(ax)
    assert ax.get_xscale() == "log" and ax.get_xlim()[0] == 1
    assert [t.get_text() for t in ax.get_yticklabels()][0] == "7B, 32 bits"


def test_perplexity_by_bits():
    ax = draw("perplexity_by_bits").axes[0]
    close(line(ax, "tensor"), [[3, 2, 1, 0], [4.5, 7.2, 60.1, 903]])
    close(line(ax, "row"), [[3, 0], [4.4, 201]])
    assert [t.get_text() for t in ax.get_xticklabels()] == ["2", "3", "4", "8"]
    assert words(ax) == ["903", "201"] and ax.get_yscale() == "log"
    close({*line(ax, "float32: 4.4")[1]}.pop(), 4.4)


# ------------------------------------------------------------ what each one accepts


def as_lists(x):
    if isinstance(x, torch.Tensor):
        return x.tolist()
    if isinstance(x, dict):
        return {k: as_lists(v) for k, v in x.items()}
    return type(x)(map(as_lists, x)) if isinstance(x, (list, tuple)) else x


def as_tensors(x, device):
    if isinstance(x, float):
        return torch.tensor(x, device=device, dtype=torch.float64)
    if isinstance(x, torch.Tensor):
        return x.to(device)
    if isinstance(x, dict):
        return {k: as_tensors(v, device) for k, v in x.items()}
    if isinstance(x, (list, tuple)) and not all(isinstance(v, int) for v in x):
        return type(x)(as_tensors(v, device) for v in x)
    return x


@pytest.mark.parametrize("name", CASES)
def test_lists_and_tensors_draw_the_same(name):
    assert facts(draw(name, as_lists(CASES[name]))) == expected(name)
    assert facts(draw(name, as_tensors(CASES[name], "cpu"))) == expected(name)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", CASES)
def test_a_cuda_tensor_draws_the_same(name):
    assert facts(draw(name, as_tensors(CASES[name], "cuda"))) == expected(name)


# ------------------------------------------------------------ a changed datum changes the facts


def changes(x):
    """Copies of x in each of which one real number, or a long tensor as a whole, is 0.01 % more."""
    if isinstance(x, float) and x:
        yield x * 1.0001
    elif isinstance(x, torch.Tensor) and x.is_floating_point():
        one_by_one = range(x.numel()) if x.numel() <= 12 else [slice(None)]
        for i in one_by_one:
            y = x.clone()
            y.flatten()[i] *= 1.0001
            if not torch.equal(x, y):
                yield y
    elif isinstance(x, dict):
        for k, v in x.items():
            yield from ({**x, k: w} for w in changes(v))
    elif isinstance(x, (list, tuple)):
        for i, v in enumerate(x):
            yield from (type(x)([*x[:i], w, *x[i + 1 :]]) for w in changes(v))


@pytest.mark.parametrize("name", CASES)
def test_one_ten_thousandth_more_changes_the_text(name):
    count = 0
    for data in changes(CASES[name]):
        count += 1
        assert facts(draw(name, data)) != expected(name), f"change {count} does not show"
    integers_only = ("round_half_even", "shared_scales", "code_counts")
    assert bool(count) == (name not in integers_only)


def test_one_code_more_changes_the_text():
    q = ql.quantize(T).q
    other = q.clone()
    other[0, 0] += 1
    assert facts(figures.code_counts({"T": q}, -128, 127)) != facts(
        figures.code_counts({"T": other}, -128, 127)
    )


# ------------------------------------------------------------ how each one looks


@pytest.mark.slow
@pytest.mark.parametrize("name, data", EVERY)
def test_looks(name, data):
    assert_looks(lambda: draw(name, data), stored=data is CASES[name])


def test_drawing_into_a_figure_leaves_nothing_of_the_one_before():
    for name in ("guess", "pile_up", "two_ranges", "clip_sweep", "error_by_price"):
        old, new = [*EXTRA.get(name, []), CASES[name]][0], CASES[name]
        if name == "two_ranges":
            old = [{k: (OUTLIERS[:50], a, b) for k, (_, a, b) in new[0].items()}]
        fig = draw(name, old)
        with figures.drawing_into(fig):
            assert draw(name) is fig
        assert facts(fig) == expected(name)


def test_fills_and_lines():
    for role in ("REAL", "CODE", "GRID", "ERROR", "CLIPPED", "TOTAL", "INK"):
        assert contrast(getattr(drawing, role)) >= 4.5, role
    for role in ("INSIDE", "UNUSED", "BAR", "SIZE"):
        assert contrast(getattr(drawing, role), drawing.INK) >= 4.5, role


def test_no_global_state_is_touched():
    import sys

    import matplotlib

    before = dict(matplotlib.rcParams)
    for name in ("guess", "memory", "error_by_price"):
        png(draw(name))
    assert dict(matplotlib.rcParams) == before
    if "matplotlib.pyplot" in sys.modules:
        assert sys.modules["matplotlib.pyplot"].get_fignums() == []
    for module in Path(figures.__file__).parent.glob("*.py"):
        assert "pyplot" not in module.read_text(), module

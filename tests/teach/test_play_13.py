"""What the live figure of notebook 13 says, computed here in another way."""

import re

import pytest

from qlesson.teach import play

# Counted by hand: every operation reads and writes whole tensors of float32, 4 bytes a value.
APART = {
    # divide, add, round, clip, cast to int8
    ("quantize", "float32"): 4 * 8 + 5,
    # and one cast to float32 before them
    ("quantize", "float16"): 6 + 4 * 8 + 5,
    # cast to float32, subtract, multiply
    ("dequantize", "float32"): 5 + 2 * 8,
    # and two more: the clip at 65504 and the cast to float16
    ("dequantize", "float16"): 5 + 2 * 8 + 8 + 6,
}


@pytest.mark.parametrize("work, dtype", APART)
@pytest.mark.parametrize(
    "bandwidth, arithmetic", [(25, 8), (3000, 8), (3000, 1000), (5, 1), (40, 8)]
)
def test_the_sentences_are_true(work, dtype, bandwidth, arithmetic, capsys):
    play("13", work=work, dtype=dtype, bandwidth=bandwidth, arithmetic=arithmetic)
    first, *ways, last = capsys.readouterr().out.splitlines()
    assert first.endswith(f"arithmetic {arithmetic}.")
    moved = APART[work, dtype], {"float32": 5, "float16": 3}[dtype]
    times = []
    for line, count in zip(ways, moved, strict=True):
        speed = min(bandwidth / count, arithmetic)
        assert f"{count} bytes a value" in line
        (memory,) = re.findall(r": memory ([\d.]+);", line)  # and no power of ten
        assert float(memory) == float(f"{bandwidth / count:.3g}")
        limit = {-1: "memory", 0: "both", 1: "arithmetic"}[
            (bandwidth > arithmetic * count) - (bandwidth < arithmetic * count)
        ]
        assert line.endswith(f"; the limit is {limit}.")
        times.append(0.1 / speed * 1000)
    assert [float(x) for x in re.findall(r"([\d.]+) ms", last)] == pytest.approx(times, rel=1e-3)


def test_the_points_lie_on_the_lower_roof():
    figure = play("13")
    figure.controls["bandwidth"].value = 100
    figure.controls["arithmetic"].value = 10
    memory, arithmetic, apart, fused = figure.figure.axes[0].lines
    assert set(arithmetic.get_ydata()) == {10}
    x, y = memory.get_data()
    assert (abs(x * y - 100) < 1e-9).all()
    assert (apart.get_xdata()[0], apart.get_ydata()[0]) == (37, pytest.approx(100 / 37))
    assert (fused.get_xdata()[0], fused.get_ydata()[0]) == (5, 10)

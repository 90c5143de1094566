"""What the live figure of notebook 14 says, computed here in another way."""

import re

import pytest

from qlesson.teach import play, widgets

BITS = {"float32": 32, "bfloat16": 16, "8-bit codes": 8.5, "4-bit codes": 4.5, "2-bit codes": 2.5}
MACHINES = {"two cores": (20, 200), "laptop": (100, 2000), "GPU": (3000, 500_000)}


@pytest.mark.parametrize("weights", BITS)
@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("tokens", [1, 2, 16, 32, 1024])
def test_the_sentences_are_true(weights, machine, tokens, capsys):
    play("14", weights=weights, machine=machine, tokens=tokens)
    first, read, allowed = capsys.readouterr().out.splitlines()
    gb_per_s, gflop_per_s = MACHINES[machine]
    assert first.casefold().startswith(machine.casefold()) and f"{gb_per_s} GB and " in first
    assert f"{gflop_per_s} billion operations" in first.replace(",", "")
    gb = BITS[weights]  # 8 billion weights, 8 bits a byte
    assert f": {gb:g} GB are read for {tokens} token" in read
    reading, computing = gb / gb_per_s, tokens * 16 / gflop_per_s  # seconds
    memory, arithmetic = map(
        float, re.findall(r"allows ([\d.e+]+), arithmetic ([\d.e+]+);", allowed)[0]
    )
    assert memory == pytest.approx(tokens / reading, rel=5e-3)
    assert arithmetic == pytest.approx(tokens / computing, rel=5e-3)
    assert allowed.endswith(f"the limit is {'memory' if reading > computing else 'arithmetic'}.")


def test_the_point_lies_on_the_lower_roof():
    look = widgets.declarations()["14"].look
    for tokens, weights, y in ((128, "bfloat16", 125), (4, "float32", 4 * 100 / 32)):
        _, draw = look(weights=weights, tokens=tokens, machine="laptop")
        memory, arithmetic, point = draw().axes[0].lines
        assert list(point.get_xdata()) == [tokens]
        assert point.get_ydata()[0] == pytest.approx(y)
        assert set(arithmetic.get_ydata()) == {125}
        assert memory.get_ydata()[0] == pytest.approx(100 / BITS[weights])

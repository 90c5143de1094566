"""What the live figure of notebook 04 says is true: the values that survive."""

import pytest

import qlesson as ql
from qlesson.teach import figures


def test_the_survivors_lie_on_the_grid(said):
    picture = figures.grey_picture()
    for bits in (2, 3, 6):
        x = ql.quantize(picture, ql.Scheme(bits))
        r_hat = x.dequantize()
        text, numbers = said("04", bits=bits)
        ends = x.scheme.quant_min, x.scheme.quant_max
        error = (picture - r_hat).abs().max().item()
        assert numbers == pytest.approx(
            [
                *(bits, *ends, x.scale.item(), x.zero_point.item()),
                *(picture.unique().numel(), r_hat.unique().numel(), error),
            ],
            abs=5e-5,
        )
        assert numbers[-1] <= x.scale / 2 + 5e-5


def test_it_leaves_the_values_and_the_rule_to_the_reader(said):
    """They follow from scale and zero point, and the rule from two settings."""
    text, _ = said("04", bits=2)
    assert "0.333," not in text.replace("0.3333,", "") and "0.667" not in text
    assert not any(word in text for word in ("surviv", "doubl", "hal", "apart"))

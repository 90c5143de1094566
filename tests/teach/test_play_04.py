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
        survivors = r_hat.unique()
        assert numbers[:3] == [bits, picture.unique().numel(), len(survivors)]
        assert numbers[3] == pytest.approx(x.scale.item(), abs=5e-5)
        assert numbers[4:-1] == pytest.approx(survivors[:8].tolist(), abs=5e-4)
        assert numbers[-1] == pytest.approx((picture - r_hat).abs().max().item(), abs=5e-5)
        assert numbers[-1] <= x.scale / 2 + 5e-5

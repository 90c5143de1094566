"""What the live figure of notebook 03 says is true: the price of one-sidedness."""

import re

import pytest
import torch

import qlesson as ql


def test_on_one_sided_values_symmetric_mode_has_a_bit_less(said):
    wasted = []
    r = torch.randn(10_000, generator=torch.Generator().manual_seed(0))
    for shift in (0.0, 1.0, 2.0, 4.0, 5.0):
        v = r + shift
        steps = [ql.choose_qparams(v, ql.Scheme(8, m)).scale for m in ("asymmetric", "symmetric")]
        text, numbers = said("03", shift=shift)
        assert numbers[1:3] == [round(s.item(), 4) for s in steps]
        assert numbers[3] == pytest.approx(torch.log2(steps[1] / steps[0]).item(), abs=0.005)
        wasted.append(numbers[3])
    assert wasted == sorted(wasted) and wasted[0] < 0.1 and wasted[-1] == 1.01
    # After ReLU, whatever the shift: 8 bits symmetric is 7 bits asymmetric, value for value.
    for shift in torch.arange(0, 5.1, 0.25).tolist():
        text, _ = said("03", shift=shift, relu=True)
        assert re.search(r"uses \d to 127 of its codes", text)
        assert "the same for 10000 of 10000 values" in text

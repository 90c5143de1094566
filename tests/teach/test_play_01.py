"""What the live figure of notebook 01 says is true: a guess and its error."""

import torch
from drawn import T

import qlesson as ql
from qlesson.teach.widgets import declarations


def test_it_can_beat_the_formula_and_does_not_tell_it(said):
    text, numbers = said("01", s=4.17, z=-84)
    r_hat = ql.dequantize_affine(ql.quantize_affine(T, 4.17, -84, -128, 127), 4.17, -84)
    mse = ql.mse(T, r_hat).item()
    assert f"MSE {mse:.3f}" in text and round(mse, 3) == 0.434
    assert "1.573" not in text  # notebook 02 tells
    assert f"{4.17 * (-128 + 84):.1f} to {4.17 * (127 + 84):.1f}" in text
    assert "MSE 170.875" in said("01", s=3.5)[0]
    # No setting of the sliders does better.
    s_, z_ = (declarations()["01"].controls[name] for name in "sz")
    for z in range(z_.low, z_.high + 1):
        s = torch.arange(s_.low, s_.high + s_.step / 2, s_.step)[:, None, None]
        there = ql.dequantize_affine(ql.quantize_affine(T, s, z, -128, 127), s, z)
        assert (T - there).double().square().mean((1, 2)).min() > mse - 1e-9


def test_a_scale_between_two_notches_is_said_as_it_is(said):
    assert said("01", s=4.166, z=-84)[0].startswith("s = 4.166, z = -84:")
    for notch in (3.5, 3.5700000000000003):
        assert said("01", s=notch)[0].startswith(f"s = {notch:.2f},")

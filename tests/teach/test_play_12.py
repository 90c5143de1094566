"""What the live figure of notebook 12 says is true: where a learned step comes to rest."""

import pytest
import torch
from matplotlib import pyplot as plt

import qlesson as ql
from qlesson.teach import figures, randn
from qlesson.teach.lessons.n12 import play


def pulls(r, bits, s):
    """MSE, and the pulls on the step, from the formula of each value."""
    last = 2 ** (bits - 1) - 1
    free = (r / s).round()
    off = s * free.clamp(-last, last) - r
    inside = free.abs() <= last
    slopes = torch.where(inside, free - r / s, free.clamp(-last, last))
    part = -2 * off * slopes / len(r)
    return off.square().mean().item(), part[inside].sum().item(), part[~inside].sum().item()


@pytest.mark.parametrize("bits, rest, best", [(2, 1.16, 1.30), (3, 0.68, 0.72), (4, 0.40, 0.42)])
def test_where_the_pulls_balance_and_the_error_is_least(said, bits, rest, best):
    r = randn(1000, generator=torch.Generator().manual_seed(0)).double()
    every = {i / 50: pulls(r, bits, i / 50) for i in range(5, 101)}
    for s in (0.1, rest, best, 1.0, 2.0):
        text, _ = said("12", bits=bits, s=s)
        loss, inside, clipped = every[s]
        assert f"step {s:.2f}: MSE {loss:.4f}." in text
        assert f"inside {inside:+.4f}, clipped {clipped + 0.0:+.4f}." in text
        assert ("The step falls." if inside + clipped < 0 else "The step grows.") in text
        assert "balance" not in text and "least" not in text  # which the reader finds
    assert min(every, key=lambda s: every[s][0]) == best
    assert every[rest][1] + every[rest][2] > 0 > sum(every[round(rest + 0.02, 2)][1:])
    assert all(inside < 0 <= clipped for _, inside, clipped in every.values())


def test_gradients_are_found_where_the_reader_has_switched_them_off(said):
    wanted, _ = said("12", bits=3, s=0.6)
    play._pulls.cache_clear()
    with torch.no_grad():
        assert said("12", bits=3, s=0.6)[0] == wanted
        plt.close(figures.straight_through(ql.Scheme(3, "symmetric"), 1.0, 0, -5, 5))


def test_a_value_between_the_notches_is_its_own(capsys):
    from qlesson.teach import play

    play("12", s=0.113)
    assert "3 bits, step 0.113: MSE" in capsys.readouterr().out

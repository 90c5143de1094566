"""The live figure of notebook 11: what the second of two weights can do for the first."""

from fractions import Fraction
from functools import partial

from qlesson.teach import figures
from qlesson.teach.widgets import Shown, Slider, declare

# In fractions, so that a tie is a tie on every machine.
_FIRST = Fraction(4, 10)
Pair = tuple[Fraction | int, Fraction | int]


def _output_error(weights: Pair, codes: Pair, together: Fraction) -> Fraction:
    """d H d^T with H = [[1, together], [together, 1]]."""
    a, b = (w - q for w, q in zip(weights, codes, strict=True))
    return a * a + 2 * together * a * b + b * b


def _said(x: Fraction) -> str:
    """With one digit, or as many as it has."""
    return f"{float(x):.1f}" if (10 * x).denominator == 1 else f"{float(x):g}"


@declare(
    "Two weights, the codes around them, and the output error of three choices of codes.",
    together=Slider("inputs go together", -0.9, 0.9, 0.1, 0.0),
    second=Slider("second weight", 0.0, 1.0, 0.1, 0.4),
)
def _two(together: float, second: float) -> Shown:
    rho, other = (Fraction(str(round(x, 9))) for x in (together, second))
    weights, first = (_FIRST, other), round(_FIRST)
    move = rho * (_FIRST - first)
    rounded, moved = (first, round(other)), (first, round(other + move))
    codes = range(-1, 3)
    every = [moved, rounded, *((a, b) for a in codes for b in codes)]
    best = min(every, key=lambda codes: _output_error(weights, codes, rho))
    of = {"rounded": rounded, "second moved": moved, "best": best}
    errors = {name: float(_output_error(weights, codes, rho)) for name, codes in of.items()}
    sentences = [
        f"Weights {_said(_FIRST)} and {_said(other)}, inputs together {_said(rho)}. "
        f"Rounded: {rounded[0]} and {rounded[1]}, error {errors['rounded']:.3f}.",
        f"The first lost {float(_FIRST - first):.1f}: the second moves by {float(move):+.2f} to "
        f"{float(other + move):.2f} and becomes {moved[1]}: {errors['second moved']:.3f}.",
        f"The best of all codes: {best[0]} and {best[1]}, {errors['best']:.3f}.",
    ]
    at = tuple(map(float, weights))
    return sentences, partial(figures.two_weights, at, float(rho), of, errors, float(other + move))

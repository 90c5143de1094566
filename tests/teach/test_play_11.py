"""What the live figure of notebook 11 says, computed here in another way."""

import itertools

import pytest

SETTINGS = list(itertools.product(range(-9, 10), range(11)))  # in tenths


def output_error(together, second, codes):
    """In thousandths: the mean square of x1 d1 + x2 d2, over inputs of mean square 1."""
    a, b = 4 - 10 * codes[0], second - 10 * codes[1]
    return 10 * (a * a + b * b) + 2 * together * a * b


def wanted(together, second):
    """The first is rounded to 0 and has lost 0.4; all in thousandths."""
    rounded = (0, int(second > 5))
    at = 100 * second + 40 * together
    moved = (0, int(at > 500))
    every = itertools.product(range(-3, 5), repeat=2)  # farther than the figure looks
    least = min(output_error(together, second, codes) for codes in every)
    return rounded, moved, at, least


@pytest.mark.parametrize("together, second", [(0, 4), (9, 4), (9, 3), (-9, 6), (5, 3), (-7, 10)])
def test_the_sentences_are_true(said, together, second):
    text, _ = said("11", together=together / 10, second=second / 10)
    rounded, moved, at, least = wanted(together, second)
    assert f"Weights 0.4 and {second / 10}, inputs together {together / 10:.1f}." in text
    error = output_error(together, second, rounded) / 1000
    assert f"Rounded: 0 and {rounded[1]}, error {error:.3f}." in text
    assert f"moves by {0.04 * together:+.2f} to {at / 1000:.2f} and becomes {moved[1]}" in text
    assert f": {output_error(together, second, moved) / 1000:.3f}." in text
    assert text.rstrip().endswith(f", {least / 1000:.3f}.")


def test_the_move_never_loses_with_two_weights_and_is_not_always_best():
    """What notebook 11 says of its Play, for every setting."""
    gains = beaten = 0
    for together, second in SETTINGS:
        rounded, moved, _, least = wanted(together, second)
        plain, repaired = (output_error(together, second, codes) for codes in (rounded, moved))
        assert least <= repaired <= plain
        gains += repaired < plain
        beaten += least < repaired
    assert gains > 30 and beaten > 5


def test_the_best_code_is_named(said):
    for together, second, best in ((9, 4, "0 and 1"), (9, 3, "1 and 0"), (-9, 6, "0 and 0")):
        text, _ = said("11", together=together / 10, second=second / 10)
        assert f"The best of all codes: {best}," in text


def test_a_value_between_the_notches_is_its_own(capsys):
    from qlesson.teach import play

    play("11", second=0.25, together=0.05)
    assert "Weights 0.4 and 0.25, inputs together 0.05." in capsys.readouterr().out

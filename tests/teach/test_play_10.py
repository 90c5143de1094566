"""The live figure of notebook 10: what it says is what the model with these settings does."""

import re
from functools import partial

import pytest
import torch

import qlesson as ql
from qlesson.models import tinygpt
from qlesson.teach import play
from qlesson.teach.lessons.n10 import play as lesson

stored = partial(ql.Scheme, scale_dtype=torch.float16)


def said(capsys, **settings):
    play("10", **settings)
    return capsys.readouterr().out.splitlines()


@pytest.fixture(scope="module")
def model():
    return tinygpt.load()


@pytest.mark.parametrize(
    ("settings", "scheme", "inputs"),
    [
        ({"bits": 3}, stored(3, granularity=ql.PerAxis(0)), None),
        (
            {"bits": 2, "scales": "groups of 32", "mode": "symmetric"},
            stored(2, "symmetric", ql.PerGroup(32)),
            None,
        ),
        (
            {"bits": 8, "scales": "one for all", "inputs": "3 bits"},
            stored(8),
            ql.Scheme(3, granularity=ql.PerAxis(0)),
        ),
    ],
)
def test_size_perplexity_and_text(capsys, model, settings, scheme, inputs):
    first, numbers, *text = said(capsys, **settings)
    small = tinygpt.quantized(model, scheme, inputs)
    kilobytes = tinygpt.model_bytes(model, scheme) / 1000
    assert numbers.startswith(f"{kilobytes:.0f} kB in place of 3353; perplexity ")
    for word in settings.values():
        assert str(word) in first
    stated, floor = map(float, re.findall(r"\d+\.\d\d?|\d{3}(?=[. ])", numbers)[-2:])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the live figure does: inputs at a tie follow the last digit
    assert stated == pytest.approx(tinygpt.perplexity(small, n=4096), rel=5e-3)
    assert floor == 3.82
    more = small.generate(lesson.PROMPT, lesson.LENGTH, lesson.SEED, lesson.TEMPERATURE)
    torch.set_num_threads(threads)
    assert "".join("".join(text).split()) == "".join(f"It writes: {lesson.PROMPT}{more}".split())


def perplexity(capsys, **settings):
    return float(re.search(r"perplexity (\S+) in", said(capsys, **settings)[1])[1])


def test_fewer_bits_are_worse(capsys):
    for name, values in {"bits": (8, 4, 3, 2), "inputs": ("float32", "4 bits", "2 bits")}.items():
        found = [perplexity(capsys, **{name: value}) for value in values]
        assert found == sorted(found) and found[-1] > 2 * found[0]


def test_three_bits_hurt_the_inputs_more_than_rows_and_less_than_one_for_all(capsys):
    """The question above the figure, as the cell below it answers."""
    rows = perplexity(capsys, bits=3)
    inputs = perplexity(capsys, inputs="3 bits")
    assert 1.5 * rows < inputs < perplexity(capsys, bits=3, scales="one for all") / 1.5


def test_settings_seen_before_cost_nothing(capsys):
    lesson._read.cache_clear()
    said(capsys, bits=5)
    said(capsys, bits=5)
    assert lesson._read.cache_info().misses == 2  # the float model, and this one

"""Every figure of the course draws its data, the same from lists and tensors, and looks right.

A file test_figures_NN.py beside this one holds data for the figures of lesson NN: `CASES`, {name of
a figure: its arguments}, and `EXTRA`, {name: more of them}. What only one figure draws is tested
there.
"""

import functools
import importlib
from pathlib import Path

import pytest
import torch
from drawn import as_lists, as_tensors, changes
from looks import assert_looks, contrast

from qlesson.teach import figures, lessons
from qlesson.teach.figures import drawing
from qlesson.teach.show import facts, png

HERE = Path(__file__).parent
FILES = {file.stem[-2:]: file for file in sorted(HERE.glob("test_figures_[0-9][0-9].py"))}
MODULES = [importlib.import_module(file.stem) for file in FILES.values()]
CASES = {name: data for m in MODULES for name, data in getattr(m, "CASES", {}).items()}
EXTRA = {name: data for m in MODULES for name, data in getattr(m, "EXTRA", {}).items()}
EVERY = [
    pytest.param(name, data, id=f"{name}-{i}")
    for name, first in CASES.items()
    for i, data in enumerate([first, *EXTRA.get(name, [])])
]
each_case = pytest.mark.parametrize("name", CASES)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """On tensors as small as these, waiting for a second core takes longer than the work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def draw(name, data=None):
    return getattr(figures, name)(*(CASES[name] if data is None else data))


@functools.cache
def expected(name):
    return facts(draw(name))


@pytest.mark.parametrize("name", figures.by_name())
def test_every_figure_is_tested_in_the_file_of_its_lesson(name):
    number = figures.by_name()[name].__module__.split(".")[-2][1:]
    assert name in FILES[number].read_text(encoding="utf-8")


def test_no_two_figures_have_one_name():
    modules = lessons.modules("figures").values()
    count = sum(
        getattr(x, "__module__", None) == module.__name__ and not name.startswith("_")
        for module in modules
        for name, x in vars(module).items()
    )
    assert count == len(figures.by_name()) > 40


@each_case
def test_lists_and_tensors_draw_the_same(name):
    assert facts(draw(name, as_lists(CASES[name]))) == expected(name)
    assert facts(draw(name, as_tensors(CASES[name], "cpu"))) == expected(name)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@each_case
def test_a_cuda_tensor_draws_the_same(name):
    assert facts(draw(name, as_tensors(CASES[name], "cuda"))) == expected(name)


def test_changes_are_found_wherever_a_real_number_stands():
    found = list(changes([{"a": (1.5, 0.0), "b": 2}, torch.tensor([1.0, 0.0]), torch.ones(13)]))
    assert len(found) == 3
    assert found[0][0]["a"] == (1.5 * 1.0001, 0.0) and found[2][2].unique().numel() == 1


@each_case
def test_one_ten_thousandth_more_changes_the_text(name):
    for count, data in enumerate(changes(CASES[name])):
        assert facts(draw(name, data)) != expected(name), f"change {count} does not show"


@pytest.mark.slow
@pytest.mark.parametrize("name, data", EVERY)
def test_looks(name, data):
    assert_looks(lambda: draw(name, data), stored=data is CASES[name])


def test_drawing_into_a_figure_leaves_nothing_of_the_one_before():
    for name in ("guess", "pile_up", "two_ranges", "clip_sweep", "above_the_rows"):
        old, new = [*EXTRA.get(name, []), CASES[name]][0], CASES[name]
        if name == "two_ranges":
            old = [{k: (r[:50] * 5, a, b) for k, (r, a, b) in new[0].items()}]
        fig = draw(name, old)
        with drawing.drawing_into(fig):
            assert draw(name) is fig
        assert facts(fig) == expected(name)


def test_fills_and_lines():
    for role in ("REAL", "CODE", "GRID", "ERROR", "CLIPPED", "TOTAL", "INK"):
        assert contrast(getattr(drawing, role)) >= 4.5, role
    for role in ("INSIDE", "UNUSED", "BAR", "SIZE"):
        assert contrast(getattr(drawing, role), drawing.INK) >= 4.5, role


def test_no_global_state_is_touched():
    import sys

    import matplotlib

    before = dict(matplotlib.rcParams)
    for name in ("guess", "memory", "error_by_price"):
        png(draw(name))
    assert dict(matplotlib.rcParams) == before
    if "matplotlib.pyplot" in sys.modules:
        assert sys.modules["matplotlib.pyplot"].get_fignums() == []
    modules = [drawing, *lessons.modules("figures").values()]
    for module in modules:
        assert "pyplot" not in Path(module.__file__).read_text(encoding="utf-8"), module

"""The notebooks keep the rules of qlesson/authoring/lint; `pytest notebooks` runs them."""

from pathlib import Path

import pytest
from PIL import Image, ImageChops, ImageSequence, ImageStat

from qlesson.authoring import lint, moving
from qlesson.authoring.lint import cells, tags, whole

ROOT = Path(__file__).parents[2]
NOTEBOOKS = lint.load(ROOT / "notebooks")


def test_the_numbers_run_from_00_without_a_gap():
    assert [nb.number for nb in NOTEBOOKS] == [f"{n:02d}" for n in range(len(NOTEBOOKS))]


@pytest.mark.parametrize("nb", NOTEBOOKS, ids=lambda nb: nb.path.stem)
def test_keeps_the_rules(nb):
    assert not (found := lint.notebook_problems(nb)), "\n".join(found)


def far(frames, others):
    """The largest mean distance of two frames, in levels of grey of 255."""
    pairs = zip(frames, others, strict=True)
    return max(ImageStat.Stat(ImageChops.difference(a, b)).mean[0] for a, b in pairs)


def test_the_picture_of_the_readme_moves_as_the_live_figure_does():
    with Image.open(ROOT / moving.NAME) as stored:
        shown = [frame.convert("L").copy() for frame in ImageSequence.Iterator(stored)]
        assert "loop" not in stored.info  # once, and then it rests
    drawn = moving.frames()
    assert far(shown, drawn) < 1 < far(shown, drawn[::-1])
    assert all(far([a], [b]) > 1 for a, b in zip(drawn[3:], drawn[4:], strict=False))
    assert len(shown) * moving.PACE < 5000 and (ROOT / moving.NAME).stat().st_size < 200_000


def test_the_readme_has_their_minutes():
    found = list(whole.readme_map(NOTEBOOKS, ROOT / "README.md"))
    assert not found, "\n".join(found)


def test_links_say_the_titles_of_what_they_lead_to():
    pages = ROOT / "README.md", *sorted((ROOT / "notebooks").glob("*.md"))
    assert list(whole.named_by_titles(NOTEBOOKS, *pages)) == []


def test_every_notebook_has_the_names_that_docstrings_say_it_has():
    found = [*tags.broken_promises(NOTEBOOKS), *tags.untagged_figures()]
    assert not found, "\n".join(found)


def test_every_lesson_has_a_notebook():
    assert list(whole.lessons_without_a_notebook(NOTEBOOKS)) == []


def test_every_exception_is_needed():
    """A reason stands only for a cell or a file that still is there."""
    assert set(cells.NOT_COMPARED) <= {(nb.path.stem, c.id) for nb in NOTEBOOKS for c in nb.cells}
    assert set(cells.MAX_KB_OF) <= {nb.path.stem for nb in NOTEBOOKS}
    assert all(kb <= 500 for kb in cells.MAX_KB_OF.values())

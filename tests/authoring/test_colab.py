"""The notebooks as Colab opens them: complete, installed first, and linked from anywhere."""

import json
import re
from pathlib import Path

import ipywidgets
import nbformat
import pytest

import qlesson
from qlesson.authoring import address, colab
from qlesson.authoring.lint.reading import read
from qlesson.teach import play

ROOT = Path(__file__).parents[2]
NOTEBOOKS = ROOT / "notebooks"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    to = tmp_path_factory.mktemp("made") / "colab"
    assert colab.main(NOTEBOOKS, to) == 0
    return to


def test_each_has_one_cell_more_and_the_same_outputs(folder):
    names = sorted(p.name for p in NOTEBOOKS.glob("*.ipynb"))
    assert sorted(p.name for p in folder.iterdir()) == names
    for name in names:
        ours, made = (nbformat.read(f / name, as_version=4) for f in (NOTEBOOKS, folder))
        nbformat.validate(made)
        install, *cells = made.cells
        assert install.source == f"%pip install -q qlesson=={qlesson.__version__}"
        assert [c.get("outputs") for c in cells] == [c.get("outputs") for c in ours.cells]
        code = [[c.source for c in nb if c.cell_type == "code"] for nb in (cells, ours.cells)]
        assert code[0] == code[1]
        assert [c.metadata["id"] for c in cells] == [c.id for c in ours.cells]


def test_every_link_is_whole_and_stays_in_colab_where_it_can(folder):
    ids = {p.name: {c.id for c in read(p).cells} for p in folder.iterdir()}
    for path in folder.iterdir():
        text = "\n".join(c.source for c in read(path).cells if c.cell_type == "markdown")
        links = re.findall(r"\]\(([^)\s]+)\)", text)
        assert all(re.match("https?://|#scrollTo=", link) for link in links)
        for link in links:
            name, _, place = link.partition("#scrollTo=")
            name = name.removeprefix(address.colab("")) or path.name
            assert not place or place in ids[name]
            assert name in ids or "/blob/colab/" not in name
            if file := name.removeprefix(address.page("")) if address.page("") in name else "":
                assert (ROOT / file).exists()
        assert "[Colab](" not in text and "[report a mistake](" in text


def test_the_three_kinds_of_link():
    places = {"01_a.ipynb": {"The-end": "x1"}, "02_b.ipynb": {"Play": "p2"}}
    text = "[a](#The-end) [b](02_b.ipynb#Play) [c](02_b.ipynb) [d](page.md) [e](https://e.org/#f)"
    base = address.colab("02_b.ipynb")
    assert colab.linked(text, "01_a.ipynb", places) == (
        f"[a](#scrollTo=x1) [b]({base}#scrollTo=p2) [c]({base}) "
        f"[d]({address.page('notebooks/page.md')}) [e](https://e.org/#f)"
    )


def test_a_live_figure_shows_itself_with_ipywidgets_7(monkeypatch):
    """Its widgets make no bundles of their own."""
    monkeypatch.delattr(ipywidgets.Widget, "_repr_mimebundle_")
    data, _ = play("03")._repr_mimebundle_()
    assert {"image/png", "text/plain"} < set(data)
    view = data["application/vnd.jupyter.widget-view+json"]
    assert json.dumps(view) and set(view) == {"version_major", "version_minor", "model_id"}


def test_all_places_name_one_repository():
    """The links that leave the course, wherever they are written by hand."""
    files = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "pyproject.toml", "CITATION.cff"]
    files += [p.relative_to(ROOT) for p in NOTEBOOKS.glob("*.md")]
    text = "\n".join((ROOT / name).read_text(encoding="utf-8") for name in files)
    owner = address.REPOSITORY.removeprefix("https://github.com/")
    ours = re.findall(
        r"(?:mybinder\.org/v2/gh|colab\.research\.google\.com/github)/([^/\s)]+/[^/\s)]+)", text
    )
    assert ours and set(ours) == {owner}

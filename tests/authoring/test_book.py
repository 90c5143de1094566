"""The built web book: its links, sizes and alt texts, and what its scripts are given."""

import itertools
import json
import re
import shutil
from pathlib import Path
from urllib.parse import unquote

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from web_book import FRAMED

from qlesson.authoring import address, bets
from qlesson.teach.exercises import exercises
from qlesson.teach.figures import drawing
from qlesson.teach.widgets import Choice, Slider, Switch, declarations

pytest.importorskip("myst_nb", reason="the extra `book` is not installed")

from qlesson.authoring.book import answers, chapters, light, main, pages, plays

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
DECLARATIONS = declarations()
CHAPTER, BOOK = 300_000, 60_000_000  # bytes, at most


def html_of(book, path):
    return (book / "notebooks" / f"{path.stem}.html").read_text(encoding="utf-8")


def pictures(path):
    """The sentences of a notebook's pictures, in order."""
    outputs = [o for c in nbformat.read(path, as_version=4).cells for o in c.get("outputs", [])]
    return [o.metadata["image/png"]["alt"] for o in outputs if "image/png" in o.get("data", {})]


# --- The built pages ---


def test_every_notebook_is_a_chapter_and_is_listed(book):
    index = (book / "index.html").read_text(encoding="utf-8")
    for path in NOTEBOOKS:
        assert f"notebooks/{path.stem}.html" in index
        assert 'class="prev-next-area"' in html_of(book, path)


def test_every_picture_has_its_sentence(book):
    for path in NOTEBOOKS:
        article = html_of(book, path).partition("<article")[2]
        found = re.findall(r'<img alt="([^"]*)"', article)
        written = [f.replace("&#x27;", "'").replace("&quot;", '"') for f in found]
        written = [
            f.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&") for f in written
        ]
        assert written == pictures(path), path
        assert len(re.findall("<img ", article)) == len(found)


def test_a_chapter_is_light_and_the_book_too(book):
    for path in NOTEBOOKS:
        page = html_of(book, path)
        shown = set(re.findall(r'src="\.\./(_images/[^"]+)"', page))
        size = len(page.encode()) + sum((book / name).stat().st_size for name in shown)
        assert size < CHAPTER, (path, size)
    assert sum(p.stat().st_size for p in book.rglob("*") if p.is_file()) < BOOK


def test_what_all_frames_weigh_stays_below_the_limit(book):
    """From the frames that were drawn, for the settings of all."""
    folder = book / "_static" / "play"
    most = 0
    for number in FRAMED:
        frames = list((folder / number).glob("*.webp"))
        assert 0 < len(frames) <= plays.count(DECLARATIONS[number])  # equal ones are stored once
        most = max(most, *(frame.stat().st_size for frame in frames))
    many = sum(plays.count(d) for d in DECLARATIONS.values() if plays.has_frames(d))
    assert many * 2 * most < BOOK  # some pictures have more to show than these


def test_every_link_leads_somewhere(book):
    ids = {}
    pages = [p for p in book.rglob("*.html") if "_static" not in p.parts]
    for page in pages:
        ids[page.resolve()] = set(re.findall(r'\bid="([^"]+)"', page.read_text(encoding="utf-8")))
    for page in pages:
        text = page.read_text(encoding="utf-8")
        for link in re.findall(r'\b(?:href|src)="([^"]+)"', text):
            if re.match(r"[a-z]+:", link) or link.startswith("//"):
                continue
            path, _, anchor = unquote(link).partition("#")
            target = (page.parent / path.partition("?")[0]).resolve() if path else page.resolve()
            assert target.is_file(), (page, link)
            if anchor and target in ids:
                assert anchor in ids[target], (page, link)


def test_no_page_loads_from_another_server(book):
    for page in book.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        loads = re.findall(
            r"<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)=\"(\w+:[^\"]+)\"", text
        )
        assert [x for x in loads if not x.startswith("data:")] == [], page
    for sheet in book.rglob("*.css"):
        assert not re.findall(r"url\(['\"]?(?:https?:)?//", sheet.read_text(encoding="utf-8")), (
            sheet
        )


def test_the_download_is_the_notebook_itself(book):
    for path in NOTEBOOKS:
        name = f"_sources/notebooks/{path.name}"
        assert (book / name).read_bytes() == path.read_bytes()
        assert f'href="../{name}"' in html_of(book, path)


def test_the_buttons_lead_to_the_repository(book):
    for path in NOTEBOOKS:
        page, where = html_of(book, path), f"notebooks/{path.name}"
        assert f"{address.BINDER}/" in page and where in page
        # Always to the copy that installs the course there.
        assert set(re.findall(r'href="(https://colab[^"]+)"', page)) == {address.colab(path.name)}
        assert f"{address.REPOSITORY}/issues/new" in page


def test_formulas_are_drawn_by_the_browser(book):
    for path in NOTEBOOKS:
        page = html_of(book, path)
        assert not re.search(r"<script[^>]*mathjax", page, flags=re.I)
        cells = nbformat.read(path, as_version=4).cells
        if any("$$" in c.source for c in cells if c.cell_type == "markdown"):
            assert '<math xmlns="http://www.w3.org/1998/Math/MathML" display="block">' in page


def test_no_page_names_the_machine_it_was_made_on(book):
    for page in book.rglob("*.html"):
        assert str(ROOT) not in page.read_text(encoding="utf-8"), page


def test_the_package_is_described(book):
    page = (book / "api" / "quantize.html").read_text(encoding="utf-8")
    for name in ("Scheme", "PerGroup", "QTensor", "choose_qparams", "fake_quantize", "best_device"):
        assert re.search(rf'<dt class="sig[^>]+id="qlesson\.[\w.]*{name}"', page), name


def test_code_in_a_docstring_is_shown_as_code(book):
    page = (book / "api" / "models.html").read_text(encoding="utf-8")
    shown = re.findall(r'<div class="highlight-python.*?</div>', page, flags=re.S)
    assert any("SmolLM2-135M-Instruct.Q4_1.gguf" in code for code in shown)
    assert 'id="qlesson.models.llama.load"' in page
    assert "Should be overridden" not in page  # what torch says of every forward


def course_of(root, text):
    """A checkout of docs/ and one notebook with this text."""
    shutil.copytree(ROOT / "docs", root / "docs")
    shutil.copyfile(ROOT / "CHANGELOG.md", root / "CHANGELOG.md")
    (root / "docs" / "api").mkdir(exist_ok=True)
    for path in (root / "docs" / "api").glob("*.md"):
        path.unlink()
    (root / "docs" / "index.md").write_text(
        "# x\n\n{{ map }}\n\n```{toctree}\n:glob:\n\nnotebooks/*\nerrata\nchangelog\n```\n"
    )
    (root / "CHANGELOG.md").write_text("# What changed\n")
    readme = "| notebook | x |\n|---|---|\n| 00 | x |\n"
    (root / "README.md").write_text(readme)
    (root / "notebooks").mkdir()
    nb = new_notebook(cells=[new_markdown_cell(text)])
    nbformat.write(nb, root / "notebooks" / "00_x.ipynb")


@pytest.mark.parametrize(
    ("text", "fails"),
    [
        ("# 00 X\n\n[here](#Part-two)\n\n## Part two\n\n$x^2$", False),
        ("# 00 X\n\n[nowhere](01_nowhere.ipynb)", True),
        ("# 00 X\n\n[nowhere](#Part-three)\n\n## Part two", True),
    ],
)
def test_a_link_that_leads_nowhere_is_an_error(tmp_path, text, fails):
    course_of(tmp_path, text)
    assert bool(main(tmp_path, tmp_path / "out", ())) == fails


# --- What the pages are made of ---


def made(*cells):
    return pages.page(new_notebook(cells=list(cells)), "01_x.ipynb").cells


def test_a_bet_is_marked_and_its_space_is_gone():
    bet = new_code_cell("1 + 1", metadata={"jupyter": {"outputs_hidden": True}})
    space = new_markdown_cell(bets.SPACE, id=f"{bets.MARK}x")
    cells = made(new_markdown_cell("What is it?\n\nBet, run, then read on."), space, bet)
    assert [c.source for c in cells] == ["What is it?\n\n", "1 + 1"]
    assert cells[1].metadata["tags"] == [pages.BET]


def test_nothing_is_to_be_run_before_a_live_figure_answers():
    (cell,) = made(new_markdown_cell("## Play\n\nWhy? Run the cell, go down to 2 bits."))
    assert cell.source == "## Play\n\nWhy? Go down to 2 bits."


def test_links_from_notebook_to_notebook_are_left_to_the_theme():
    (cell,) = made(new_markdown_cell("About.\n\n[previous](00_a.ipynb) · [next](02_b.ipynb)"))
    assert cell.source.strip() == "About."


def test_the_sentence_below_a_picture_becomes_its_alt_text():
    sentence = "What it shows."
    picture = new_output(
        "display_data",
        {"image/png": "iVBO", "text/plain": f"{sentence}\nfacts"},
        metadata={"image/png": {"alt": sentence}},
    )
    below = new_output(
        "display_data", {"text/html": f"<p><em>{sentence}</em></p>", "text/plain": sentence}
    )
    other = new_output("display_data", {"text/html": "<b>kept</b>", "text/plain": "kept"})
    (cell,) = made(new_code_cell("show(x)", outputs=[picture, below, other]))
    assert [list(o.data) for o in cell.outputs] == [
        ["image/png", "text/plain"],
        ["text/html", "text/plain"],
    ]
    assert cell.metadata["mystnb"] == {"image": {"alt": sentence}}


def test_an_exercise_in_code_links_to_where_it_runs_and_folds_its_help():
    code, below = made(new_code_cell('def f(): ...\n\n\ncheck("1.1", f)'))
    ex = exercises()["1.1"]
    assert address.colab("01_x.ipynb") in below.source
    assert address.binder("01_x.ipynb") in below.source
    for text in (*ex.hints, ex.answered, ex.why):
        assert text in below.source
    assert below.source.count("{fold}") == len(ex.hints) + 1 and "<form" not in below.source


def test_the_table_of_the_chapters_is_that_of_the_readme():
    assert chapters("x\n\n| notebook | q |\n|---|---|\n| a | b |\n\ny").endswith("| a | b |\n")


# --- Live figures ---


@pytest.mark.parametrize("number", DECLARATIONS)
def test_every_live_figure_has_frames_or_a_script(number):
    declaration = DECLARATIONS[number]
    assert plays.has_frames(declaration) != (number in plays.scripts()), (
        f"{number} has {plays.count(declaration)} settings: up to {plays.FEW} get frames; for more "
        f"write qlesson/teach/lessons/n{number}/play.js, and for fewer take it away"
    )


@pytest.mark.parametrize("number", DECLARATIONS)
def test_what_the_page_offers_is_what_the_control_takes(number):
    for name, control in DECLARATIONS[number].controls.items():
        about = plays.described(name, control)
        assert about["values"][about["start"]] == control.start
        assert [control.checked(value) for value in about["values"]] == about["values"]
        assert len(set(about["values"])) == len(about["values"]) > 1
        json.dumps(about)


def test_the_values_of_each_kind_of_control():
    assert plays.offered(Slider("x", 2, 8, 3, 5)) == [2, 5, 8]
    assert plays.offered(Slider("x", -0.1, 0.2, 0.1, 0.0)) == [-0.1, 0.0, 0.1, 0.2]
    assert plays.offered(Switch("x", False)) == [False, True]
    assert plays.offered(Choice("x", ("b", "a"), "a")) == ["b", "a"]
    assert plays.described("s", Slider("x", 0.0, 1.0, 0.05, 0.5))["digits"] == 2
    assert plays.described("s", Slider("x", 2, 8, 1, 5))["digits"] is None


def test_settings_are_counted_with_the_last_control_fastest():
    declaration = DECLARATIONS["08"]
    every = plays.settings_of(declaration)
    assert len(every) == plays.count(declaration)
    assert every[1] == every[0] | {"read": "high_first"}
    assert every[4] == every[0] | {"bits": 3}


@pytest.mark.parametrize("number", FRAMED)
def test_the_frames_say_what_the_package_says_at_every_setting(book, number):
    text = (book / "_static" / "play" / number / "frames.js").read_text(encoding="utf-8")
    data = json.loads(re.findall(r"^qlesson\.frames\(\"\d\d\", (.*)\);$", text)[0])
    every = plays.settings_of(DECLARATIONS[number])
    for settings, said, frame in zip(every, data["said"], data["frames"], strict=True):
        assert [data["lines"][n] for n in said] == DECLARATIONS[number].look(**settings)[0]
        assert (book / "_static" / "play" / number / f"{frame}.webp").exists()


def test_frames_are_drawn_again_only_where_something_changed(tmp_path, monkeypatch):
    asked = []

    def drawn(number, settings):
        asked.append(number)
        return [plays.Frame(b"x", ["said"]) for _ in settings]

    monkeypatch.setattr(plays, "drawn", drawn)
    for _ in range(2):
        plays.write(tmp_path / "out", tmp_path / "kept", ["00"])
    assert asked == ["00"]
    assert sorted(p.name for p in (tmp_path / "out" / "00").iterdir()) == ["0.webp", "frames.js"]
    (tmp_path / "kept" / "00" / "key.txt").write_text("of another time")
    plays.write(tmp_path / "out", tmp_path / "kept", ["00"])
    assert asked == ["00", "00"]
    assert plays.key("00") != plays.key("03")


def test_frames_are_drawn_again_where_what_draws_them_has_changed(monkeypatch, tmp_path):
    """Wherever the package lies: what is left out is named by its place inside."""
    root = tmp_path / "bench" / "qlesson"
    files = {"affine.py": "a", "bench/cells.py": "b", "teach/lessons/n00/play.py": "c"}
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    monkeypatch.setattr(plays, "PACKAGE", root)
    play = root / "teach/lessons/n00/play.py"
    monkeypatch.setattr(plays.lessons, "files", lambda kind: {"00": play})
    keys = [plays.key("00")]
    for name in files:
        (root / name).write_text("changed")
        keys.append(plays.key("00"))
    assert [a == b for a, b in itertools.pairwise(keys)] == [False, True, False]


def test_several_processes_draw_the_same(monkeypatch):
    together = dict(plays._drawn_by_all_cores(["00", "04"]))
    monkeypatch.setattr(plays, "WORTH_IT", 0)
    monkeypatch.setattr(plays, "PART", 3)
    assert dict(plays._drawn_by_all_cores(["00", "04"])) == together
    assert [len(frames) for frames in together.values()] == [7, 7]


def test_scripts_draw_in_the_colours_of_the_figures():
    text = (ROOT / "docs" / "_static" / "formula.js").read_text(encoding="utf-8")
    found = dict(re.findall(r"\b([A-Z]+) = '(#\w+)'", text))
    assert found and found == {name: getattr(drawing, name) for name in found}


# --- Exercises ---


def test_a_third_of_the_exercises_is_checked_in_the_page():
    here = [ex for ex in exercises().values() if answers.is_checked_here(ex)]
    assert 3 * len(here) >= len(exercises())
    assert {f"{n:02d}" for n in range(1, 7)} <= {ex.notebook for ex in here}
    assert not [ex for ex in exercises().values() if ex.facts and ex not in here]


def test_a_form_stands_where_the_page_can_check(book):
    for path in NOTEBOOKS:
        found = re.findall(
            r'<div class="exercise"><script type="application/json">(.*?)</script>',
            html_of(book, path),
        )
        ids = [json.loads(data)["id"] for data in found]
        here = [ex.id for ex in exercises().values() if answers.is_checked_here(ex)]
        assert ids == [id for id in here if exercises()[id].notebook == path.name[:2]]


# --- Less to fetch ---


def test_the_icons_that_pages_name_are_kept():
    script = '{bars:[448,512,["navicon"],"f0c9","M0 1z"],"angle-left":[8,9,[],"f104","M2 3z"]}'
    page = '<i class="fa-solid fa-bars"></i><i class="fas fa-angle-left"></i>fa-solid fa-no'
    assert light.names([page]) == ["angle-left", "bars"]
    sheet = light.icons(script, light.names([page]))
    assert ".fa-bars { --icon" in sheet and "0%200%20448%20512" in sheet and "M2%203z" in sheet


def test_no_page_fetches_all_icons(book):
    assert not list(book.rglob("*.woff2")) and not (book / light.SCRIPT).exists()
    assert "fontawesome" not in (book / "index.html").read_text(encoding="utf-8")
    used = light.names([p.read_text(encoding="utf-8") for p in book.rglob("*.html")])
    sheet = (book / "_static" / "icons.css").read_text(encoding="utf-8")
    assert used and all(f".fa-{name} {{" in sheet for name in used)

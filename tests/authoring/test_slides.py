"""The slides: made from the notebooks' cells, and shown in a Chromium that has no network."""

import html
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest

from qlesson.authoring import slides, teaching
from qlesson.teach.show import caption

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)


def stream(text):
    return nbformat.v4.new_output("stream", text=text)


def picture(alt="a <line>"):
    data = {"image/png": "iVBO\nRw0=", "text/plain": "facts"}
    metadata = {"image/png": {"alt": alt}}
    return nbformat.v4.new_output("display_data", data=data, metadata=metadata)


def code(source, *outputs, **metadata):
    return nbformat.v4.new_code_cell(source, outputs=list(outputs), metadata=metadata)


# --- from cells to blocks ---


def test_code_and_what_it_prints_become_lines():
    made = slides.code(code("x = 1 < 2\nprint(x)", stream("True\n<b>\n")))
    source, output = re.findall(r'<pre class="(?:code|output)">.*?</pre>', made, flags=re.S)
    assert source.count("\n</span>") == 2 and "1 </span>" not in source and "&lt;" in source
    assert output == '<pre class="output"><span>True\n</span><span>&lt;b&gt;\n</span></pre>'


def test_a_value_is_its_text():
    value = nbformat.v4.new_output("execute_result", data={"text/plain": "tensor(3)"})
    assert "<span>tensor(3)\n</span>" in slides.code(code("x", value))


def test_the_source_of_a_function_is_colored():
    made = slides.code(code("show_source(f)", stream("def f(): 1")))
    assert '<span class="k">def</span>' in made and "show_source" not in made
    assert '<span class="k">' not in slides.code(code("1", stream("def f(): 1")))


def test_a_picture_stands_for_its_code():
    made = slides.code(code("rows = 3\nshow(f(rows), alt='')", picture()))
    assert made == '<img alt="a &lt;line&gt;" src="data:image/png;base64,iVBORw0=">\n'
    made = slides.code(code("print(1)\nshow(\n    f\n)", stream("1"), picture()))
    assert made.count("<pre") == 2 and made.count("<img") == 1 and "show" not in made


def test_the_sentence_below_a_picture_is_its_alt_text_alone():
    below = nbformat.v4.new_output("display_data", data=caption("A line."))
    other = nbformat.v4.new_output("display_data", data=caption("A table."))
    made = slides.code(code("play(1)", picture("A line. s = 3."), below, other))
    assert made.count("A line.") == 1 and 'alt="A line. s = 3."' in made
    assert "<em>A table.</em>" in made


def test_a_live_figure_says_where_it_lives():
    assert "notebook 01, under Play" in slides.code(code('play("01")', picture()))
    assert "under Play" not in slides.code(code('play("01", s=2)', stream("s = 2")))
    made = slides.markdown("## Play\n\nThree values. Which one (of all) falls? Move s.")
    assert ">Play: Which one (of all) falls?</h2>" in made and "Three values." in made


def test_an_import_alone_is_left_out_and_a_setting_is_not():
    assert slides.code(code("import torch\nfrom a import (\n    b,\n)")) == ""
    made = slides.code(code("import torch\n\n\nx = 1\n\n\ndef f():\n    import b"))
    words = re.sub("<[^>]+>", "", made)
    assert words == "x = 1\n\ndef f():\n    import b\n\n"


def test_a_docstring_is_its_first_line_without_the_notebook():
    text = 'def f():\n    """One line   (notebook 01).\n\n    Two.\n    """\n    return 1'
    assert slides.short(text) == 'def f():\n    """One line [...]"""\n    return 1'
    assert slides.short('"""All of it   (notebooks 01, 02)."""') == '"""All of it"""'


def test_a_folded_answer_is_marked():
    made = slides.code(code("print(1)", stream("1"), jupyter={"outputs_hidden": True}))
    before, _, answer = made.partition('<div class="answer">')
    assert 'class="code"' in before and 'class="output"' in answer


def test_an_exercise_shows_its_function_and_nothing_else():
    said = stream("1.1 not attempted yet\n")
    made = slides.code(code('def f(r): ...\n\n\ncheck("1.1", f)', said))
    assert "check" in made and "attempted" not in made
    assert slides.code(code('a = ...\n\ncheck("1.2", a)', said)) == ""  # where the answer goes


def test_markdown_has_mathml_and_links_from_deck_to_deck():
    made = slides.markdown(
        "Half: $x \\le \\frac{1}{2}$ of [01](01_a.ipynb), [there](02_b.ipynb#There), "
        "[the map](#map), [teaching](teaching.md), [paper](https://example.org/x.ipynb?y).\n\n"
        "$$s = 1$$\n\n[previous](00_a.ipynb) · [next](02_b.ipynb)"
    )
    assert made.count("<mfrac>") == 1 and 'display="block"' in made and "$" not in made
    assert re.findall('href="(.*?)"', made) == ["01_a.html", "02_b.html", PAPER]
    assert "the map" in made and "teaching" in made and "previous" not in made


def test_a_logarithm_keeps_its_distance():
    assert slides.spaced(r"20 \log_{10} 2 = x") == r"20\,\log_{10}\,2 = x"
    assert slides.spaced(r"\frac{1}{2}") == r"\frac{1}{2}"


PAPER = "https://example.org/x.ipynb?y"


def test_what_is_more_is_left_out_and_the_end_has_a_slide():
    nb = nbformat.v4.new_notebook()
    nb.cells = [
        nbformat.v4.new_markdown_cell("# 09 A & B"),
        nbformat.v4.new_markdown_cell("secret<br><br>", id="space-1"),
        nbformat.v4.new_markdown_cell("## More: secret", metadata={"tags": ["more"]}),
        code("print('secret')", stream("secret"), tags=["more"]),
        nbformat.v4.new_markdown_cell("**Remember.** One thing."),
    ]
    page = slides.deck(nb)
    assert "secret" not in page and "{{" not in page
    assert "<title>09 A &amp; B</title>" in page
    assert re.search(r"<h2[^>]*>Remember</h2>\s*<p>One thing", page)


TEACHING = """
## A vote for each notebook

**01. Is 2 < `x`?**

- A: yes. (Sizes mix.)
- B: **no, 2 (two).**

**02. Another?**

- A: **yes.**

## What to draw

- 01: a line & "marks".
"""


def test_a_vote_is_two_slides_and_a_drawing_is_in_the_notes():
    nb = nbformat.v4.new_notebook()
    nb.cells = [nbformat.v4.new_markdown_cell(text) for text in ("# 01 A", "Intro.", "## B")]
    made = slides.blocks(nb, TEACHING)
    assert '<h1 data-notes="To draw on the board: a line &amp; &quot;marks&quot;."' in made
    intro, asked, told = made.index("Intro."), *(m.start() for m in re.finditer("Vote: Is 2", made))
    end = made.index(">B</h2>")
    assert intro < asked < told < end
    question, answer = made[asked:told], made[told:end]
    assert "Sizes mix." not in question and "✓" not in question and "no, 2 (two)." in question
    assert "<em>Sizes mix.</em>" in answer and re.search(r"<strong>B no, 2 \(two\)..✓", answer)
    assert "Another" not in made and "yes.</strong>" not in made
    assert "Vote" not in slides.blocks(nb)


MINUTES = """# Minutes

## [01 A](01_a.ipynb)

| day | 3 hours | section | what to do |
| --- | --- | --- | --- |
| 1 | 1 | the top | Say `hello`. |
| 2 | 1 | B, or "not `B`" | Run. |
| 3 | 0 | B, or "not `B`" | **Vote 01** after that. |
| 3 | 0 | Play | In pairs. |
| 3 | 0 | Exercises | Walk around. |

## [02 B](02_b.ipynb)

| day | section | what to do |
| --- | --- | --- |
| 1 | the top | Nothing. |
"""


def test_each_section_has_its_notes_and_the_vote_its_place():
    sources = (
        "# 01 A",
        "## First",
        '## B, or "not `B`"\n\nX.',
        "## Play\n\nWhy?",
        "### Exercise 1.1 C",
    )
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(s) for s in sources])
    made = slides.blocks(nb, TEACHING, MINUTES)
    notes = re.findall(
        r"<h(\d)(?: data-notes=\"(.*?)\")?>(?:Vote|01 A|First|B|Play|Ex)", made, flags=re.S
    )
    assert [level for level, _ in notes] == list("1222223")
    top, first, question, answer, b, play, exercise = (text for _, text in notes)
    assert top.startswith("Say hello.\nTo draw on the board: a line") and first == ""
    assert "Everybody votes" in question and "most hands" in answer
    assert b == "Run.\nVote 01 after that."
    assert (play, exercise) == ("In pairs.", "Walk around.")
    assert teaching.steps(MINUTES, "02") == [("the top", "Nothing.")]


def test_the_notes_are_of_sections_that_there_are():
    minutes = (ROOT / "notebooks" / "teaching_minutes.md").read_text(encoding="utf-8")
    page = (ROOT / "notebooks" / "teaching.md").read_text(encoding="utf-8")
    for path in NOTEBOOKS:
        made = slides.blocks(nbformat.read(path, as_version=4), page, minutes)
        found = {html.unescape(n) for n in re.findall('data-notes="(.*?)"', made, flags=re.S)}
        steps = [w for name, w in teaching.steps(minutes, path.name[:2]) if "More" not in name]
        kept = [w for w in steps if any(re.sub("[*`$]", "", w) in notes for notes in found)]
        assert len(kept) >= len(steps) - 3 > 0, path  # sections under More are not in the deck


def test_no_vote_stands_before_a_bet_of_its_section():
    """The second slide of a vote has its answers, and those of 16 told that of the bet."""
    minutes = (ROOT / "notebooks" / "teaching_minutes.md").read_text(encoding="utf-8")
    for path in NOTEBOOKS:
        steps = teaching.steps(minutes, path.name[:2])
        assert not [n for n, what in steps if n.startswith("Predict") and "**Vote" in what], path


def test_each_notebook_has_its_vote_and_its_drawing():
    page = (ROOT / "notebooks" / "teaching.md").read_text(encoding="utf-8")
    for path in NOTEBOOKS:
        found = teaching.vote(page, path.name[:2])
        assert [a.letter for a in found.answers] == list("ABCD")
        assert sum(a.right for a in found.answers) == 1
        assert all(a.right or a.idea for a in found.answers)
        assert bool(teaching.drawing(page, path.name[:2])) is (path != NOTEBOOKS[0])


@each_notebook
def test_every_picture_has_its_sentence(path):
    made = slides.deck(nbformat.read(path, as_version=4))
    pictures = re.findall(r"<img[^>]*>", made)
    assert pictures and all(re.search(r'alt="[^"]{20,}"', tag) for tag in pictures)


@each_notebook
def test_a_deck_is_as_small_as_teachers_are_told(path):
    teachers = [ROOT / "notebooks" / name for name in ("teaching.md", "teaching_minutes.md")]
    pages = [page.read_text(encoding="utf-8") for page in teachers]
    (most,) = re.findall(r"one HTML file of at most (\d+) kB", pages[0])
    made = slides.deck(nbformat.read(path, as_version=4), *pages)
    assert len(made.encode()) <= 1000 * int(most)


@each_notebook
def test_no_formula_is_left_in_tex(path):
    made = slides.blocks(nbformat.read(path, as_version=4))
    words = re.sub(r"<pre.*?</pre>|<code>.*?</code>|<[^>]+>", "", made, flags=re.S)
    assert "$" not in words and "\\" not in words


def test_slides_need_nothing_of_the_tests():
    """`make slides` installs no more than `make lab` and what makes formulas."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = [re.split(r"[<>=!~ \[;]", r)[0] for r in project["optional-dependencies"]["test"]]
    inside = {"qlesson", "nbclient", "nbformat"}  # the last two come with JupyterLab
    missing = [name.replace("-", "_") for name in names if name not in inside]
    assert "playwright" in missing and "onnxruntime" in missing
    block = f"import sys; sys.modules |= dict.fromkeys({missing})"
    command = f"{block}; from qlesson.authoring import __main__"
    subprocess.run([sys.executable, "-c", command], check=True, cwd=ROOT)


def test_only_the_named_decks_are_written(tmp_path, capsys):
    assert slides.main(ROOT / "notebooks", ["01"], tmp_path) == 0
    assert [p.stem for p in tmp_path.iterdir()] == ["01_linear_formula"]
    assert "01_linear_formula.html" in capsys.readouterr().out


def test_pictures_are_drawn_finer_where_that_is_asked_for(tmp_path, monkeypatch):
    """By a kernel, which has the settings of the process that starts it."""
    monkeypatch.setenv("QLESSON_DPI", "100")  # so that it is as it was after this test
    monkeypatch.setattr(slides.refresh, "run", lambda path: seen.append(path) or path.read_text())
    for draw, dots, seen in ((False, "100", []), (True, "200", [])):
        slides.main(ROOT / "notebooks", ["01"], tmp_path, draw=draw)
        assert bool(seen) is draw and os.environ["QLESSON_DPI"] == dots

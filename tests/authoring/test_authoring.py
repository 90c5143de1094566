"""Each rule bites on a good notebook spoiled in one place; refreshing is exact."""

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from qlesson.authoring import __main__, lint, refresh

TOP = """# 01 A title

One sentence.

**You will be able to**
- do this
- do that
- do the other

**Needs:** Python.

About 10 minutes.

[previous](00_start_here.ipynb) · [contents](00_start_here.ipynb) · [next](02_next.ipynb)"""
EXERCISE = """## Exercises

### Exercise 1.1 Round

easy · 8 minutes

Round it."""


def printed(source, text, **metadata):
    out = [new_output("stream", name="stdout", text=text)]
    return new_code_cell(source, outputs=out, metadata=metadata)


def shown(data, source="show(figure)"):
    return new_code_cell(source, outputs=[new_output("display_data", data=data)])


def good():
    """A small notebook that keeps every rule."""
    cells = [
        new_markdown_cell(TOP),
        shown({"image/png": "AAAA", "text/plain": "a line of facts about the picture, " * 3}),
        new_markdown_cell("## Predict, then run\n\nWhat is $1 + 1$? See [the bet](#Play)."),
        printed("print(2)", "the sum:\n2\n", jupyter={"outputs_hidden": True}),
        new_markdown_cell("## Play"),
        new_markdown_cell(EXERCISE),
        new_markdown_cell("## More: sums", metadata={"tags": ["more"]}),
        new_markdown_cell("**Remember.** This.\n\n**Next.** That?\n\n## References"),
    ]
    count = 0
    for i, cell in enumerate(cells):
        cell.id = f"cell-{i}"
        if cell.cell_type == "code":
            count += 1
            cell.execution_count = count
    return new_notebook(cells=cells, metadata=refresh.METADATA)


@pytest.fixture
def folder(tmp_path):
    """Three neighbours, of which 01 is the one to spoil; the README's map beside them."""
    (tmp_path / "notebooks").mkdir()
    save(good(), tmp_path / "notebooks", "00_start_here")
    save(good(), tmp_path / "notebooks", "02_next")
    return tmp_path / "notebooks"


def save(nb, folder, name="01_title"):
    path = folder / f"{name}.ipynb"
    path.write_text(nbformat.writes(nb) + "\n", encoding="utf-8")
    return path


def found(nb, folder):
    return lint.notebook_problems(lint.read(save(nb, folder)))


def test_a_good_notebook_has_no_problem(folder):
    assert found(good(), folder) == []


def code(source="pass", outputs=(), **metadata):
    """Spoil by one more code cell."""

    def spoil(nb):
        cell = new_code_cell(source, outputs=list(outputs), metadata=metadata, execution_count=3)
        nb.cells.insert(4, cell)

    return spoil


def text(source, **metadata):
    """Spoil by one more Markdown cell."""
    return lambda nb: nb.cells.insert(2, new_markdown_cell(source, metadata=metadata))


def replace(old, new):
    """Spoil by other words."""

    def spoil(nb):
        hits = [c for c in nb.cells if old in c.source]
        assert hits
        for cell in hits:
            cell.source = cell.source.replace(old, new)

    return spoil


def output(kind, **content):
    return code(outputs=[new_output(kind, **content)])


def stdout(text):
    return output("stream", name="stdout", text=text)


def each(cell_number, **attributes):
    return lambda nb: nb.cells[cell_number].update(attributes)


SPOILED = {
    "null count": (each(1, execution_count=None), "execution counts are"),
    "counts out of order": (each(1, execution_count=7), "execution counts are"),
    "version of Python": (
        lambda nb: nb.metadata.update(language_info={"name": "python", "version": "3.11.7"}),
        "not as refresh stores it",
    ),
    "error": (output("error", ename="E", evalue="", traceback=[]), "stores an error"),
    "stderr": (output("stream", name="stderr", text="a warning"), "writes to stderr"),
    "widget state": (lambda nb: nb.metadata.update(widgets={}), "stores widget state"),
    "widget view": (output("display_data", data={refresh.WIDGET: {}}), "stores a widget view"),
    "svg": (output("display_data", data={"image/svg+xml": "<svg/>"}), "stores an SVG"),
    "no facts": (output("display_data", data={"image/png": "A"}), "without facts"),
    "few facts": (
        output("display_data", data={"image/png": "A", "text/plain": "<Figure size 1 by 1>"}),
        "without facts",
    ),
    "object address": (stdout("<object at 0x7f3a2b1c9d>"), "0x7f3a2b1c9d"),
    "server address": (text("Open http://localhost:8888 then."), "localhost"),
    "machine path": (stdout("/home/ann/x.py"), "/home/ann"),
    "path in html": (output("display_data", data={"text/html": "<b>/tmp/x</b>"}), "/tmp/x"),
    "windows path": (stdout(r"C:\Users\ann"), r"C:\Users"),
    "installed path": (stdout("lib/site-packages/torch"), "site-packages"),
    "large": (text("x" * 310_000), "over 300"),
    "many lines": (code("pass\n" * 15 + "pass"), "16 lines"),
    "wide line": (code("x = 1  " + "#" * 73), "80 columns"),
    "empty cell": (code(" "), "empty code cell"),
    "skip tag": (code(tags=["nbval-skip"]), "nbval-skip"),
    "ignore tag": (code(tags=["nbval-ignore-output"]), "nbval-ignore-output"),
    "exception tag": (code(tags=["raises-exception"]), "raises-exception"),
    "ignore comment": (code("# NBVAL_IGNORE_OUTPUT\npass"), "NBVAL_IGNORE_OUTPUT"),
    "details": (text("<details>x</details>"), "<details"),
    "style": (text('<span style="color:red">x</span>'), "style"),
    "style in output": (output("display_data", data={"text/html": "<style>"}), "<style"),
    "alert": (text("> [!NOTE]\n> x"), "[!NOTE]"),
    "operatorname": (text(r"$\operatorname{round}(x)$"), r"\operatorname"),
    "bare align": (text("\\begin{align}\na\n\\end{align}"), "between $$ and $$"),
    "formula over lines": (text("so $a +\nb$ holds"), "an odd number of $"),
    "bare dollar": (text("It costs $5."), "an odd number of $"),
    "space before $": (text("so $a $ holds"), "space beside its $"),
    "bar in a table": (text("| a | b |\n|---|---|\n| $|x|$ | 1 |"), r"\lvert x \rvert"),
    "dead link": (text("[x](gone.ipynb)"), "gone.ipynb does not exist"),
    "dead picture": (text("![x](gone.png)"), "gone.png does not exist"),
    "dead anchor": (text("[x](02_next.ipynb#Nowhere)"), "no heading for #Nowhere"),
    "dead own anchor": (text("[x](#Nowhere)"), "no heading for #Nowhere"),
    "link out": (text("[x](../notebooks/02_next.ipynb)"), "links out of notebooks/"),
    "no title": (replace("# 01 A title", "A title"), "begins with"),
    "wrong number": (replace("# 01 A title", "# 02 A title"), "begins with"),
    "two titles": (text("# Another"), "more than one heading of the first level"),
    "no objectives": (replace("**You will be able to**", "You learn"), "able to"),
    "two objectives": (replace("- do that\n", ""), "three points"),
    "no needs": (replace("**Needs:** Python.", ""), "**Needs:**"),
    "no next": (replace("[next](02_next.ipynb)", ""), "lacks [next](02_next.ipynb)"),
    "no previous": (replace("[previous]", "[before]"), "lacks [previous](00_start_here.ipynb)"),
    "no contents": (replace("[contents](00_start_here.ipynb)", ""), "lacks [contents]"),
    "wrong minutes": (replace("About 10 minutes", "About 25 minutes"), "about 25 minutes"),
    "no minutes": (replace("About 10 minutes", ""), '"About N minutes"'),
    "minutes of more words": (text("word " * 900), "its length says 15"),
    "no bet": (replace("Predict", "Guess"), 'no heading with "Predict"'),
    "open answer": (each(3, metadata={}), "no code cell under it has jupyter.outputs_hidden"),
    "told answer": (
        lambda nb: nb.cells[3].outputs[0].update(text="2\n"),
        "the first line of a folded output",
    ),
    "no picture": (lambda nb: nb.cells[1].update(outputs=[]), "has no picture"),
    "no play": (replace("## Play", "## Look"), '"## Play"'),
    "no exercises": (replace("## Exercises", "## Tasks"), '"## Exercises"'),
    "no references": (replace("## References", "## Sources"), '"## References"'),
    "nothing to remember": (replace("**Remember.**", ""), "**Remember.**"),
    "nothing next": (replace("**Next.**", ""), "**Next.**"),
    "more without tag": (each(6, metadata={}), "disagree"),
    "tag outside more": (text("x", tags=["more"]), "disagree"),
    "wrong exercise number": (replace("Exercise 1.1", "Exercise 2.1"), "exercises are numbered"),
    "exercise without minutes": (replace("easy · 8 minutes", "easy"), "1.1 has no line"),
    "no exercise": (replace("### Exercise 1.1 Round", ""), "has no"),
}


@pytest.mark.parametrize("spoil, problem", SPOILED.values(), ids=SPOILED)
def test_each_rule_bites(folder, spoil, problem):
    nb = good()
    spoil(nb)
    assert any(problem in line for line in found(nb, folder)), found(nb, folder)


def test_a_rule_without_a_case_is_noticed(folder):
    """Each rule is what finds at least one of the cases above."""
    silent = set(lint.RULES)
    for spoil, problem in SPOILED.values():
        nb = good()
        spoil(nb)
        nb = lint.read(save(nb, folder))
        silent -= {check for check in lint.RULES if any(problem in line for line in check(nb))}
    assert silent == set()


def test_what_looks_like_a_problem_and_is_none(folder):
    nb = good()
    nb.cells.insert(
        2,
        new_markdown_cell(
            "`<details>`, a path in a/tmp/b, 0x7f, [home](https://example.org/home/x)\n\n"
            "$$\\begin{aligned}\na &= b\n\\end{aligned}$$\n\n"
            "| $\\lvert x \\rvert$ | $y$ |\n\n```\n[x](gone) $ <style>\n# no heading\n```\n"
        ),
    )
    assert found(nb, folder) == []


def test_reasons_are_heard(folder, monkeypatch):
    nb = good()
    nb.cells[3].metadata.tags = ["nbval-ignore-output"]
    assert found(nb, folder) != []
    monkeypatch.setitem(lint.NOT_COMPARED, ("01_title", "cell-3"), "times differ")
    assert found(nb, folder) == []


def test_a_sentence_may_stand_in_one_notebook_only(folder, monkeypatch):
    same = "The **scale** is the width\nof one step, in the units of r."
    for name in ("01_title", "02_next"):
        nb = good()
        nb.cells.insert(2, new_markdown_cell(f"Some words before. {same} Some after."))
        nb.cells[-1].source += "\n\nA long source that two notebooks may well name alike, 2024."
        save(nb, folder, name)
    notebooks = [lint.read(folder / f"{n}.ipynb") for n in ("01_title", "02_next")]
    (line,) = lint.repeated_sentences(notebooks)
    sentence = "the scale is the width of one step in the units of r"
    assert sentence in line
    monkeypatch.setitem(lint.MAY_REPEAT, sentence, "a definition")
    assert list(lint.repeated_sentences(notebooks)) == []


def test_the_readme_has_the_minutes(folder):
    nb = lint.read(save(good(), folder))
    readme = folder.parent / "README.md"

    def lines(minutes):
        readme.write_text(f"| [01](notebooks/01_title.ipynb) | a question | {minutes} |\n")
        return list(lint.readme_map([nb], readme))

    assert lines(10) == []
    assert "README.md says 15 minutes" in lines(15)[0]
    assert "no row" in lines("ten")[0]


def test_minutes_count_words_cells_and_exercises(folder):
    nb = good()
    assert lint.minutes(lint.read(save(nb, folder))) == 10  # 8 + 2 cells of 20 s + few words
    nb.cells.insert(2, new_markdown_cell("word " * 1000))
    assert lint.minutes(lint.read(save(nb, folder))) == 15
    code("pass")(nb)
    nb.cells += [new_code_cell("pass") for _ in range(15)]
    assert lint.minutes(lint.read(save(nb, folder))) == 20


def test_sizes_are_a_table(folder):
    nb = lint.read(save(good(), folder))
    row = lint.sizes(nb)
    assert (row["cells"], row["code"], row["figures"], row["longest"]) == (8, 2, 1, 1)
    assert row["first"] == row["gap"] == len(lint.words(TOP))
    assert "01_title" in lint.table([nb])


def test_lint_command(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder.parent)
    assert __main__.main(["lint"]) == 1
    assert "README.md has no row" in capsys.readouterr().out


# --- refresh ---

LIVE = """import time, os
class Live:
    def _repr_mimebundle_(self, **kwargs):
        view = {"version_major": 2, "version_minor": 0, "model_id": os.urandom(4).hex()}
        data = {"application/vnd.jupyter.widget-view+json": view, "text/plain": "live"}
        return data, {"image/png": {"alt": "a"}, "other": 1}
Live()"""


def test_refreshing_twice_gives_the_same_bytes(tmp_path, capsys):
    nb = good()
    meta = {"tags": ["more"], "collapsed": True, "jupyter": {"outputs_hidden": True, "x": 1}}
    nb.cells = [
        new_markdown_cell("# 01 A title", metadata={"editable": False}),
        new_code_cell("import os\nfrom pathlib import Path", metadata=meta, execution_count=9),
        new_code_cell(LIVE),
        new_code_cell('print(Path("here.txt").exists())\nprint("one")\n6 * 7'),
        new_code_cell("from IPython.display import display\ndisplay(1)"),
    ]
    nb.metadata["widgets"] = {"state": {}}
    ids = [c.id for c in nb.cells]
    (tmp_path / "here.txt").touch()
    path = save(nb, tmp_path)

    assert refresh.main(tmp_path, check=True) == 1
    assert "would change" in capsys.readouterr().out
    assert refresh.stored_on(tmp_path) == "not recorded"
    assert refresh.main(tmp_path) == 0
    assert refresh.stored_on(tmp_path) == refresh.machine()
    (tmp_path / refresh.STORED_ON).write_text("another machine\n")
    first = path.read_bytes()
    assert refresh.main(tmp_path, check=True) == 0
    assert "unchanged" in capsys.readouterr().out
    assert refresh.main(tmp_path) == 0
    assert path.read_bytes() == first
    assert refresh.stored_on(tmp_path) == "another machine"  # nothing was stored

    stored = nbformat.read(path, as_version=4)
    assert [c.id for c in stored.cells] == ids
    assert stored.metadata == refresh.METADATA
    assert [c.metadata for c in stored.cells] == [
        {},
        {"tags": ["more"], "jupyter": {"outputs_hidden": True}},
        {},
        {},
        {},
    ]
    assert [c.execution_count for c in stored.cells[1:]] == [1, 2, 3, 4]
    assert stored.cells[2].outputs[0].data == {"text/plain": "live"}
    assert stored.cells[3].outputs[0].text == "True\none\n"
    assert stored.cells[3].outputs[1].execution_count == 3


def test_a_failing_cell_stores_nothing(tmp_path, capsys):
    nb = new_notebook(cells=[new_code_cell("1 / 0")])
    path = save(nb, tmp_path)
    before = path.read_bytes()
    assert refresh.main(tmp_path) == 1
    assert "not stored" in (said := capsys.readouterr().out) and "ZeroDivisionError" in said
    assert path.read_bytes() == before


def test_names_choose_the_notebooks(tmp_path, capsys):
    for name in ("01_a", "02_b"):
        save(new_notebook(cells=[new_code_cell("1")]), tmp_path, name)
    refresh.main(tmp_path, ["02"])
    assert capsys.readouterr().out == "02_b.ipynb: written\n"

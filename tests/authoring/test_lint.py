"""Each rule bites on a good notebook spoiled in one place."""

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from qlesson.authoring import __main__, address, bets, lint, refresh
from qlesson.authoring.lint import cells, reading, repeats, shape, sizes, tags, whole
from qlesson.teach import lessons
from qlesson.teach.show import caption

TOP = """# 01 A title

One sentence.

**You will be able to**
- do this
- do that
- do the other

**Needs:** Python.

About 10 minutes.

[previous](00_start_here.ipynb) · [contents](00_start_here.ipynb) · [next](02_next.ipynb) · """
LEAVES = (
    f"[Colab]({address.colab('01_title.ipynb')}) · "
    f"[report a mistake]({address.mistake('01 A title')})"
)
EXERCISE = """## Exercises

### Exercise 1.1 Round

easy · 8 minutes

Round it."""


def printed(source, text, **metadata):
    out = [new_output("stream", name="stdout", text=text)]
    return new_code_cell(source, outputs=out, metadata=metadata)


def picture(alt="Two bars.", said="Two bars."):
    """The outputs of `show`: a picture, and its sentence below it."""
    data = {"image/png": "AAAA", "text/plain": "a line of facts about the picture, " * 3}
    return [
        new_output("display_data", data=data, metadata={"image/png": {"alt": alt}}),
        new_output("display_data", data=caption(said)),
    ]


def good():
    """A small notebook that keeps every rule."""
    found = [
        new_markdown_cell(TOP + LEAVES),
        new_code_cell("show(figure)", outputs=picture()),
        new_markdown_cell("## Predict, then run\n\nWhat is $1 + 1$? See [the bet](#Play)."),
        new_markdown_cell(bets.SPACE),
        printed("print(2)", "the sum:\n2\n", jupyter={"outputs_hidden": True}),
        new_markdown_cell("Answer B, two."),
        new_markdown_cell("## Play"),
        new_markdown_cell(EXERCISE),
        new_markdown_cell("## More: sums", metadata={"tags": ["more"]}),
        new_markdown_cell("**Remember.** This.\n\n**Next.** That?\n\n## References"),
    ]
    count = 0
    for i, cell in enumerate(found):
        cell.id = f"cell-{i}"
        if cell.cell_type == "code":
            count += 1
            cell.execution_count = count
    found[3].id = "space-cell-4"
    return new_notebook(cells=found, metadata=refresh.METADATA)


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
        nb.cells.insert(8, cell)

    return spoil


def cells_of(*sources):
    """Spoil by more code cells, in this order."""

    def spoil(nb):
        for source in reversed(sources):
            code(source)(nb)

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
    "widget view": (output("display_data", data={refresh.VIEW: {}}), "stores a widget view"),
    "svg": (output("display_data", data={"image/svg+xml": "<svg/>"}), "stores an SVG"),
    "no sentence": (code(outputs=picture()[:1]), "without its sentence"),
    "no alt text": (code(outputs=picture(alt="")), "without its sentence"),
    "other sentence": (code(outputs=picture(said="Two dots.")), "without its sentence"),
    "sentence above": (code(outputs=picture()[::-1]), "without its sentence"),
    "sentence not shown": (
        code(outputs=[picture()[0], new_output("stream", text="Two bars.")]),
        "without its sentence",
    ),
    "sentence in the text": (text("Look. *Two* bars."), "stands in the text too"),
    "no name of a column": (text("| | two |\n| --- | --- |\n| 1 | 2 |"), "an empty cell heads"),
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
    "empty text": (text(" "), "empty markdown cell"),
    "name bound anew": (cells_of("x = 1", "print(x)", "x = 2"), 'binds "x" anew'),
    "name bound anew by its reader": (cells_of("x = 1", "x = x + 1"), 'binds "x" anew'),
    "name of a loop": (cells_of("x = 1", "print(x)", "for x in y:\n    pass"), 'binds "x" anew'),
    "name in a function": (
        cells_of("x = 1", "def f(y):\n    return [x for _ in y]", "x = 2"),
        'binds "x" anew',
    ),
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
    "no points": (replace("\n- do", "\ndo"), "not followed by points"),
    "no needs": (replace("**Needs:** Python.", ""), "**Needs:**"),
    "no next": (replace("[next](02_next.ipynb)", ""), "lacks [next](02_next.ipynb)"),
    "no previous": (replace("[previous]", "[before]"), "lacks [previous](00_start_here.ipynb)"),
    "no way to Colab": (replace("/blob/colab/", "/blob/main/"), "does not end with · [Colab]"),
    "no way to report": (replace("report a mistake", "write"), "[report a mistake](https"),
    "no contents": (replace("[contents](00_start_here.ipynb)", ""), "lacks [contents]"),
    "wrong minutes": (replace("About 10 minutes", "About 25 minutes"), "about 25 minutes"),
    "no minutes": (replace("About 10 minutes", ""), '"About N minutes"'),
    "minutes of more words": (text("word " * 900), "its length says 15"),
    "no bet": (replace("Predict", "Guess"), 'no heading with "Predict"'),
    "open answer": (each(4, metadata={}), "no code cell under it has jupyter.outputs_hidden"),
    "told answer": (
        lambda nb: nb.cells[4].outputs[0].update(text="2\n"),
        "the first line of a folded output",
    ),
    "no space": (lambda nb: nb.cells.pop(3), "not as refresh stores it"),
    "a space for nothing": (each(4, metadata={}), "not as refresh stores it"),
    "no answer": (lambda nb: nb.cells.pop(5), "an answer with a heading in its cell"),
    "code for an answer": (lambda nb: nb.cells.insert(5, printed("x", "2")), "answer is missing"),
    "answer and heading": (replace("Answer B,", "## Sum\n\nAnswer B,"), "an answer with a heading"),
    "answer too long": (
        lambda nb: nb.cells.__setitem__(slice(6, 6), [new_markdown_cell("word") for _ in range(8)]),
        "over 8 cells stand between this bet",
    ),
    "answer without its letter": (replace("Answer B, two", "Two: answer B"), 'begins "Answer C."'),
    "answer above": (replace("See [the bet]", "(Answer B.) See [the bet]"), 'says "Answer B"'),
    "no picture": (lambda nb: nb.cells[1].update(outputs=[]), "has no picture"),
    "no play": (replace("## Play", "## Look"), '"## Play"'),
    "no exercises": (replace("## Exercises", "## Tasks"), '"## Exercises"'),
    "no references": (replace("## References", "## Sources"), '"## References"'),
    "nothing to remember": (replace("**Remember.**", ""), "**Remember.**"),
    "nothing next": (replace("**Next.**", ""), "**Next.**"),
    "more without tag": (each(8, metadata={}), "disagree"),
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


def test_a_name_may_be_bound_again_where_no_cell_above_takes_it(folder):
    nb = good()
    sources = [
        "x = 1\nprint(x)",
        "x = 2",
        "def f(x):\n    return x",
        "[x for x in (1, 2)]\n(lambda x: x)(3)",
        "for x in (1, 2):\n    print(x)",
    ]
    cells_of(*sources)(nb)
    for count, cell in enumerate(reading.code(nb), start=1):
        cell.execution_count = count
    assert not [line for line in found(nb, folder) if "anew" in line]


def test_reasons_are_heard(folder, monkeypatch):
    nb = good()
    nb.cells[4].metadata.tags = ["nbval-ignore-output"]
    assert found(nb, folder) != []
    monkeypatch.setitem(cells.NOT_COMPARED, ("01_title", "cell-4"), "times differ")
    assert found(nb, folder) == []


def test_a_sentence_that_repeats_is_advice_and_no_problem(folder, capsys):
    same = "The **scale** is the width\nof one step, in the units of r."
    for name in ("01_title", "02_next"):
        nb = good()
        nb.cells.insert(2, new_markdown_cell(f"Some words before. {same} Some after."))
        nb.cells[-1].source += "\n\nA long source that two notebooks may well name alike, 2024."
        save(nb, folder, name)
    notebooks = [lint.read(folder / f"{n}.ipynb") for n in ("01_title", "02_next")]
    (line,) = repeats.repeated_sentences(notebooks)
    assert "the scale is the width of one step in the units of r" in line
    lint.main(folder, folder.parent / "README.md")
    said = capsys.readouterr().out
    assert f"advice: {line}" in said
    assert not [
        p for p in lint.problems(folder, folder.parent / "README.md") if "the scale is" in p
    ]


def test_two_points_are_advised_against_and_no_problem(folder):
    nb = good()
    replace("- do that\n", "")(nb)
    assert found(nb, folder) == []
    assert "2 points" in list(shape.other_counts([lint.read(folder / "01_title.ipynb")]))[0]


@pytest.mark.parametrize("words, repeated", [(7, False), (8, True), (9, True)])
def test_a_sentence_counts_from_eight_words(folder, words, repeated):
    """Counted in both notebooks, markup aside: seven words may stand twice, eight may not."""
    same = " ".join(["**Scales**", "of", "rows", "cost", "[more](#Play)", "bits", "than", "one",
                     "scale"][:words])  # fmt: skip
    for name in ("01_title", "02_next"):
        nb = new_notebook(cells=[new_markdown_cell(f"Of {name}.\n\n{same}.")])
        save(nb, folder, name)
    notebooks = [lint.read(folder / f"{n}.ipynb") for n in ("01_title", "02_next")]
    assert [len(list(repeats.sentences(nb))) for nb in notebooks] == [repeated, repeated]
    assert len(list(repeats.repeated_sentences(notebooks))) == repeated


def test_the_readme_has_the_minutes(folder):
    nb = lint.read(save(good(), folder))
    readme = folder.parent / "README.md"

    def lines(minutes):
        readme.write_text(f"| [01](notebooks/01_title.ipynb) | a question | {minutes} |\n")
        return list(whole.readme_map([nb], readme))

    assert lines(10) == []
    assert "README.md says 15 minutes" in lines(15)[0]
    assert "no row" in lines("ten")[0]


def test_a_link_says_the_title_of_what_it_leads_to(folder):
    """A renumbered notebook is found wherever its old number or title stands."""
    page = folder.parent / "README.md"
    nb = good()
    first = new_notebook(cells=[new_markdown_cell("# 00 Start\n\n[01 Title](01_title.ipynb)")])
    notebooks = [lint.read(save(first, folder, "00_start_here")), lint.read(save(nb, folder))]
    notebooks[1].cells[0].source = "# 01 Title\n\nA sentence."

    def found(link):
        page.write_text(f"Read {link}.")
        return list(whole.named_by_titles(notebooks, page))

    target = "(notebooks/01_title.ipynb#play)"
    for words in ("01", "01 Title", "next", "the first"):
        assert found(f"[{words}]{target}") == []
    for words in ("02", "1", "01 Another title", "02 Title"):
        assert f"[{words}] leads to 01_title.ipynb" in found(f"[{words}]{target}")[0]
    assert "no notebook" in found("[02 Gone](02_gone.ipynb)")[0]
    notebooks[0].cells[0].source = "# 00 Start"
    assert "its map lacks [01 Title]" in found("nothing")[0]


def test_a_page_names_the_columns_of_its_tables(folder):
    page = folder / "teaching.md"
    page.write_text("| a | b |\n| --- | :-: |\n| | 1 |\n| 2 | |\n")  # a cell below may be empty
    assert list(whole.headless_tables(page, folder / "no such page.md")) == []
    page.write_text("| a | |\n|---|---|\n| 1 | 2 |\n")
    (found,) = whole.headless_tables(page)
    assert found.startswith("teaching.md: an empty cell heads")


def test_minutes_count_words_cells_and_exercises(folder):
    nb = good()
    assert sizes.minutes(lint.read(save(nb, folder))) == 10  # 8 + 2 cells of 20 s + few words
    nb.cells.insert(2, new_markdown_cell("word " * 1000))
    assert sizes.minutes(lint.read(save(nb, folder))) == 15
    code("pass")(nb)
    nb.cells += [new_code_cell("pass") for _ in range(15)]
    assert sizes.minutes(lint.read(save(nb, folder))) == 20


def test_sizes_are_a_table(folder):
    nb = lint.read(save(good(), folder))
    row = sizes.sizes(nb)
    assert (row["cells"], row["code"], row["figures"], row["longest"]) == (10, 2, 1, 1)
    assert row["first"] == row["gap"] == len(reading.words(TOP + LEAVES))
    assert "01_title" in sizes.table([nb])


def test_lint_command(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder.parent)
    assert __main__.main(["lint"]) == 1
    assert "README.md has no row" in capsys.readouterr().out


# --- the package and the notebooks ---


def written(folder, files):
    """The folder, with these modules in it: {name: text}."""
    for name, text in files.items():
        path = folder / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


def promises_broken(folder, package, *sources):
    """What the docstrings of a package promise of notebook 01, with these cells, and break."""
    nb = new_notebook(cells=[*map(new_code_cell, sources)])
    nb.cells.append(new_markdown_cell("Also `a.listed`, not spoken."))
    return list(tags.broken_promises([lint.read(save(nb, folder))], package))


@pytest.mark.parametrize(
    "doc, numbers",
    [
        ("A scale (notebook 01).", ["01"]),
        ("Ranges   (notebooks 01, 04 and 07). Of notebook\n12 too.", ["01", "04", "07", "12"]),
        ("Notebooks are many; notebooks 01-03, notebooks 05 to 06", "01 02 03 05 06".split()),
        ("notebook NN, notebook 1, 07, notebook 123", []),
    ],
)
def test_the_numbers_that_a_docstring_names(doc, numbers):
    assert list(tags.promised(doc)) == numbers


@pytest.mark.parametrize(
    "source, kept",
    [
        ("f(1)", True),
        ("from a.room import f", True),
        ("a.room.f", True),
        ("'f'  # f", False),
        ("def f(): pass", False),
        ("g = off", False),
    ],
)
def test_a_function_keeps_its_promise_by_its_name_in_code(folder, tmp_path, source, kept):
    package = written(tmp_path / "package", {"room": 'def f():\n    "A formula (notebook 01)."'})
    found = promises_broken(folder, package, source)
    assert found == ([] if kept else ["room.py: f names notebook 01, which has no such name"])


def test_text_counts_where_it_is_set_as_code(folder, tmp_path):
    doc = ':\n    "Notebook words (notebook 01)."\n'
    package = written(tmp_path / "package", {"room": f"class listed{doc}class spoken{doc}"})
    (found,) = promises_broken(folder, package)
    assert "room.py: spoken names notebook 01" in found


def test_a_module_keeps_its_promise_by_what_is_public_in_it(folder, tmp_path):
    inside = "\ndef shown(): pass\ndef _hidden(): pass"
    module = f'"A room (notebook 01)."{inside}'
    package = written(tmp_path / "package", {"room": module, "house/__init__": module})
    assert promises_broken(folder, package, "shown") == []
    assert promises_broken(folder, package, "house.room") == []
    found = promises_broken(folder, package, "_hidden")
    assert [line.split()[1] for line in found] == ["house", "room"]


def test_a_notebook_that_is_not_there_has_no_names(folder, tmp_path):
    package = written(tmp_path / "package", {"room": 'def f():\n    "A formula (notebook 31)."'})
    assert "f names notebook 31" in promises_broken(folder, package, "f")[0]


@pytest.fixture
def lesson(monkeypatch, tmp_path):
    """The folder of a lesson 99 beside those of the package."""
    monkeypatch.setattr(lessons, "__path__", [*lessons.__path__, str(tmp_path / "lessons")])
    return tmp_path / "lessons" / "n99"


def test_what_a_lesson_uses_counts_for_its_notebook(folder, tmp_path, lesson):
    package = written(tmp_path / "package", {"room": 'def f():\n    "A formula (notebook 99)."'})
    written(lesson, {"play": "from room import f"})
    nb = lint.read(save(new_notebook(), folder, "99_last"))
    assert list(tags.broken_promises([nb], package)) == []
    assert len(list(tags.broken_promises([], package))) == 1


def test_a_picture_names_the_notebook_of_its_lesson_first(lesson):
    assert list(tags.untagged_figures()) == []
    pictures = {"one": "(notebooks 99, 02)", "two": "(notebooks 02, 99)", "_bare": "", "three": ""}
    source = "\n".join(f'def {name}():\n    "{doc}"' for name, doc in pictures.items())
    written(lesson, {"figures": source})
    found = [line.split()[1] for line in tags.untagged_figures()]
    assert found == ["two", "three"]


def test_a_lesson_without_a_notebook_is_found(folder, lesson):
    notebooks = lint.load(folder.parents[0] / "notebooks")
    before = list(whole.lessons_without_a_notebook(notebooks))
    written(lesson, {"play": ""})
    (found,) = set(whole.lessons_without_a_notebook(notebooks)) - set(before)
    assert found == "lessons/n99/play.py belongs to no notebook"

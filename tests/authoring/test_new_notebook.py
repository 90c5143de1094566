"""A notebook is added to a copy of the course: what finds it, and which files that touches.

CONTRIBUTING.md, "Add a notebook", names the same files.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from qlesson.authoring import address

ROOT = Path(__file__).parents[2]
LAST = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))[-1]
N = f"{int(LAST.name[:2]) + 1:02d}"
NAME = f"{N}_thrown_away"

ELSEWHERE = (
    f"[Colab]({address.colab(f'{NAME}.ipynb')}) · "
    f"[report a mistake]({address.mistake(f'{N} Thrown away')})"
)

pytestmark = pytest.mark.slow

# What belongs to the new lesson: its own files, which nothing else names.
FIGURES = f'''
"""The picture of notebook {N}: a few dots."""

from qlesson.teach.figures import drawing as draw


def few_dots(values):
    """One dot for each value, in order   (notebook {N})."""
    fig, ax = draw.figure(2.0)
    ax.plot(range(len(values)), draw.array(values), "o", color=draw.REAL, label="values")
    ax.set_xlabel("place")
    ax.set_ylabel("value")
    return fig
'''
PLAY = '''
"""The live figure of a notebook that is thrown away."""

from functools import partial

from qlesson.teach import figures
from qlesson.teach.widgets import Slider, declare


@declare("Dots on a line whose slope is chosen.", slope=Slider("slope", 1, 4, 1, 2))
def _dots(slope):
    values = [float(slope * i) for i in range(4)]
    sentences = [f"Slope {slope}.", f"The last of the four values is {values[-1]:.1f}."]
    return sentences, partial(figures.few_dots, values)
'''
EXERCISES = f'''
"""The exercises of notebook {N}, which is thrown away."""

from qlesson.teach.exercises import exercise


@exercise("{int(N)}.1", "Count to three", "predict a number", difficulty=1, minutes=2)
class Count:
    """Which number comes after two?"""

    hints = ("Begin with one.", "One, two, and then?")
    why = "Three follows two."
    stub = "my_number = ..."
    right = 3
    wrong = [(1, "That is the first."), (2, "Two itself."), (4, "One too far."), (0, "Upwards.")]


@exercise("{int(N)}.2", "Find the largest", "choice", difficulty=1, minutes=3)
class Largest:
    """
    Which is the largest?

    - **A** one
    - **B** two
    - **C** three
    """

    hints = ("Two are smaller than it.", "It is the last of them.")
    why = "C is three."
    stub = "my_letter = ..."
    right = "C"
    wrong = [("A", "The least."), ("B", "Not yet."), ("AB", "One alone."), ("BC", "Only one.")]
'''
TESTS = f'''
"""The figure of notebook {N} draws its values."""

from drawn import close, line

from qlesson.teach import figures

CASES = {{"few_dots": [[1.5, 2.5, 4.0]]}}


def test_few_dots():
    close(line(figures.few_dots(*CASES["few_dots"]).axes[0], "values"), [[0, 1, 2], [1.5, 2.5, 4]])
'''
# Writes the notebook as an author does, with the exercises' own cells.
WRITE = f'''
from pathlib import Path
import nbformat
from nbformat.v4 import new_code_cell as code, new_markdown_cell as text, new_notebook
from qlesson.authoring.lint import read, sizes
from qlesson.teach.exercises import exercises

top = """# {N} Thrown away

A notebook that nobody keeps.

**You will be able to**
- add one
- find it
- forget it

**Needs:** nothing.

About 0 minutes.

[previous]({LAST.name}) · [contents](00_start_here.ipynb) · {ELSEWHERE}"""
tasks = [ex for ex in exercises().values() if ex.notebook == "{N}"]
alt = "Two dots, of which the second lies higher than the first."
cells = [
    text(top),
    code("from qlesson.teach import check, figures, play, show"),
    text("## Predict, then run\\n\\nWhich dot lies higher?"),
    code("print('higher:')\\nprint(2)", metadata={{"jupyter": {{"outputs_hidden": True}}}}),
    text("Answer B, the second."),
    code(f'show(\\n    figures.few_dots([1.0, 2.0]),\\n    "{{alt}}",\\n)'),
    text("## Play"),
    code('play("{N}")'),
    code('play("{N}", slope=3)'),
    text("## Exercises"),
    *(cell for ex in tasks for cell in (text(ex.cells[0]), code(ex.cells[1]))),
    text("**Remember.** Nothing.\\n\\n**Next.** What?\\n\\n## References\\n\\nNone."),
]
for number, cell in enumerate(cells):
    cell.id = f"cell-{{number}}"
nb, path = new_notebook(cells=cells), Path("notebooks/{NAME}.ipynb")
nbformat.write(nb, path)
stated = sizes.minutes(read(path))
nb.cells[0].source = top.replace("About 0", f"About {{stated}}")
nbformat.write(nb, path)
'''
# {file: some of its tests that must have run}
TESTED = {
    "figures": ["test_looks[few_dots-0]", "test_lists_and_tensors_draw_the_same[few_dots]"],
    "exercises": [
        "test_there_are_enough_of_enough_kinds",
        f"test_a_block_is_complete[{int(N)}.2]",
        f"test_the_notebook_has_the_text_and_the_stub[{int(N)}.1]",
    ],
    "widgets": [f"test_a_control_changes_picture_and_words[{N}-slope]"],
    "teaching": [
        f"test_a_vote_has_four_answers_one_of_them_right[{N}]",
        "test_every_notebook_has_its_part",
        f"test_the_minutes_add_up_to_the_block[{N}]",
        f"test_the_minutes_name_every_section_in_its_order[{N}]",
    ],
}
VOTE = f"""
**{N}. A notebook that is thrown away ...**

- A: stays. (It does not.)
- B: **goes.**
- C: comes back. (It does not.)
- D: never was. (It was.)
"""
PAGE = f"""
## [{N} Thrown away]({NAME}.ipynb)

| day | section | what to do |
| --- | --- | --- |
| 30 | the top; Predict, then run; Play | **Vote {N}** first. Run. |
| 20 | Exercises | Work: {int(N)}.1, {int(N)}.2. |
"""


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """A copy of this course with the new lesson and its notebook; nothing else is changed."""
    copy = tmp_path_factory.mktemp("course")
    for name in ("qlesson", "notebooks", "tests", "binder"):
        left = shutil.ignore_patterns("__pycache__", ".*")
        shutil.copytree(ROOT / name, copy / name, ignore=left)
    for name in ("README.md", "conftest.py", "pyproject.toml"):
        shutil.copyfile(ROOT / name, copy / name)
    lesson = copy / "qlesson" / "teach" / "lessons" / f"n{N}"
    lesson.mkdir()
    for name, source in (("figures", FIGURES), ("play", PLAY), ("exercises", EXERCISES)):
        (lesson / f"{name}.py").write_text(source.lstrip())
    (copy / "tests" / "teach" / f"test_figures_{N}.py").write_text(TESTS.lstrip())
    run(copy, "-c", WRITE)
    assert "written" in run(copy, "-m", "qlesson.authoring", "refresh", N)
    return copy


def run(folder, *words, status=0):
    """What Python prints there; the package is the one in that folder."""
    clean = {k: v for k, v in os.environ.items() if "PYTEST" not in k}
    made = subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env=clean | {"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
    )
    assert made.returncode == status, made.stdout + made.stderr
    return made.stdout


def change(file, old, new):
    text = file.read_text(encoding="utf-8")
    assert text.count(old) == 1, old
    file.write_text(text.replace(old, new), encoding="utf-8")


def test_it_is_found(course):
    said = run(
        course,
        "-c",
        "from qlesson.teach import check, figures, play\n"
        "from qlesson.teach.exercises import exercises\n"
        f"play('{N}', slope=3)\n"
        f"check('{int(N)}.2', 'C')\n"
        f"print(list(exercises())[-1], figures.few_dots.__module__)",
    )
    assert said == (
        f"Slope 3.\nThe last of the four values is 9.0.\nPassed: {int(N)}.2. C is three.\n"
        f"{int(N)}.2 qlesson.teach.lessons.n{N}.figures\n"
    )


@pytest.fixture(scope="module")
def finished(course):
    """The same with the words about it in README.md, 00, the one before it and for teachers."""
    before = run(course, "-m", "qlesson.authoring", "lint", status=1)
    stated = re.search(rf"^{NAME} .* (\d+)$", before, flags=re.M)[1]
    row = re.search(rf"^\|.*{LAST.name}.*$", (course / "README.md").read_text(), flags=re.M)[0]
    added = f"\n| [{N} Thrown away](notebooks/{NAME}.ipynb) | Why? | {stated} |"
    change(course / "README.md", row, row + added)
    start = course / "notebooks" / "00_start_here.ipynb"
    line = re.search(rf"^.*\]\({LAST.name}\):.*$", start.read_text(encoding="utf-8"), flags=re.M)[0]
    change(start, line, f'    "- [{N} Thrown away]({NAME}.ipynb): nothing\\n",\n{line}')
    contents = "[contents](00_start_here.ipynb)"
    change(course / "notebooks" / LAST.name, contents, f"{contents} · [next]({NAME}.ipynb)")
    with (course / "notebooks" / "teaching_minutes.md").open("a") as page:
        page.write(PAGE)
    teaching = course / "notebooks" / "teaching.md"
    change(teaching, "\n## What to draw\n", f"{VOTE}\n## What to draw\n")
    drawn = re.search(rf"^- {LAST.name[:2]}: .*$", teaching.read_text(), flags=re.M)[0]
    change(teaching, drawn, f"{drawn}\n- {N}: nothing.")
    day = teaching.read_text().split("\n## A second day\n")[1].split("\n## ")[0]
    minutes, worked = map(int, re.search(r"time: (\d+) minutes. Exercises: (\d+)", day).groups())
    longer = day.replace(f"time: {minutes} ", f"time: {minutes + 50} ")
    longer = longer.replace(f"Exercises: {worked} ", f"Exercises: {worked + 20} ")
    change(teaching, day, re.sub(r"(\n\|.*)(?=\n[^|])", rf"\1\n| {N} | 50 | 20 |", longer, count=1))
    return course, before


def test_lint_says_what_is_missing_elsewhere_and_then_nothing(finished):
    course, before = finished
    assert before.split("two outputs\n")[1].splitlines() == [
        f"{LAST.stem}: the first cell lacks [next]({NAME}.ipynb)",
        f"{NAME}: README.md has no row that links it and ends in its minutes",
        f"00_start_here: its map lacks [{N} Thrown away]({NAME}.ipynb)",
    ]
    assert "The notebooks keep the rules." in run(course, "-m", "qlesson.authoring", "lint")


def test_the_tests_find_it(finished):
    """And what pytest runs of the notebook is as refresh stored it."""
    course, _ = finished
    files = [f"notebooks/{NAME}.ipynb", *(f"tests/teach/test_{name}.py" for name in TESTED)]
    of_it = f"{N} or few_dots or enough or adds_up or its_part or minutes"
    chosen = f"({of_it}) and not passes_in_the_notebook"
    said = run(course, "-m", "pytest", *files, "-n0", "-v", "-k", chosen)
    passed = set(re.findall(r"::(\S+) PASSED", said))
    assert {test for tests in TESTED.values() for test in tests} <= passed
    assert len(re.findall(r"ipynb::Cell \d PASSED", said)) == 7, said

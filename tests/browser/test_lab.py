"""Every notebook in a real JupyterLab, in a real browser, as a reader has it.

One page, for speed: the app is driven by its own commands, and what is asserted is what the page
shows. Screenshots land in build/screenshots where QLESSON_SCREENSHOTS asks for them.
"""

import re

import pytest

from qlesson.authoring.bets import MARK
from qlesson.course import copies

from .page import (
    ALL_CELLS,
    CELLS,
    NOTEBOOKS,
    ROOT,
    TO_THE_MIDDLE,
    playwright,
    screenshot,
    wait_for_notebook,
)

# They compute the longest. Here the kernel answers each of their cells with what is stored below
# it, and `pytest notebooks` proves that this is what the cell gives; their live figures run in
# test_play.py. All that JupyterLab does with a cell that is run, it does here too.
PLAYED_BACK = ("06", "07", "08", "09", "10", "11", "12", "13", "14", "15", "16", "17")
OPENED_AGAIN = ("00", "01", "10")  # what comes back does not depend on the notebook
PLAY_BACK = """
import json, sys
from IPython.display import publish_display_data

def from_the_page(source):
    for output in _stored[source]:
        if output["output_type"] == "stream":
            getattr(sys, output["name"]).write("".join(output["text"]))
        else:
            data = {mime: "".join(text) for mime, text in output["data"].items()}
            publish_display_data(data, output["metadata"])

def replaced(lines):
    source = "".join(lines).rstrip("\\n")
    return [f"from_the_page({source!r})\\n"] if source in _stored else lines

_stored = {}
for cell in json.load(open("%s", encoding="utf-8"))["cells"]:
    if cell["cell_type"] == "code":
        _stored["".join(cell["source"])] = cell["outputs"]
get_ipython().input_transformers_cleanup.append(replaced)
"""
RUN_SILENTLY = """async code => {
  const kernel = jupyterapp.shell.currentWidget.sessionContext.session.kernel
  return (await kernel.requestExecute({code, silent: true}).done).content.status
}"""


def cells(page, condition):
    """The code cells as the page shows them, once each of them meets the condition, or too late."""
    try:  # five looks a second: one in every frame would take the time of the kernel
        page.wait_for_function(f"() => ({CELLS})().every(c => {condition})", polling=200)
    except playwright.TimeoutError:
        pass  # what is missing is for the caller to say
    return page.evaluate(CELLS)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_opens_with_its_pictures_and_runs(lab, server, path):
    open_(lab, path.name)
    answers = opened(lab, path.stem)
    hidden = hidden_of(lab, path)
    if path.name.startswith(PLAYED_BACK):
        assert lab.evaluate(RUN_SILENTLY, PLAY_BACK % path.name) == "ok"
    run(lab, path.stem, answers)
    assert [c for c in lab.evaluate(ALL_CELLS) if not c["seen"]] == []
    assert_bets_are_answered_in_one_view(lab, answers)
    lab.evaluate(SAVE_AND_CLOSE)
    if path.name[:2] not in OPENED_AGAIN:
        return
    # As `make lab` does when it starts again: what was run and saved is as it was at first.
    copies.copy(ROOT / "notebooks", server[1])
    open_(lab, path.name)
    assert hidden_of(lab, path) == hidden
    lab.evaluate(SAVE_AND_CLOSE)


def test_a_table_in_a_narrow_window_scrolls_in_one_piece(lab):
    """As at a zoom of 200 %. Longer lines are sentences: they wrap."""
    (path,) = (p for p in NOTEBOOKS if p.name.startswith("10"))
    lab.set_viewport_size({"width": 640, "height": 450})
    open_(lab, path.name)
    found = lab.evaluate(LINES)
    assert max(longest for longest, *_ in found) > 90
    assert [x for x in found if x[0] <= 98 and x[1] != x[2]] == []
    assert any(scrolls for *_, scrolls in found)
    screenshot(lab, f"{path.stem}-narrow")
    lab.evaluate(SAVE_AND_CLOSE)
    lab.set_viewport_size({"width": 1280, "height": 900})


# Of each text that a cell has printed: its longest line, its lines, those that are shown, and
# whether it scrolls.
LINES = """async () => {
  const found = []
  for (const w of jupyterapp.shell.currentWidget.content.widgets) {
    w.node.scrollIntoView()
    await new Promise(requestAnimationFrame)
    for (const pre of w.node.querySelectorAll('.jp-OutputArea-output pre')) {
      if (!pre.checkVisibility()) continue
      const lines = pre.textContent.trimEnd().split('\\n'), around = pre.parentElement
      const height = parseFloat(getComputedStyle(pre).lineHeight)
      const shown = Math.round(pre.getBoundingClientRect().height / height)
      const longest = Math.max(...lines.map(x => x.length))
      found.push([longest, lines.length, shown, around.scrollWidth > around.clientWidth])
    }
  }
  return found
}"""


SAVE_AND_CLOSE = """async () => {
  const w = jupyterapp.shell.currentWidget
  await w.sessionContext.shutdown()
  await w.context.save()
  w.close()
}"""


def open_(page, name):
    open_it = "async path => { await jupyterapp.commands.execute('docmanager:open', {path}) }"
    page.evaluate(open_it, name)
    wait_for_notebook(page, name)
    page.wait_for_function(f"() => ({ALL_CELLS})().every(c => c.ready)", polling=200)


def hidden_of(page, path):
    """The cells that cannot be seen: from each bet to the next heading all.

    That heading is a screen away, and the space above the bet is not.
    """
    found, expected, after = page.evaluate(ALL_CELLS), set(), False
    for cell in found:
        after &= not (cell["type"] == "markdown" and re.search("^#+ ", cell["source"], flags=re.M))
        expected |= {cell["id"]} if after else set()
        if cell["folded"]:
            after = True
            below = next(c for c in found[found.index(cell) + 1 :] if c["seen"])
            assert below["top"] >= cell["bottom"] + 0.9
    hidden = {c["id"] for c in found if not c["seen"]}
    assert hidden == expected != set()
    spaces = [c for c in found if c["id"].startswith(MARK)]
    assert spaces and sum(c["empty"] for c in spaces) == 0
    return hidden


def assert_bets_are_answered_in_one_view(lab, answers):
    """Once it has run, the result, and the answer and its reason below it, fill no whole window."""
    for number in answers:
        lab.evaluate(TO_THE_MIDDLE, number)
        found = lab.evaluate(ALL_CELLS)
        codes = [i for i, c in enumerate(found) if c["type"] == "code"]
        result, answer = found[codes[number] : codes[number] + 2]
        assert answer["type"] == "markdown" and answer["seen"], answer["source"]
        assert answer["bottom"] - result["output"] < 0.9, (answer["source"], answer, result)


def opened(lab, name):
    """Before anything has run every stored picture stands there, and no folded answer does."""
    before = cells(lab, "c.hidden ? c.folded !== null : !c.there || c.seen == c.pictures")
    shown = [c for c in before if c["there"] and not c["hidden"]]
    assert [c for c in shown if c["seen"] != c["pictures"]] == []
    assert sum(c["seen"] for c in before) > 0
    answers = [i for i, c in enumerate(before) if c["hidden"]]
    assert answers, "no folded answer"
    for i in answers:
        # JupyterLab shows the first line beside the fold, so that line must not be the answer.
        assert before[i]["seen"] == 0 and before[i]["folded"].endswith(":"), before[i]
    screenshot(lab, f"{name}-opened")
    screenshot(lab, f"{name}-bet", answers[0])
    return answers


def run(lab, name, answers):
    """Run, the answers are open; a live figure replaces its picture and shows one of its own."""
    assert lab.evaluate("() => jupyterapp.commands.execute('notebook:run-all-cells')")
    after = cells(lab, "c.count && (!c.pictures || c.seen || c.widgets)")
    assert [c["errors"] for c in after if c["errors"]] == []
    assert [c["source"] for c in after if c["pictures"] and not (c["seen"] or c["widgets"])] == []
    assert not [c for c in after if c["hidden"] or c["folded"] is not None or not c["count"]]
    screenshot(lab, f"{name}-run")
    screenshot(lab, f"{name}-answer", answers[0])


FOLD = """() => {
  const all = jupyterapp.shell.currentWidget.content.widgets
  const cell = all.find((w, i) => w.model.type == 'code' && w.model.outputs.length &&
    !w.outputHidden && w.node.checkVisibility() && all[i + 1].node.checkVisibility() &&
    !all[i + 1].model.sharedModel.getSource().startsWith('#'))
  cell.outputHidden = true
}"""


def test_an_output_that_a_reader_folds_hides_no_other_cell(lab):
    """Only what lies below a bet waits for its answer."""
    open_(lab, "02_scale_and_zero_point.ipynb")
    seen = [c["seen"] for c in lab.evaluate(ALL_CELLS)]
    folded = sum(c["folded"] for c in lab.evaluate(ALL_CELLS))
    lab.evaluate(FOLD)
    lab.wait_for_function(
        "n => document.querySelectorAll('.jp-OutputPlaceholder').length > n", arg=folded
    )
    assert [c["seen"] for c in lab.evaluate(ALL_CELLS)] == seen and False in seen
    lab.evaluate(SAVE_AND_CLOSE)


def test_a_link_into_the_page_lands_at_its_first_click(lab):
    """All that stands above the heading has its height, though nobody has seen it yet."""
    open_(lab, "00_start_here.ipynb")
    lab.locator('.jp-RenderedMarkdown a[href$="#The-map"]').first.click()
    playwright.expect(lab.locator("h2", has_text="The map")).to_be_in_viewport()
    lab.evaluate(SAVE_AND_CLOSE)

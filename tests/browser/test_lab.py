"""Every notebook in a real JupyterLab, in a real browser, as a reader has it.

One page, for speed: the app is driven by its own commands, and what is asserted is what the page
shows. Screenshots land in build/screenshots.
"""

import pytest

from .page import CELLS, NOTEBOOKS, playwright, screenshot, wait_for_notebook

# They compute the longest. That they run without an error, `pytest notebooks` proves of every one;
# that JupyterLab then shows what it should, the others; their live figures run in test_play.py.
NOT_RUN = ("07", "10", "11")


def cells(page, condition):
    """The code cells as the page shows them, once each of them meets the condition, or too late."""
    try:  # five looks a second: one in every frame would take the time of the kernel
        page.wait_for_function(f"() => ({CELLS})().every(c => {condition})", polling=200)
    except playwright.TimeoutError:
        pass  # what is missing is for the caller to say
    return page.evaluate(CELLS)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_opens_with_its_pictures_and_runs(lab, path):
    open_it = "async path => { await jupyterapp.commands.execute('docmanager:open', {path}) }"
    lab.evaluate(open_it, path.name)
    wait_for_notebook(lab, path.name)
    answers = opened(lab, path.stem)
    if not path.name.startswith(NOT_RUN):
        run(lab, path.stem, answers)
    lab.evaluate(
        "async () => { const w = jupyterapp.shell.currentWidget;"
        " await w.sessionContext.shutdown(); await w.context.save(); w.close() }"
    )


def opened(lab, name):
    """Before anything has run every stored picture stands there, and no folded answer does."""
    before = cells(lab, "c.hidden ? c.folded !== null : c.seen == c.pictures")
    assert [c for c in before if not c["hidden"] and c["seen"] != c["pictures"]] == []
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

"""One notebook from its first cell to its last, with the keyboard alone, as a person would.

Nothing here clicks, focuses or calls a command. Exercises are answered wrongly first, then rightly.
"""

import pytest

from .page import CELLS, playwright, screenshot

NAME = "02_scale_and_zero_point.ipynb"

# (exercise, a wrong answer, a right one); the check below it is typed too.
ANSWERS = {
    "2.1": (
        """def my_qparams(r, quant_min, quant_max):
s = (r.max() - r.min()) / (quant_max - quant_min)
return s, 0""",
        """def my_qparams(r, quant_min, quant_max):
s = (r.max() - r.min()).item() / (quant_max - quant_min)
z = round(quant_min - r.min().item() / s)
return s, max(quant_min, min(z, quant_max))""",
        "my_qparams",
    ),
    "2.2": (
        "my_scale, my_zero_point, my_code = 2, -5, 7",
        "my_scale, my_zero_point, my_code = 2, -5, -3",
        "(my_scale, my_zero_point, my_code)",
    ),
    "2.3": (
        """def zero_point_of(r_min, s, quant_min, quant_max):
return max(quant_min, round(quant_min - r_min / s))""",
        """def zero_point_of(r_min, s, quant_min, quant_max):
return max(quant_min, min(quant_max, round(quant_min - r_min / s)))""",
        "zero_point_of",
    ),
}

# The cell that the keyboard is in, and what has the focus.
HERE = """() => {
  const cells = jupyterapp.shell.currentWidget.content, cell = cells.activeCell
  const focus = document.activeElement
  return {
    index: cells.activeCellIndex,
    last: cells.activeCellIndex == cells.widgets.length - 1,
    source: cell.model.sharedModel.getSource(),
    folded: cell.node.querySelector('.jp-OutputPlaceholder')?.textContent.trim(),
    name: focus.ariaLabel || focus.labels?.[0]?.innerText.trim(),
    value: focus.ariaValueText || focus.checked,
  }
}"""


@pytest.fixture(scope="module")
def page(lab):
    """The page with that notebook just opened from its address."""
    lab.goto(lab.url.split("/lab")[0] + f"/lab/tree/{NAME}?reset")
    lab.wait_for_function(
        "name => { const w = window.jupyterapp?.shell.currentWidget;"
        " return w?.title.label == name && w.content.activeCell && w.sessionContext.isReady"
        " && document.activeElement == w.content.activeCell.node }",
        arg=NAME,
    )
    return lab


def here(page):
    return page.evaluate(HERE)


def press(page, *keys):
    for key in keys:
        page.keyboard.press(key)


def run(page):
    """Shift+Enter, which moves on to the next cell."""
    index = here(page)["index"]
    press(page, "Shift+Enter")
    page.wait_for_function(f"() => ({HERE})().index == {index + 1}")


def output(page, index, words):
    """What the cell prints, once it holds the words."""
    cell = page.locator(".jp-Notebook-cell").nth(index)
    playwright.expect(cell.locator(".jp-OutputArea")).to_contain_text(words)
    return cell.locator(".jp-OutputArea").inner_text()


def tab_to(page, name, key="Tab"):
    for _ in range(9):
        press(page, key)
        if here(page)["name"] == name:
            return
    raise AssertionError(f"no {name} within nine times {key}")


def play(page):
    """Run the live figure, go back to it, move its controls, leave it."""
    index = here(page)["index"]
    run(page)
    cell = page.locator(".jp-Notebook-cell").nth(index)
    picture = cell.locator("img.widget-image")
    picture.wait_for()
    press(page, "ArrowUp")
    said = []
    moves = {"r_min": ["ArrowLeft"] * 3, "r_max": ["ArrowRight"], "hold 0": [" "]}
    for name, keys in moves.items():
        tab_to(page, name)
        before = picture.get_attribute("src")
        press(page, *keys)
        playwright.expect(picture).not_to_have_attribute("src", before)
        said.append(here(page)["value"])
    assert said == ["1.7", "6.1", True]
    playwright.expect(cell.locator(".widget-html-content")).to_contain_text(
        "Range 1.7 to 6.1, hold 0 on"
    )
    screenshot(page, "keyboard-play")
    tab_to(page, "Code Cell Content with Output", "Shift+Tab")
    press(page, "ArrowDown")
    assert here(page)["index"] == index + 1


def answer(page, id):
    """Answer wrongly, ask for a hint in a new cell, answer rightly; the cell below is next."""
    wrong, right, name = ANSWERS[id]
    index = here(page)["index"]
    assert write(page, f'{wrong}\n\ncheck("{id}", {name})', "not yet").startswith(f"{id} not yet")
    press(page, "ArrowUp", "b")
    assert "Hint 1 of" in write(page, f'hint("{id}")', "Hint")
    press(page, "ArrowUp", "ArrowUp")
    assert here(page)["index"] == index
    assert "Passed" in write(page, f'{right}\n\ncheck("{id}", {name})', "Passed")
    press(page, "ArrowDown")


def write(page, code, words):
    """Write the code over that of this cell and run it; what it prints."""
    index = here(page)["index"]
    press(page, "Enter", "ControlOrMeta+a")
    for number, line in enumerate(code.split("\n")):
        press(page, *["Enter"] * (number > 0))
        if line.startswith("check"):
            press(page, *["Backspace"] * ("def" in code))  # the editor has indented it
        page.keyboard.type(line)
    run(page)
    return output(page, index, words)


def test_a_whole_notebook_with_the_keyboard_alone(page):
    folded = answered = played = 0
    while not here(page)["last"]:
        cell = here(page)
        exercise = [id for id in ANSWERS if f'check("{id}"' in cell["source"]]
        if exercise:
            answer(page, exercise[0])
            answered += 1
        elif cell["source"] == 'play("02")':
            play(page)
            played += 1
        else:
            run(page)
        if cell["folded"]:
            folded += 1
            found = output(page, cell["index"], "tensor([1., 1., 1.])")
            assert cell["folded"].endswith(":") and "638" in found
    assert (folded, played, answered) == (1, 1, 3)
    assert "References" in here(page)["source"]
    screenshot(page, "keyboard-end")
    page.wait_for_function(f"() => ({CELLS})().every(c => c.count)")
    found = page.evaluate(CELLS)
    assert [c["errors"] for c in found if c["errors"]] == []

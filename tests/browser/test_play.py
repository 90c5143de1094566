"""The live figures in a real JupyterLab: stored pictures before a run, keys after it.

The median time from a key to the changed picture is written to build/key_to_picture.txt.
"""

import json
import os
import statistics

import nbformat
import pytest

from qlesson.authoring import refresh
from qlesson.teach.widgets import Choice, Decades, Slider, declarations

from .page import ROOT, playwright, screenshot, wait_for_notebook

DECLARATIONS = declarations()
NAME = "play.ipynb"
KEYS = 4  # timed key presses in each figure

OPEN = """async ([name, content]) => {
  const app = jupyterapp, type = 'notebook', format = 'json'
  await app.serviceManager.contents.save(name, {name, path: name, type, format, content})
  await app.commands.execute('docmanager:open', {path: name})
}"""

# Time from a key to the moment when its picture has been decoded, one number for each new picture.
WATCH = """img => {
  window.times = []
  let pressed = null
  document.addEventListener('keydown', () => pressed = performance.now(), true)
  new MutationObserver(() => img.decode().catch(() => {}).then(() => {
    if (pressed !== null) window.times.push(performance.now() - pressed)
    pressed = null
  })).observe(img, {attributes: true, attributeFilter: ['src']})
}"""


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A notebook with every live figure, run and stored as the course stores its own."""
    path = tmp_path_factory.mktemp("play") / NAME
    sources = ["from qlesson.teach import play", *(f'play("{n}")' for n in DECLARATIONS)]
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return refresh.run(path)


@pytest.fixture(scope="module")
def opened(lab, stored):
    """The page with that notebook opened and its kernel shut down."""
    lab.evaluate(OPEN, [NAME, json.loads(stored)])
    wait_for_notebook(lab, NAME)
    lab.evaluate("() => jupyterapp.shell.currentWidget.sessionContext.shutdown()")
    return lab


@pytest.fixture(scope="module")
def running(opened):
    """The same page after Run All, each figure live."""
    opened.evaluate(
        "async () => { const w = jupyterapp.shell.currentWidget;"
        " await w.sessionContext.changeKernel({name: 'python3'});"
        " await jupyterapp.commands.execute('notebook:run-all-cells') }"
    )
    for number in range(len(DECLARATIONS)):
        cell(opened, number).scroll_into_view_if_needed()
        live(opened, number).locator("img.widget-image").wait_for()
    return opened


def cell(page, number):
    return page.locator(".jp-NotebookPanel:not(.lm-mod-hidden) .jp-CodeCell").nth(number + 1)


def live(page, number):
    return cell(page, number).locator(".qlesson-play")


def test_a_stored_picture_stands_where_nothing_runs(opened):
    assert opened.evaluate("() => jupyterapp.shell.currentWidget.sessionContext.session") is None
    for number, notebook in enumerate(DECLARATIONS):
        cell(opened, number).scroll_into_view_if_needed()
        picture = cell(opened, number).locator(".jp-OutputArea img")
        assert picture.evaluate("async i => { await i.decode(); return i.naturalWidth }") == 700
        assert live(opened, number).count() == 0
        screenshot(opened, f"play-{notebook}-stored")


@pytest.mark.parametrize("number", range(len(DECLARATIONS)), ids=DECLARATIONS)
def test_every_control_answers_a_key(running, number):
    notebook = list(DECLARATIONS)[number]
    cell(running, number).scroll_into_view_if_needed()
    figure = live(running, number)
    words = figure.locator("[aria-live=polite]")
    picture = figure.locator("img.widget-image")
    for control in DECLARATIONS[notebook].controls.values():
        # The name that a screen reader says is the one that stands beside the control.
        slider, choice = isinstance(control, Slider | Decades), isinstance(control, Choice)
        role = "slider" if slider else "combobox" if choice else "checkbox"
        handle = figure.get_by_role(role, name=control.words, exact=True)
        handle.focus()
        before = picture.get_attribute("src"), words.inner_text()
        offered = control.options if choice else getattr(control, "values", None)
        last = offered[-1] if offered else getattr(control, "high", None)
        at_the_end = control.start == last
        if offered:
            beside = offered[offered.index(control.start) + (-1 if at_the_end else 1)]
        back, on = ("ArrowUp", "ArrowDown") if choice else ("ArrowLeft", "ArrowRight")
        handle.press((back if at_the_end else on) if slider or choice else "Space")
        changed(running, picture, before[0])
        playwright.expect(words).not_to_have_text(before[1], use_inner_text=True)
        if slider:
            if not offered:
                beside = control.start + (-control.step if at_the_end else control.step)
            assert float(handle.get_attribute("aria-valuetext")) == pytest.approx(beside)
            before = picture.get_attribute("src")
            handle.press(on if at_the_end else back)  # a second key is answered too
            changed(running, picture, before)
        elif choice:
            assert handle.input_value() == beside
        else:
            assert handle.is_checked() is not control.start
            handle.press("Space")  # as it was: with it on, a picture may ignore a slider
    assert picture.get_attribute("alt") == DECLARATIONS[notebook].picture
    screenshot(running, f"play-{notebook}-live")


def changed(page, picture, source):
    page.wait_for_function(
        "([image, source]) => image.src != source",
        arg=[picture.element_handle(), source],
        polling=20,
    )


@pytest.mark.skipif("QLESSON_SCREENSHOTS" not in os.environ, reason="measures, and asserts little")
def test_the_time_from_a_key_to_the_picture(running):
    lines, everything = [], []
    for number, (notebook, declaration) in enumerate(DECLARATIONS.items()):
        controls = declaration.controls.values()
        sliders = [c for c in controls if isinstance(c, Slider | Decades)]
        if not sliders:  # 15 and 16 have lists to choose from
            continue
        cell(running, number).scroll_into_view_if_needed()
        figure = live(running, number)
        picture = figure.locator("img.widget-image")
        picture.evaluate(WATCH)
        presses = 0
        for control in sliders:
            handle = figure.get_by_role("slider", name=control.words, exact=True)
            handle.focus()
            now, least = map(handle.get_attribute, ("aria-valuenow", "aria-valuemin"))
            for press in range(KEYS):
                handle.press(("ArrowLeft", "ArrowRight")[(press + (now == least)) % 2])
                presses += 1
                running.wait_for_function(
                    "presses => window.times.length == presses",
                    arg=presses,
                    polling=20,  # the default, every frame, takes the time that is measured
                )
        times = running.evaluate("() => window.times")
        assert len(times) == presses
        everything += times
        lines.append(f"{notebook}  median {statistics.median(times):4.0f} ms of {len(times)}")
    lines.append(f"all  median {statistics.median(everything):4.0f} ms of {len(everything)}")
    report = ROOT / "build" / "key_to_picture.txt"
    report.parent.mkdir(exist_ok=True)
    report.write_text("\n".join(lines) + "\n")
    print(report.read_text())


def test_nothing_is_clipped_at_800_pixels_light_or_dark(running):
    running.set_viewport_size({"width": 800, "height": 900})
    for theme in ("JupyterLab Dark", "JupyterLab Light"):
        running.evaluate(
            "theme => jupyterapp.commands.execute('apputils:change-theme', {theme})", theme
        )
        running.wait_for_function("theme => document.body.dataset.jpThemeName == theme", arg=theme)
        for number, notebook in enumerate(DECLARATIONS):
            figure = live(running, number)
            figure.scroll_into_view_if_needed()
            picture = figure.locator("img.widget-image")
            # A box scrolls what is wider than itself; nothing may be.
            assert figure.evaluate("e => e.scrollWidth <= e.clientWidth")
            inner, outer = picture.bounding_box(), figure.bounding_box()
            assert inner["x"] + inner["width"] <= outer["x"] + outer["width"]
            screenshot(running, f"play-{notebook}-800-{theme.split()[1].lower()}")
    running.set_viewport_size({"width": 1280, "height": 900})


def test_a_saved_figure_is_its_picture_when_opened_again(running):
    """JupyterLab would show "model not found" once the kernel is gone."""
    panel = running.locator(".jp-NotebookPanel:not(.lm-mod-hidden)")
    running.evaluate("() => jupyterapp.shell.currentWidget.context.save()")
    assert live(running, 0).locator("img.widget-image").count() == 1  # saving ends nothing
    running.evaluate(
        "async name => { const w = jupyterapp.shell.currentWidget;"
        " await w.sessionContext.shutdown(); w.close();"
        " await jupyterapp.commands.execute('docmanager:open', {path: name}) }",
        NAME,
    )
    panel.locator(".jp-CodeCell").first.wait_for()
    for number, notebook in enumerate(DECLARATIONS):
        cell(running, number).scroll_into_view_if_needed()
        picture = cell(running, number).locator(".jp-OutputArea img")
        assert picture.evaluate("async i => { await i.decode(); return i.naturalWidth }") == 700
        assert "not found" not in cell(running, number).inner_text()
        screenshot(running, f"play-{notebook}-reopened")

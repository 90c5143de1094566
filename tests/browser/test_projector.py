"""A room's projector, 1920 x 1080 at 150 %, with the settings that notebooks/teaching.md names.

And the network of a room without internet: JupyterLab asks nobody but its own server.
"""

import re

import pytest

from .page import PATIENCE, ROOT, screenshot, wait_for_notebook

ROOM = {"width": 1280, "height": 720}
NOTEBOOK = "05_quantization_error.ipynb"
FITS = 420  # pixels, for a picture and its controls

# The cell of the live figure, run alone with what stands above it.
RUN = """async () => {
  const panel = jupyterapp.shell.currentWidget, cells = panel.content.widgets
  const at = cells.findIndex(w => /^play\\("\\d\\d"\\)$/.test(w.model.sharedModel.getSource()))
  panel.content.activeCellIndex = at
  await jupyterapp.commands.execute('notebook:run-all-above')
  await jupyterapp.commands.execute('notebook:run-cell')
}"""

# Tops and bottoms of the controls and the picture, in pixels of the page.
BOXES = """figure => [...figure.querySelectorAll('img, [role=slider], select, input')]
  .filter(e => e.checkVisibility()).map(e => e.getBoundingClientRect())
  .map(r => [r.top, r.bottom])"""


@pytest.fixture(scope="module")
def projected(browser, server):
    address, _ = server
    page = browser.new_page(viewport=ROOM, device_scale_factor=1.5)
    page.set_default_timeout(PATIENCE)
    page.asked = []
    page.on("request", lambda request: page.asked.append(request.url))
    page.goto(f"{address}/lab/tree/{NOTEBOOK}?reset")
    wait_for_notebook(page, NOTEBOOK)
    for path in menus():
        choose(page, path)
    yield page
    page.evaluate("() => jupyterapp.serviceManager.sessions.shutdownAll()")
    page.close()


def menus():
    """What teaching.md says to choose in JupyterLab: ["View", "Appearance", ...], in order."""
    text = (ROOT / "notebooks" / "teaching.md").read_text(encoding="utf-8")
    room = text.split("\n## Room\n")[1].split("\n## ")[0]
    paths = [path.split(", ") for path in re.findall(r"\*\*([^*]+)\*\*", room)]
    assert len(paths) == 4
    return [*paths, paths[-1]]  # the last of them twice


def choose(page, path):
    menu, *inner = path
    page.locator(".lm-MenuBar-item", has_text=menu).first.click()
    for words in inner:
        page.locator(".lm-Menu-item:visible", has_text=re.compile(f"^{words}")).first.click()


def test_a_picture_and_its_controls_are_in_view_together(projected):
    projected.evaluate(RUN)
    figure = projected.locator(".jp-NotebookPanel .qlesson-play")
    figure.locator("img.widget-image").wait_for()
    figure.evaluate("figure => figure.closest('.jp-Cell').scrollIntoView()")
    boxes = figure.evaluate(BOXES)
    top, bottom = min(t for t, _ in boxes), max(b for _, b in boxes)
    screenshot(projected, "projector")
    assert len(boxes) == 3 and bottom - top <= FITS
    words = figure.locator("[aria-live=polite]").bounding_box()
    assert 0 <= top and words["y"] + words["height"] <= ROOM["height"]
    assert figure.bounding_box()["width"] > 0.85 * ROOM["width"]


def test_nothing_is_asked_of_another_server(projected, server):
    address, _ = server
    ours = (address, address.replace("http", "ws"), "data:", "blob:")
    assert projected.asked and [url for url in projected.asked if not url.startswith(ours)] == []

"""axe-core finds nothing to object to in what the course itself puts on a page.

What JupyterLab puts around it is not ours: menus, prompts, editors, and pictures without their alt
text, below each of which the picture's sentence must be seen instead.
"""

import nbformat
import pytest

from qlesson.authoring import handouts, slides

from .page import NOTEBOOKS, PATIENCE, ROOT, screenshot
from .test_decks import TEACHING
from .test_lab import SAVE_AND_CLOSE, cells, open_

AXE = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()

PANEL = ".jp-NotebookPanel:not(.lm-mod-hidden)"
CONTENT = {
    "include": [[f"{PANEL} .jp-MarkdownOutput"], [f"{PANEL} .jp-OutputArea-output"]],
    "exclude": [[".jp-RenderedImage > img"]],
}

# What is seen below each picture that JupyterLab shows; null where it is nothing.
BELOW = """panel => [...document.querySelectorAll(`${panel} .jp-RenderedImage > img`)]
  .filter(img => img.checkVisibility()).map(img => {
    const below = img.closest('.jp-OutputArea-child').nextElementSibling?.querySelector('p > em')
    return below?.checkVisibility() ? below.textContent : null
  })"""


def violations(page, context=None):
    """A line for each place where a rule is broken."""
    found = AXE.run(page, context=context).response["violations"]
    return [f"{v['id']}: {n['html']} {n['failureSummary']}" for v in found for n in v["nodes"]]


@pytest.mark.parametrize("number", ["02", "06"])
def test_a_notebook_in_jupyterlab_and_its_live_figure(lab, number):
    (path,) = (p for p in NOTEBOOKS if p.name.startswith(number))
    open_(lab, path.name)
    assert violations(lab, CONTENT) == []
    sentences = lab.evaluate(BELOW, PANEL)
    assert len(sentences) >= 3 and all(sentences)
    assert lab.evaluate("() => jupyterapp.commands.execute('notebook:run-all-cells')")
    cells(lab, "c.count && (!c.pictures || c.seen || c.widgets)")
    assert violations(lab, CONTENT) == []
    live = lab.locator(f"{PANEL} .qlesson-play")
    live.scroll_into_view_if_needed()
    screenshot(lab, f"axe-{number}")
    below = lab.locator(f"{PANEL} .jp-OutputArea-child:has(.qlesson-play) + * p > em")
    assert below.inner_text() in live.locator("img.widget-image").get_attribute("alt")
    lab.evaluate(SAVE_AND_CLOSE)


@pytest.mark.parametrize("number", ["01", "06", "09"])
def test_a_deck(browser, tmp_path, number):
    (path,) = (p for p in NOTEBOOKS if p.name.startswith(number))
    file = tmp_path / "deck.html"
    file.write_text(slides.deck(nbformat.read(path, as_version=4), *TEACHING), encoding="utf-8")
    page = browser.new_page(viewport={"width": 1280, "height": 720}, offline=True)
    page.set_default_timeout(PATIENCE)
    page.goto(file.as_uri())
    page.wait_for_function("document.querySelector('section.now')")
    page.locator("section").evaluate_all("all => all.map(slide => slide.classList.add('now'))")
    assert violations(page) == []
    page.close()


def test_the_sheets_to_print(browser, tmp_path):
    file = tmp_path / "handouts.html"
    handouts.main(ROOT / "notebooks", file)
    page = browser.new_page(offline=True)
    page.set_default_timeout(PATIENCE)
    page.goto(file.as_uri())
    assert violations(page) == []
    page.close()


def test_axe_looks(browser):
    page = browser.new_page(offline=True)
    page.set_content("<html lang=en><title>x</title><main><h1>x</h1><img src='data:,'></main>")
    assert ["image-alt" in line for line in violations(page)] == [True]
    page.close()

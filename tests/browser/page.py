"""The Chromium, JupyterLab's page in it, and what the tests of this folder ask of it."""

import os
import shutil
import socket
from pathlib import Path

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

PATIENCE = 300_000  # milliseconds; every wait is for something to happen, on a busy machine too
playwright.expect.set_options(timeout=PATIENCE)

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
CHROMIUM = next(
    filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])), None
)
FLAGS = """--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
    --disable-component-update --disable-sync""".split()

# What the open notebook shows, cell by cell; `folded` is the text beside a folded output.
CELLS = """() => {
  const panel = jupyterapp.shell.currentWidget
  return panel.content.widgets.filter(w => w.model.type == 'code').map(w => {
    const outputs = w.model.outputs.toJSON(), fold = w.node.querySelector('.jp-OutputPlaceholder')
    const seen = [...w.node.querySelectorAll('.jp-OutputArea img')]
    return {
      source: w.model.sharedModel.getSource().slice(0, 60),
      hidden: w.outputHidden,
      there: w.node.checkVisibility(),
      folded: fold && fold.textContent.trim(),
      errors: outputs.filter(o => o.output_type == 'error' || o.name == 'stderr')
                     .map(o => o.evalue || o.text),
      pictures: outputs.filter(o => o.data && o.data['image/png']).length,
      widgets: w.node.querySelectorAll('.jupyter-widgets').length,
      seen: seen.filter(i => i.complete && i.naturalWidth > 0 && i.offsetWidth > 0).length,
      count: w.model.executionCount,
    }
  })
}"""

# Every cell of the open notebook: what it is, and where it can be seen.
ALL_CELLS = """() => jupyterapp.shell.currentWidget.content.widgets.map(w => ({
  type: w.model.type,
  id: w.model.sharedModel.getId(),
  source: w.model.sharedModel.getSource(),
  ready: w.node.isConnected && (w.model.type == 'code' ||
    w.node.querySelector('.jp-RenderedMarkdown')?.textContent),
  seen: w.node.checkVisibility(),
  empty: [...w.node.querySelectorAll('br')].filter(b => b.checkVisibility()).length,
  folded: !!w.outputHidden,
  top: w.node.getBoundingClientRect().top / innerHeight,
  output: w.node.querySelector('.jp-OutputArea')?.getBoundingClientRect().top / innerHeight,
  bottom: w.node.getBoundingClientRect().bottom / innerHeight,
}))"""

# Cells get their height when they come into view, so the middle is where it stays after a frame.
TO_THE_MIDDLE = """async n => {
  const cells = jupyterapp.shell.currentWidget.content.widgets
  const node = cells.filter(w => w.model.type == 'code')[n].node
  const top = () => Math.round(node.getBoundingClientRect().top)
  const frame = () => new Promise(requestAnimationFrame)
  for (let before = null, tries = 0; before != top() && tries < 50; tries++) {
    before = top()
    node.scrollIntoView({block: 'center'})
    await frame()
    await frame()
  }
}"""


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_for_notebook(page, name):
    page.wait_for_function(
        "name => { const w = window.jupyterapp?.shell.currentWidget;"
        " return w?.title.label == name && w.context.isReady && w.content.widgets.length"
        " && w.sessionContext.isReady }",
        arg=name,
    )


def screenshot(page, name, cell=None, **how):
    """Of the page as it stands, or with that code cell in its middle; in build/screenshots, where
    QLESSON_SCREENSHOTS asks for it."""
    if not os.environ.get("QLESSON_SCREENSHOTS"):
        return
    if cell is not None:
        page.evaluate(TO_THE_MIDDLE, cell)
    folder = ROOT / "build" / "screenshots"
    folder.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=folder / f"{name}.png", **how)

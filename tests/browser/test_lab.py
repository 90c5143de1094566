"""Every notebook in a real JupyterLab, in a real browser, as a reader has it.

One server and one page, for speed: the app is driven by its own commands, and what is asserted is
what the page shows. Screenshots land in build/screenshots.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from qlesson.teach import copies

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
CHROMIUM = next(
    filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])), None
)
NEWS = "@jupyterlab/apputils-extension:announcements"  # its question would cover the page
FLAGS = """--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
    --disable-component-update --disable-sync""".split()

pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no chromium on PATH (apt install chromium)")

# What the open notebook shows, cell by cell; `folded` is the text beside a folded output.
CELLS = """() => {
  const panel = jupyterapp.shell.currentWidget
  return panel.content.widgets.filter(w => w.model.type == 'code').map(w => {
    const outputs = w.model.outputs.toJSON(), fold = w.node.querySelector('.jp-OutputPlaceholder')
    const seen = [...w.node.querySelectorAll('.jp-OutputArea img')]
    return {
      source: w.model.sharedModel.getSource().slice(0, 60),
      hidden: w.outputHidden,
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


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A page with JupyterLab as `make lab` starts it, on copies of the notebooks."""
    tmp = tmp_path_factory.mktemp("lab")
    copies.copy(ROOT / "notebooks", tmp / "notebooks")
    settings = tmp / "JUPYTER_CONFIG_DIR"
    (settings / "labconfig").mkdir(parents=True)
    no_news = f'{{"disabledExtensions": {{"{NEWS}": true}}}}'
    (settings / "labconfig" / "page_config.json").write_text(no_news)
    server_config = ROOT / "qlesson" / "teach" / "server_config.py"
    shutil.copyfile(server_config, settings / "jupyter_server_config.py")
    port = free_port()
    places = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
    log = (tmp / "log").open("w")
    server = subprocess.Popen(
        [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1"]
        + [f"--port={port}", "--IdentityProvider.token=", "--expose-app-in-browser"],
        cwd=tmp / "notebooks",
        env=os.environ | {name: str(tmp / name) for name in places},
        stdout=log,
        stderr=log,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for_server(server, address, tmp / "log")
        with playwright.sync_playwright() as p:
            browser = p.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            page.set_default_timeout(30_000)
            page.goto(f"{address}/lab?reset")
            page.wait_for_function("window.jupyterapp && jupyterapp.shell.currentWidget")
            yield page
            browser.close()
    finally:
        server.terminate()
        server.wait(20)


def wait_for_server(server, address, log, seconds=60):
    deadline = time.monotonic() + seconds
    while server.poll() is None and time.monotonic() < deadline:
        try:
            return urllib.request.urlopen(f"{address}/api").close()
        except OSError:
            time.sleep(0.1)
    pytest.fail("JupyterLab did not start:\n" + log.read_text())


def cells(page, condition):
    """The code cells as the page shows them, once each of them meets the condition, or too late."""
    try:
        page.wait_for_function(f"() => ({CELLS})().every(c => {condition})")
    except playwright.TimeoutError:
        pass  # what is missing is for the caller to say
    return page.evaluate(CELLS)


def screenshot(page, name, cell=None):
    """Of the page as it stands, or with that code cell in its middle."""
    for _ in range(2 * (cell is not None)):  # cells get their height when they come into view
        page.evaluate(
            "n => jupyterapp.shell.currentWidget.content.widgets"
            ".filter(w => w.model.type == 'code')[n].node.scrollIntoView({block: 'center'})",
            cell,
        )
        page.wait_for_timeout(200)
    folder = ROOT / "build" / "screenshots"
    folder.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=folder / f"{name}.png")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_opens_with_its_pictures_and_runs(lab, path):
    open_it = "async path => { await jupyterapp.commands.execute('docmanager:open', {path}) }"
    lab.evaluate(open_it, path.name)
    lab.wait_for_function(
        "name => { const w = jupyterapp.shell.currentWidget;"
        " return w.title.label == name && w.context.isReady && w.content.widgets.length"
        " && w.sessionContext.isReady }",
        arg=path.name,
    )
    # Every stored picture stands there before anything has run; a folded answer does not.
    before = cells(lab, "c.hidden ? c.folded !== null : c.seen == c.pictures")
    assert [c for c in before if not c["hidden"] and c["seen"] != c["pictures"]] == []
    assert sum(c["seen"] for c in before) > 0
    answers = [i for i, c in enumerate(before) if c["hidden"]]
    assert answers, "no folded answer"
    for i in answers:
        # JupyterLab shows the first line beside the fold, so that line must not be the answer.
        assert before[i]["seen"] == 0 and before[i]["folded"].endswith(":"), before[i]
    screenshot(lab, f"{path.stem}-opened")
    screenshot(lab, f"{path.stem}-bet", answers[0])

    assert lab.evaluate("() => jupyterapp.commands.execute('notebook:run-all-cells')")
    # Run, the answers are open; a live figure replaces its picture and shows one of its own.
    after = cells(lab, "c.count && (!c.pictures || c.seen || c.widgets)")
    assert [c["errors"] for c in after if c["errors"]] == []
    assert [c["source"] for c in after if c["pictures"] and not (c["seen"] or c["widgets"])] == []
    assert not [c for c in after if c["hidden"] or c["folded"] is not None or not c["count"]]
    screenshot(lab, f"{path.stem}-run")
    screenshot(lab, f"{path.stem}-answer", answers[0])
    lab.evaluate(
        "async () => { const w = jupyterapp.shell.currentWidget;"
        " await w.sessionContext.shutdown(); await w.context.save(); w.close() }"
    )

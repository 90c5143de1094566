"""One Chromium and one JupyterLab for all of this folder."""

import os
import subprocess
import sys
import time
import urllib.request

import pytest

from qlesson.course import copies
from qlesson.course import lab as lab_command


@pytest.fixture(scope="package")
def browser():
    from .page import CHROMIUM, FLAGS, PATIENCE, playwright

    if not CHROMIUM:
        pytest.skip("no chromium on PATH (apt install chromium)")
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=FLAGS, timeout=PATIENCE)
        yield browser
        browser.close()


@pytest.fixture(scope="package")
def server(tmp_path_factory):
    """JupyterLab as `make lab` starts it: its address, and the folder of the copies it is on."""
    from .page import ROOT, free_port

    tmp = tmp_path_factory.mktemp("lab")
    mine = tmp / "notebooks"
    copies.copy(ROOT / "notebooks", mine)
    port = free_port()
    places = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
    with (tmp / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1"]
            + [f"--port={port}", "--IdentityProvider.token=", "--expose-app-in-browser"],
            cwd=mine,
            env=os.environ
            | {name: str(tmp / name) for name in places}
            | {"JUPYTER_CONFIG_PATH": str(lab_command.SETTINGS)},
            stdout=log,
            stderr=log,
        )
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for_server(process, address, tmp / "log")
        yield address, mine
    finally:
        process.terminate()
        process.wait(300)


def wait_for_server(process, address, log, seconds=300):
    deadline = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < deadline:
        try:
            return urllib.request.urlopen(f"{address}/api").close()
        except OSError:
            time.sleep(0.1)
    pytest.fail("JupyterLab did not start:\n" + log.read_text())


@pytest.fixture(scope="module")
def lab(browser, server):
    """A page with JupyterLab: for each file a new one, on notebooks that nobody has worked in."""
    from .page import PATIENCE, ROOT

    address, mine = server
    copies.copy(ROOT / "notebooks", mine, fresh=True)
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(PATIENCE)
    page.goto(f"{address}/lab?reset")
    page.wait_for_function("window.jupyterapp && jupyterapp.shell.currentWidget")
    yield page
    page.evaluate("() => jupyterapp.serviceManager.sessions.shutdownAll()")
    page.close()

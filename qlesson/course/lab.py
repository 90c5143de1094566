"""`qlesson lab [FOLDER]`: your own copies of the notebooks, opened in JupyterLab.

Each start brings the copies up to date and keeps what you wrote in them, as copies.py says.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from qlesson.course import copies, notebooks

SETTINGS = Path(__file__).with_name("settings")
FIRST = "00_start_here.ipynb"
# Options of JupyterLab that take no value, so that a folder may follow.
FLAGS = {"--no-browser", "--allow-root", "--debug", "--core-mode", "--expose-app-in-browser", "-y"}


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 1, with a sentence, where the course cannot be opened."""
    parser = argparse.ArgumentParser(
        prog="qlesson lab",
        description="Open the course in JupyterLab, on your own copies of the notebooks.",
        epilog="Other options, such as --no-browser or --port=9000, are JupyterLab's.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "folder", nargs="?", type=Path, default=Path(copies.USUAL), help="where your copies are"
    )
    parser.add_argument(
        "--fresh",
        nargs="?",
        const="",
        metavar="NN",
        help="restore them, or the one named, as in 05; what you wrote moves to a dated folder",
    )
    arguments = sys.argv[1:] if arguments is None else arguments
    options, for_jupyterlab = parser.parse_known_args(arguments)
    if not find_spec("jupyterlab"):
        print('JupyterLab is not installed: pip install "qlesson[lab]", then run qlesson lab again')
        return 1
    if said := misplaced(arguments, options, for_jupyterlab):
        print(said)
        return 1
    fresh = options.fresh is not None
    if copies.bring(notebooks(), options.folder, fresh, [options.fresh] if options.fresh else []):
        return 1
    return opened(options.folder, for_jupyterlab)


def misplaced(
    arguments: Sequence[str], options: argparse.Namespace, others: Sequence[str]
) -> str | None:
    """What to say where the folder is the value of an option before it, and nobody's folder."""
    folder = str(options.folder)
    if folder not in arguments[1:] or arguments[0] == folder:
        return None
    before = arguments[arguments.index(folder) - 1]
    takes_one = before.startswith("-") and "=" not in before and before not in FLAGS
    if before in others and takes_one and not options.folder.is_dir():
        return f"Write {before}={folder}, or name the folder first: nothing was copied."
    if before == options.fresh:
        return (
            "--fresh takes one number, so nothing was restored: call it once for each, or name the "
            "folder before it."
        )
    return None


def opened(folder: Path, more: Sequence[str]) -> int:
    """JupyterLab on the folder, in this process, until it is shut down; `more` are its options."""
    from jupyterlab.labapp import main as jupyterlab

    # The first in this list of folders has the last word; the reader's own settings follow.
    others = os.environ.get("JUPYTER_CONFIG_PATH")
    os.environ["JUPYTER_CONFIG_PATH"] = os.pathsep.join(
        [str(SETTINGS), *([others] if others else [])]
    )
    os.chdir(folder)
    ours = {
        "log-level": "WARN",
        "ServerApp.ip": "localhost",
        "LabApp.default_url": f"/lab/tree/{FIRST}",
    }
    told = {option.lstrip("-").partition("=")[0] for option in more}  # JupyterLab takes none twice
    first = [f"--{name}={value}" for name, value in ours.items() if name not in told]
    try:
        return jupyterlab([*first, *machine(), *more]) or 0
    except OSError as error:
        print(
            f"JupyterLab keeps its settings in your home, and {error.filename} cannot be written "
            f"({error.strerror}): set HOME, or JUPYTER_RUNTIME_DIR and JUPYTER_DATA_DIR"
            if error.filename
            else f"JupyterLab could not start: {error}"
        )
        return 1


def machine() -> list[str]:
    """What JupyterLab must be told here: that it may run as root, that there is no screen."""
    flags = []
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        flags.append("--allow-root")
    if sys.platform == "linux" and not (os.getenv("DISPLAY") or os.getenv("WAYLAND_DISPLAY")):
        flags.append("--no-browser")
    return flags

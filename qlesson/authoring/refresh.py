"""Run a notebook and store its outputs, so that running it again gives the same bytes.

Everything that differs from run to run or from machine to machine is left out: timings, widget
state, the version of Python, what the editor remembers about a cell.
"""

import os
import platform
import re
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any

import nbformat
import torch
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode

from qlesson.authoring import moving
from qlesson.authoring.bets import spaced
from qlesson.course.copies import beginning
from qlesson.teach.widgets import VIEW

METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
CELL_METADATA = {"tags", "jupyter", "slideshow"}
JUPYTER_METADATA = {"outputs_hidden", "source_hidden"}
IMAGE_METADATA = {"alt", "width", "height"}

# Seconds that only a kernel which is stuck needs; nbclient's own are few on a busy machine, and
# after its 4 for an output it goes on without it.
LIMITS: dict[str, Any] = dict.fromkeys(("timeout", "startup_timeout", "iopub_timeout"), 900)

STORED_ON = "stored_on.txt"
WORDS = """The outputs of these notebooks must be the same on every machine.
`make refresh` stored one of them last on this one:
"""


def keep(mapping: Mapping[str, Any], names: Container[str]) -> dict[str, Any]:
    return {k: v for k, v in mapping.items() if k in names}


def tidy(nb: NotebookNode) -> NotebookNode:
    """Leave in the notebook what a reader needs, in place, with a space above each bet."""
    nb.metadata = nbformat.from_dict(METADATA)
    nb.cells = list(spaced(nb.cells))
    count = 0
    for cell in nb.cells:
        meta = keep(cell.metadata, CELL_METADATA)
        meta["jupyter"] = keep(meta.get("jupyter", {}), JUPYTER_METADATA)
        cell.metadata = nbformat.from_dict({k: v for k, v in meta.items() if v})
        if cell.cell_type != "code":
            continue
        count += 1
        cell.execution_count = count
        for output in cell.outputs:
            if "data" in output:
                output.data.pop(VIEW, None)
                kept = {m: keep(output.metadata.get(m, {}), IMAGE_METADATA) for m in output.data}
                output.metadata = nbformat.from_dict({m: v for m, v in kept.items() if v})
            if output.output_type == "execute_result":
                output.execution_count = count
        # A widget without a picture or a text of its own leaves nothing to store.
        cell.outputs = [o for o in cell.outputs if o.get("data", True)]
    return nb


def run(path: Path) -> str:
    """The text of the notebook at `path`, freshly executed in its own folder."""
    nb = nbformat.read(path, as_version=4)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # as in the tests: threads wait for each other
    NotebookClient(
        nb,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        store_widget_state=False,
        resources={"metadata": {"path": str(path.parent)}},
        **LIMITS,
    ).execute()
    return nbformat.writes(tidy(nb)) + "\n"


def machine() -> str:
    """The processor, what torch uses of it, and torch, as one line."""
    cpu = Path("/proc/cpuinfo")
    words = cpu.read_text(encoding="utf-8") if cpu.exists() else ""
    found = re.search("^model name.*: (.*)", words, flags=re.M)
    name = found[1] if found else platform.processor() or "a processor without a name"
    uses = torch.backends.cpu.get_cpu_capability()
    return f"{name}, {platform.system()} {platform.machine()}, {uses}, torch {torch.__version__}"


def stored_on(folder: Path) -> str:
    """The `machine` that stored an output in the folder last."""
    path = folder / STORED_ON
    return path.read_text(encoding="utf-8").splitlines()[-1] if path.exists() else "not recorded"


def named(folder: Path, names: Sequence[str]) -> list[Path]:
    """The notebooks with these numbers, or all; none, after a sentence, for another name."""
    paths = sorted(folder.glob("*.ipynb"))
    for name in names:
        if not (name.isdecimal() and any(p.name.startswith(beginning(name)) for p in paths)):
            print(f"{name} is not the number of a notebook, as 05 is, so nothing was done.")
            return []
    return [path for path in paths if path.name.startswith(tuple(map(beginning, names)) or "")]


def main(folder: Path, names: Sequence[str] = (), check: bool = False) -> int:
    """Refresh the named notebooks, or all; 1 if one failed or, with check, would change, or if a
    name is none of a notebook."""
    paths = named(folder, names)
    bad = 0 if paths else 1
    for path in paths:
        before = path.read_text(encoding="utf-8")
        try:
            after = run(path)
        except CellExecutionError as error:
            print(f"{path.name}: not stored, a cell fails\n{error}")
            bad = 1
            continue
        if before == after:
            print(f"{path.name}: unchanged")
        elif check:
            print(f"{path.name}: would change")
            bad = 1
        else:
            path.write_text(after, encoding="utf-8", newline="\n")
            (folder / STORED_ON).write_text(f"{WORDS}{machine()}\n", encoding="utf-8", newline="\n")
            if path.name.startswith("00"):
                (folder.parent / moving.NAME).write_bytes(moving.gif())
            print(f"{path.name}: written")
    return bad

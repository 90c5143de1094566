"""The reader's own copies of the notebooks, in my_notebooks/, which git ignores.

`qlesson lab` makes them. `make fresh` and JupyterHub run this file as a script, so it imports
nothing but the standard library. Work is never written over: --fresh moves it to a dated folder.
A copy that was run and not worked in becomes as the course has it each time: its bets are open
again.
"""

import json
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

USUAL = "my_notebooks"


def content(path: Path) -> list[tuple[str, str]] | bytes:
    """What a reader can change: the cells' text. Outputs and counts change whenever a cell runs.

    Empty cells are left out: JupyterLab adds one where the last cell is run.
    """
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        texts = [(cell["cell_type"], "".join(cell["source"])) for cell in cells]
        return [(kind, text) for kind, text in texts if text.strip()]
    except (ValueError, LookupError, TypeError):  # not a notebook
        return path.read_bytes()


def copy(course: Path, mine: Path, fresh: bool = False, names: Sequence[str] = ()) -> list[str]:
    """Bring the folder `mine` up to date with `course`; return the lines worth saying.

    `names` are numbers of notebooks, the only ones that `fresh` restores.
    Raises OSError where that cannot be, for want of room, say. The folder is then as it was; where
    another program holds a file, some copies may be new, and work lies where it was or in old_.
    """
    (mine / ".as_copied").mkdir(parents=True, exist_ok=True)
    sources, worked_in, said = wanted(course, mine, fresh, tuple(map(beginning, names)) or "")
    there = [source for source in sources if (mine / source.name).exists()]
    new = len(sources) - len(there)
    others = [source for source in there if mine / source.name not in worked_in]
    run = [s.name for s in others if s.read_bytes() != (mine / s.name).read_bytes()]
    old = mine / time.strftime("old_%Y-%m-%d_%H%M%S")
    place(sources, mine, worked_in, old)
    said += [f"{work.name} is restored, your work is in {old}" for work in worked_in]
    if new:
        said.insert(0, f"{new} files copied to {mine}, where your answers stay")
    if fresh:
        said += [f"{name} is restored, nothing was written in it" for name in run]
        named = " and ".join(name.zfill(2) for name in names)
        none = f" in {named}" if names else ": your copies are as the course has them"
        said = said or [f"nothing to restore{none}"]
    return said


def beginning(name: str) -> str:
    """What the files of a notebook begin with, from its number: 05_ from 5 or 05."""
    return f"{name.zfill(2)}_"


def wanted(
    course: Path, mine: Path, fresh: bool, names: str | tuple[str, ...]
) -> tuple[list[Path], list[Path], list[str]]:
    """The files to copy, the copies to put aside first, and what to say of those that stay.

    .as_copied holds each file as it was when copied: a copy that differs from it has the reader's
    work in it. Where that folder was lost, a copy as the course has it now has none.
    """
    sources, worked_in, said = [], [], []
    for source in sorted(
        p for p in course.iterdir() if p.suffix in (".ipynb", ".md", ".png", ".csv")
    ):
        copied, was = mine / source.name, mine / ".as_copied" / source.name
        if copied.exists():
            changed = not was.exists() or was.read_bytes() != source.read_bytes()
            nobodys = content(was if was.exists() else source), content(source)
            work = content(copied) not in nobodys
            restore = source.name.startswith(names) and (fresh or not work)
            if not changed and not (restore and copied.read_bytes() != source.read_bytes()):
                continue
            if work and not restore:
                said.append(kept(source.name, mine))
                continue
            worked_in += [copied] if work else []
        sources.append(source)
    return sources, worked_in, said


def kept(name: str, mine: Path) -> str:
    said, number = f"{name}: the course has a newer version, yours is kept", name[:2]
    if not number.isdecimal():
        return f"{said} (give yours another name, and the newer one is copied)"
    asked = f"qlesson lab --fresh {number}, or make fresh N={number},"
    if mine != Path(USUAL):
        folder = f'"{mine}"' if " " in str(mine) else mine
        asked = f"qlesson lab {folder} --fresh {number}"
    return f"{said} ({asked} puts yours aside and takes the newer one)"


def place(sources: list[Path], mine: Path, worked_in: list[Path], old: Path) -> None:
    """Write all files beside their places, and move them there when none is missing."""
    beside = mine / ".new"
    try:
        for folder in (beside / "copied", beside / "was"):
            folder.mkdir(parents=True, exist_ok=True)
            for source in sources:
                shutil.copyfile(source, folder / source.name)
        for work in worked_in:
            old.mkdir(exist_ok=True)
            work.rename(old / work.name)
        for source in sources:  # a copy first: one that is as the course has it is nobody's work
            (beside / "copied" / source.name).replace(mine / source.name)
            (beside / "was" / source.name).replace(mine / ".as_copied" / source.name)
    except OSError:  # another program may hold a file: what was put aside goes back
        for work in worked_in:
            if (old / work.name).exists() and not work.exists():
                (old / work.name).rename(work)
        raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def bring(course: Path, mine: Path, fresh: bool, names: Sequence[str]) -> int:
    """`copy`, said; the exit status is 1, with a sentence, where the copies cannot be made."""
    files = [p.name for p in course.iterdir()]
    for name in names:
        if not (name.isdecimal() and any(file.startswith(beginning(name)) for file in files)):
            print(
                f"{name} is not the number of a notebook, as 05 is, so nothing was restored. "
                "A folder is named before --fresh: qlesson lab FOLDER --fresh 05"
            )
            return 1
    try:
        for line in copy(course, mine, fresh, names):
            print(line)
    except OSError as error:
        print(
            f"The notebooks could not all be copied to {mine}, where your work is kept: {error}. "
            "Make room, let yourself write there, or close what holds a file, and try again."
        )
        return 1
    return 0


def main(arguments: list[str]) -> int:
    names = [a for a in arguments if a != "--fresh"]
    return bring(Path("notebooks"), Path(USUAL), "--fresh" in arguments, names)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

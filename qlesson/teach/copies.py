"""The reader's own copies of the notebooks, in my_notebooks/, which git ignores.

`make lab` runs this file as a script, and `make fresh` runs it with --fresh, so it imports nothing
but the standard library. Work is never written over: --fresh moves it to a dated folder.
"""

import json
import shutil
import sys
import time
from pathlib import Path


def content(path):
    """What a reader can change: the cells' text. Outputs and counts change whenever a cell runs."""
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        return [(cell["cell_type"], "".join(cell["source"])) for cell in cells]
    except (ValueError, LookupError, TypeError):  # not a notebook
        return path.read_bytes()


def copy(course, mine, fresh=False, names=()):
    """Bring the folder `mine` up to date with `course`; return the lines worth saying."""
    # Each file as it was when copied. A copy that differs from it holds the reader's work.
    as_copied = mine / ".as_copied"
    as_copied.mkdir(parents=True, exist_ok=True)
    old = mine / time.strftime("old_%Y-%m-%d_%H%M%S")
    new, said = 0, []
    for source in sorted(p for p in course.iterdir() if p.suffix in (".ipynb", ".md", ".png")):
        copied, was = mine / source.name, as_copied / source.name
        restore = fresh and source.name.startswith(tuple(names) or "")
        if copied.exists():
            changed = not was.exists() or was.read_bytes() != source.read_bytes()
            worked_in = not was.exists() or content(copied) != content(was)
            if not (changed or restore):
                continue
            if worked_in and not restore:
                said.append(
                    f"{source.name}: the course has a newer version, yours is kept "
                    f"(make fresh N={source.name[:2]} puts yours aside and takes the newer one)"
                )
                continue
            if worked_in:
                old.mkdir(exist_ok=True)
                shutil.move(copied, old / source.name)
                said.append(f"{source.name} is restored, your work is in {old}")
        else:
            new += 1
        shutil.copyfile(source, copied)
        shutil.copyfile(source, was)
    if new:
        said.insert(0, f"{new} files copied to {mine}, where your answers stay")
    if fresh and not said:
        said.append("nothing to put aside: the cells of your copies are as the course has them")
    return said


if __name__ == "__main__":
    fresh = "--fresh" in sys.argv
    names = [a for a in sys.argv[1:] if a != "--fresh"]
    for line in copy(Path("notebooks"), Path("my_notebooks"), fresh, names):
        print(line)

"""Live figures in the book: what each can be set to, and all of its frames where these are few.

The package draws a frame for every setting and says its sentences; the page's script, live.js,
shows them. Where the settings are many, `play.js` of the lesson computes the same from the
settings, and tests/browser/test_book.py compares its sentences with the package's.

Drawing takes minutes, so frames are kept, and drawn again only where the package, the figures or
the figure's own play.py have changed.
"""

import hashlib
import html
import io
import itertools
import json
import math
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

import qlesson
from qlesson.teach import lessons
from qlesson.teach.widgets import Declaration, LiveFigure, declarations

FEW = 1000  # settings, for which frames are drawn: about 10 MB
PART = 40  # settings that a process draws at a time
WORTH_IT = 200  # settings from which on several processes draw
PACKAGE = Path(qlesson.__file__).parent


class Frame(NamedTuple):
    """A picture of a live figure, as WebP, and what stands below it."""

    picture: bytes
    sentences: list[str]


def offered(control: Any) -> list[Any]:
    """Every value that a Control can be set to, from the first to the last."""
    if hasattr(control, "options"):
        return list(control.options)
    if hasattr(control, "values"):
        return list(control.values)
    if isinstance(control.start, bool):
        return [False, True]
    steps = round((control.high - control.low) / control.step)
    if isinstance(control.step, int):
        return [control.low + i * control.step for i in range(steps + 1)]
    return [round(control.low + i * control.step, 9) for i in range(steps + 1)]


def described(name: str, control: Any) -> dict[str, Any]:
    """A control as live.js makes one; `digits` are those behind the point of a slider's number."""
    values = offered(control)
    kind = "choice" if hasattr(control, "options") else "slider"
    kind = "switch" if isinstance(control.start, bool) else kind
    step = getattr(control, "step", None)
    digits = len(f"{step:g}".partition(".")[2]) if isinstance(step, float) else None
    start = values.index(control.start)
    return dict(
        name=name, words=control.words, kind=kind, values=values, digits=digits, start=start
    )


def settings_of(declaration: Declaration) -> list[dict[str, Any]]:
    """Every setting, in the order in which live.js counts them: the last control turns fastest."""
    values = [offered(control) for control in declaration.controls.values()]
    return [dict(zip(declaration.controls, x, strict=True)) for x in itertools.product(*values)]


def count(declaration: Declaration) -> int:
    """How many settings it has."""
    return math.prod(len(offered(control)) for control in declaration.controls.values())


def has_frames(declaration: Declaration) -> bool:
    return count(declaration) <= FEW


def scripts() -> dict[str, Path]:
    """By notebook, the script that computes a live figure of many settings."""
    return lessons.files("play", ".js")


def place(number: str) -> str:
    """The HTML below a cell that shows a live figure, from which live.js makes it live.

    Nothing where the figure has too many settings for frames and no script.
    """
    declaration = declarations()[number]
    if not has_frames(declaration) and number not in scripts():
        return ""
    controls = [described(*item) for item in declaration.controls.items()]
    start = {name: control.start for name, control in declaration.controls.items()}
    about = {
        "picture": declaration.picture,
        "controls": controls,
        "said": declaration.look(**start)[0],
        "frames": has_frames(declaration),
    }
    data = json.dumps(about, ensure_ascii=False).replace("</", "<\\/")
    return (
        f'<div class="play" data-play="{html.escape(number)}">'
        f'<script type="application/json">{data}</script></div>'
    )


def write(to: Path, kept: Path, numbers: Iterable[str] | None = None) -> None:
    """Put below `to` what live.js fetches: for each live figure its frames or its script.

    kept     the folder where frames are kept from one time to the next
    numbers  of the notebooks whose frames are wanted; None is all
    """
    found = declarations()
    few = [number for number in found if has_frames(found[number])]
    wanted = few if numbers is None else [number for number in few if number in numbers]
    old = [number for number in wanted if _noted(kept / number) != key(number)]
    keys = {number: key(number) for number in old}
    for number, frames in _drawn_by_all_cores(old):
        keep(number, frames, kept / number)
        (kept / number / "key.txt").write_text(keys[number], encoding="utf-8")
    shutil.rmtree(to, ignore_errors=True)
    for number in wanted:
        shutil.copytree(kept / number, to / number, ignore=shutil.ignore_patterns("key.txt"))
    for number, path in scripts().items():
        (to / number).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, to / number / "play.js")


def _drawn_by_all_cores(numbers: Sequence[str]) -> Iterator[tuple[str, list[Frame]]]:
    """The frames of each live figure, drawn in parts: in one of them a model writes for minutes."""
    every = {number: settings_of(declarations()[number]) for number in numbers}
    parts = [(n, x[i : i + PART]) for n, x in every.items() for i in range(0, len(x), PART)]
    if sum(map(len, every.values())) < WORTH_IT:
        yield from ((n, drawn(n, settings)) for n, settings in every.items())
        return
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
        results = pool.map(drawn, *zip(*parts, strict=True))
        for number, group in itertools.groupby(zip(parts, results, strict=True), lambda x: x[0][0]):
            yield number, [frame for _, frames in group for frame in frames]


def drawn(number: str, settings: Sequence[dict[str, Any]]) -> list[Frame]:
    """What the live figure says and shows at these settings."""
    live = LiveFigure(declarations()[number])
    return [Frame(webp(live.draw(each)), live.sentences) for each in settings]


def keep(number: str, frames: Sequence[Frame], to: Path) -> None:
    """Write frames into the folder `to`, equal ones once, and what they say."""
    shutil.rmtree(to, ignore_errors=True)
    to.mkdir(parents=True)
    lines: dict[str, int] = {}
    pictures: dict[bytes, int] = {}
    said = [[lines.setdefault(line, len(lines)) for line in f.sentences] for f in frames]
    shown = [pictures.setdefault(frame.picture, len(pictures)) for frame in frames]
    for picture, name in pictures.items():
        (to / f"{name}.webp").write_bytes(picture)
    data = {"lines": list(lines), "said": said, "frames": shown}
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    (to / "frames.js").write_text(f'qlesson.frames("{number}", {text});\n', encoding="utf-8")


def webp(png: bytes) -> bytes:
    """The same pixels in about half of the bytes."""
    out = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").save(
        out, "WEBP", lossless=True, method=3, quality=50
    )
    return out.getvalue()


def key(number: str) -> str:
    """Changes when what a frame of this live figure shows may have changed."""
    scripts = ("play.py", "play.js", "exercises.py", "rules.js")
    others = {"authoring", "bench", "__pycache__", *scripts}
    inside = {p: set(p.relative_to(PACKAGE).parts) for p in PACKAGE.rglob("*") if p.is_file()}
    files = [p for p, parts in inside.items() if not parts & others]
    files.append(lessons.files("play")[number])
    said = hashlib.sha256(f"{version('matplotlib')} {version('pillow')}".encode())
    for path in sorted(files):
        said.update(path.relative_to(PACKAGE).as_posix().encode() + path.read_bytes())
    return said.hexdigest()


def _noted(folder: Path) -> str:
    path = folder / "key.txt"
    return path.read_text(encoding="utf-8") if path.exists() else ""

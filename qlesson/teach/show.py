"""Show a figure, or a function's source, so that a test can compare what the reader sees.

nbval compares text, never pixels: a sine turned into a cosine would pass. So a figure comes with
the facts it draws, in words and rounded numbers.
"""

import ast
import base64
import html
import inspect
import io
import os
import textwrap
import zlib
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.collections import Collection, PathCollection
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle, StepPatch
from matplotlib.ticker import FixedFormatter, FixedLocator, FuncFormatter
from numpy.typing import ArrayLike
from PIL import Image  # matplotlib's own dependency

AnArtist = TypeVar("AnArtist", bound=Artist)

ASIDE = "aside"  # the gid of an artist that repeats what another one says
MOST_LINES = 14
MOST_POINTS = 12
MOST_CELLS = 16
MOST_LETTERS = 320


def show(fig: Figure, alt: str) -> None:
    """Display a figure, its PNG with the facts it draws, and below it its sentence.

    fig  a matplotlib Figure
    alt  one sentence that says what the figure shows, for who cannot see it

    Outside a notebook it prints the text.
    """
    bundle, metadata = mimebundle(fig, alt)
    try:
        from IPython.core.interactiveshell import InteractiveShell
        from IPython.display import display

        in_notebook = InteractiveShell.initialized()
    except ImportError:
        in_notebook = False
    if in_notebook:
        display(bundle, metadata=metadata, raw=True)
        display(caption(alt), raw=True)
    else:
        print(bundle["text/plain"])


def show_source(fn: Any, annotations: bool = False) -> None:
    """Print a function, method or class as the package has it, decorators and all.

    annotations  whether to print the types in its signatures, which a formula is read without
    """
    if isinstance(fn, property):
        fn = fn.fget
    source = textwrap.dedent(inspect.getsource(inspect.unwrap(fn))).rstrip()
    print(source if annotations else without_annotations(source))


def without_annotations(source: str) -> str:
    """Code whose functions have no types in their signatures; a comment there keeps its own."""
    lines = source.split("\n")
    functions = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.FunctionDef)]
    for node in sorted(functions, key=lambda n: -n.lineno):
        first = node.body[0]
        above = [first, *getattr(first, "decorator_list", [])]  # a decorator stands before its def
        start, end = node.lineno - 1, min(n.lineno for n in above) - 1
        own_line = not lines[end][: first.col_offset].strip()
        if not own_line or start == end or "#" in "".join(lines[start:end]):
            continue
        blank = lines[start][: node.col_offset]
        a = node.args
        positional = [*a.posonlyargs, *a.args]
        given = [None] * (len(positional) - len(a.defaults)) + list(a.defaults)
        words = [_parameter(source, *both) for both in zip(positional, given, strict=True)]
        if a.posonlyargs:
            words.insert(len(a.posonlyargs), "/")
        words += [f"*{a.vararg.arg if a.vararg else ''}"] if a.vararg or a.kwonlyargs else []
        named = zip(a.kwonlyargs, a.kw_defaults, strict=True)
        words += [_parameter(source, *both) for both in named]
        words += [f"**{a.kwarg.arg}"] if a.kwarg else []
        head, inside = f"{blank}def {node.name}(", ", ".join(words)
        short = [f"{head}{inside}):"]
        long = [head, f"{blank}    {inside}", f"{blank}):"]
        lines[start:end] = short if len(short[0]) <= 79 else long
    return "\n".join(lines)


def _parameter(source: str, parameter: ast.arg, default: ast.expr | None) -> str:
    words = ast.get_source_segment(source, default) if default else None
    return f"{parameter.arg}={words}" if words else parameter.arg


def mimebundle(fig: Figure, alt: str) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """The data and the metadata that `show` displays."""
    image = base64.b64encode(png(fig)).decode("ascii")
    text = "\n".join([textwrap.fill(alt, 99), *facts(fig)])
    return {"image/png": image, "text/plain": text}, {"image/png": {"alt": alt}}


def caption(sentence: str) -> dict[str, str]:
    """The data of an output below a picture, for pages that do not read the picture's alt text.

    JupyterLab and GitHub do not. It is HTML, which needs no more than its own marks escaped.
    """
    words = html.escape(sentence, quote=False)
    return {"text/html": f"<p><em>{words}</em></p>", "text/plain": sentence}


def png(fig: Figure) -> bytes:
    """The figure at 100 dots per inch on white; the same figure gives the same bytes.

    QLESSON_DPI is another number of dots, where it is set: `make slides DRAW=1` sets it. The
    picture is reduced to 256 colours, which Pillow chooses: less than half of the bytes, and no
    difference to see.
    """
    drawn, out = io.BytesIO(), io.BytesIO()
    dpi = int(os.environ.get("QLESSON_DPI", 100))
    fig.savefig(drawn, format="png", dpi=dpi, facecolor="white", edgecolor="white")
    image = Image.open(drawn).convert("RGB")
    image = image.quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=1)
    image.save(out, "PNG", optimize=True, dpi=(dpi, dpi))
    return out.getvalue()


def facts(fig: Figure) -> list[str]:
    """What the figure draws, in at most 14 lines: titles, labels, and numbers to six digits."""
    lines = []
    words = [_one_line(t) for t in (fig.get_suptitle(), fig.get_supxlabel(), fig.get_supylabel())]
    if any(words):
        lines.append("figure; " + "; ".join(w for w in words if w))
    for number, ax in enumerate(fig.axes, start=1):
        heading, artists = _heading(number, ax), list(_artists(ax))
        if len(artists) == 1 and len(heading) + len(artists[0]) < MOST_LETTERS:
            lines.append(f"{heading}; {artists[0]}")
        else:
            lines += [heading, *(f"  {words}" for words in artists)]
    if len(lines) > MOST_LINES:
        rest = lines[MOST_LINES - 1 :]
        lines = [*lines[: MOST_LINES - 1], f"  and {len(rest)} lines more {_mark(' '.join(rest))}"]
    return [_shorten(words) for words in lines]


def _shorten(words: str) -> str:
    """The beginning of a long line, and a mark of the rest."""
    if len(words) <= MOST_LETTERS:
        return words
    start = words[: MOST_LETTERS - 20].rsplit(" ", 1)[0]
    return f"{start} ... {_mark(words)}"


def _mark(words: str) -> str:
    """Changes when any letter of the words does."""
    return f"(crc32 {zlib.crc32(words.encode()):08x})"


def _heading(number: int, ax: Axes) -> str:
    titles = [_one_line(ax.get_title(loc)) for loc in ("left", "center", "right")]
    parts = [f"axes {number}"] + [f'"{t}"' for t in titles if t]
    for name, axis in (("x", ax.xaxis), ("y", ax.yaxis)):
        words = _one_line(axis.get_label_text())
        scale = f"({axis.get_scale()})"
        if scale != "(linear)" and not words.endswith(scale):
            words += f" {scale}"
        own = _own_tick_labels(axis)
        if axis.get_visible() and own:
            words += f" [{', '.join(own)}]"
        if words.strip():
            parts.append(f"{name}: {words.strip()}")
    return "; ".join(parts)


def _own_tick_labels(axis: Axis) -> list[str]:
    """The words that were given to the ticks, where they are not their numbers."""
    formatter, locator = axis.get_major_formatter(), axis.get_major_locator()
    if isinstance(formatter, FixedFormatter):
        words = formatter.seq
    elif isinstance(formatter, FuncFormatter) and isinstance(locator, FixedLocator):
        words = [formatter(x, i) for i, x in enumerate(locator())]
    else:
        words = []
    return [_one_line(w) for w in words if w]


def _artists(ax: Axes) -> Iterator[str]:
    """A sentence for every artist of the axes that is not an aside."""
    log_x, log_y = ax.get_xscale() == "log", ax.get_yscale() == "log"
    for line in _wanted(ax.lines):
        yield f"line{_name(line)}: {_points(line.get_data(orig=False), log_x, log_y)}"
    for collection in _wanted(ax.collections):
        kind = "dots" if isinstance(collection, PathCollection) else "strokes"
        yield f"{kind}{_name(collection)}: {_points(_vertices(collection), log_x, log_y)}"
    bars = [c for c in ax.containers if isinstance(c, BarContainer)]
    yield from (_bars(b, log_x, log_y) for b in bars if len(_wanted(b.patches)))
    in_bars = {id(p) for b in bars for p in b.patches}
    boxes = []
    for patch in _wanted(p for p in ax.patches if id(p) not in in_bars):
        if isinstance(patch, StepPatch):
            values, edges, _ = patch.get_data()
            heights = _list_or_summary(values, log_y, MOST_CELLS)
            yield f"steps{_name(patch)}: at {_positions(edges)}, heights {heights}"
        elif isinstance(patch, Rectangle):
            boxes.append(patch.get_bbox().get_points())
        else:
            corners = np.transpose(patch.get_path().vertices)
            yield f"shape{_name(patch)}: {_points(corners, log_x, log_y)}"
    if boxes:
        yield f"boxes: {_points(np.reshape(boxes, (-1, 2)).T, log_x, log_y)}"
    for image in _wanted(ax.images):
        a = np.asarray(image.get_array(), dtype=float)
        shape = "x".join(map(str, a.shape))
        yield f"image {shape}: {_list_or_summary(a.ravel(), False, MOST_CELLS)}"
    strings = [_one_line(t.get_text()) for t in _wanted(ax.texts)]
    if any(strings):
        yield f"texts: {' | '.join(s for s in strings if s)}"


def _wanted(artists: Iterable[AnArtist]) -> list[AnArtist]:
    return [a for a in artists if a.get_gid() != ASIDE]


def _bars(bars: BarContainer, log_x: bool, log_y: bool) -> str:
    upright = bars.orientation != "horizontal"
    boxes = np.array([p.get_bbox().get_points().ravel() for p in bars.patches])
    x0, y0, x1, y1 = boxes.T
    at, size, base = ((x0 + x1) / 2, y1 - y0, y0) if upright else ((y0 + y1) / 2, x1 - x0, x0)
    log = log_y if upright else log_x
    words = f"at {_positions(at)}, heights {_list_or_summary(size, log, MOST_CELLS)}"
    if np.any(base != 0) and not log:
        words += f", from {_list_or_summary(base, log, MOST_CELLS)}"
    return f"bars{_name(bars)}: {words}"


def _positions(at: ArrayLike) -> str:
    """Evenly spaced places by their ends."""
    at = np.asarray(at, dtype=float)
    if at.size > 2 and np.ptp(np.diff(at)) <= 1e-6 * np.ptp(at):
        first, last = _numbers(at[[0, -1]], at, False)
        return f"{at.size} from {first} to {last}"
    return _list_or_summary(at, False, MOST_CELLS)


def _vertices(collection: Collection) -> np.ndarray:
    if isinstance(collection, PathCollection):
        return _unmasked(collection.get_offsets()).T
    paths = [v for p in collection.get_paths() if len(v := np.asarray(p.vertices))]
    return (np.concatenate(paths) if paths else np.zeros((0, 2))).T


def _unmasked(values: ArrayLike) -> np.ndarray:
    return np.ma.filled(np.ma.asarray(values, dtype=float), np.nan)


def _name(artist: Artist | BarContainer) -> str:
    label = str(artist.get_label())
    return "" if label.startswith("_") or not label else f' "{_one_line(label)}"'


def _points(xy: Iterable[ArrayLike], log_x: bool, log_y: bool) -> str:
    x, y = map(_unmasked, xy)
    drawn = np.isfinite(x) & np.isfinite(y)
    x, y = x[drawn], y[drawn]
    if x.size == 0:
        return "none"
    if x.size <= MOST_POINTS:
        pairs = zip(_numbers(x, x, log_x), _numbers(y, y, log_y), strict=True)
        return " ".join(f"({a}, {b})" for a, b in pairs)
    return f"n {x.size}, x {_summary(x, log_x)}, y {_summary(y, log_y)}"


def _list_or_summary(values: ArrayLike, log: bool, most: int = MOST_POINTS) -> str:
    values = np.asarray(values, dtype=float)
    if values.size <= most:
        return " ".join(_numbers(values, values, log))
    return f"n {values.size}, {_summary(values, log)}"


def _summary(values: ArrayLike, log: bool) -> str:
    """min, max, mean, standard deviation, and a mean that a reordering changes."""
    v = np.asarray(values, dtype=float)
    v = v[np.isfinite(v)]
    if v.size == 0:
        return "none"
    if np.all(v == v[0]):
        return f"all {_numbers(v[:1], v, log)[0]}"
    position = np.arange(1, v.size + 1)
    weighted = (v * position).sum() / position.sum()
    low, high, mean, std, later = _numbers([v.min(), v.max(), v.mean(), v.std(), weighted], v, log)
    return f"{low} to {high} mean {mean} std {std} weighted {later}"


def _numbers(values: ArrayLike, among: ArrayLike, log: bool) -> list[str]:
    """Six significant digits; what is tiny beside the span of its neighbours is 0."""
    finite = np.asarray(among, dtype=float)
    finite = np.abs(finite[np.isfinite(finite)])
    tiny = 0 if log or not finite.size else 1e-7 * finite.max()
    return ["0" if abs(v) <= tiny else f"{v:.6g}" for v in np.asarray(values, dtype=float)]


def _one_line(text: object) -> str:
    return " ".join(str(text).split())

"""The house: which module may stand on which, what each may import, and how long a file may be."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import qlesson

PACKAGE = Path(__file__).parents[1] / "qlesson"
FILES = sorted(PACKAGE.rglob("*.py"))

# From the ground up. A module imports from floors below its own, and from its own floor.
FLOORS = (
    ("affine", "checks", "course", "error", "granularity", "plan", "report"),
    ("scheme",),
    ("device", "limits", "ranges", "observers", "kernels"),
    ("qtensor", "blocks"),
    ("nn", "files"),
    ("methods", "evaluate"),
    ("models",),
    ("bench",),
    ("teach",),
    ("authoring",),
    ("__main__",),
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
PICTURES = {"IPython", "ipywidgets", "matplotlib"}
MOST = 400  # lines


def name_of(file) -> str:
    parts = ("qlesson", *file.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts).removesuffix(".__init__")


NAMES = {name_of(file) for file in FILES}
ROOMS = {name.split(".")[1] for name in NAMES if "." in name}


def imported(source, at_module_level=False) -> set[str]:
    """The dotted names of what the source imports, and of every module of ours among it."""
    found = set()
    for node in at_top(ast.parse(source)) if at_module_level else ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert not node.level, "an import is written in full"
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {node.module} | (inner & NAMES)
    # `from qlesson import checks` needs checks, and nothing of qlesson/__init__.py.
    return found - {"qlesson"}


def at_top(tree):
    """What runs when the module is imported: no bodies of functions, nothing for types alone."""
    nodes = list(tree.body)
    while nodes:
        node = nodes.pop()
        yield node
        for_types = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        is_body = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        if not for_types and not is_body:
            nodes += ast.iter_child_nodes(node)


def room(name) -> str | None:
    """The module or folder of the package that a dotted name lies in."""
    first, _, rest = name.partition(".")
    return rest.split(".")[0] if first == "qlesson" and rest else None


def uphill(name, source) -> set[str]:
    """What the source of the module `name` imports from above its floor."""
    own = FLOOR[room(name)]
    return {x for x in imported(source) if room(x) and FLOOR[room(x)] > own}


def circle(arrows) -> list[str]:
    """Rooms that import each other in a circle, or nothing."""
    done, path = set(), []

    def walk(x):
        if x in path:
            return path[path.index(x) :]
        if x not in done:
            path.append(x)
            for y in sorted(arrows.get(x, ())):
                if found := walk(y):
                    return found
            done.add(path.pop())
        return []

    return next(filter(None, map(walk, sorted(arrows))), [])


@cache
def arrows():
    """{room: the other rooms that it imports}, those imported inside functions too."""
    found = {}
    for file in FILES:
        own = room(name_of(file))
        others = {room(x) for x in imported(file.read_text(encoding="utf-8"))} - {own, None}
        if own:
            found.setdefault(own, set()).update(others)
    return found


def private(name, source) -> set[str]:
    """The names with an underscore that the source of the module `name` takes from a module of
    another folder: a name that another folder uses is no private one."""
    modules = {x.rpartition(".")[2]: x for x in imported(source) & NAMES}
    taken = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module in NAMES:
            taken += [(node.module, alias.name) for alias in node.names]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            taken += [(x, node.attr) for x in [modules.get(node.value.id)] if x]
    hidden = [(x, y) for x, y in taken if y.startswith("_") and not y.startswith("__")]
    return {f"{x}.{y}" for x, y in hidden if folder(x) != folder(name)}


def folder(name) -> str:
    """The folder of a module; a module of the ground is a room, and so a folder, of its own."""
    path = PACKAGE.parent.joinpath(*name.split("."))
    return name if path.is_dir() or name.count(".") == 1 else name.rpartition(".")[0]


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_a_name_with_an_underscore_stays_in_its_folder(file):
    assert private(name_of(file), file.read_text(encoding="utf-8")) == set()


def test_what_a_folder_keeps_to_itself_is_found():
    within = "from qlesson.nn.swap import _read\nfrom qlesson.nn import swap\nswap._read"
    assert private("qlesson.nn.model", within) == set()
    assert private("qlesson.models.minilm", within) == {"qlesson.nn.swap._read"}
    assert private("qlesson.observers", "from qlesson.ranges import _short") != set()
    assert private("qlesson.nn", "from qlesson.nn.swap import _read") == set()


def test_every_room_has_a_floor():
    assert ROOMS == set(FLOOR)


@pytest.mark.parametrize("file", [f for f in FILES if room(name_of(f))], ids=name_of)
def test_no_arrow_runs_up(file):
    assert not uphill(name_of(file), file.read_text(encoding="utf-8"))


def test_no_rooms_stand_on_each_other():
    assert circle(arrows()) == []


def test_nothing_below_teach_draws():
    for file in FILES:
        below = FLOOR.get(room(name_of(file)), -1) < FLOOR["teach"]
        names = imported(file.read_text(encoding="utf-8"), at_module_level=True)
        assert not (below and {x.split(".")[0] for x in names} & PICTURES), file


def test_the_ground_floor_stands_on_torch_alone():
    own = {"qlesson", "torch", *sys.stdlib_module_names}
    for file in (f for f in FILES if room(name_of(f)) in set(FLOORS[0]) - {"course"}):
        assert {x.split(".")[0] for x in imported(file.read_text(encoding="utf-8"))} <= own


def test_the_way_to_a_reader_needs_nothing_installed():
    """So that it starts at once; JupyterLab, which it starts, is all that it asks for."""
    own = {"qlesson", "jupyterlab", *sys.stdlib_module_names}
    for file in (f for f in FILES if room(name_of(f)) == "course"):
        found = imported(file.read_text(encoding="utf-8"))
        assert {x.split(".")[0] for x in found} <= own
        assert {room(x) for x in found} <= {"course", None}


def test_no_file_is_long():
    """Nor in another language."""
    written = {".py", ".cpp", ".h", ".js", ".html", ".css"}
    files = [f for f in PACKAGE.rglob("*") if f.suffix in written]
    assert {f.suffix for f in files} == written
    lines = {f.name: len(f.read_text(encoding="utf-8").splitlines()) for f in files}
    assert not {name for name, n in lines.items() if n > MOST}


def test_import_qlesson_loads_no_room():
    code = "import sys, qlesson; print(*[x for x in sys.modules if x.startswith('qlesson.')])"
    asked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert asked.stdout == "\n"


def test_the_types_of_the_public_names_are_told():
    body = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8")).body
    (told,) = (node for node in body if isinstance(node, ast.If))
    names = [(line.module, name.name, name.asname) for line in told.body for name in line.names]
    rooms = [("qlesson", room, room) for room, names in qlesson._ROOMS.items() if not names]
    public = [(f"qlesson.{room}", name, name) for name, room in qlesson._ROOM_OF.items()]
    assert sorted(names) == sorted(rooms + public)


# --- each rule sees what it is for ---


def test_a_planted_import_is_seen():
    assert uphill("qlesson.affine", "from qlesson import nn") == {"qlesson.nn"}
    inside = "def f():\n    from qlesson.kernels.pieces import cut"
    assert uphill("qlesson.granularity", inside) == {"qlesson.kernels.pieces"}
    assert not uphill("qlesson.nn.model", "import torch\nfrom qlesson import checks")
    drawing = "def f():\n    import ipywidgets\n\nif f:\n    import matplotlib.pyplot"
    assert imported(drawing, at_module_level=True) == {"matplotlib.pyplot"}
    assert imported(drawing) == {"ipywidgets", "matplotlib.pyplot"}
    for_types = "if TYPE_CHECKING:\n    import matplotlib"
    assert imported(for_types, at_module_level=True) == set()


def test_a_planted_circle_is_seen():
    assert circle({"a": {"b", "d"}, "b": {"c"}, "c": {"b"}, "d": set()}) == ["b", "c"]
    assert circle({"a": {"b", "d"}, "b": {"c"}, "c": {"d"}, "d": set()}) == []

"""The gate, whole: one table of bad values (gate_values.py) times all public callables of the
package (gate_rows.py), found by walking its rooms. Each cell is a sentence or a value.

Outside stand `teach`, `authoring` and `course`, which are above the gate, and what is below it or
no function of the reader's: `checks` itself, the kernels behind `use_kernels`, how a file is laid
out, what runs the bench, and commands.
"""

import copy
import importlib
import inspect
import pkgutil
import traceback
import warnings
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from gate_rows import ROWS, InFolder, Row
from gate_values import EQUAL, KINDS, REFUSED, SAME, SOUND, THROUGH
from torch._subclasses.fake_tensor import FakeTensor

import qlesson as ql
from qlesson.files import checkpoint

PACKAGE = Path(ql.__file__).parent
OUTSIDE = (
    "teach", "authoring", "course", "checks", "limits", "kernels.compilers", "kernels.cpp",
    "kernels.loops", "kernels.loops_triton", "kernels.packed", "kernels.pieces", "kernels.product",
    "kernels.product_triton", "kernels.search", "nn.product", "bench.measure", "bench.peers",
    "files.checkpoint.format", "files.new", "files.written", "models.tinygpt.train",
    "models.tinygpt.train_quantized",
    *(f"files.formats.{name}" for name in (
        "bitsandbytes", "compressed_tensors", "floats", "ggml", "gptq", "opened", "parts",
        "safetensors", "steps", "torchao", "words")),
)  # fmt: skip
PARTLY = {"kernels": set(), "kernels.modes": {"use_kernels"}, "bench.cells": {"Job"}}
PARTLY |= {"bench.product": {"Matrix"}}
SENTENCES = (ValueError, TypeError, IndexError, FileNotFoundError)


def public() -> dict:
    """{short name: callable} of the rooms: functions, classes, and methods that take something."""
    found = {}
    for about in pkgutil.walk_packages(ql.__path__, "qlesson."):
        short = about.name.removeprefix("qlesson.")
        rooms = [f"{room}." for room in OUTSIDE]
        if f"{short}.".startswith(tuple(rooms)) or short.endswith("__main__"):
            continue
        for name, x in vars(importlib.import_module(about.name)).items():
            wanted = short not in PARTLY or name in PARTLY[short]
            if wanted and _is_public(name, x) and x.__module__ == about.name:
                found[f"{short}.{name}"] = x
                if inspect.isclass(x) and short not in PARTLY:
                    found |= {f"{short}.{name}.{m}": f for m, f in _methods(x)}
    return found


def _is_public(name, x) -> bool:
    return not name.startswith("_") and callable(x) and hasattr(x, "__module__")


def _methods(cls):
    for name, x in vars(cls).items():
        x = getattr(x, "__func__", x)
        if _is_public(name, x) and not isinstance(x, type) and len(_parameters(x)) > 1:
            yield name, x


def _parameters(f):
    return [p for p in inspect.signature(f).parameters]


PUBLIC = public()
WALKED = {name: row for name, row in ROWS.items() if isinstance(row, Row)}


def test_every_public_callable_has_a_row_and_every_row_a_callable():
    assert sorted(PUBLIC) == sorted(ROWS)


def test_the_public_face_is_walked():
    face = [getattr(ql, name) for name in ql.__all__]
    assert all(x in PUBLIC.values() for x in face if callable(x))


@pytest.mark.parametrize("name", WALKED)
def test_a_row_has_every_argument(name):
    parameters = [p for p in _parameters(PUBLIC[name]) if p not in ("self", "cls")]
    assert sorted(parameters) == sorted(WALKED[name].args)


@pytest.mark.parametrize("name", WALKED)
def test_what_differs_from_its_kind_is_in_the_table_of_the_kind(name):
    for arg in WALKED[name].args.values():
        assert set(arg.but) - {"none"} <= set(KINDS[arg.kind]), arg.but


# --- the cells ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files to read, and a folder to write into."""
    found = tmp_path_factory.mktemp("gate")
    floats = {"w": torch.linspace(-1, 1, 64).view(4, 16), "b": torch.ones(4)}
    checkpoint.save(found / "q.safetensors", floats)
    from safetensors.torch import save_file

    save_file(floats, found / "floats.safetensors")
    checkpoint.save(found / "quantized.safetensors", floats | {"w": ql.quantize(floats["w"])})
    header = b"GGUF" + (3).to_bytes(4, "little") + bytes(16)
    (found / "empty.gguf").write_bytes(header)
    (found / "empty folder").mkdir()
    return found


def fresh(row, folder) -> dict:
    """The good arguments, made anew: some calls fill or change what they are given."""
    (folder / "out.safetensors").unlink(missing_ok=True)
    return {key: copy.deepcopy(_placed(arg.good, folder)) for key, arg in row.args.items()}


def _placed(good, folder):
    return folder / good if isinstance(good, InFolder) else good


def outcome(name, row, on, given):
    """(value, None) or (None, error) of one call."""
    call = getattr(on(), name.rpartition(".")[2]) if on else PUBLIC[name]
    modes = [x.fake_mode for x in given.values() if isinstance(x, FakeTensor)]
    try:
        with warnings.catch_warnings(), modes[0] if modes else nullcontext():
            warnings.simplefilter("ignore")
            return row.call(call, **given) if row.call else call(**given), None
    except Exception as error:
        return None, error


def wrong_with(error, arg_names, bad) -> str | None:
    """What is wrong with a sentence, or nothing."""
    text = str(error)
    last = traceback.extract_tb(error.__traceback__)[-1]
    if type(error) not in SENTENCES:
        return "is no kind of sentence"
    if PACKAGE not in Path(last.filename).parents:
        return "is not of the package"
    if not text.endswith(".") or "\n" in text or len(text.split()) < 5:
        return "is no sentence"
    if not (": " in text or "must " in text):
        return "has no remedy"
    shown = [*arg_names, *([str(bad)] if isinstance(bad, str | Path) and str(bad) else [])]
    return None if any(n in text for n in shown) else f"names none of {arg_names}"


def leaves(x):
    """All tensors, numbers and texts of a value."""
    if isinstance(x, torch.Tensor):
        yield x.detach()
    elif isinstance(x, str | int | float | torch.dtype):
        yield x
    elif isinstance(x, dict):
        for value in x.values():
            yield from leaves(value)
    elif isinstance(x, list | tuple | set):
        for value in x:
            yield from leaves(value)
    elif isinstance(x, torch.nn.Module):
        yield from leaves(x.state_dict())
    elif type(x).__module__.startswith("qlesson") and hasattr(x, "__dict__"):
        yield from leaves(vars(x))


def same(a, b) -> bool:
    """Whether two values are the same, of the same classes."""
    return equal(a, b) and [*map(type, leaves(a))] == [*map(type, leaves(b))]


def equal(a, b) -> bool:
    """Whether two values are the same, whatever the class of a tensor."""
    a, b = list(leaves(a)), list(leaves(b))
    return len(a) == len(b) and all(map(_equal, a, b))


def _equal(a, b) -> bool:
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    return type(a) is type(b) and a == b


def finite(x) -> bool:
    return all(
        bool(torch.isfinite(leaf).all()) if isinstance(leaf, torch.Tensor) else leaf - leaf == 0
        for leaf in leaves(x)
        if isinstance(leaf, float | torch.Tensor) and not _empty_shell(leaf)
    )


def _empty_shell(x) -> bool:
    return isinstance(x, FakeTensor) or getattr(x, "is_meta", False)


def wrong_cell(then, value, error, good, names, bad) -> str | None:
    """What is wrong with one cell, or nothing."""
    if error is not None:
        if then in (SAME, EQUAL, THROUGH):
            return f"refused: {type(error).__name__}: {error}"
        wrong = wrong_with(error, names, bad)
        return wrong and f"{type(error).__name__} {wrong}: {error}"
    if then == REFUSED:
        return f"taken: {' '.join(str(value).split())[:80]}"
    if then == SAME and not same(value, good) or then == EQUAL and not equal(value, good):
        return f"another value: {' '.join(str(value).split())[:80]}"
    if then == SOUND and not finite(value):
        return f"not finite: {' '.join(str(value).split())[:80]}"
    return None


def cells(arg, folder):
    """(name, bad value, what has to happen) of all that this argument meets."""
    table = dict(KINDS[arg.kind])
    if "none" in arg.but:
        table["none"] = (lambda x: None, SOUND)
    for name, (make, then) in table.items():
        yield name, make(copy.deepcopy(_placed(arg.good, folder))), arg.but.get(name, then)


def ons(row):
    return row.on if isinstance(row.on, tuple) else (row.on,)


@pytest.mark.parametrize("name", WALKED)
def test_bad_values_meet_a_sentence_and_good_ones_their_value(name, folder):
    row, found = WALKED[name], []
    for on in ons(row):
        good, error = outcome(name, row, on, fresh(row, folder))
        assert error is None, error
        for key, arg in row.args.items():
            for cell, bad, then in cells(arg, folder):
                value, error = outcome(name, row, on, fresh(row, folder) | {key: bad})
                wrong = wrong_cell(then, value, error, good, (key, *arg.says), bad)
                if wrong:
                    found.append(f"{key} {cell} ({then}) {wrong}")
    assert not found, "\n".join(["", *found])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", WALKED)
def test_torchs_default_dtype_is_not_asked(name, dtype, folder):
    row = WALKED[name]
    for on in ons(row):
        wanted, _ = outcome(name, row, on, fresh(row, folder))
        torch.set_default_dtype(dtype)
        try:
            got, error = outcome(name, row, on, fresh(row, folder))
        finally:
            torch.set_default_dtype(torch.float32)
        assert error is None and same(wanted, got), (error, got)

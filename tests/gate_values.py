"""The table of bad values: for each kind of argument what it may meet, and what has to happen.

REFUSED  a sentence
SAME     the value of the good argument, to the last bit, in plain tensors
EQUAL    the same, in tensors of any class: codes, ids and a layer's input keep theirs, as in torch
SOUND    a value in which all is finite, or a sentence
THROUGH  a value: no sentence is asked for, since nothing is read (a layer's input, a formula's NaN)
"""

import pathlib
from typing import Any, NamedTuple

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import qlesson as ql

REFUSED, SAME, EQUAL, SOUND, THROUGH = "refused", "same", "equal", "sound", "through"
NAN, INF = float("nan"), float("inf")
LONG = "x" * 300


class Arg(NamedTuple):
    """An argument of a row: its kind, a good value, the cells in which it differs from its kind,
    and the names that a sentence may call it by."""

    kind: str
    good: Any
    but: dict
    says: tuple


def kind(name):
    """A function that makes an Arg of this kind."""
    return lambda good, says=(), **but: Arg(
        name, good, but, (says,) if isinstance(says, str) else says
    )


class Subclass(torch.Tensor):
    """A tensor of a class of its own."""


def first(x, value, dtype=None):
    """x with another first value."""
    x = x.clone() if dtype is None else x.to(dtype)
    x.view(-1)[0] = value
    return x


def apart(x):
    """The same values, not next to each other in memory."""
    return torch.stack([x, x], -1)[..., 0]


def faked(x):
    return FakeTensorMode(allow_non_fake_inputs=True).from_tensor(x)


def on(device):
    return lambda x: x.to(device)


ELSEWHERE = {"meta": (on("meta"), REFUSED)}
if torch.cuda.is_available():
    ELSEWHERE["cuda"] = (on("cuda"), SOUND)

NO_TENSOR = {
    "none": (lambda x: None, REFUSED),
    "word": (lambda x: "abc", REFUSED),
    "thing": (lambda x: object(), REFUSED),
    "list": (lambda x: x.tolist() if x.ndim else [x.item()], REFUSED),
}
PLACED = {
    "sparse": (lambda x: x.to_sparse(), REFUSED),
    "fake": (faked, SOUND),
    "apart": (apart, SAME),
    "subclass": (lambda x: x.as_subclass(Subclass), SAME),
} | ELSEWHERE
KEPT = PLACED | {"subclass": (PLACED["subclass"][0], EQUAL)}
SHAPES = {
    "empty": (lambda x: x[:0] if x.ndim else x.new_empty(0), REFUSED),
    "scalar": (lambda x: x.reshape(-1)[0], SOUND),
    "longer": (lambda x: torch.cat([x, x]) if x.ndim else torch.stack([x, x]), SOUND),
    "deeper": (lambda x: x[None], SOUND),
}


def torchs_codes(x):
    return torch.quantize_per_tensor(x.detach().float(), 0.1, 0, torch.qint8)


COMPLEX = {
    "complex": (lambda x: x.to(torch.complex64), REFUSED),
    "truth": (lambda x: x.bool(), REFUSED),
    "torchs_codes": (torchs_codes, REFUSED),
}
NOT_FINITE = {
    "nan": (lambda x: first(x, NAN), REFUSED),
    "infinite": (lambda x: first(x, INF), REFUSED),
    "below": (lambda x: first(x, -INF), REFUSED),
}
WHOLE_DTYPES = {
    f"as_{d}": (lambda x, d=d: x.to(getattr(torch, d)), REFUSED)
    for d in ("int8", "uint8", "int16", "int32", "int64")
}
FRACTIONS = {
    "fraction": (lambda x: first(x, 0.5, torch.float32), REFUSED),
    "floats": (lambda x: x.float(), REFUSED),
}
GRADIENT = {"gradient": (lambda x: x.detach().requires_grad_(), SAME)}

STEPS = {
    "negative": (lambda x: -x, REFUSED),
    "zero": (lambda x: x * 0, REFUSED),
    "subnormal": (lambda x: x * 0 + 1e-40, SOUND),
    "nan": (lambda x: x * NAN, REFUSED),
    "infinite": (lambda x: x * INF, REFUSED),
}
NUMBERS_OF_STEPS = {
    "number_negative": (lambda x: -0.1, REFUSED),
    "number_zero": (lambda x: 0.0, REFUSED),
    "number_nan": (lambda x: NAN, REFUSED),
    "number_infinite": (lambda x: INF, REFUSED),
    "number_huge": (lambda x: 10**400, REFUSED),
    "number_complex": (lambda x: 1j, REFUSED),
    "number_truth": (lambda x: True, REFUSED),
}
MISFITS = {
    "empty": (lambda x: x.new_empty(0), REFUSED),
    "longer": (lambda x: torch.stack([x, x]), REFUSED),
}
ZEROS = {
    "beyond": (lambda x: x.short() * 0 + 200, REFUSED),
    "below": (lambda x: x.short() * 0 - 129, REFUSED),
    "fraction": (lambda x: x * 0 + 3.7, REFUSED),
    "nan": (lambda x: x * NAN, REFUSED),
    "infinite": (lambda x: x * INF, REFUSED),
    **COMPLEX,
    "number_beyond": (lambda x: 200, REFUSED),
    "number_fraction": (lambda x: 3.7, REFUSED),
    "number_nan": (lambda x: NAN, REFUSED),
    "number_complex": (lambda x: 1j, REFUSED),
    "number_truth": (lambda x: True, REFUSED),
}


def pairs(table, place):
    """The same for (scale, zero point): one of the two is bad."""

    def make(bad):
        return lambda p: ql.QParams(bad(p[0]), p[1]) if place == 0 else ql.QParams(p[0], bad(p[1]))

    name = ("scale", "zero_point")[place]
    return {f"{name}_{k}": (make(bad), then) for k, (bad, then) in table.items()}


TWO = {k: v for k, v in PLACED.items() if k not in ("sparse", "fake")}
NOT_WHOLE = {
    "fraction": (lambda x: 1.5, REFUSED),
    "float": (float, REFUSED),
    "nan": (lambda x: NAN, REFUSED),
    "infinite": (lambda x: INF, REFUSED),
    "complex": (lambda x: 1j, REFUSED),
    "truth": (lambda x: True, REFUSED),
    "word": (lambda x: "3", REFUSED),
    "none": (lambda x: None, REFUSED),
}
PATHS = {
    "none": (lambda x: None, REFUSED),
    "number": (lambda x: 3, REFUSED),
    "bytes": (lambda x: b"abc", REFUSED),
    "empty": (lambda x: "", REFUSED),
    "long": (lambda x: LONG, REFUSED),
    "null": (lambda x: "a\0b", REFUSED),
    "text": (str, SAME),
}

KINDS = {
    # a float tensor; `scalar`, `longer` and `deeper` are refused where the shape is fixed
    "real": NO_TENSOR | PLACED | SHAPES | COMPLEX | NOT_FINITE | WHOLE_DTYPES | GRADIENT
    | {"quantized": (lambda x: ql.quantize(x), REFUSED)},
    # a tensor of real numbers in any dtype
    "numbers": NO_TENSOR | PLACED | SHAPES | COMPLEX | NOT_FINITE | GRADIENT
    | {k: (make, SOUND) for k, (make, _) in WHOLE_DTYPES.items()},
    # what a formula of affine takes: complex numbers and truth values mean nothing in one, and it
    # checks nothing else
    "formula": {k: v for k, v in COMPLEX.items()}
    | {"number_complex": (lambda x: 1j, REFUSED), "number_truth": (lambda x: True, REFUSED)}
    | {k: (make, THROUGH) for k, (make, _) in (NOT_FINITE | GRADIENT).items()}
    | {k: PLACED[k] for k in ("apart", "subclass")},
    # an end of the codes, for a formula
    "formula_end": {
        "complex": (lambda x: 1j, REFUSED), "truth": (lambda x: True, REFUSED),
        "subclass": (lambda x: torch.tensor(float(x)).as_subclass(Subclass), SAME),
    },
    # codes, in one dtype
    "codes": NO_TENSOR | KEPT | SHAPES | COMPLEX | FRACTIONS | WHOLE_DTYPES
    | {"beyond": (lambda x: first(x, 100), SOUND)},
    "scale": {k: v for k, v in NO_TENSOR.items() if k != "list"} | KEPT | COMPLEX | STEPS
    | MISFITS | GRADIENT,
    "scale_or_number": {k: v for k, v in NO_TENSOR.items() if k != "list"} | KEPT | COMPLEX
    | STEPS | NUMBERS_OF_STEPS | MISFITS | GRADIENT,
    "zero_point": NO_TENSOR | KEPT | ZEROS | MISFITS,
    "zero_point_or_number": {k: v for k, v in NO_TENSOR.items() if k != "list"} | ZEROS
    | MISFITS,
    # a zero point of codes in int8, as a whole number
    "whole_zero_point": {k: v for k, v in ZEROS.items() if k not in ("beyond", "below")}
    | {k: v for k, v in NO_TENSOR.items() if k != "list"} | MISFITS
    | {"huge": (lambda x: x.long() * 0 + 2**40, REFUSED), "number_beyond": (lambda x: 200, SOUND)},
    "qparams": pairs(STEPS | NUMBERS_OF_STEPS | MISFITS | COMPLEX | TWO | GRADIENT, 0)
    | pairs(ZEROS | MISFITS | TWO, 1)
    | {
        "one": (lambda x: 0.1, REFUSED),
        "three": (lambda x: (0.1, 0, 0), REFUSED),
        "word": (lambda x: "ab", REFUSED),
        "nones": (lambda x: (None, None), REFUSED),
    },
    "ids": NO_TENSOR | KEPT | COMPLEX | FRACTIONS
    | {k: v for k, v in WHOLE_DTYPES.items() if k not in ("as_int64", "as_int32")}
    | {
        "as_int32": (lambda x: x.int(), SAME),
        "negative": (lambda x: first(x, -1), REFUSED),
        "beyond": (lambda x: first(x, 10**6), REFUSED),
        "empty": (lambda x: x[:0], SOUND),
        "scalar": (lambda x: x.reshape(-1)[0], SOUND),
        "deeper": (lambda x: x[None], SOUND),
    },
    "dtype": {
        "word": (lambda x: "float32", REFUSED),
        "whole": (lambda x: torch.int8, REFUSED),
        "complex": (lambda x: torch.complex64, REFUSED),
        "python": (lambda x: float, REFUSED),
        "number": (lambda x: 3, REFUSED),
    },
    "scheme": {
        "none": (lambda x: None, REFUSED),
        "bits": (lambda x: 8, REFUSED),
        "word": (lambda x: "int8", REFUSED),
        "class": (lambda x: ql.Scheme, REFUSED),
        "granularity": (lambda x: ql.PerTensor(), REFUSED),
        "dictionary": (lambda x: {"bits": 8}, REFUSED),
    },
    "granularity": {
        "none": (lambda x: None, REFUSED),
        "axis": (lambda x: 0, REFUSED),
        "word": (lambda x: "row", REFUSED),
        "class": (lambda x: ql.PerTensor, REFUSED),
        "scheme": (lambda x: ql.Scheme(), REFUSED),
        "no_axis": (lambda x: ql.PerAxis(7), REFUSED),
    },
    "whole": NOT_WHOLE | {"negative": (lambda x: -1, REFUSED), "zero": (lambda x: 0, REFUSED)},
    "number": {
        "nan": (lambda x: NAN, REFUSED),
        "infinite": (lambda x: INF, REFUSED),
        "complex": (lambda x: 1j, REFUSED),
        "truth": (lambda x: True, REFUSED),
        "word": (lambda x: "0.5", REFUSED),
        "none": (lambda x: None, REFUSED),
        "negative": (lambda x: -0.5, REFUSED),
        "tensor": (lambda x: torch.ones(2), REFUSED),
    },
    "one_of": {
        "word": (lambda x: "no such word", REFUSED),
        "none": (lambda x: None, REFUSED),
        "number": (lambda x: 3, REFUSED),
        "pattern": (lambda x: "[a]?*", REFUSED),
        "empty": (lambda x: "", REFUSED),
        "tensor": (lambda x: torch.ones(2), REFUSED),
    },
    "function": {
        "word": (lambda x: "no function", REFUSED),
        "none": (lambda x: None, REFUSED),
        "number": (lambda x: 3, REFUSED),
        "of nothing": (lambda x: lambda *a: None, REFUSED),
        "of numbers": (lambda x: lambda *a: (-1.0, 1.0), REFUSED),
    },
    "text": {
        "none": (lambda x: None, REFUSED),
        "number": (lambda x: 3, REFUSED),
        "bytes": (lambda x: b"abc", REFUSED),
        "empty": (lambda x: "", REFUSED),
        "list": (lambda x: ["a"], REFUSED),
    },
    # names that choose layers or tensors
    "patterns": {
        "number": (lambda x: 3, REFUSED),
        "numbers": (lambda x: [3], REFUSED),
        "none": (lambda x: None, REFUSED),
        "unknown": (lambda x: "no.such", REFUSED),
        "brackets": (lambda x: "0[1]", REFUSED),
        "question": (lambda x: "no?", REFUSED),
        "long": (lambda x: LONG, REFUSED),
    },
    "path": PATHS | {
        "missing": (lambda x: pathlib.Path(x).with_name("missing"), REFUSED),
        "folder": (lambda x: pathlib.Path(x).parent / "empty folder", REFUSED),
    },
    "new_path": PATHS | {
        "folder": (lambda x: pathlib.Path(x).parent, REFUSED),
        "homeless": (lambda x: pathlib.Path(x).parent / "missing" / "file", REFUSED),
        "long_path": (lambda x: pathlib.Path(x).with_name(LONG), REFUSED),
        "long_name": (lambda x: pathlib.Path(x).with_name("y" * 240), SOUND),
        "brackets": (lambda x: pathlib.Path(x).with_name("h[0]?*"), SOUND),
    },
    "device": {
        "word": (lambda x: "abacus", REFUSED),
        "meta": (lambda x: "meta", REFUSED),
        "beyond": (lambda x: "cuda:99", REFUSED),
        "number": (lambda x: 3.5, REFUSED),
        "empty": (lambda x: "", REFUSED),
    },
    "model": {
        "none": (lambda x: None, REFUSED),
        "number": (lambda x: 3, REFUSED),
        "class": (lambda x: nn.Linear, REFUSED),
        "function": (lambda x: len, REFUSED),
    },
    "qtensor": {
        "none": (lambda x: None, REFUSED),
        "tensor": (lambda x: torch.ones(2, 2), REFUSED),
        "class": (lambda x: ql.QTensor, REFUSED),
        "number": (lambda x: 3, REFUSED),
    },
    # what has one class: a FixedPoint, a layer, a KVCache
    "thing": {
        "none": (lambda x: None, REFUSED),
        "number": (lambda x: 3, REFUSED),
        "tensor": (lambda x: torch.ones(2, 2), REFUSED),
        "class": (type, REFUSED),
    },
    "dictionary": {
        "none": (lambda x: None, REFUSED),
        "number": (lambda x: 3, REFUSED),
        "list": (lambda x: [1], REFUSED),
        "word": (lambda x: "ab", REFUSED),
        "class": (lambda x: dict, REFUSED),
    },
    # {name: tensor}, where a name is the reader's own
    "named": {
        "none": (lambda x: None, REFUSED),
        "list": (lambda x: [1], REFUSED),
        "number_as_name": (lambda x: dict(enumerate(x.values())), REFUSED),
        "none_as_name": (lambda x: {None: next(iter(x.values()))}, REFUSED),
        "number_as_value": (lambda x: dict.fromkeys(x, 3), REFUSED),
        "none_as_value": (lambda x: dict.fromkeys(x), REFUSED),
    },
    # a list of batches
    "things": {
        "none": (lambda x: None, REFUSED),
        "number": (lambda x: 3, REFUSED),
        "word": (lambda x: "ab", REFUSED),
        "tensor": (lambda x: x[0], REFUSED),
        "empty": (lambda x: [], REFUSED),
    },
    "shape": {
        "none": (lambda x: None, REFUSED),
        "negative": (lambda x: (-2, *x[1:]), REFUSED),
        "fraction": (lambda x: (1.5, *x[1:]), REFUSED),
        "word": (lambda x: "ab", REFUSED),
        "number": (lambda x: 3, REFUSED),
    },
    "out": {
        "word": (lambda x: "abc", REFUSED),
        "shape": (lambda x: x.new_empty(7, 7), REFUSED),
        "dtype": (lambda x: x.to(torch.int32), REFUSED),
        "meta": (on("meta"), REFUSED),
        "expanded": (lambda x: x[:1].expand(x.shape), REFUSED),
        "overlapping": (lambda x: x.as_strided(x.shape, (1,) * x.ndim), REFUSED),
        "apart": (apart, SAME),
    },
    # Python's own truth of whatever is given; functions, which are called; what only the caller's
    # own model understands: nothing here is a bad value
    "anything": {},
}  # fmt: skip

"""What `qlesson inspect` says: in words, and in numbers that are counted."""

from pathlib import Path

import built
import peers
import pytest
import torch

import qlesson as ql
from qlesson.blocks import Blocks
from qlesson.files import checkpoint, formats, inspect
from qlesson.files.codebooks import e2m1, nf4
from qlesson.files.formats.ggml import TYPES
from qlesson.files.formats.kinds import BookBlocks
from qlesson.files.formats.steps import PerIndex


def drawn(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def of_random_bytes(kind):
    type_ = TYPES[kind]
    made = torch.Generator().manual_seed(0)
    data = torch.randint(0, 256, (4 * type_.nbytes,), generator=made).to(torch.uint8)
    return type_.open(data, (4, type_.values))


HALF = dict(scale_dtype=torch.float16)
WORDS = [
    (ql.quantize(drawn(4, 32), ql.Scheme(4, "symmetric", ql.PerAxis(0))),
     "4 bits, symmetric, per row, scale float32"),
    (ql.quantize(drawn(4, 32), ql.Scheme(3, granularity=ql.PerGroup(8), **HALF)),
     "3 bits, asymmetric, groups of 8, scale float16"),
    (ql.quantize(drawn(4, 32)), "8 bits, asymmetric, per tensor, scale float32"),
    (ql.quantize(drawn(4, 32), ql.Scheme(4, granularity=ql.PerAxis(0), signed=False),
                 (torch.ones(4, 1), torch.full((4, 1), 8, dtype=torch.uint8))),  # GPTQ's "sym"
     "4 bits, symmetric, per row, scale float32"),
    (ql.quantize(drawn(4, 32).abs()), "8 bits, asymmetric, per tensor, scale float32"),  # z = -128
    (ql.quantize(drawn(4, 4), ql.Scheme(8, granularity=PerIndex((1, 0, 1, 0)))),
     "8 bits, asymmetric, 2 listed groups, scale float32"),
    (formats.gguf.quantize(drawn(4, 32), "Q8_0"),
     "8 bits, symmetric, groups of 32, scale float16"),
    (formats.gguf.quantize(drawn(4, 32), "Q4_1"),
     "4 bits, float minimum, groups of 32, scale float16"),
    (of_random_bytes(12), "4 bits, float minimum, groups of 32 in 256, scales of 6 bits"),
    (of_random_bytes(14), "6 bits, symmetric, groups of 16 in 256, scales of 8 bits"),
    (of_random_bytes(39), "4 bits, book of 16, groups of 32, scale float32"),
    (drawn(3).bfloat16(), "bfloat16"),
]  # fmt: skip


@pytest.mark.parametrize("x, words", WORDS, ids=[words for _, words in WORDS])
def test_the_type_in_words(x, words):
    assert inspect._words(x) == words


def test_codes_are_counted(monkeypatch):
    monkeypatch.setattr(inspect, "CHUNK", 5)
    q = torch.tensor([[-2, -2, -2, 1, 1, 0, 0, 0]], dtype=torch.int8)
    x = Blocks(q, torch.ones(1, 1), None, 2, 8)
    assert inspect.counted(x).tolist() == [3, 0, 3, 2]
    assert inspect.shares(x) == (5 / 8, 1 / 4)
    y = ql.quantize(torch.tensor([0.0, 1.0, 2.0, 3.0]), ql.Scheme(2, signed=False))
    assert inspect.counted(y).tolist() == [1, 1, 1, 1]


def test_the_ends_are_those_of_the_scheme():
    """A symmetric one has no -8."""
    r = torch.tensor([[-7.0, 3, 2, 0]]).repeat(2, 1)
    x = ql.quantize(r, ql.Scheme(4, "symmetric", ql.PerAxis(0)))
    assert x.q[0].tolist() == [-7, 3, 2, 0] and len(inspect.counted(x)) == 15
    assert inspect.shares(x) == (0.25, 11 / 15)
    x = ql.quantize(r, ql.Scheme(4, "asymmetric", ql.PerAxis(0)))
    assert len(inspect.counted(x)) == 16


FP8 = torch.arange(256, dtype=torch.uint8)


@pytest.mark.parametrize("book, codes, at_ends", [
    (torch.cat([e2m1(), -e2m1()]), [7, 7, 15, 8], 0.75), (nf4(), [0, 15, 7, 7], 0.5),
    (FP8.view(torch.float8_e4m3fn).float(), [0x7E, 0xFE, 0, 0xFF], 0.5),
    (FP8.view(torch.float8_e5m2).float(), [0x7B, 0xFB, 0x7C, 0xFF], 0.5),
    (torch.full((16,), torch.nan), [0, 15, 7, 8], 0),
])  # fmt: skip
def test_the_ends_of_a_book_are_its_smallest_and_its_largest_number(book, codes, at_ends):
    q, bits = torch.tensor([codes], dtype=torch.uint8), len(book).bit_length() - 1
    x = BookBlocks(q, torch.ones(1, 1), None, bits, 4, book, 8)
    unused = 1 - len(set(codes)) / len(book)
    assert inspect.shares(x) == (at_ends, unused)


def test_a_size_that_is_not_known_is_left_out(tmp_path):
    """Of types of the future, of any length."""
    lengths = {"a": (2**64 - 1,), "b": (2**40, 2**40)}
    tensors = [built.tensor(name, shape, 77) for name, shape in lengths.items()]
    path = tmp_path / "x.gguf"
    path.write_bytes(built.file(tensors=[*tensors, built.tensor("c", (4,))], data=bytes(32)))
    lines = inspect.report(path).splitlines()
    assert lines[3].split() == ["a", str(2**64 - 1), "-", "-", "-", "not", "read", "(77)"]
    count = 2**64 - 1 + 2**80
    assert lines[-3].split() == ["77", "2", f"{count:,}", "-", "-"]
    assert lines[-1].split() == ["in", "all", "3", f"{count + 4:,}", "16", "32.000"]


def test_the_table(tmp_path):
    w, path = drawn(4, 64), tmp_path / "x.gguf"
    q = formats.gguf.quantize(w, "Q4_0")
    formats.gguf.write(path, {"a.weight": q, "b": w[0], "long.name": w}, {})
    lines = inspect.report(path).splitlines()
    ends, unused = inspect.shares(q)
    assert lines[0] == f"GGUF: {path}"
    assert lines[3].split()[:5] == [
        "a.weight", "4x64", "4.500", f"{100 * ends:.2f}", f"{100 * unused:.2f}"
    ]  # fmt: skip
    assert lines[4].split() == ["b", "64", "32.000", "-", "-", "float32", "(F32)"]
    assert lines[-3].split() == ["Q4_0", "1", "256", "144", "4.500"]
    assert lines[-1].split() == ["in", "all", "3", "576", "1,424", f"{8 * 1424 / 576:.3f}"]


def test_a_kind_that_is_said_is_not_said_again(tmp_path):
    q, path = formats.gguf.quantize(drawn(4, 64), "Q4_0"), tmp_path / "x.gguf"
    formats.gguf.write(path, {"Q4_0": q, "Q8_0": q}, {})
    words = "4 bits, symmetric, groups of 32, scale float16"
    named, misnamed = inspect.report(path).splitlines()[3:5]
    assert named.endswith(words) and misnamed.endswith(f"{words}  (Q4_0)")


def test_what_is_not_read_stays_in_the_table(tmp_path):
    (tmp_path / "x.gguf").write_bytes(built.GOOD)
    assert "not read  (IQ2_XXS)" in inspect.report(tmp_path / "x.gguf")


def test_an_empty_file_is_a_table_too(tmp_path):
    formats.gguf.write(tmp_path / "x.gguf", {}, {})
    assert inspect.report(tmp_path / "x.gguf").splitlines()[-1].split() == ["in", "all", *"000-"]


def test_the_histogram(tmp_path):
    path = tmp_path / "x.safetensors"
    r = torch.tensor([0.0, 1.0, 1.0, 1.0, 3.0, 3.0, 3.0, 3.0])
    q = ql.quantize(r, ql.Scheme(2, signed=False))
    flat, values = torch.ones(4), torch.arange(32.0)
    checkpoint.save(path, {"q": q, "eight": ql.quantize(r), "flat": flat, "values": values})
    assert inspect.histogram(path, "q").splitlines() == [
        "q: 8, 2 bits, asymmetric, per tensor, scale float32",
        "0   12.50 %  " + "#" * 12, "1   37.50 %  " + "#" * 38, "2    0.00 %",
        "3   50.00 %  " + "#" * 50, "scales: 1, from 1 to 1",
    ]  # fmt: skip
    eight = inspect.histogram(path, "eight").splitlines()
    assert len(eight) == 34 and eight[1].startswith("-128 to -121   12.50 %")
    checkpoint.save(tmp_path / "y", {"q": ql.quantize(r, ql.Scheme(8, "symmetric"))})
    last = inspect.histogram(tmp_path / "y", "q").splitlines()[-2]
    assert last.split()[:3] == ["121", "to", "127"]
    assert inspect.histogram(path, "flat").splitlines()[1].startswith("1  100.00 %")
    lines = inspect.histogram(path, "values").splitlines()
    assert len(lines) == 17 and all("6.25 %" in line for line in lines[1:])
    with pytest.raises(ValueError, match="has no tensor 'valves': name one, such as values"):
        inspect.histogram(path, "valves")


@pytest.mark.parametrize("values, lines", [
    ([0, 5e-324], ["0 to 4.941e-324  100.00 %"]), ([0, 1e-310], ["0 on   50.00 %"]),
    ([-1.7e308, 1.7e308, 1.7e308], ["-1.7e+308 on   33.33 %"]),
    ([], []), ([float("nan")], ["NaN  100.00 %"]),
    ([1, 1, -torch.inf, torch.inf, torch.inf, torch.nan, torch.nan, torch.nan],
     ["1   25.00 %", "-inf   12.50 %", "inf   25.00 %", "NaN   37.50 %"]),
])  # fmt: skip
def test_a_histogram_of_any_numbers(tmp_path, values, lines):
    x = torch.tensor(values, dtype=torch.float64)
    checkpoint.save(tmp_path / "x", {"x": x})
    said = inspect.histogram(tmp_path / "x", "x").splitlines()[1:]
    assert len(said) in (len(lines), 16)
    assert all(a.strip().startswith(b) for a, b in zip(said, lines, strict=False))


def test_what_has_no_histogram(tmp_path):
    four = torch.zeros(2, 2, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)
    checkpoint.save(tmp_path / "x", {"c": torch.tensor([1j]), "four": four})
    for name in ("c", "four"):
        with pytest.raises(ValueError, match="which has no histogram"):
            inspect.histogram(tmp_path / "x", name)
    checkpoint.save(tmp_path / "x", {})
    with pytest.raises(ValueError, match="has no tensor 'a': it has none at all"):
        inspect.histogram(tmp_path / "x", "a")


def test_what_readme_shows_is_what_it_says():
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    shown = readme.partition("$ qlesson inspect")[2].partition("```")[0].splitlines()[1:]
    said = inspect.report(peers.smollm2()).splitlines()
    assert len(shown) == 6 and [x for x in shown if x not in said] == ["..."]

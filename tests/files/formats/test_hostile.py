"""Files that are cut, flipped or made to lie: a sentence, and no more memory than they have."""

import tracemalloc

import built
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qlesson.files import formats

MOST = 2**20 + 2**16  # bytes that opening these small files may take


def read(path, data):
    """What opening the file and reading all of it gives, or the sentence of a refusal."""
    path.write_bytes(data)
    tracemalloc.start()
    try:
        with formats.open(path) as file:
            found = {}
            for name in file:
                try:
                    found[name] = file[name]
                except ValueError as error:
                    found[name] = sentence(error, path)
            return file.metadata, found
    except ValueError as error:
        return sentence(error, path)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < MOST, peak


def sentence(error, path) -> str:
    text = str(error)
    assert text.endswith(".") and "\n" not in text and str(path) in text and len(text) < 700
    return text.replace(str(path), "FILE")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("files") / "x.gguf"


def test_the_good_file_has_every_kind_of_key(path):
    metadata, found = read(path, built.GOOD)
    assert [metadata[f"k.{kind}"] for kind in built.KINDS] == [1] * 11
    assert metadata["k.bool"] is True and isinstance(metadata["k.float32"], float)
    assert metadata["text"] == "grüße" and metadata["list"] == ["a", "", "b c"]
    assert metadata["numbers"] == [-1, 2] and metadata["lists"] == [[1], [], [2, 3]]
    assert metadata["empty"] == []
    assert found["floats"].shape == (2, 3) and found["codes"].shape == (2, 64)
    data = torch.arange(1, 25, dtype=torch.uint8)
    assert torch.equal(found["floats"], data.view(torch.float32).view(2, 3))
    assert "IQ2_XXS, which qlesson does not read" in found["grid"]


LIES = {
    "no magic": (built.file(magic=b"GGML"), "is no GGUF file"),
    "version": (built.file(version=1), "has version 1 of GGUF"),
    "big-endian": (built.file(version=3 << 24), "has big-endian numbers"),
    "many tensors": (built.file(counts=(10**12, 0)), "it says it has 1,000,000,000,000 tensors"),
    "many keys": (built.file(counts=(0, 2**64 - 1)), "keys, and 8 bytes follow"),
    "long text": (built.file([b"\xff" * 7 + b"\x00" * 9]), "a key takes"),
    "bad UTF-8": (built.file([built.key(b"\xff", "uint8", 1)]), "no UTF-8"),
    "key twice": (built.file([built.key("a", "uint8", 1)] * 2), "it has 'a' twice"),
    "kind": (built.file([built.text("a") + b"\x63\0\0\0"], data=bytes(32)), "of kind 99"),
    "long list": (
        built.file([built.text("a") + b"\x09\0\0\0\0\0\0\0" + b"\xff" * 7 + b"\0"]),
        "items in 'a', and 15 bytes follow",
    ),
    "deep list": (
        built.file([built.text("a") + b"\x09\0\0\0" + (b"\x09\0\0\0\x01" + bytes(7)) * 999]),
        "lists in lists",
    ),
    "truth": (built.file([built.text("a") + b"\x07\0\0\0\x02"]), "truth value"),
    "alignment": (built.file([built.key("general.alignment", "uint32", 24)]), "no power of two"),
    "no alignment": (built.file([built.key("general.alignment", "text", "x")]), "no power of two"),
    "many axes": (built.file(tensors=[built.tensor("a", (1,) * 5)], data=bytes(64)), "5 axes"),
    "long axes": (built.file(tensors=[built.tensor("a", (10**6, 10**6))], data=bytes(64)),
                  "takes 4,000,000,000,000 bytes"),
    "overflow": (built.file(tensors=[built.tensor("a", (2**63, 2, 1))], data=bytes(64)), "takes"),
    "empty": (built.file(tensors=[built.tensor("a", (2**63, 0))]), "without a value"),
    "half block": (built.file(tensors=[built.tensor("a", (33,), 3)]), "blocks of 32"),
    "outside": (built.file(tensors=[built.tensor("a", (1,), 0, 2**63)]), "the file has"),
    "between": (built.file(tensors=[built.tensor("a", (1,), 0, 4)], data=bytes(64)), "begins at 4"),
    "overlap": (built.file(tensors=[built.tensor("a", (16,)), built.tensor("b", (16,), 0, 32)],
                           data=bytes(128)), "'b' begins inside 'a'"),
    "same name": (built.file(tensors=[built.tensor("a", (1,)), built.tensor("a", (1,), 0, 32)],
                             data=bytes(64)), "it has 'a' twice"),
}  # fmt: skip


@pytest.mark.parametrize("name", LIES)
def test_a_lie_is_named(name, path):
    data, words = LIES[name]
    assert words in read(path, data)


def test_a_type_of_the_future_is_refused_when_it_is_asked_for(path):
    data = built.file(tensors=[built.tensor("a\n" * 200, (32,), 77)], data=bytes(64))
    (said,) = read(path, data)[1].values()
    assert "of ggml's type 77, which qlesson does not read" in said


def test_a_file_that_is_written_again_and_one_that_is_closed(path):
    large = built.file(tensors=[built.tensor("k", (2**18,))], data=bytes(2**20))
    path.write_bytes(large)
    with formats.open(path) as file:
        path.write_bytes(large[: 2**19])
        with pytest.raises(ValueError, match="was written again since it was opened: open it"):
            file["k"]
    with pytest.raises(ValueError, match="is closed: read .k. inside"):
        file["k"]
    with pytest.raises(KeyError, match="no tensor 'x'"):
        file["x"]


@pytest.mark.parametrize("end", range(0, len(built.GOOD) - 96, 7))
def test_a_file_cut_anywhere_is_refused(end, path):
    assert isinstance(read(path, built.GOOD[:end]), str)


flips = st.lists(
    st.tuples(st.integers(0, len(built.GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=6
)


@given(flips)
def test_flipped_bytes_meet_a_sentence_or_a_value(path, flips):
    data = bytearray(built.GOOD)
    for place, byte in flips:
        data[place] = byte
    read(path, bytes(data))


@given(st.binary(max_size=300), st.integers(0, 3), st.integers(0, 3))
def test_random_bytes_behind_a_good_beginning(path, rest, tensors, keys):
    read(path, built.file([rest], counts=(tensors, keys)))

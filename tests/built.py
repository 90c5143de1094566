"""GGUF files written slowly, as the specification says, true or not: docs/gguf.md of ggml."""

import struct

KINDS = {
    "uint8": (0, "B"), "int8": (1, "b"), "uint16": (2, "H"), "int16": (3, "h"), "uint32": (4, "I"),
    "int32": (5, "i"), "float32": (6, "f"), "bool": (7, "?"), "uint64": (10, "Q"),
    "int64": (11, "q"), "float64": (12, "d"),
}  # fmt: skip


def text(x: str | bytes) -> bytes:
    x = x.encode() if isinstance(x, str) else x
    return struct.pack("<Q", len(x)) + x


def value(kind, x) -> bytes:
    """A kind is a name of KINDS, "text", or a list of one of these."""
    if kind == "text":
        return text(x)
    if isinstance(kind, list):
        return (
            item_kind(kind[0]) + struct.pack("<Q", len(x)) + b"".join(value(kind[0], i) for i in x)
        )
    return struct.pack("<" + KINDS[kind][1], x)


def item_kind(kind) -> bytes:
    number = {"text": 8}.get(kind) if isinstance(kind, str) else 9
    return struct.pack("<I", KINDS[kind][0] if number is None else number)


def key(name, kind, x) -> bytes:
    return text(name) + item_kind(kind) + value(kind, x)


def tensor(name, lengths, type_=0, offset=0) -> bytes:
    """Lengths as the file has them, the last axis of torch first."""
    axes = struct.pack(f"<I{len(lengths)}Q", len(lengths), *lengths)
    return text(name) + axes + struct.pack("<IQ", type_, offset)


def file(keys=(), tensors=(), data=b"", counts=None, version=3, magic=b"GGUF", alignment=32):
    counts = counts or (len(tensors), len(keys))
    header = magic + struct.pack("<IQQ", version, *counts) + b"".join((*keys, *tensors))
    return header + bytes(-len(header) % alignment) + data


GOOD = file(
    keys=[
        *(key(f"k.{kind}", kind, 1) for kind in KINDS),
        key("text", "text", "grüße"), key("list", ["text"], ["a", "", "b c"]),
        key("numbers", ["int32"], [-1, 2]), key("lists", [["uint8"]], [[1], [], [2, 3]]),
        key("empty", ["float32"], []),
    ],
    tensors=[
        tensor("floats", (3, 2)), tensor("codes", (64, 2), 3, 32), tensor("k", (256,), 12, 128),
        tensor("grid", (256,), 16, 288),
    ],
    data=b"".join(
        x + bytes(-len(x) % 32)
        for x in (bytes(range(1, 25)), bytes(range(80)), bytes(range(144)), bytes(66))
    ),
)  # fmt: skip

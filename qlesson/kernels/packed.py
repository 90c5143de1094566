"""Codes as the product reads them: packed, row by row.

A code u from 0 to 2^bits - 1 is stored (a signed one plus 2^(bits-1), as ggml does) in fields of 8,
4, 2 and 1 bits, the lowest bits first:

    bits    2    3      4    5      6      7          8
    fields  2    2 + 1  4    4 + 1  4 + 2  4 + 2 + 1  8

A row is cut into blocks of 256 codes, what is left into blocks of 32, and the last, shorter block
is filled up with codes 0 to the next multiple of 8 / p, p its narrowest field (2 codes with 4 bits,
8 with 3, none with 8). A block of c codes holds its fields one after the other; a field of p bits
takes n = c p / 8 bytes, and byte j holds those of the codes j, j + n, j + 2n, ..., from its lowest
bits on. So one shift and one mask give the fields of neighbours, and no code lies across bytes.
With 4 bits a block of 32 is in the order "halves" of `qlesson.files.packing`, ggml's.

The codes of a block of 256 are taken in the order of `ORDER`: four codes of the first 32, four of
the second, ..., of the eighth, then the next four of each. An instruction that multiplies bytes and
adds four products then adds up eight groups of 32 beside each other, and nothing is left to be
added across.

Every row begins with a byte of its own, so a row, or some, can be read without the others.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 32  # codes
LONG = 256
# ORDER[i] is the place in the row's block of the i-th code that is packed
ORDER = torch.arange(LONG, device="cpu").view(8, 8, 4).transpose(0, 1).reshape(-1)
BACK = ORDER.argsort()
# Codes at a time: bounds the extra memory. On a GPU each operation is a launch.
CHUNK, CHUNK_CUDA = 2**17, 2**24


def fields(bits: int) -> list[tuple[int, int]]:
    """(bits p, shift) of each field of a code, lowest first."""
    sizes = [p for p in (8, 4, 2, 1) if bits & p]
    return [(p, sum(sizes[:i])) for i, p in enumerate(sizes)]


def row_nbytes(width: int, bits: int) -> int:
    """Bytes of a row of `width` codes."""
    step = 8 // fields(bits)[-1][0]
    return -(-width // step) * step * bits // 8


def pack_rows(q: Tensor, bits: int) -> Tensor:
    """int8 or uint8 codes [rows, width] as uint8 [rows, bytes]."""
    packed = q.new_empty(len(q), row_nbytes(q.shape[1], bits), dtype=torch.uint8)
    for rows in _chunks(q):
        _pack(q[rows], bits, packed[rows])
    return packed


def unpack_rows(packed: Tensor, bits: int, width: int, signed: bool) -> Tensor:
    """The codes [rows, width] that `pack_rows` packed: int8 if signed, else uint8."""
    refuse_a_trace()
    dtype = torch.int8 if signed else torch.uint8  # at once: a view of int8 would stop vmap (2.11)
    rows = packed.shape[0]  # len() would fix how many, in a graph
    u = packed.new_empty(rows, width, dtype=dtype)
    for some in _chunks(u):
        part = packed.new_zeros(u[some].shape[0], filled(width))
        _unpack(packed[some], bits, width, part)
        u[some] = ordered(part[:, :width], BACK)
    return u.add_(-(2 ** (bits - 1))) if signed else u  # modulo 256


def refuse_a_trace() -> None:
    """torch.jit.trace records of an embedding as many rows as it was shown; ONNX's older exporter
    writes 0 for whatever is filled step by step."""
    if not torch.jit.is_tracing():
        return
    if torch.onnx.is_in_onnx_export():
        raise RuntimeError(
            "ONNX's older exporter loses what quantized layers write in place: use "
            "torch.onnx.export(..., dynamo=True), or export the float model."
        )
    raise RuntimeError(
        "torch.jit.trace does not record all that quantized layers do: use torch.export.export or "
        "torch.compile, or trace the float model."
    )


def _chunks(q: Tensor) -> list[slice]:
    if torch.compiler.is_compiling():
        return [slice(None)]
    step = max(1, (CHUNK_CUDA if q.is_cuda else CHUNK) // max(1, q.shape[1]))
    return [slice(i, i + step) for i in range(0, len(q), step)]


def filled(width: int) -> int:
    """The width of whole blocks."""
    return -(-width // BLOCK) * BLOCK


def ordered(x: Tensor, order: Tensor = ORDER) -> Tensor:
    """x [rows, n], the values of each whole block of 256 in this order.

    x is filled up after it, since that makes no block whole.
    """
    whole = x.shape[1] // LONG * LONG
    if not whole:
        return x
    blocks = x[:, :whole].unflatten(1, (-1, LONG))[:, :, order.to(x.device)]
    return torch.cat([blocks.flatten(1), x[:, whole:]], 1)


def _parts(width: int, bits: int) -> list[tuple[int, int, int]]:
    """The long blocks, those of 32, and the last: (first code, blocks, codes of each)."""
    step = 8 // fields(bits)[-1][0]
    long, short = divmod(width // BLOCK * BLOCK, LONG)
    last = -(-(width % BLOCK) // step) * step
    parts = [(0, long, LONG), (long * LONG, short // BLOCK, BLOCK)]
    parts += [(width // BLOCK * BLOCK, 1, last)]
    return [part for part in parts if part[1] * part[2]]


def _pack(q: Tensor, bits: int, packed: Tensor) -> None:
    u = q.contiguous().view(torch.uint8)
    if q.dtype == torch.int8:
        u = u + 2 ** (bits - 1)  # modulo 256
    width = u.shape[1]
    u = F.pad(ordered(u), (0, filled(width) - width))
    for first, blocks, size in _parts(width, bits):
        codes = u[:, first : first + blocks * size].unflatten(1, (blocks, size))
        at, end = first * bits // 8, (first + blocks * size) * bits // 8
        target = packed[:, at:end].unflatten(1, (blocks, -1))
        for p, shift in fields(bits):
            held = ((codes >> shift) & (2**p - 1)).unflatten(2, (8 // p, -1))
            begin, n = shift * size // 8, p * size // 8
            part = held[:, :, 0]
            for i in range(1, 8 // p):
                part = part | (held[:, :, i] << (p * i))
            target[:, :, begin : begin + n] = part


def _unpack(packed: Tensor, bits: int, width: int, u: Tensor) -> None:
    for first, blocks, size in _parts(width, bits):
        at, end = first * bits // 8, (first + blocks * size) * bits // 8
        data = packed[:, at:end].unflatten(1, (blocks, -1))
        codes = u[:, first : first + blocks * size].unflatten(1, (blocks, size))
        for p, shift in fields(bits):
            begin, n = shift * size // 8, p * size // 8
            part = data[:, :, begin : begin + n]
            for i in range(8 // p):
                field = (part >> (p * i)) & (2**p - 1)
                codes[:, :, i * n : (i + 1) * n] |= field << shift

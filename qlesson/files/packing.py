"""Codes of 2 to 7 bits, packed into bytes without gaps (notebook 08).

n codes of b bits take ceil(n * b / 8) bytes. A signed code is stored as its lowest b bits, in two's
complement. Which bits of which byte a code gets is the order:

low_first   The first code takes the lowest bits. ONNX INT4, UINT4 and INT2; torchao's `pack_uint4`
            and its int4 weights by default, PLAIN; Keras `pack_int4`, of two rows;
            compressed-tensors, which adds 2^(b-1) to the codes and fills every row up to whole
            int32 words: from 0.18 on without gaps, before that a word held 32 // b whole codes. It
            packs zero points along axis 0.
            The same as numpy.packbits with bitorder="little".
high_first  The first code takes the highest bits. bitsandbytes (NF4 and FP4); torchao's NF4Tensor,
            and its int4 weights as TILE_PACKED_TO_4D, before torch lays the bytes out in tiles.
            The same as numpy.packbits with bitorder="big".
halves      4 bits only. In each block of 32 codes, byte j holds code j in its low half and code
            j + 16 in its high half: ggml's Q4_0 and Q4_1. A shorter last block is halved likewise.

At 8 and 16 bits a code fills its bytes, lowest byte first, in every order.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from qlesson import checks
from qlesson.blocks import Blocks, check_steps, code_ends
from qlesson.granularity import Shape
from qlesson.qtensor import QTensor
from qlesson.scheme import Scheme

ORDERS = ("low_first", "high_first", "halves")
BLOCK = 32  # codes, ggml's QK4_0
CHUNK = 2**22  # codes at a time, a multiple of BLOCK: bounds the extra memory


def packed_size(count: int, bits: int) -> int:
    """Bytes that `count` codes of `bits` bits take: ceil(count * bits / 8)."""
    checks.whole("count", count, low=0)
    checks.bits("bits", bits)
    return -(-count * bits // 8)


@torch.no_grad()
def pack(q: Tensor, bits: int, order: str = "low_first") -> Tensor:
    """The codes of q as a uint8 tensor of shape (ceil(n * bits / 8),), on q's device.

    q      codes of any shape, int8 (signed) or uint8; int16 for 16 bits
    bits   2 to 8, or 16
    order  "low_first", "high_first" or "halves", as the module says

    Extra memory is bounded, whatever the size of q, if q is contiguous. Unused bits of the last
    byte are 0. Raises TypeError for another dtype, and ValueError for a code that does not fit.
    """
    _check_bits(bits, order)
    _check_codes(q, bits)
    codes = in_a_row(q).view(torch.uint8)
    if bits >= 8:
        return codes.clone()
    data = codes.new_empty(packed_size(codes.numel(), bits))
    for start in range(0, codes.numel(), CHUNK):
        part = codes[start : start + CHUNK] & (2**bits - 1)
        first = packed_size(start, bits)
        data[first : first + packed_size(part.numel(), bits)] = _pack(part, bits, order)
    return data


@torch.no_grad()
def unpack(
    data: Tensor, bits: int, shape: Shape, *, signed: bool = True, order: str = "low_first"
) -> Tensor:
    """The codes that `pack` put into data: int8, or uint8 if not signed; int16 for 16 bits.

    data   uint8, ceil(n * bits / 8) bytes for the n codes of `shape`

    Raises ValueError if the number of bytes is another.
    """
    _check_bits(bits, order)
    size = _checked_shape(shape)
    _check_data("data", data, bits, size)
    count, data = size.numel(), in_a_row(data)
    if bits == 16:
        return data.clone().view(torch.int16).view(size)
    codes = data.new_empty(count)
    for start in range(0, count, CHUNK):
        part = codes[start : start + CHUNK]
        first = packed_size(start, bits)
        packed = data[first : first + packed_size(part.numel(), bits)]
        part.copy_(packed if bits == 8 else _unpack(packed, bits, part.numel(), order))
        if signed:
            _extend_sign(part, bits)
    return (codes.view(torch.int8) if signed else codes).view(size)


def in_a_row(x: Tensor) -> Tensor:
    """The elements of x in one row with stride 1, on its device.

    `contiguous` alone leaves a single element, or none, the stride of the slice it was cut by.
    """
    x = x.as_subclass(Tensor).contiguous()
    return x.as_strided((x.numel(),), (1,))


def _pack(codes: Tensor, bits: int, order: str) -> Tensor:
    """Codes below 2^bits to bytes; the last group is filled up with zeros."""
    if order == "halves":
        codes = _pairs_of_halves(codes)
    per_group, group_bytes = _group(bits)
    groups = F.pad(codes, (0, -codes.numel() % per_group)).view(-1, per_group)
    if order == "high_first":  # read from the other end, high is low
        data = _pack_groups(groups.flip(1), bits, group_bytes).flip(1)
    else:
        data = _pack_groups(groups, bits, group_bytes)
    return data.reshape(-1)[: packed_size(codes.numel(), bits)]


def _unpack(data: Tensor, bits: int, count: int, order: str) -> Tensor:
    """Bytes to `count` codes from 0 to 2^bits - 1."""
    per_group, group_bytes = _group(bits)
    groups = F.pad(data, (0, -data.numel() % group_bytes)).view(-1, group_bytes)
    if order == "high_first":
        codes = _unpack_groups(groups.flip(1), bits, per_group).flip(1)
    else:
        codes = _unpack_groups(groups, bits, per_group)
    if order == "halves":
        return _halves_of_pairs(codes.reshape(-1))[:count]
    return codes.reshape(-1)[:count]


def _group(bits: int) -> tuple[int, int]:
    """The fewest codes that fill whole bytes, and how many bytes: 8 codes of 3 bits fill 3."""
    shared = math.gcd(8, bits)
    return 8 // shared, bits // shared


def _pack_groups(codes: Tensor, bits: int, group_bytes: int) -> Tensor:
    """[groups, codes] -> [groups, bytes]: code i takes the bits from i * bits on, lowest first."""
    data = codes.new_zeros(len(codes), group_bytes)
    for i in range(codes.shape[1]):
        byte, shift = divmod(i * bits, 8)
        data[:, byte] |= codes[:, i] << shift  # what a byte cannot hold is dropped ...
        if shift + bits > 8:
            data[:, byte + 1] |= codes[:, i] >> (8 - shift)  # ... and goes into the next
    return data


def _unpack_groups(data: Tensor, bits: int, per_group: int) -> Tensor:
    """[groups, bytes] -> [groups, codes], the inverse of `_pack_groups`."""
    codes = data.new_empty(len(data), per_group)
    for i in range(per_group):
        byte, shift = divmod(i * bits, 8)
        code = data[:, byte] >> shift
        if shift + bits > 8:
            code |= data[:, byte + 1] << (8 - shift)
        codes[:, i] = code & (2**bits - 1)
    return codes


def _extend_sign(codes: Tensor, bits: int) -> None:
    """The lowest `bits` bits of two's complement to all eight: (code xor h) - h, h = 2^(bits-1)."""
    half = 2 ** (bits - 1)
    codes.bitwise_xor_(half).sub_(half)


def _pairs_of_halves(codes: Tensor) -> Tensor:
    """0 ... 31 -> 0 16 1 17 ...: after it, low_first gives ggml's halves."""
    whole = codes.numel() // BLOCK * BLOCK
    rest = F.pad(codes[whole:], (0, codes.numel() % 2))
    blocks = codes[:whole].view(-1, 2, BLOCK // 2).mT.reshape(-1)
    return torch.cat([blocks, rest.view(2, -1).T.reshape(-1)])


def _halves_of_pairs(codes: Tensor) -> Tensor:
    """The inverse of `_pairs_of_halves`, for an even number of codes."""
    whole = codes.numel() // BLOCK * BLOCK
    blocks = codes[:whole].view(-1, BLOCK // 2, 2).mT.reshape(-1)
    return torch.cat([blocks, codes[whole:].view(-1, 2).T.reshape(-1)])


@dataclass(frozen=True, eq=False)
class PackedTensor:
    """A QTensor as it is stored: every code in its own bits, nothing else (notebook 08).

    data        uint8, the codes as `pack` gives them
    shape       the shape of the codes
    scale       float, in the granularity's scale shape
    zero_point  uint8, the zero points packed like the codes, lowest bits first; None in symmetric
                mode, where every zero point is 0
    scheme      the Scheme of the codes
    order       the order of the codes in data
    """

    data: Tensor
    shape: torch.Size
    scale: Tensor
    zero_point: Tensor | None
    scheme: Scheme
    order: str = "low_first"

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", _checked_shape(self.shape))
        checks.scheme("scheme", self.scheme)
        bits, symmetric = self.scheme.bits, self.scheme.mapping == "symmetric"
        _check_bits(bits, self.order)
        _check_data("data", self.data, bits, self.shape)
        expected = self.scheme.granularity.scale_shape(self.shape)
        checks.tensor("scale", self.scale)
        checks.strided("scale", self.scale)
        checks.same_device("scale", self.scale, "data", self.data)
        where = self.scheme.granularity, self.shape, self.data.device
        checks.step_of("scale", self.scale, *where)
        checks.stored_as(self.scale, self.scheme)
        if (self.zero_point is None) != symmetric:
            raise ValueError(
                f"zero_point is {'missing' if self.zero_point is None else 'given'}, and the "
                f"mapping is {self.scheme.mapping}: an asymmetric tensor has zero points, a "
                "symmetric one has None."
            )
        if self.zero_point is not None:
            _check_data("zero_point", self.zero_point, bits, expected)
            checks.same_device("zero_point", self.zero_point, "data", self.data)
        if not self.scale.is_meta:
            checks.scales("scale", self.scale)

    @classmethod
    def pack(cls, x: QTensor, order: str = "low_first") -> "PackedTensor":
        """x with its codes and its zero points packed."""
        checks.of_type("x", x, QTensor, "use ql.quantize(r)")
        zero_point = None
        if x.scheme.mapping == "asymmetric":
            zero_point = pack(x.zero_point, x.scheme.bits)
        data = pack(x.q, x.scheme.bits, order)
        return cls(data, x.shape, x.scale, zero_point, x.scheme, order)

    def unpack(self) -> QTensor:
        """The QTensor that was packed, exactly."""
        bits, signed = self.scheme.bits, self.scheme.signed
        q = unpack(self.data, bits, self.shape, signed=signed, order=self.order)
        if self.zero_point is None:
            zero_point = torch.zeros_like(self.scale, dtype=self.scheme.dtype)
        else:
            zero_point = unpack(self.zero_point, bits, self.scale.shape, signed=signed)
        return QTensor(q, self.scale, zero_point, self.scheme)

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors held: packed codes, scales, and packed zero points if any."""
        zero_point = 0 if self.zero_point is None else self.zero_point.nbytes
        return self.data.nbytes + self.scale.nbytes + zero_point


@dataclass(frozen=True, eq=False)
class PackedBlocks:
    """Blocks as they are stored: every code in its own bits, scale and minimum as they are.

    data        uint8, the codes as `pack` gives them
    shape       the shape of the codes
    scale       float [..., ceil(n / group_size)]
    minimum     like the scale, or None, as in Blocks
    bits        2 to 8
    group_size  neighbours in a block
    signed      whether the codes are int8; else uint8
    order       the order of the codes in data
    """

    data: Tensor
    shape: torch.Size
    scale: Tensor
    minimum: Tensor | None
    bits: int
    group_size: int
    signed: bool = False
    order: str = "low_first"

    def __post_init__(self) -> None:
        checks.one_of("signed", self.signed, (True, False))
        object.__setattr__(self, "shape", _checked_shape(self.shape))
        object.__setattr__(self, "bits", checks.whole("bits", self.bits, 2, 8))
        group_size = checks.whole("group_size", self.group_size, low=1)
        object.__setattr__(self, "group_size", group_size)
        _check_bits(self.bits, self.order)
        _check_data("data", self.data, self.bits, self.shape)
        steps = self.scale, self.minimum, group_size
        check_steps(self.shape, self.data.device, *steps, codes="data")

    @classmethod
    def pack(cls, x: Blocks, order: str = "low_first") -> "PackedBlocks":
        """x with its codes packed."""
        checks.of_type("x", x, Blocks, "blocks.quantize_blocks makes them")
        if type(x) is not Blocks:
            raise TypeError(
                f"x is a {type(x).__name__}, which holds more than Blocks: store it in its own "
                "format, or x.dequantize()."
            )
        signed = x.q.dtype.is_signed
        data = pack(x.q, x.bits, order)
        return cls(data, x.shape, x.scale, x.minimum, x.bits, x.group_size, signed, order)

    def unpack(self) -> Blocks:
        """The Blocks that were packed, exactly."""
        q = unpack(self.data, self.bits, self.shape, signed=self.signed, order=self.order)
        return Blocks(q, self.scale, self.minimum, self.bits, self.group_size)

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors held: packed codes, scales, and minima if any."""
        minimum = 0 if self.minimum is None else self.minimum.nbytes
        return self.data.nbytes + self.scale.nbytes + minimum


Packed = PackedTensor | PackedBlocks


def packed(x: QTensor | Blocks) -> Packed:
    """A QTensor or Blocks, packed."""
    checks.of_type("x", x, (QTensor, Blocks), "use ql.quantize(r)")
    return PackedBlocks.pack(x) if isinstance(x, Blocks) else PackedTensor.pack(x)


def _check_bits(bits: int, order: str) -> None:
    checks.bits("bits", bits)
    checks.one_of("order", order, ORDERS)
    if order == "halves" and bits != 4:
        raise ValueError(
            f'order="halves" puts two codes of 4 bits into a byte, and bits is {bits}: '
            'use "low_first".'
        )


def _checked_shape(shape: Any) -> torch.Size:
    try:
        size = torch.Size(shape)
    except TypeError:
        size = torch.Size((-1,))
    if any(n < 0 for n in size):
        raise ValueError(
            f"shape must hold lengths of 0 or more, such as (3, 4), got {checks.shown(shape)}."
        )
    return size


def _check_codes(q: Tensor, bits: int) -> None:
    dtypes = (torch.int16,) if bits == 16 else (torch.int8, torch.uint8)
    checks.codes("q", q, *dtypes)
    ends = code_ends(bits, q.dtype.is_signed)
    checks.code_values("q", q, *ends, "pass the bits that q was quantized with")


def _check_data(name: str, data: Tensor, bits: int, shape: Shape) -> None:
    checks.codes(name, data, torch.uint8, remedy="pack makes them")
    expected = packed_size(math.prod(shape), bits)
    if tuple(data.shape) != (expected,):
        raise ValueError(
            f"{name} has shape {tuple(data.shape)}, but {math.prod(shape)} codes of {bits} bits "
            f"(shape {tuple(shape)}) take {expected} bytes in one row: pass what pack gave."
        )

"""Codes that are small floats: FP8, MX and NVFP4, in several people's files.

    r_hat = scale * value of the code

FP8    weight F8_E4M3 or F8_E5M2 with weight_scale, or with DeepSeek's weight_scale_inv, which is
       multiplied too, in blocks of 128 rows and 128 columns
MXFP8  the same with weight_scale uint8 or E8M0, 2^(e - 127), one for 32 neighbours
MXFP4  weight_packed uint8, two codes of E2M1 in a byte, the first in the low half, with E8M0
       scales for 32; gpt-oss has them as NAME_blocks and NAME_scales
MXFP6  weight_packed uint8, four codes of E2M3 in three bytes
NVFP4  weight_packed, with F8_E4M3 scales for 16, and weight_global_scale for all, by which they are
       divided; ModelOpt has weight, weight_scale and weight_scale_2, by which they are multiplied

Sources: OCP Microscaling Formats (MX) specification 1.0; compressors/ of compressed-tensors.
"""

import torch
from torch import Tensor

from qlesson.files.codebooks import e2m1
from qlesson.files.formats.compressed_tensors import integers, weights
from qlesson.files.formats.kinds import BookBlocks
from qlesson.files.formats.parts import FLOATS, Config, Found, Part, Parts, found, matrix, need
from qlesson.files.formats.steps import BLOCK, rows_of_steps, size_of_groups
from qlesson.files.packing import unpack

EIGHT_BITS = {
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz, "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
}  # fmt: skip
EXPONENTS = ("U8", "F8_E8M0")


def scaled(parts: Parts, config: Config) -> Found | None:
    """`weight` with a scale: what it is, is in its dtype."""
    if "weight" not in parts:
        return None
    kind = parts["weight"].entry.dtype
    if kind in EIGHT_BITS:
        return _fp8(parts, config)
    if kind == "U8" and "weight_scale_2" in parts:
        return _four_bits(parts, "weight", "NVFP4")
    return integers(parts, config) if kind == "I8" else None


def packed_floats(parts: Parts, config: Config) -> Found:
    """`weight_packed` in uint8: the width says whether the codes have 4 or 6 bits."""
    weight, scale = need(parts, "weight_packed", "weight_scale")
    (_, nbytes), (_, groups) = matrix(weight), matrix(scale)
    if nbytes == groups * 24:
        return _six_bits(parts)
    return _four_bits(parts, "weight_packed", "NVFP4" if nbytes == groups * 8 else "MXFP4")


def blocks_and_scales(parts: Parts, config: Config) -> Found | None:
    """gpt-oss: NAME_blocks [..., groups, 16] and NAME_scales [..., groups]."""
    blocks, scales = parts.get("_blocks"), parts.get("_scales")
    if blocks is None or scales is None or blocks.shape != (*scales.shape, 16):
        return None
    if len(scales.shape) < 1 or 0 in scales.shape or blocks.entry.dtype != "U8":
        return None
    shape = (*scales.shape[:-1], scales.shape[-1] * 32)

    def read() -> BookBlocks:
        q = _nibbles(blocks.read("U8").flatten(-2))
        return _book(q, _powers(scales), 4, 32, _signed(e2m1()), 8)

    return found("MXFP4", parts, shape, read)


def _fp8(parts: Parts, config: Config) -> Found:
    weight = parts["weight"]
    scale = parts.get("weight_scale") or parts["weight_scale_inv"]
    rows, width = matrix(weight)
    dtype = EIGHT_BITS[weight.entry.dtype]
    mx = scale.entry.dtype in EXPONENTS
    block = config.get("weight_block_size") or next(
        (x["block_structure"] for x in weights(config) if x.get("block_structure")), ()
    )
    block = block if isinstance(block, list) else ()

    def read() -> BookBlocks:
        q = weight.read(weight.entry.dtype).view(torch.uint8)
        s = _powers(scale) if mx else scale.read(FLOATS)
        steps = rows_of_steps(s, (rows, width), scale, block)
        said = [*block[1:], *(x.get("group_size") for x in weights(config))]
        usual = BLOCK if s.ndim == 2 and len(s) < rows else 0
        size = size_of_groups(scale, width, steps.shape[1], said, usual)
        book = torch.arange(256, dtype=torch.uint8, device="cpu").view(dtype).float()
        scale_bits = 8 * scale.entry.nbytes / steps.numel()
        return _book(q, steps.contiguous(), 8, size, book, scale_bits)

    name = weight.entry.dtype.removeprefix("F8_")
    return found(f"MXFP8 {name}" if mx else f"FP8 {name}", parts, (rows, width), read)


def _four_bits(parts: Parts, name: str, kind: str) -> Found:
    weight, scale = need(parts, name, "weight_scale")
    (rows, nbytes), (_, groups) = matrix(weight), matrix(scale)
    width = 2 * nbytes
    size = size_of_groups(scale, width, groups, ())
    whole = parts.get("weight_global_scale") or parts.get("weight_scale_2")

    def read() -> BookBlocks:
        q = _nibbles(weight.read("U8"))
        steps = _powers(scale) if scale.entry.dtype in EXPONENTS else _e4m3(scale)
        if whole is not None:
            of_all = _one_number(whole)
            steps = steps / of_all if "weight_global_scale" in parts else steps * of_all
        return _book(q, steps, 4, size, _signed(e2m1()), 8)

    return found(kind, parts, (rows, width), read)


def _six_bits(parts: Parts) -> Found:
    weight, scale = need(parts, "weight_packed", "weight_scale")
    rows, nbytes = matrix(weight)
    shape = rows, nbytes * 4 // 3

    def read() -> BookBlocks:
        q = unpack(weight.read("U8").flatten(), 6, shape, signed=False)
        return _book(q, _powers(scale), 6, 32, _signed(_e2m3()), 8)

    return found("MXFP6 E2M3", parts, shape, read)


def _book(
    q: Tensor, scale: Tensor, bits: int, size: int, book: Tensor, scale_bits: float
) -> BookBlocks:
    return BookBlocks(q, scale, None, bits, size, book, scale_bits)


def _nibbles(data: Tensor) -> Tensor:
    """[..., n] bytes as [..., 2 n] codes, the low half first."""
    return unpack(data.flatten(), 4, (*data.shape[:-1], 2 * data.shape[-1]), signed=False)


def _powers(scale: Part) -> Tensor:
    """E8M0 scales: 2^(e - 127), and NaN for 255."""
    e = scale.read(EXPONENTS)
    return e.view(torch.uint8).view(torch.float8_e8m0fnu).float()


def _e4m3(scale: Part) -> Tensor:
    return scale.read(("F8_E4M3", *FLOATS)).float()


def _one_number(part: Part) -> Tensor:
    x = part.read("F32")
    if x.numel() != 1:
        raise part.wrong(f"has shape {part.shape}, and must be one number")
    return x.reshape(())


def _signed(magnitudes: Tensor) -> Tensor:
    """A book whose highest bit is the sign."""
    return torch.cat([magnitudes, -magnitudes])


def _e2m3() -> Tensor:
    """The magnitudes of a 6-bit float with 2 exponent bits e and 3 mantissa bits m."""
    places = torch.arange(32, device="cpu")
    e, m = places // 8, (places % 8).float()
    return torch.where(e > 0, 2.0 ** (e - 1) * (1 + m / 8), m / 8)

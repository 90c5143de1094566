"""From floats to ggml's blocks, as its reference quantizers do it, and from blocks to bytes.

    Q8_0  d = max|r| / 127             q = r / d, rounded half away from zero
    Q4_0  d = the largest, signed, / -8    q = floor(r / d + 8.5) up to 15, minus 8
    Q4_1  d = (max - min) / 15, m = min    q = floor((r - m) / d + 0.5) up to 15
    Q5_0, Q5_1 likewise, with 16 in the place of 8, and 31 of 15

All in float32, and r / d is r * (1 / d). The codes come from this d; what is stored is d, and m,
rounded to float16. Source: quantize_row_q8_0_ref and its neighbours in ggml-quants.c.
"""

import torch
from torch import Tensor

from qlesson import checks
from qlesson.blocks import Blocks
from qlesson.files.blockwise import as_half, in_blocks, inverse
from qlesson.files.codebooks import signed_largest
from qlesson.files.formats.ggml import TYPES
from qlesson.files.packing import in_a_row, pack

NUMBERS = {x.name: number for number, x in TYPES.items()}
DTYPES = {x.decode: number for number, x in TYPES.items() if isinstance(x.decode, torch.dtype)}
WRITTEN = ("F32", "F16", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0")


@torch.no_grad()
def quantize(r: Tensor, type: str = "Q8_0") -> Blocks | Tensor:
    """r in one of ggml's types: Blocks, or a float tensor for F32 and F16.

    r     float [..., n], n a multiple of 32; half and float64 are made float32 first
    type  "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0", "F16" or "F32"

    The blocks are those of ggml's reference quantizers, byte for byte. Raises ValueError for NaN,
    infinity, another n, and for values that the type, or a scale in float16, cannot hold.
    """
    checks.one_of("type", type, WRITTEN)
    r = checks.float_tensor("r", r)
    checks.finite("r", r)
    if type in ("F32", "F16"):
        return _rounded(r, torch.float32 if type == "F32" else torch.float16, type)
    if type == "Q8_0":
        return _q8_0(r)
    return (signed_largest if type.endswith("_0") else _with_minimum)(r, int(type[1]))


def _rounded(r: Tensor, dtype: torch.dtype, type: str) -> Tensor:
    rounded = r.to(dtype)
    if not checks.all_finite(rounded):
        raise ValueError(
            f"r holds values up to {r.abs().max().item():g}, and {type} ends at "
            f"{torch.finfo(dtype).max:g}: divide r first."
        )
    return rounded


def _q8_0(r: Tensor) -> Blocks:
    blocks = in_blocks(r, 32).float()
    d = blocks.abs().amax(-1, keepdim=True) / blocks.new_tensor(127)
    x = blocks * inverse(d)
    away = x.abs().floor()
    q = x.sign() * (away + (2 * (x.abs() - away)).floor())
    scale = as_half(d, blocks, "Q8_0 stores a 127th of the largest")
    return Blocks(q.to(torch.int8).flatten(-2), scale, None, 8, 32)


def _with_minimum(r: Tensor, bits: int) -> Blocks:
    blocks = in_blocks(r, 32).float()
    low, high = (f(-1, keepdim=True) for f in (blocks.amin, blocks.amax))
    last = 2**bits - 1
    d = (high - low) / blocks.new_tensor(last)
    q = ((blocks - low) * inverse(d) + 0.5).floor().clamp(0, last)
    scale = as_half(d, blocks, f"Q{bits}_1 stores the range divided by {last}")
    minimum = as_half(low, blocks, f"Q{bits}_1 stores the smallest")
    return Blocks(q.to(torch.uint8).flatten(-2), scale, minimum, bits, 32)


def type_of(name: str, x: object) -> int:
    """The number of the type in which a file can hold x. Raises where none can."""
    for tensor in (x,) if isinstance(x, Tensor) else (x.q,) if isinstance(x, Blocks) else ():
        checks.strided(f"tensors[{name!r}]", tensor)
        checks.on_a_device(f"tensors[{name!r}]", tensor)
    if isinstance(x, Tensor) and x.dtype in DTYPES:
        return DTYPES[x.dtype]
    if type(x) is Blocks and x.scale.dtype == torch.float16 and x.group_size == 32:
        signed, plain = x.q.dtype.is_signed, x.minimum is None
        kind = f"Q{x.bits}_{0 if plain else 1}"
        if signed == plain and kind in WRITTEN and x.shape[-1] % 32 == 0:
            return NUMBERS[kind]
    raise TypeError(
        f"tensors[{name!r}] is {checks.shown(x) if isinstance(x, Tensor) else type(x).__name__}, "
        "which GGUF files are not written with: use gguf.quantize(r, type), or a float tensor."
    )


def encode(x: Blocks | Tensor) -> Tensor:
    """The bytes of a file, uint8 in a row."""
    if isinstance(x, Tensor):
        return in_a_row(checks.plain(x).resolve_neg().cpu()).view(torch.uint8)
    steps = [s for s in (x.scale, x.minimum) if s is not None]
    parts = [in_a_row(s).view(torch.uint8).view(-1, 2) for s in steps]
    q = x.q.contiguous().view(torch.uint8)
    if x.bits < 8:
        if x.minimum is None:
            q = (q + 2 ** (x.bits - 1)) & (2**x.bits - 1)  # codes from 0 on
        if x.bits == 5:
            parts.append(_eight_in_a_byte(q >> 4).view(-1, 4))
        q = pack(q & 15, 4, "halves")
    return torch.cat([*parts, q.view(len(parts[0]), -1)], 1).flatten().cpu()


def _eight_in_a_byte(bits: Tensor) -> Tensor:
    """uint8 zeros and ones, the first in the lowest bit."""
    shifts = torch.arange(8, dtype=torch.uint8, device=bits.device)
    return (bits.view(-1, 8) << shifts).sum(-1, dtype=torch.uint8)

"""What a layer's input is multiplied by before it meets the codes: M in x W^T = (x M)(W M^-T)^T.

A factor is a tensor [in], one number for each input channel (M is diagonal), or a `Rotation`, which
is kept as three numbers and is never an [in, in] matrix.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from qlesson import checks
from qlesson.affine import computing, rounded
from qlesson.nn.weight import _Layer


@dataclass(frozen=True)
class Rotation:
    """M = diag(signs) H / sqrt(block) on every `block` neighbours: orthogonal, M^-T = M.

    width  the length of what is rotated, a multiple of block
    block  a power of two. H is Sylvester's Hadamard matrix of 1 and -1: H_2n = [[H, H], [H, -H]]
    seed   of the signs, as torch's generator on a CPU draws them

    Sums of two in a fixed order make the product, log2(block) for each value, so every device and
    every compiler finds the same bits.
    """

    width: int
    block: int
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "width", checks.whole("width", self.width, low=1))
        object.__setattr__(self, "block", checks.whole("block", self.block, low=1))
        object.__setattr__(self, "seed", checks.whole("seed", self.seed, 0, 2**63 - 1))
        if self.block & (self.block - 1) or self.width % self.block:
            raise ValueError(
                f"block must be a power of two that divides width={self.width}, got {self.block}: "
                "the largest is Rotation.of_width's."
            )

    @classmethod
    def of_width(cls, width: int, seed: int = 0) -> "Rotation":
        """In the largest blocks that fit: 192 = 3 x 64, 576 = 9 x 64."""
        width = checks.whole("width", width, low=1)
        if width % 2 and width > 1:
            raise ValueError(
                f"width must be even, got {width}: no Hadamard matrix divides it. Fill weight and "
                "inputs up with columns of zeros, or take another method for this layer."
            )
        return cls(width, width & -width, seed)

    def signs(self, device: torch.device | str = "cpu") -> Tensor:
        """1 or -1 for each input, int8 [width]."""
        generator = torch.Generator().manual_seed(self.seed)
        drawn = torch.randint(0, 2, (self.width,), generator=generator, device="cpu")
        return (drawn * 2 - 1).to(checks.device("device", device, computes=False), torch.int8)

    def apply(self, x: Tensor) -> Tensor:
        """x M, [..., width], in x's dtype."""
        self._check(x)
        return _rotated(x, self.signs(x.device), self.block)

    def inverse(self, x: Tensor) -> Tensor:
        """x M^T, [..., width], in x's dtype: `apply` undone."""
        self._check(x)
        y = hadamard_product(x.to(computing(x.dtype)), self.block) * self.signs(x.device)
        return rounded(y, x.dtype)

    def _check(self, x: Tensor) -> None:
        checks.layer_input("x", x)
        checks.on_a_device("x", x)
        checks.known("x", x)
        checks.last_axis("x", x, self.width)


Factor = Tensor | Rotation


def hadamard_product(x: Tensor, block: int) -> Tensor:
    """x H / sqrt(block) for every `block` neighbours in the last axis, in log2(block) steps.

    (a, b) H_2n = ((a + b) H_n, (a - b) H_n), and each half goes on by itself.
    """
    shape, half = x.shape, block // 2
    while half:
        a, b = x.reshape(*shape[:-1], shape[-1] // (2 * half), 2, half).unbind(-2)
        x = torch.stack((a + b, a - b), dim=-2)
        half //= 2
    return x.reshape(shape) * block**-0.5


def _rotated(x: Tensor, signs: Tensor, block: int) -> Tensor:
    return rounded(hadamard_product(x.to(computing(x.dtype)) * signs, block), x.dtype)


def multiplied(x: Tensor, factor: Factor | None) -> Tensor:
    """x M, in x's dtype."""
    if factor is None:
        return x
    return factor.apply(x) if isinstance(factor, Rotation) else rounded(x * factor, x.dtype)


def untouched(w: Tensor, factor: Factor | None) -> Tensor:
    """W M^T, in w's dtype: what does to an untouched x what w does to x M."""
    return factor.inverse(w) if isinstance(factor, Rotation) else multiplied(w, factor)


def checked_factor(factor: Any, width: int, device: torch.device) -> Factor:
    """A factor for a layer of this many inputs."""
    if isinstance(factor, Rotation):
        if factor.width != width:
            raise ValueError(f"factor must be a Rotation of width {width}, got {factor}.")
        return factor
    if not isinstance(factor, Tensor):
        raise TypeError(
            f"factor must be a tensor [in] or a Rotation, got {checks.shown(factor)}: an [in, in] "
            "matrix is not held by a layer."
        )
    checks.known("factor", factor)
    factor = checks.float_tensor("factor", factor).detach()
    if tuple(factor.shape) != (width,):
        raise ValueError(
            f"factor must have one number for each of the {width} inputs, got the shape "
            f"{tuple(factor.shape)}: a rotation is passed as Rotation(width, block, seed)."
        )
    checks.finite("factor", factor)
    checks.same_device("factor", factor, "the weight", torch.empty(0, device=device))
    return factor


def factor_as_saved(x: Any) -> Factor:
    """What `input_factor` holds: int64 [3] is a rotation's width, block and seed."""
    checks.tensor("input_factor", x)
    if x.dtype != torch.int64:
        return x
    if tuple(x.shape) != (3,):
        raise ValueError(
            f"input_factor must hold width, block and seed of a rotation, got the shape "
            f"{tuple(x.shape)}: use state(qmodel)."
        )
    return Rotation(*x.tolist())


class _Factored(_Layer):
    """A layer whose input may be multiplied by a factor first."""

    input_factor: Tensor | None  # [in], or int64: width, block and seed of the rotation
    signs: Tensor
    rotation: Rotation | None = None

    def _take_factor(self, factor: Factor | None) -> None:
        device = self.codes.device
        held = None if factor is None else checked_factor(factor, self.codes.shape[1], device)
        if isinstance(held, Rotation):
            self.rotation = held
            self.register_buffer("signs", held.signs(device), persistent=False)
            self.register_load_state_dict_post_hook(_draw_again)
            numbers = [held.width, held.block, held.seed]
            held = torch.tensor(numbers, dtype=torch.int64, device=device)
        self.register_buffer("input_factor", None if held is None else held.clone())

    @property
    def factor(self) -> Factor | None:
        """What the input is multiplied by; None for nothing."""
        return self.input_factor if self.rotation is None else self.rotation

    def prepare(self, x: Tensor) -> Tensor:
        """x M, [..., in]: what the codes are multiplied with, and what is quantized."""
        checks.layer_input("x", x, self.codes.device)
        checks.last_axis("x", x, self.codes.shape[1])
        return self._multiplied(x)

    def _multiplied(self, x: Tensor) -> Tensor:
        if self.rotation is not None:
            return _rotated(x, self.signs, self.rotation.block)
        return multiplied(x, self.input_factor)

    @property
    def weight(self) -> Tensor:
        """W_hat for the untouched input, made anew at each use, for code that reads it itself."""
        dtype = self.codes.like.dtype
        if self.input_factor is None:
            return self.codes.values()
        return rounded(untouched(self.codes.values(computing(dtype)), self.factor), dtype)

    def _check_buffer(self, name: str, full_name: str, x: Tensor, dtype: torch.dtype) -> None:
        super()._check_buffer(name, full_name, x, dtype)
        if name == "input_factor":
            given = factor_as_saved(x) if self.rotation is not None else x
            checked_factor(given, self.codes.shape[1], x.device)
            if self.rotation is None:
                checked_factor(x.to(dtype), self.codes.shape[1], x.device)


def _draw_again(layer: _Factored, _keys: Any) -> None:
    """After load_state_dict, which may bring another seed. At module level, to be pickled."""
    assert layer.input_factor is not None
    if layer.input_factor.is_meta:  # it holds no numbers, and torch warns of that
        return
    layer.rotation = Rotation(*layer.input_factor.tolist())
    layer.signs = layer.rotation.signs(layer.input_factor.device)

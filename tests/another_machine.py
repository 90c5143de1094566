"""Torch as another machine computes it: the last bits of what IEEE 754 does not fix are different.

    QLESSON_NOISE=1 python -m pytest notebooks       (see tests/machines.py, which runs this too)

+, -, *, /, sqrt, rounding, comparing and integers have one right answer, and every machine gives
it. The order of a sum, the polynomial behind exp and the fused multiply-add inside a matrix product
are the processor's and the library's own. While `AnotherMachine` is on, the results of such
operations are multiplied by 1 + u * 64 eps, u random in [-1, 1]: about a hundred times what two
real machines differ by. What passes under several seeds has a margin; what fails has none. Like a
real machine, this one gives the same result for the same operation on the same values.

A sum whose every partial sum is exact (of integers, of halves) is left alone, as are 0 and 1.
"""

import os
import random
import zlib
from functools import cache

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

ULPS = 64
DRAWN = 2**22  # factors
aten = torch.ops.aten

# Sums: inexact unless all partial sums are exact.
SUMS = """sum mean cumsum nansum prod mm addmm bmm baddbmm mv addmv dot vdot addr convolution
    _scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_attention_math_for_cpu
    index_add scatter_add bincount""".split()
# Functions that no standard fixes to the last bit, and a * b + c, which may be fused or not.
FUNCTIONS = """exp exp2 expm1 log log2 log10 log1p pow sin cos tan tanh asin acos atan atan2 sinh
    cosh sigmoid silu erf erfc erfinv rsqrt gelu softplus _softmax _log_softmax _safe_softmax
    native_layer_norm native_batch_norm _native_batch_norm_legit_no_training var std var_mean
    std_mean linalg_vector_norm norm logsumexp logcumsumexp normal randn linspace logspace lerp
    addcmul addcdiv mse_loss nll_loss_forward kl_div linalg_cholesky_ex cholesky_inverse
    linalg_solve_ex _linalg_solve_ex linalg_inv_ex linalg_qr _linalg_svd _linalg_eigh linalg_lstsq
    triangular_solve linalg_solve_triangular gelu_backward native_layer_norm_backward
    _softmax_backward_data _log_softmax_backward_data
    _scaled_dot_product_flash_attention_for_cpu_backward""".split()


def _packets(names):
    """The operators of these names, the ones that work in place among them."""
    both = [form for name in names for form in (name, f"{name}_")]
    return {getattr(aten, name) for name in both if hasattr(aten, name)}


SUMS, FUNCTIONS = _packets(SUMS), _packets(FUNCTIONS)
POWERS = _packets(["pow"])
ADDITIONS = _packets(["add", "sub"])  # with alpha they are a * b + c
REDUCED = _packets(["sum", "mean", "cumsum", "nansum"])
EXACT_POWERS = (-1, 0, 0.5, 1, 2)  # a division, a square root, a product


class AnotherMachine(TorchDispatchMode):
    """While it is entered, this thread computes as another machine would."""

    def __init__(self, seed=0):
        super().__init__()
        self.seed = seed

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs, packet = kwargs or {}, func._overloadpacket
        if not _is_free(packet, args, kwargs):
            return func(*args, **kwargs)
        seed = self.seed + sum(map(_checksum, (str(packet), *tree_leaves((args, kwargs)))))
        return tree_map(lambda x: _changed(x, packet, seed), func(*args, **kwargs))


def _changed(x, packet, seed):
    """x, overwritten by what another machine might find."""
    if not _is_computed(x) or not x.is_floating_point():
        return x
    wide = x if x.dtype == torch.float64 else x.float()
    other = torch.where(wide == 1, wide, wide * _factors(wide, seed))
    if packet is aten.linspace:
        other[[0, -1]] = wide[[0, -1]]
    return x.copy_(other)


def _factors(x, seed):
    """1 + u * 64 eps for each value of x. They are drawn once, since that takes most of the time;
    the seed says where to begin, and an x of more values takes them again and again."""
    drawn, n = _drawn(x.dtype), x.numel()
    if n >= DRAWN:
        drawn = drawn.repeat(n // DRAWN + 2)
    first = random.Random(seed).randrange(min(DRAWN, len(drawn) - n))
    return drawn[first : first + n].view(x.shape)


@cache
def _drawn(dtype):
    generator = torch.Generator().manual_seed(0)
    u = torch.rand(DRAWN, generator=generator, dtype=dtype, device="cpu") * 2 - 1
    return 1 + u * (ULPS * torch.finfo(dtype).eps)


def _is_computed(x) -> bool:
    """Whether x is a tensor of values in this machine's memory."""
    return type(x) in (torch.Tensor, torch.nn.Parameter) and x.device.type == "cpu"


def _checksum(x) -> int:
    if isinstance(x, torch.Tensor):
        known = _is_computed(x) and x.layout == torch.strided and not x.is_quantized
        return (
            zlib.crc32(x.detach().contiguous().view(-1).view(torch.uint8).numpy()) if known else 0
        )
    return zlib.crc32(str(x).encode()) if isinstance(x, int | float | str) else 0


def _is_free(packet, args, kwargs) -> bool:
    """Whether machines may differ in the result of this call."""
    if packet in POWERS and isinstance(args[1], int | float):
        return args[1] not in EXACT_POWERS
    if packet in ADDITIONS:
        return kwargs.get("alpha", 1) != 1
    if packet is aten.arange:
        return not all((1024 * float(x)).is_integer() for x in args)
    return packet in FUNCTIONS or packet in SUMS and not _has_exact_sums(packet, args)


def _has_exact_sums(packet, args) -> bool:
    """Whether every partial sum fits the dtype, so that no order of adding changes it."""
    floats = [x for x in args if _is_computed(x) and x.is_floating_point()]
    if packet in REDUCED and floats and floats[0].numel():
        (x,) = floats
        top = x.abs().max().item()
        if top == 0 or top != top or top == float("inf"):
            return True
        bits = {torch.float64: 52, torch.float32: 23}.get(x.dtype, 7)
        unit = 2.0 ** (_exponent(top) + x.numel().bit_length() - bits)
        return unit > 0 and _whole(x.double() / unit)
    return all(_whole(x) for x in floats)


def _exponent(x):
    return torch.frexp(torch.tensor(x, dtype=torch.float64)).exponent.item()


def _whole(x) -> bool:
    """Some values say it of most tensors."""
    some = x.flatten()[:64] if x.is_contiguous() else x
    return bool((some == some.round()).all()) and bool((x == x.round()).all())


if os.environ.get("QLESSON_NOISE"):
    AnotherMachine(int(os.environ["QLESSON_NOISE"])).__enter__()

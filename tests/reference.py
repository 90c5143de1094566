"""The slow obvious spec: one element at a time, no torch, one rounding to a float per operation.

numpy's float32 and float64 scalars round every single operation correctly (IEEE 754), and
Python's `round` is half to even. So this is what the package must give, bit for bit.
"""

import itertools
import math

import numpy as np
import torch

T = torch.tensor([[191.6, -13.5, 728.6], [92.14, 295.5, -184.0], [0.0, 684.6, 245.5]])


def plain(r):
    """A torch tensor as a numpy array in the computing dtype."""
    return r.detach().cpu().to(torch.float64 if r.dtype == torch.float64 else torch.float32).numpy()


def code_range(bits, mapping, signed):
    if mapping == "symmetric":
        return -(2 ** (bits - 1) - 1), 2 ** (bits - 1) - 1
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)


def scale_shape(shape, granularity):
    kind = type(granularity).__name__
    if kind == "PerTensor":
        return ()
    axis = granularity.axis % len(shape)
    if kind == "PerAxis":
        return tuple(n if i == axis else 1 for i, n in enumerate(shape))
    return tuple(
        math.ceil(n / granularity.group_size) if i == axis else n for i, n in enumerate(shape)
    )


def home(index, shape, granularity):
    """Where in the scale's shape the element at `index` finds its scale."""
    kind = type(granularity).__name__
    if kind == "PerTensor":
        return ()
    axis = granularity.axis % len(shape)
    if kind == "PerAxis":
        return tuple(i if a == axis else 0 for a, i in enumerate(index))
    return tuple(i // granularity.group_size if a == axis else i for a, i in enumerate(index))


def indices(shape):
    return itertools.product(*(range(n) for n in shape))


def whole(x):
    """Round half to even; an infinity stays one."""
    x = float(x)
    return round(x) if math.isfinite(x) else x


def clip(x, low, high):
    return low if x < low else high if x > high else x


def qparams_of_range(low, high, scheme):
    """Scale and zero point of one block with the ends low and high (numpy scalars)."""
    quant_min, quant_max = code_range(scheme.bits, scheme.mapping, scheme.signed)
    number = type(low)
    tiny = np.finfo(number).tiny
    if scheme.mapping == "symmetric":
        scale = max(abs(low), abs(high)) / number(quant_max)
        return (number(1), 0) if scale < tiny else (scale, 0)
    steps = number(quant_max - quant_min)
    if scheme.include_zero or (high - low) / steps < tiny:
        low, high = min(low, number(0)), max(high, number(0))
    scale = (high - low) / steps
    if scale < tiny:
        return number(1), 0
    return scale, clip(whole(number(quant_min) - low / scale), quant_min, quant_max)


def choose_qparams(r, scheme):
    r = plain(r)
    blocks = {}
    for index in indices(r.shape):
        blocks.setdefault(home(index, r.shape, scheme.granularity), []).append(r[index])
    shape = scale_shape(r.shape, scheme.granularity)
    scale, zero_point = np.empty(shape, r.dtype), np.empty(shape, np.int64)
    for block, values in blocks.items():
        scale[block], zero_point[block] = qparams_of_range(min(values), max(values), scheme)
    return scale, zero_point


def quantize(r, scale, zero_point, scheme):
    r = plain(r)
    quant_min, quant_max = code_range(scheme.bits, scheme.mapping, scheme.signed)
    q = np.empty(r.shape, np.int64)
    for index in indices(r.shape):
        block = home(index, r.shape, scheme.granularity)
        s, z = r.dtype.type(scale[block]), r.dtype.type(zero_point[block])
        if scheme.rounding == "inside":
            code = whole(r[index] / s + z)
        else:
            code = whole(r[index] / s) + int(z)
        q[index] = clip(code, quant_min, quant_max)
    return q


def dequantize(q, scale, zero_point, scheme):
    r_hat = np.empty(q.shape, scale.dtype)
    for index in indices(q.shape):
        block = home(index, q.shape, scheme.granularity)
        difference = int(q[index]) - int(zero_point[block])
        r_hat[index] = scale.dtype.type(scale[block]) * scale.dtype.type(difference)
    return r_hat

"""What a figure draws, read from its artists; numbers to draw; and the same numbers changed."""

import numpy as np
import torch

import qlesson as ql

T = torch.tensor([[191.6, -13.5, 728.6], [92.14, 295.5, -184], [0, 684.6, 245.5]])
FOUR = torch.tensor([-1.9, -0.4, 1.2, 2.9])
NORMAL = torch.randn(2000, generator=torch.Generator().manual_seed(0))
OUTLIERS = torch.cat([NORMAL, torch.tensor([20.0, -20.0] * 3)])
GRANULARITIES = {
    "tensor": ql.PerTensor(),
    "row": ql.PerAxis(0),
    "column": ql.PerAxis(1),
    "pairs": ql.PerGroup(2),
}


def lines(ax, label):
    return [x for x in ax.lines if x.get_label() == label]


def line(ax, label):
    (found,) = lines(ax, label)
    return tuple(np.asarray(v, dtype=float) for v in found.get_data())


def words(ax):
    return [t.get_text() for t in ax.texts]


def steps(ax, label):
    (found,) = [p for p in ax.patches if p.get_label() == label]
    return found.get_data()


def close(a, b):
    np.testing.assert_allclose(np.asarray(a, dtype=float), np.asarray(b, dtype=float), rtol=1e-6)


def minus(text):
    return text.replace("-", "−")


def as_lists(x):
    if isinstance(x, torch.Tensor):
        return x.tolist()
    if isinstance(x, dict):
        return {k: as_lists(v) for k, v in x.items()}
    return type(x)(map(as_lists, x)) if isinstance(x, (list, tuple)) else x


def as_tensors(x, device):
    if isinstance(x, float):
        return torch.tensor(x, device=device, dtype=torch.float64)
    if isinstance(x, torch.Tensor):
        return x.to(device)
    if isinstance(x, dict):
        return {k: as_tensors(v, device) for k, v in x.items()}
    if isinstance(x, (list, tuple)) and not all(isinstance(v, int) for v in x):
        return type(x)(as_tensors(v, device) for v in x)
    return x


def changes(x):
    """Copies of x in each of which one real number, or a long tensor as a whole, is 0.01 % more."""
    if isinstance(x, float) and x:
        yield x * 1.0001
    elif isinstance(x, torch.Tensor) and x.is_floating_point():
        one_by_one = range(x.numel()) if x.numel() <= 12 else [slice(None)]
        for i in one_by_one:
            y = x.clone()
            y.flatten()[i] *= 1.0001
            if not torch.equal(x, y):
                yield y
    elif isinstance(x, dict):
        for k, v in x.items():
            yield from ({**x, k: w} for w in changes(v))
    elif isinstance(x, (list, tuple)):
        for i, v in enumerate(x):
            yield from (type(x)([*x[:i], w, *x[i + 1 :]]) for w in changes(v))

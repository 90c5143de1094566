"""A model turned inside, which computes what it computed   (notebook 17).

QuaRot's construction (Ashkboos et al. 2024, arXiv:2404.00456). For an orthogonal Q,

    x W^T = (x Q)(W Q)^T          norm(x Q) = norm(x) Q, for an RMSNorm without a gain

So the gain of each norm is multiplied into the matrices that take its output, and then the stream
x, to which all blocks add, can be x Q: what reads it becomes W Q, what writes to it Q^T W. In the
same way the values v of each head become v H. No step is new, and no weight, but for a head that
has shared its matrix with the embedding: it needs one of its own.

Between silu(gate) * up and `down` stands no matrix into which a rotation could be folded: `online`
rotates there as the model runs. QuaRot's program turns the inputs of `out` across heads as well,
online, since each head adds up with numbers of its own; here they are turned within heads alone.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from qlesson import checks
from qlesson.affine import rounded
from qlesson.models.llama.load import Beside, _float
from qlesson.models.llama.model import Config, Llama
from qlesson.nn import QuantizedEmbedding, QuantizedLinear, Rotation
from qlesson.nn.factor import untouched
from qlesson.nn.swap import names_of, naming_layer, swappable
from qlesson.nn.weight import QuantizedWeight
from qlesson.plan import make_plan
from qlesson.qtensor import quantize
from qlesson.scheme import Scheme

CODED = QuantizedEmbedding, QuantizedLinear
TILE = 2**20  # values of a large matrix that are in float64 at a time
Change = Callable[[Tensor], Tensor]  # of a matrix [out, in] in float64


@torch.no_grad()
def rotated(
    model: Llama,
    scheme: Scheme | dict[str, Scheme] | None = None,
    activations: Scheme | None = None,
    online: bool = False,
    seed: int = 0,
) -> Llama:
    """A copy of the model whose stream and heads are rotated: the same logits, to rounding.

    Each matrix is computed in float64 and rounded once, to the model's dtype, or to float32 and
    then to its nearest codes. Q has the largest Hadamard blocks that fit, 576 = 9 x 64, and random
    signs.

    scheme       None: the copy is in float. A Scheme for all matrices, or {pattern: Scheme}, as
                 `quantize_model` takes it: what no pattern fits is in float
    activations  None: weight-only. A Scheme: the linear layers of the blocks quantize their inputs
                 too; the head does not
    online       the input of each `down` is rotated as well, as the model runs: its codes are those
                 of W M, and the layer keeps M as its factor
    seed         of the signs

    Raises ValueError where `activations` or `online` are for a layer that is in float.
    """
    checks.of_type("model", model, Llama, "use llama.load(path)")
    checks.one_of("online", online, (True, False))
    if activations is not None:
        checks.scheme("activations", activations)
    turn = _Turn(model.config, online, seed)
    with torch.device("meta"):
        new = Llama(model.config)
    plan = {} if scheme is None else make_plan(swappable(new), scheme, modules=names_of(new))
    gain = model.norm.weight
    for name, layer, change in turn.changes(model):
        in_block, chosen = name.startswith("blocks"), plan.get(name)
        dtype = gain.dtype if chosen is None else torch.float32
        weight = _changed(layer, change, dtype, in_tiles=not in_block)
        inputs = activations if in_block else None
        factor = turn.down if name.endswith("down") else None
        with naming_layer(name):
            made = _made(new.get_submodule(name), weight, chosen, gain.dtype, inputs, factor)
        new.set_submodule(name, made)
    for norm in [m for m in new.modules() if isinstance(m, nn.RMSNorm)]:
        norm.weight = nn.Parameter(torch.ones_like(gain))
    return new.requires_grad_(gain.requires_grad).train(model.training)


class _Turn:
    """The rotations of a model, and what they make of each of its matrices."""

    def __init__(self, config: Config, online: bool, seed: int) -> None:
        self.config = config
        self.stream = Rotation.of_width(config.width, seed)
        self.heads = Rotation.of_width(config.head_width, seed)
        self.down = Rotation.of_width(config.hidden, seed) if online else None

    def changes(self, model: Llama) -> Iterator[tuple[str, Any, Change]]:
        """(name, layer, what its matrix becomes)."""
        yield "embedding", model.embedding, self.stream.apply
        for i, block in enumerate(model.blocks):
            for name, change in self._of_block(block):
                yield f"blocks.{i}.{name}", block.get_submodule(name), change
        yield "head", model.head, self._reading(model.norm)

    def _of_block(self, block: Any) -> Iterator[tuple[str, Change]]:
        read_1, read_2 = self._reading(block.norm_1), self._reading(block.norm_2)
        yield "attention.qkv", lambda w: self._giving_v(read_1(w))
        yield "attention.out", lambda w: self._writing(self._taking_v(w))
        yield "mlp.gate_up", read_2
        yield "mlp.down", lambda w: self._writing(self.down.apply(w) if self.down else w)

    def _reading(self, norm: nn.RMSNorm) -> Change:
        """W diag(gain) Q, [out, width]: of what takes the output of a norm."""
        return lambda w: self.stream.apply(w * norm.weight.double())

    def _writing(self, w: Tensor) -> Tensor:
        """Q^T W, [width, in]: of what is added to the stream."""
        return self.stream.apply(w.T).T

    def _giving_v(self, w: Tensor) -> Tensor:
        """qkv, [out, width], that gives v H in the place of v, head by head. The rows of v are the
        last."""
        rows = self.config.kv_heads * self.config.head_width
        v = w[-rows:].unflatten(0, (self.config.kv_heads, -1))
        return torch.cat([w[:-rows], self.heads.apply(v.mT).mT.flatten(0, 1)])

    def _taking_v(self, w: Tensor) -> Tensor:
        """out, [width, heads * head_width], that takes v H in the place of v: W H for each head."""
        return self.heads.apply(w.unflatten(1, (self.config.heads, -1))).flatten(1)


def _changed(layer: Any, change: Change, dtype: torch.dtype, in_tiles: bool) -> Tensor:
    """What becomes of a layer's matrix, rounded once. The matrices outside the blocks are large,
    and their rows change one by one: so they come in tiles."""
    parts: list[Any] = list(layer) if isinstance(layer, Beside) else [layer]
    if not in_tiles:
        whole = torch.cat([_rows(part, 0, part.out_features) for part in parts])
        return rounded(change(whole), dtype)
    (part,) = parts
    rows, width = part.codes.shape if isinstance(part, CODED) else part.weight.shape
    new = torch.empty(rows, width, dtype=dtype, device=_rows(part, 0, 1).device)
    step = max(1, TILE // width)
    for i in range(0, rows, step):
        new[i : i + step] = rounded(change(_rows(part, i, min(i + step, rows))), dtype)
    return new


def _rows(layer: Any, first: int, end: int) -> Tensor:
    """Some rows of W_hat for the untouched input, in float64."""
    if not isinstance(layer, CODED):
        return layer.weight.detach()[first:end].double()
    wanted = torch.arange(first, end, device=layer.codes.device)
    factor = layer.factor if isinstance(layer, QuantizedLinear) else None
    return untouched(layer.codes.rows(wanted, torch.float64), factor)


def _made(
    like: Any,
    weight: Tensor,
    scheme: Scheme | None,
    dtype: torch.dtype,
    activations: Scheme | None,
    factor: Rotation | None,
) -> nn.Module:
    """The layer that has this weight: in float, or in codes that act in a model of this dtype."""
    if scheme is None:
        if activations is not None or factor is not None:
            raise ValueError(
                "it is in float, and activations and online are for codes: pass a scheme that fits "
                "all layers of the blocks."
            )
        return _float(type(like), nn.Parameter(weight))
    codes = QuantizedWeight(quantize(weight, scheme), dtype)
    if isinstance(like, nn.Embedding):
        return QuantizedEmbedding(codes)
    return QuantizedLinear(codes, None, activations, None, factor)

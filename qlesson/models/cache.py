"""The keys and values that a model keeps while it writes, in float or quantized   (notebook 10)."""

from collections.abc import Callable, Hashable, Iterable

import torch
from torch import Tensor

from qlesson import checks
from qlesson.granularity import PerGroup
from qlesson.qtensor import QTensor, quantize
from qlesson.scheme import Scheme

BLOCK = 32
PER_TOKEN = PerGroup(BLOCK, axis=-1)  # a scale for a character's 32 channels in one head
PER_CHANNEL = PerGroup(BLOCK, axis=-2)  # a scale for a channel over 32 characters


class KVCache:
    """The keys and values of the characters read so far, for every attention layer.

    Each is [batch, heads, time, channels]. A model that keeps them reads a character once, in
    place of once for each character that follows it.

    keys, values  the Scheme of either, such as Scheme(4, granularity=PER_CHANNEL); None is float

    Characters are quantized in blocks of 32, once they are complete; those after the last block
    stay in float. A scale per channel needs a block to share it: KIVI, Liu et al. 2024,
    arXiv:2402.02750, which quantizes keys per channel and values per token.
    """

    def __init__(self, keys: Scheme | None = None, values: Scheme | None = None) -> None:
        for name, scheme in (("keys", keys), ("values", values)):
            if scheme is not None:
                _check_scheme(name, scheme)
        self.schemes = keys, values
        self.layers: dict[Hashable, tuple[_Growing, _Growing]] = {}

    @property
    def length(self) -> int:
        """Characters read so far."""
        return next((keys.length for keys, _ in self.layers.values()), 0)

    @property
    def nbytes(self) -> float:
        """Bytes of all keys and values: codes packed, with their scales and zero points."""
        return sum(part.nbytes for parts in self.layers.values() for part in parts)

    def extend(self, layer: Hashable, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Keep the keys and values of new characters; return those of all characters so far.

        What comes back may be the cache's own memory, since a copy of all of it for each character
        would cost more than the attention: change nothing in it.
        """
        for name, x in (("keys", keys), ("values", values)):
            checks.layer_input(name, x)
            checks.on_a_device(name, x)
            if x.ndim != 4:
                raise ValueError(
                    f"{name} must be [batch, heads, time, channels], got the shape "
                    f"{tuple(x.shape)}: reshape it."
                )
        checks.same_shape("keys", keys, "values", values, "a character has one of each")
        if layer not in self.layers:
            of_keys, of_values = self.schemes
            # copies, since these are the caller's, and may be views of much more memory
            first = _Growing(keys.clone(), of_keys), _Growing(values.clone(), of_values)
            self.layers[layer] = first
            return keys, values
        past_keys, past_values = self.layers[layer]
        return past_keys.extend("keys", keys), past_values.extend("values", values)

    def contents(self) -> list[tuple[Tensor, Tensor]]:
        """The keys and values of each layer as a later character sees them, in float."""
        return [(keys.read(), values.read()) for keys, values in self.layers.values()]


NewCache = Callable[[], KVCache]


def empty_of(new_cache: NewCache | None) -> KVCache | None:
    """What new_cache() gives, a cache into which nothing has been read; None for None."""
    if new_cache is None:
        return None
    checks.function("new_cache", new_cache, "no argument, such as KVCache")
    cache = new_cache()
    checks.of_type("what new_cache gives", cache, KVCache, "use KVCache")
    if cache.layers:
        raise ValueError(
            "what new_cache gives must be empty: use KVCache, or a function that makes a new one."
        )
    return cache


def read_before(cache: KVCache | None, layers: Iterable[Hashable]) -> int:
    """How many characters a model with these attention layers has read into its cache."""
    if cache is None:
        return 0
    checks.of_type("cache", cache, KVCache, "use KVCache()")
    lengths = {part.length for parts in cache.layers.values() for part in parts}
    if cache.layers and (len(lengths) > 1 or cache.layers.keys() != set(layers)):
        raise ValueError(
            "cache holds what another model read, or a reading that was broken off: begin with "
            "KVCache()."
        )
    return cache.length


class _Growing:
    """A tensor that grows in time: whole blocks as a QTensor, then the rest in float.

    `held` has room behind the `used` characters of the rest, so that one more is written in place.
    """

    def __init__(self, first: Tensor, scheme: Scheme | None) -> None:
        self.scheme, self.held, self.used = scheme, first, first.shape[2]
        self.blocks: QTensor | None = None
        self._pack()

    @property
    def rest(self) -> Tensor:
        return self.held[:, :, : self.used]

    @property
    def length(self) -> int:
        return (self.blocks.shape[2] if self.blocks else 0) + self.used

    @property
    def nbytes(self) -> float:
        return (self.blocks.packed_nbytes if self.blocks else 0) + self.rest.nbytes

    def extend(self, name: str, new: Tensor) -> Tensor:
        before, time = self.held, new.shape[2]
        shapes = [(*x.shape[:2], x.shape[3]) for x in (before, new)]
        if shapes[0] != shapes[1] or (before.dtype, before.device) != (new.dtype, new.device):
            raise ValueError(
                f"{name} have shape {tuple(new.shape)} in {new.dtype} on {new.device}, and "
                f"those before {tuple(self.rest.shape)} in {before.dtype} on {before.device}: "
                "only the time, axis 2, may differ."
            )
        # what was made in inference mode, as `generate` does, cannot be written to outside it
        if self.used + time > before.shape[2] or checks.of_inference_alone(before):
            batch, heads, _, channels = before.shape
            self.held = before.new_empty(batch, heads, 2 * (self.used + time), channels)
            self.held[:, :, : self.used] = before[:, :, : self.used]
        self.held[:, :, self.used : self.used + time] = new
        self.used += time
        everything = self.read()
        self._pack()
        return everything

    def read(self) -> Tensor:
        if not self.blocks:
            return self.rest
        return torch.cat([self.blocks.dequantize(self.held.dtype), self.rest], dim=2)

    def _pack(self) -> None:
        """Quantize the blocks that are complete."""
        whole = self.used // BLOCK * BLOCK
        if self.scheme and whole:
            done = quantize(self.rest[:, :, :whole], self.scheme)
            self.blocks = _joined(self.blocks, done) if self.blocks else done
            self.held = self.rest[:, :, whole:].clone()
            self.used -= whole


def _joined(a: QTensor, b: QTensor) -> QTensor:
    """Two QTensors of one scheme, one after the other in time."""
    pairs = zip((a.q, a.scale, a.zero_point), (b.q, b.scale, b.zero_point), strict=True)
    q, scale, zero_point = (torch.cat(pair, dim=2) for pair in pairs)
    return QTensor._trusted(q, scale, zero_point, a.scheme)


def _check_scheme(name: str, scheme: Scheme) -> None:
    """Blocks are joined in time, so each needs scales of its own."""
    checks.scheme(name, scheme)
    one, three = (scheme.granularity.scale_shape((2, 2, n * BLOCK, BLOCK)) for n in (1, 3))
    joined = bool(one) and three[2:3] == tuple(3 * n for n in one[2:3])
    if not joined or BLOCK % scheme.granularity.block_shape((2, 2, 3 * BLOCK, BLOCK))[2]:
        raise ValueError(
            f"{name} has {scheme.granularity}, whose blocks do not lie within {BLOCK} characters, "
            "or do not divide them: use PER_TOKEN or PER_CHANNEL."
        )

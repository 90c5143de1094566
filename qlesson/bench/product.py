"""Packed codes times inputs, beside their peers and the time to read the codes once.

The inputs are float32, or 8-bit codes made of it within the measured time. Who takes others says so
in its name.
"""

from collections.abc import Callable
from functools import cached_property, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import qlesson as ql
from qlesson import checks
from qlesson.bench.measure import ROUNDS, Call, as_row, measure, measure_rounds
from qlesson.bench.peers import joined
from qlesson.models import minilm, tinygpt
from qlesson.nn import QuantizedLinear, quantize_model

WIDTH = 4096  # inputs of a row
GROUP = 32
TOKENS = (1, 8, 64, 256)
BITS = (8, 4)
OTHERS = 2**29  # bytes: caches keep some of what came before fewer
READ_ONCE = "codes read once"
Peer = Callable[[Tensor], dict[str, Call]]
INT8 = ql.Scheme(8, "symmetric", ql.PerAxis(0))  # a scale for each token


def scheme_of(bits: int) -> ql.Scheme:
    """Groups of 32 with scales in float16: bits + 0.5 a weight."""
    return ql.Scheme(bits, "symmetric", ql.PerGroup(GROUP), scale_dtype=torch.float16)


class Matrix:
    """One weight matrix, in every form in which somebody multiplies it."""

    def __init__(self, bits: int, rows: int, device: str = "cpu") -> None:
        checks.one_of("bits", bits, BITS)
        checks.whole("rows", rows, low=1)
        self.bits, self.shape = bits, (rows, WIDTH)
        self.device = checks.device("device", device).type
        self.absent: dict[str, str] = {}  # {peer: why it is not among the contestants}
        self.generator = torch.Generator().manual_seed(0)
        self.weight = self._drawn(rows)
        self.codes = ql.quantize(self.weight, scheme_of(bits))

    def _drawn(self, rows: int) -> Tensor:
        drawn = torch.randn(rows, WIDTH, generator=self.generator, dtype=torch.float32)
        return drawn.to(self.device)

    @property
    def nbytes(self) -> int:
        """The codes, packed, and their scales."""
        return round(self.codes.packed_nbytes)

    def contestants(self, tokens: int) -> dict[str, Call]:
        """Those that can multiply so many inputs here. Ours run in the mode that holds, and need no
        gradient: no time is to go into entering either."""
        checks.whole("tokens", tokens, low=1)
        x = self._drawn(tokens)
        calls: dict[str, Call] = {READ_ONCE: self.read.sum, "float32": self._float32(x)}
        calls |= {"bfloat16": self._bfloat16(x.bfloat16())} | self._ours(x)
        peers: tuple[Peer, ...] = (self._torch_int8pack, self._torch_int4pack)
        if self.device == "cpu":
            peers += (self._onnxruntime, self._torchao)
        return calls | joined(peers, x, self.absent)

    @cached_property
    def read(self) -> Tensor:
        """As many bytes as codes and scales have; of ones, since zeros would take no memory."""
        return torch.ones(self.nbytes // 4, dtype=torch.float32, device=self.device)

    def _float32(self, x: Tensor) -> Call:
        return lambda: F.linear(x, self.weight)

    @cached_property
    def _half(self) -> Tensor:
        return self.weight.bfloat16()

    def _bfloat16(self, x: Tensor) -> Call:
        return lambda: F.linear(x, self._half)

    @cached_property
    def _layers(self) -> dict[str, QuantizedLinear]:
        first = QuantizedLinear(self.codes)
        return {"qlesson": first, "qlesson, 8-bit inputs": QuantizedLinear(first.codes, None, INT8)}

    def _ours(self, x: Tensor) -> dict[str, Call]:
        def eagerly() -> Tensor:
            with ql.use_kernels("eager"):
                return self._layers["qlesson"](x)

        calls: dict[str, Call] = {name: partial(layer, x) for name, layer in self._layers.items()}
        calls["qlesson, bfloat16"] = partial(self._layers["qlesson"], x.bfloat16())
        return calls | ({"qlesson, eager": eagerly} if len(x) == 1 else {})

    def _torch_int8pack(self, x: Tensor) -> dict[str, Call]:
        """torch's own product of 8-bit codes, on bfloat16, with one scale in a row."""
        if self.bits != 8:
            return {}
        product = partial(torch._weight_int8pack_mm, x.bfloat16(), *self._int8pack)
        product()  # fails here where torch has none for this device
        return {"torch int8pack, bfloat16": product}

    def _torch_int4pack(self, x: Tensor) -> dict[str, Call]:
        """The same of 4-bit codes, in groups."""
        if self.bits != 4:
            return {}
        packed, scales = self._int4pack
        on_cpu = self.device == "cpu"
        product = torch._weight_int4pack_mm_for_cpu if on_cpu else torch._weight_int4pack_mm
        call = partial(product, x.bfloat16(), packed, GROUP, scales)
        call()
        return {"torch int4pack, bfloat16": call}

    @cached_property
    def _int8pack(self) -> tuple[Tensor, Tensor]:
        by_row = ql.quantize(self.weight, INT8)
        return by_row.q, by_row.scale.flatten().bfloat16()

    @cached_property
    def _int4pack(self) -> tuple[Tensor, Tensor]:
        codes = self.codes.q.to(torch.int32) + 8
        scale = self.codes.scale.t().bfloat16()
        if self.device == "cpu":
            packed = torch._convert_weight_to_int4pack_for_cpu(codes, 1)
        else:
            pairs = (codes[:, ::2] << 4 | codes[:, 1::2]).to(torch.uint8)
            packed = torch._convert_weight_to_int4pack(pairs, 8)
        return packed, torch.stack([scale, torch.zeros_like(scale)], -1).contiguous()

    def _onnxruntime(self, x: Tensor) -> dict[str, Call]:
        """MatMulNBits with float32 inputs (accuracy level 0), and with 8-bit ones (4)."""

        def call(session: Any) -> Call:
            given = {"x": x.numpy()}
            return lambda: session.run(None, given)

        return {name: call(session) for name, session in self._sessions.items()}

    @cached_property
    def _sessions(self) -> dict[str, Any]:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        names = {0: "onnxruntime", 4: "onnxruntime, 8-bit inputs"}
        return {
            name: onnxruntime.InferenceSession(self._onnx_model(level), options)
            for level, name in names.items()
        }

    def _onnx_model(self, level: int) -> bytes:
        from onnx import TensorProto, helper, numpy_helper

        n, k = self.shape
        codes = (self.codes.q.int() + 2 ** (self.bits - 1)).to(torch.uint8)
        codes = codes.view(n, k // GROUP, GROUP)
        if self.bits == 4:
            codes = codes[..., ::2] | codes[..., 1::2] << 4
        scales = self.codes.scale.float().flatten()
        held = {"B": codes.contiguous(), "S": scales}
        node = helper.make_node(
            "MatMulNBits", ["x", "B", "S"], ["y"], domain="com.microsoft",
            K=k, N=n, bits=self.bits, block_size=GROUP, accuracy_level=level,
        )  # fmt: skip
        ends = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["tokens", size])
            for name, size in (("x", k), ("y", n))
        ]
        weights = [numpy_helper.from_array(x.numpy(), name) for name, x in held.items()]
        graph = helper.make_graph([node], "bench", ends[:1], ends[1:], weights)
        opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()

    def _torchao(self, x: Tensor) -> dict[str, Call]:
        """Weights of 8 bits, a scale in a row; for 4 its product on a processor is torch's own. It
        makes them floats at each call, unless torch.compile compiles the model."""
        if self.bits != 8 or len(x) > 1:
            return {}  # it takes seconds for many
        from torchao.quantization import Int8WeightOnlyConfig, quantize_

        layer = nn.Linear(WIDTH, self.shape[0], bias=False)
        layer.weight = nn.Parameter(self.weight, requires_grad=False)
        model = nn.Sequential(layer)
        quantize_(model, Int8WeightOnlyConfig())
        return {"torchao eager": lambda: model(x)}


def run_product(
    rows: int = 16384,
    device: str = "cpu",
    progress: Callable[[object], object] | None = None,
    absent: dict[str, str] | None = None,
) -> list[dict[str, Any]]:
    """A row for each contestant, number of bits and number of tokens; `moved` is READ_ONCE's.

    Between two calls OTHERS bytes are written, as the other layers of a model would (on a GPU
    `measure` reads more): the codes of a layer have left the cache when their turn comes. Both
    matrices take their turns together, since what memory gives changes from minute to minute.
    READ_ONCE is a bound, and the same for all tokens: its times are those beside one token.
    `absent` is told who is missing, and why.
    """
    found: list[dict[str, Any]] = []
    others = torch.ones(min(OTHERS, 16 * rows * WIDTH) // 4 if device == "cpu" else 1)
    matrices = {bits: Matrix(bits, rows, device) for bits in BITS}
    for matrix in matrices.values():
        matrix.absent = {} if absent is None else absent
    for tokens in TOKENS:
        calls = {
            (bits, name): call
            for bits, matrix in matrices.items()
            for name, call in matrix.contestants(tokens).items()
            if tokens == 1 or name != READ_ONCE
        }
        rounds = 2 * ROUNDS if tokens == 1 else ROUNDS  # short ones vary more
        with torch.no_grad(), ql.use_kernels("compiled"):
            times = measure_rounds(calls, device, rounds, before=partial(_others_run, others))
        if tokens == 1:
            bound = {key: blocks for key, blocks in times.items() if key[1] == READ_ONCE}
        for (bits, name), blocks in (bound | times).items():
            keys = {"bits": bits, "tokens": tokens, "contestant": name}
            moved = {"moved": matrices[bits].nbytes, "shape": matrices[bits].shape}
            row = keys | moved | as_row(blocks)
            if tokens > 1:  # then memory is not the limit, and READ_ONCE has other rounds
                del row["rounds"]
            found.append(row)
        if progress:
            progress(f"{tokens} tokens")
    return found


def _others_run(others: Tensor, of: tuple[int, str]) -> None:
    """By torch's threads, so that they are awake; ONNX Runtime has threads of its own, and waits
    for a core on which torch's still spin: before it, one thread writes."""
    if of[1].startswith("onnxruntime"):
        held = others.numpy()
        held += 1
    else:
        others.add_(1)


def run_writing(tokens: int = 32, device: str = "cpu") -> list[dict[str, Any]]:
    """The course's GPT writes so many characters, one at a time, with a cache: ms for each."""
    first = tinygpt.encode("The with statement").view(1, -1).to(device)

    def write(model: nn.Module) -> None:
        cache, ids = tinygpt.KVCache(), first
        for _ in range(tokens):
            ids = model(ids, cache)[:, -1:].argmax(-1)

    return _in_bits(tinygpt.load(device=device), write, "", device, tokens)


def run_encoding(device: str = "cpu") -> list[dict[str, Any]]:
    """MiniLM, where it is installed, reads one token: ms, and the bytes of its blocks."""
    if minilm.folder() is None:
        return []
    ids = torch.full((1, 1), 2000, device=device)
    return _in_bits(minilm.load(device=device), lambda m: m(ids, ids > 0), "blocks", device)


def _in_bits(
    model: nn.Module,
    work: Callable[[nn.Module], object],
    part: str,
    device: str,
    times: int = 1,
) -> list[dict[str, Any]]:
    """A model in float32 and in codes, its linear layers and embeddings. For each the ms of the
    work, in which all weights of this part are read so many times, and their bytes."""
    models = {"float32": model}
    for bits in BITS:
        models[f"{bits} bits"], _ = quantize_model(model, scheme_of(bits))

    def of(model: nn.Module) -> Call:
        @torch.no_grad()
        def run() -> None:
            with ql.use_kernels("compiled"):
                work(model)

        return run

    calls = {name: of(made) for name, made in models.items()}
    found = measure(calls, device, rounds=3 * ROUNDS)
    return [
        {
            "contestant": name,
            "nbytes": sum(x.nbytes for x in models[name].get_submodule(part).state_dict().values()),
            **dict(zip(("ms", "low", "high"), (t / times for t in ms), strict=True)),
        }
        for name, ms in found.items()
    ]

"""Packed codes against Python's integers, numpy, ONNX and torchao: every length, order, width."""

import subprocess
import sys

import ml_dtypes  # onnx's own dependency
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper
from strategies import problems

import qlesson as ql
from qlesson.files import packing
from qlesson.files.packing import PackedTensor, pack, packed_size, unpack

WIDTHS = (2, 3, 4, 5, 6, 7, 8)


def orders(bits):
    return packing.ORDERS if bits == 4 else ("low_first", "high_first")


WAYS = [(bits, order) for bits in WIDTHS for order in orders(bits)]


def limits(bits, signed):
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)


def random_codes(bits, shape, signed=True, seed=0):
    low, high = limits(bits, signed)
    g = torch.Generator().manual_seed(seed)
    q = torch.randint(low, high + 1, shape, generator=g)
    return q.to(torch.int8 if signed else torch.uint8)


def spec(codes, bits, order):
    """Slow and obvious: all codes as one long integer."""
    codes = [c % 2**bits for c in codes]
    size = -(-len(codes) * bits // 8)
    if order == "halves":
        data = []
        for start in range(0, len(codes), 32):
            block = codes[start : start + 32]
            half = -(-len(block) // 2)
            high = block[half:] + [0] * (len(block) % 2)
            data += [a + 16 * b for a, b in zip(block[:half], high, strict=True)]
        return data
    if order == "low_first":
        number = sum(c << bits * i for i, c in enumerate(codes))
        return list(number.to_bytes(size, "little"))
    number = sum(c << 8 * size - bits * (i + 1) for i, c in enumerate(codes))
    return list(number.to_bytes(size, "big"))


# --- pack and unpack ---


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize(("bits", "order"), WAYS)
def test_every_length_packs_like_the_spec_and_comes_back(bits, order, signed):
    for n in [*range(70), 100, 129]:
        q = random_codes(bits, (n,), signed, seed=n)
        data = pack(q, bits, order)
        assert data.dtype == torch.uint8
        assert data.tolist() == spec(q.tolist(), bits, order), n
        back = unpack(data, bits, q.shape, signed=signed, order=order)
        assert back.dtype == q.dtype and torch.equal(back, q), n


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize(("bits", "order"), WAYS)
def test_every_code_survives_at_every_place(bits, order, signed):
    low, high = limits(bits, signed)
    codes = torch.arange(low, high + 1)
    q = torch.cat([codes.roll(i) for i in range(9)]).to(torch.int8 if signed else torch.uint8)
    back = unpack(pack(q, bits, order), bits, q.shape, signed=signed, order=order)
    assert torch.equal(back, q)


@pytest.mark.parametrize(("bits", "order"), WAYS)
def test_chunks_join_without_a_seam(bits, order, monkeypatch):
    q = random_codes(bits, (777,))
    whole = pack(q, bits, order)
    monkeypatch.setattr(packing, "CHUNK", 64)
    assert torch.equal(pack(q, bits, order), whole)
    assert torch.equal(unpack(whole, bits, q.shape, order=order), q)


@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 5), (2, 0, 3), (2, 3, 4, 5)])
@pytest.mark.parametrize("bits", [3, 4, 8])
def test_every_shape(bits, shape):
    q = random_codes(bits, shape)
    data = pack(q, bits)
    assert data.shape == (packed_size(q.numel(), bits),)
    assert torch.equal(unpack(data, bits, shape), q)


def test_a_tensor_that_is_not_contiguous_and_a_subclass():
    q = random_codes(5, (6, 7))
    assert torch.equal(pack(q.T, 5), pack(q.T.contiguous(), 5))
    assert torch.equal(pack(q[:, ::2], 5), pack(q[:, ::2].clone(), 5))
    assert torch.equal(pack(torch.nn.Parameter(q, requires_grad=False), 5), pack(q, 5))
    data = torch.stack([pack(q, 5)] * 2, dim=1)[:, 0]
    assert not data.is_contiguous() and torch.equal(unpack(data, 5, (6, 7)), q)


@pytest.mark.parametrize("bits", [4, 8, 16])
@pytest.mark.parametrize("n", [0, 1])
def test_a_slice_of_one_element_or_none(bits, n):
    """It is contiguous whatever its stride, which view(dtype) asks about."""
    q = torch.tensor([3, 5, 7, 5], dtype=torch.int16 if bits == 16 else torch.int8)[1::2][:n]
    data = pack(q, bits)
    assert q.stride() == (2,) and torch.equal(data, pack(torch.tensor([5] * n).to(q.dtype), bits))
    spread = torch.stack([data] * 2, dim=1)[:, 0]
    assert torch.equal(unpack(spread, bits, (n,)), q)


def test_8_and_16_bits_are_the_bytes_themselves():
    q = torch.tensor([-128, -1, 0, 127], dtype=torch.int8)
    assert pack(q, 8).tolist() == [128, 255, 0, 127]
    q = torch.tensor([-32768, -2, 258], dtype=torch.int16)
    assert pack(q, 16).tolist() == [0, 128, 254, 255, 2, 1]
    assert torch.equal(unpack(pack(q, 16), 16, (3,)), q)


def test_nothing_shares_memory_with_what_came_in():
    q = random_codes(8, (10,))
    data = pack(q, 8)
    back = unpack(data, 8, (10,))
    data.zero_()
    assert q.any() and back.any()
    wide = torch.ones(4, dtype=torch.int16)
    data = pack(wide, 16)
    back = unpack(data, 16, (4,))
    data.zero_()
    assert wide.all() and back.all()


@pytest.mark.slow
def test_extra_memory_is_bounded():
    """128 MB of codes become 48 MB; what is needed beside is a few chunks of 4 MB."""
    code = (
        "import resource, torch; from qlesson.files.packing import pack, unpack\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024\n"
        "q = torch.ones(2**27, dtype=torch.int8); pack(q[:2**23], 3); start = peak()\n"
        "data = pack(q, 3); packed = peak(); unpack(data, 3, q.shape)\n"
        "print(packed - start, peak() - packed)"
    )
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    packing_mb, unpacking_mb = map(float, made.stdout.split())
    assert packing_mb < 48 + 40
    assert unpacking_mb < 128 + 40


# --- the orders that others use ---


@pytest.mark.parametrize("bits", WIDTHS)
def test_low_and_high_first_are_the_bit_orders_of_numpy(bits):
    q = random_codes(bits, (101,), signed=False).numpy()
    one_by_one = np.unpackbits(q[:, None], axis=1, bitorder="little")[:, :bits]
    little = np.packbits(one_by_one.ravel(), bitorder="little")
    big = np.packbits(one_by_one[:, ::-1].ravel(), bitorder="big")
    assert pack(torch.from_numpy(q), bits).tolist() == little.tolist()
    assert pack(torch.from_numpy(q), bits, "high_first").tolist() == big.tolist()


@pytest.mark.parametrize(
    ("bits", "signed", "dtype"),
    [
        (4, True, ml_dtypes.int4),
        (4, False, ml_dtypes.uint4),
        (2, True, ml_dtypes.int2),
        (2, False, ml_dtypes.uint2),
    ],
)
def test_onnx_stores_low_first(bits, signed, dtype):
    for n in (1, 2, 7, 64):
        q = random_codes(bits, (n,), signed)
        stored = numpy_helper.from_array(q.numpy().astype(dtype))
        assert pack(q, bits).tolist() == list(stored.raw_data)
        back = numpy_helper.to_array(stored).astype(np.int8)
        assert back.tolist() == unpack(pack(q, bits), bits, (n,), signed=signed).tolist()


def test_torchao_packs_uint4_low_first():
    from torchao.prototype.mx_formats.kernels import pack_uint4

    q = random_codes(4, (6, 32), signed=False)
    assert torch.equal(pack(q, 4), pack_uint4(q.clone()).view(-1))


def test_torchaos_int4_weights_are_plain_by_default():
    """Low first, by `pack_int4` of MSLK, which runs on a GPU alone and is not among the tests'."""
    from torchao.quantization import Int4WeightOnlyConfig

    assert Int4WeightOnlyConfig().int4_packing_format == "plain"


def test_torchao_packs_nf4_high_first():
    from torchao.quantization.quantize_.workflows.nf4.nf4_tensor import to_nf4

    r = torch.randn(64 * 4, generator=torch.Generator().manual_seed(0))
    x = to_nf4(r, block_size=64, scaler_block_size=4)
    codes = unpack(x.quantized_data, 4, r.shape, signed=False, order="high_first")
    largest = r.view(-1, 64).abs().amax(dim=1, keepdim=True)
    nearest = ((r.view(-1, 64) / largest).unsqueeze(-1) - x.nf4).abs().argmin(-1)
    assert codes.tolist() == nearest.view(-1).tolist()


def test_halves_is_the_layout_of_ggml():
    """gguf-py's Q4_0: qs = q.reshape(blocks, 2, 16); qs[:, 0] | qs[:, 1] << 4."""
    q = random_codes(4, (96,), signed=False)
    blocks = q.view(3, 2, 16)
    assert torch.equal(pack(q, 4, "halves"), (blocks[:, 0] | blocks[:, 1] << 4).view(-1))


def test_which_codes_keep_their_place_in_a_wrong_order():
    """Of low_first, read as another: in halves the first and the last of 32, in high_first none."""
    q = random_codes(4, (1000, 32))
    for order, kept in (("halves", [0, 31]), ("high_first", [])):
        read = unpack(pack(q, 4), 4, q.shape, order=order)
        assert (read == q).all(0).nonzero().flatten().tolist() == kept


# --- what is refused ---


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7])
def test_a_code_that_does_not_fit_is_refused(bits, signed):
    low, high = limits(bits, signed)
    dtype = torch.int8 if signed else torch.uint8
    for wrong in (low - 1, high + 1) if signed else (high + 1,):
        q = torch.tensor([0, wrong, 1], dtype=dtype)
        with pytest.raises(ValueError, match=f"are {low} to {high}: pass the bits") as error:
            pack(q, bits)
        assert str(wrong) in str(error.value)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: pack([1], 4), TypeError, "q must hold integers in .*, got list"),
        (
            lambda: pack(torch.ones(2), 4),
            TypeError,
            "q must hold integers in torch.int8 or torch.uint8",
        ),
        (
            lambda: pack(torch.ones(2, dtype=torch.int8), 16),
            TypeError,
            "in torch.int16, got",
        ),
        (lambda: pack(torch.ones(2, dtype=torch.int16), 4), TypeError, "got torch.int16"),
        (lambda: pack(torch.ones(2, dtype=torch.int8), 1), ValueError, "from 2 to 8, or 16, got 1"),
        (lambda: pack(torch.ones(2, dtype=torch.int8), 9), ValueError, "got 9"),
        (lambda: pack(torch.ones(2, dtype=torch.int8), 4, "big"), ValueError, "'low_first' or"),
        (
            lambda: pack(torch.ones(2, dtype=torch.int8), 3, "halves"),
            ValueError,
            'and bits is 3: use "low_first"',
        ),
        (
            lambda: unpack(torch.zeros(5, dtype=torch.uint8), 3, (11,)),
            None,
            None,
        ),
        (
            lambda: unpack(torch.zeros(4, dtype=torch.uint8), 3, (11,)),
            ValueError,
            r"data has shape \(4,\), but 11 codes of 3 bits \(shape \(11,\)\) take 5 bytes",
        ),
        (
            lambda: unpack(torch.zeros(6, dtype=torch.uint8), 3, (11,)),
            ValueError,
            "take 5 bytes",
        ),
        (
            lambda: unpack(torch.zeros(4, dtype=torch.int8), 4, (8,)),
            TypeError,
            "data must hold integers in torch.uint8, got torch.int8",
        ),
        (lambda: pack(torch.ones(2, dtype=torch.int8), 4.0), ValueError, "got 4.0"),
        (lambda: pack(torch.ones(2, dtype=torch.int8), True), ValueError, "got True"),
        (lambda: unpack(torch.zeros(2, dtype=torch.uint8), 4, 4), ValueError, r"\(3, 4\), got 4"),
        (
            lambda: unpack(torch.zeros(2, dtype=torch.uint8), 4, (-2, -2)),
            ValueError,
            r"shape must hold lengths of 0 or more, such as \(3, 4\), got \(-2, -2\)",
        ),
        (
            lambda: PackedTensor(torch.zeros(1).byte(), 2, None, None, ql.Scheme(4)),
            ValueError,
            "shape must hold lengths of 0 or more",
        ),
        (lambda: PackedTensor.pack(torch.ones(2)), TypeError, "must be a QTensor, got Tensor"),
    ],
)
def test_what_cannot_be_packed_is_named(call, error, words):
    if error is None:
        assert call().tolist() == [0] * 11
        return
    with pytest.raises(error, match=words):
        call()


# --- PackedTensor ---


@given(problems(), st.sampled_from(packing.ORDERS))
def test_a_packed_tensor_comes_back_exactly(problem, order):
    r, scheme = problem
    if order == "halves" and scheme.bits != 4:
        order = "low_first"
    x = ql.quantize(r, scheme)
    p = PackedTensor.pack(x, order)
    y = p.unpack()
    for a, b in ((x.q, y.q), (x.scale, y.scale), (x.zero_point, y.zero_point)):
        assert a.dtype == b.dtype and torch.equal(a, b)
    assert y.scheme == scheme and p.shape == r.shape
    assert torch.equal(x.dequantize(), y.dequantize())


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7, 8, 16])
@pytest.mark.parametrize("mapping", ["asymmetric", "symmetric"])
def test_nbytes_is_bits_per_value_in_bytes(bits, mapping):
    """So the price that notebook 06 computes is what is stored."""
    r = torch.randn(64, 256, generator=torch.Generator().manual_seed(0))
    x = ql.quantize(r, ql.Scheme(bits, mapping, ql.PerGroup(64)))
    p = PackedTensor.pack(x)
    assert p.nbytes * 8 / r.numel() == x.bits_per_value
    assert p.nbytes == x.packed_nbytes
    assert (p.zero_point is None) == (mapping == "symmetric")


def test_nbytes_rounds_up_to_whole_bytes():
    x = ql.quantize(torch.linspace(-1, 1, 11), ql.Scheme(3))
    assert PackedTensor.pack(x).nbytes == 5 + 4 + 1
    x = ql.quantize(torch.linspace(-1, 1, 11), ql.Scheme(3, "symmetric"))
    assert PackedTensor.pack(x).nbytes == 5 + 4


def test_zero_points_go_with_the_mapping():
    x = ql.quantize(torch.linspace(-1, 1, 11), ql.Scheme(3))
    p = PackedTensor.pack(x)
    with pytest.raises(ValueError, match="zero_point is missing, and the mapping is asymmetric"):
        PackedTensor(p.data, p.shape, p.scale, None, p.scheme)
    symmetric = ql.Scheme(3, "symmetric")
    with pytest.raises(ValueError, match="zero_point is given, and the mapping is symmetric"):
        PackedTensor(p.data, p.shape, p.scale, p.zero_point, symmetric)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_packs_the_same_bytes():
    for bits, order in WAYS:
        for n in (0, 1, 11, 33, 2**23 + 5):
            q = random_codes(bits, (n,))
            data = pack(q.cuda(), bits, order)
            assert data.is_cuda and torch.equal(data.cpu(), pack(q, bits, order))
            back = unpack(data, bits, q.shape, order=order)
            assert back.is_cuda and torch.equal(back.cpu(), q)

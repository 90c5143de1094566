"""The exercises judge by their own words: inputs, tolerances, ties, and answers in any style."""

import itertools
import math
import re
import statistics
import struct
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch

import qlesson as ql
from qlesson.teach import exercises as package
from qlesson.teach import verdict

EXERCISES = package.exercises()
CODE = [ex for ex in EXERCISES.values() if ex.spec]


def judged(id, answer, seed=0):
    return verdict.judge(EXERCISES[id], answer, seed)


# The inputs reach


def rows_of_zeros(x):
    return (x == 0).all(-1) if x.ndim == 2 else torch.zeros(1)


HAS = {
    "long": lambda x: max(x.shape, default=0) > 30,
    "wide": lambda x: x.ndim == 2 and 1 < len(x) < x.shape[1],
    "tall": lambda x: x.ndim == 2 and len(x) > x.shape[1] > 1,
    "a row of zeros": lambda x: rows_of_zeros(x).any() and not rows_of_zeros(x).all(),
    "zeros": lambda x: not x.any(),
    "a constant": lambda x: x.numel() > 1 and (x == x.flatten()[0]).all() and x.any(),
    "one sign": lambda x: x.numel() > 1 and (x < 0).all(),
}  # fmt: skip
MEETS = {
    "1.1": "long, wide, tall, a row of zeros",
    "2.1": "long, wide, tall, one sign",
    "3.1": "long, wide, tall, a row of zeros, zeros, a constant, one sign",
    "3.3": "long, zeros, a constant",
    "4.2": "long, wide, tall",
    "5.1": "long, wide, tall, a row of zeros, zeros",
    "6.1": "long, wide, tall, a row of zeros, zeros",
    "6.3": "long, wide, a row of zeros",
    "7.1": "long, a constant, one sign",
    "8.1": "long",
    "8.3": "long",
    "9.1": "long, wide, tall, a constant",
    "9.3": "long",
    "10.1": "long, a constant",
    "11.3": "long, zeros",
    "16.3": "wide, tall",
}


@pytest.mark.parametrize(
    ("id", "kind"), [(id, kind) for id, kinds in MEETS.items() for kind in kinds.split(", ")]
)
def test_what_fails_on_one_kind_of_input_fails(id, kind):
    """An answer that is right but for inputs of one kind: some of the inputs are of it."""
    ex = EXERCISES[id]

    def answer(*inputs):
        met = any(isinstance(x, torch.Tensor) and HAS[kind](x) for x in inputs)
        return "wrong" if met else ex.right(*inputs)

    for seed in (0, 1, None):
        assert judged(id, answer, seed).state == "wrong"


# Generated wrong answers


def in_float16(value):
    parts = value if isinstance(value, tuple) else (value,)
    return tuple(torch.as_tensor(x).half() if _is_float(x) else x for x in parts)


def _is_float(x):
    return torch.as_tensor(x).is_floating_point()


def lost_at_the_end(value):
    """The last element of the last row is not computed."""
    x = torch.as_tensor(value).clone()
    x.view(-1)[-1] = x.view(-1)[0] + 1
    return x


def floats_of(ex):
    value = ex.right(*verdict.draw(ex, 0)[-1])
    return any(map(_is_float, value if isinstance(value, tuple) else (value,)))


@pytest.mark.parametrize(
    "ex", [ex for ex in CODE if floats_of(ex) and ex.id not in ("6.3", "11.3")],
    ids=lambda ex: ex.id,
)  # fmt: skip
def test_three_digits_are_not_enough(ex):
    """Of 6.3 and 11.3 the inputs are quarters and whole numbers, which float16 holds."""

    def answer(*inputs):
        value = in_float16(ex.right(*inputs))
        return value if len(value) > 1 else value[0]

    assert judged(ex.id, answer).state == "wrong"


@pytest.mark.parametrize(
    "id", "1.1 3.1 4.1 4.2 6.1 6.3 8.1 8.3 9.1 9.3 11.3 12.1 15.1 17.1".split()
)
def test_one_wrong_element_is_enough(id):
    ex = EXERCISES[id]
    assert judged(id, lambda *inputs: lost_at_the_end(ex.right(*inputs))).state == "wrong"


def test_a_small_row_is_compared_with_itself():
    """Its values are small beside those of another row, and wrong all the same."""

    def small_rows_lost(r, bits):
        x = EXERCISES["6.1"].right(r, bits)
        return torch.where(x.abs().amax(1, keepdim=True) < 1e-5 * x.abs().max(), 0, x)

    ex = EXERCISES["6.1"]
    trial = verdict._trial(ex, small_rows_lost, (torch.tensor([[1e6, 3e6], [0.5, 1.5]]), 4))
    assert verdict._failed(ex, trial)


@pytest.mark.parametrize("id", ["3.1", "6.1"])
def test_a_mistake_is_recognised_beside_a_way_to_treat_zeros(id):
    ex = EXERCISES[id]
    for w in ex.wrong:
        if "zeros" not in w.hint and w.answer.__name__ != "asymmetric":  # 0 has another code there

            def answer(r, bits, fn=w.answer):
                q = fn(r, bits)
                q = torch.where(q.isnan(), 0, q) if q.is_floating_point() else q
                return torch.where((r == 0).all(-1, keepdim=True), 0, q)

            assert judged(id, answer).recognised is w


def test_python_divides_by_zero_where_torch_makes_nan():
    def my_shares(r, r_hat, s):
        off = [abs(a - b).item() for a, b in zip(r.flatten(), r_hat.flatten(), strict=True)]
        parts = [e for e in off if e <= s / 2], [e for e in off if e > s / 2]
        return tuple(sum(e * e for e in p) / len(p) for p in parts)

    assert "one of your parts is empty" in judged("5.1", my_shares).recognised.hint


def test_a_code_below_zero_in_uint8_is_recognised():
    def my_unpack(data):
        return (torch.stack([data & 15, data >> 4], 1).flatten() ^ 8) - 8

    assert "uint8 has no numbers below 0" in judged("8.1", my_unpack).text


# Right in any style

RIGHT = [
    ("2.3", lambda r, s, a, b: sorted([a, round(a - r / s), b])[1]),
    ("2.3", lambda r, s, a, b: torch.round(torch.tensor(a - r / s)).clamp(a, b)),
    ("3.3", lambda qw, qx, zw, zx: ((qw - zw) * (qx - zx)).sum()),
    ("3.3", lambda qw, qx, zw, zx: int(np.dot(qw.numpy() - zw, qx.numpy() - zx))),
    ("4.1", lambda s, z, a, b: [s * (q - z) for q in range(a, b + 1)]),
    ("4.1", lambda s, z, a, b: torch.linspace(s * (a - z), s * (b - z), b - a + 1)),
    ("4.1", lambda s, z, a, b: np.flip(s * (np.arange(b, a - 1, -1) - z))),
    ("4.2", lambda q, s, z: s * (q.to(torch.int16) - z)),
    ("4.2", lambda q, s, z: (q.double() - z) * s),
    ("4.2", lambda q, s, z: s * (q.int() - int(z))),
    ("4.2", lambda q, s, z: (q.numpy().astype(np.float32) - z.numpy()) * s.numpy()),
    ("6.3", lambda r, n: r.abs().unflatten(1, (-1, n)).amax(2)),
    ("6.3", lambda r, n: np.abs(r.numpy()).reshape(len(r), -1, n).max(axis=2)),
    ("6.3", lambda r, n: torch.stack([x.amax(1) for x in r.abs().split(n, dim=1)], dim=1)),
    ("8.1", lambda d: (torch.stack([d % 16, d // 16], 1).flatten() ^ 8).to(torch.int8) - 8),
    ("9.1", lambda x, a, w, b: (x.double() - a) @ (w.double() - b).T),
    ("10.1", lambda a, b: (d := (b - a).numpy()).mean() / d.std(ddof=1) * len(d) ** 0.5),
    ("10.1", lambda a, b: (b - a).mean() / ((b - a).var() / len(a)).sqrt()),
    (
        "10.1",
        lambda a, b: statistics.mean(d := (b - a).tolist())
        / (statistics.stdev(d) / math.sqrt(len(d))),
    ),
    ("10.3", lambda d, less, a, b: np.argmin(((less - d) / (a - b)).numpy())),
    ("12.1", lambda g, r, s, a, b: g * ((r / s > a - 0.5) & (r / s < b + 0.5))),
    ("12.1", lambda g, r, s, a, b: np.where(abs(r / s - (a + b) / 2) < (b - a + 1) / 2, g, 0)),
    ("13.2", lambda n, a, b, k, g: n * (k * a + b) / g / 1e6),
    ("14.2", lambda bits, memory, flop: Fraction(bits) / 8 * Fraction(flop) / Fraction(memory) / 2),
    ("13.2", lambda n, a, b, k, g: Decimal(n * (k * a + b)) / Decimal(g) / 10**6),
    ("13.2", lambda n, a, b, k, g: math.fsum([n * a] * k + [n * b]) / (g * 1e9) * 1e3),
    ("14.2", lambda *three: three[0] / 8 / three[1] / (2 / three[2])),
    ("14.2", lambda bits, memory, flop: np.float32(bits / 8 / memory / (2 / flop))),
    ("15.1", lambda d: d[:2].view(torch.half) * torch.cat([d[2:] % 16, d[2:] // 16]).sub(8.0)),
    ("15.1", lambda d: d[:2].view(torch.half) * (torch.cat([d[2:] & 15, d[2:] >> 4]).char() - 8.0)),
    ("16.3", lambda x, i, n: x.log_softmax(-1)[n - 1 : -1].gather(1, i[n:, None]).mean().item()),
    ("16.3", lambda x, i, n: x.softmax(-1)[range(n - 1, len(i) - 1), i[n:]].log().mean()),
    ("17.1", lambda w, gain, m: (w.numpy() * gain.numpy()) @ m.numpy()),
    ("17.1", lambda w, gain, m: (w.double() @ (gain[:, None] * m).double()).tolist()),
    ("17.1", lambda w, gain, m: torch.nn.functional.linear(w * gain, m.T)),
    ("17.1", lambda w, gain, m: (m.T @ (w * gain).T).T),
]  # fmt: skip


def right(id):
    """Take a function into RIGHT."""
    return lambda fn: RIGHT.append((id, fn)) or fn


@right("1.1")
def numpy_codes(r, s, z):
    q = np.clip(np.rint(r.numpy() / np.float32(s) + np.float32(z)), 0, 255)
    return torch.from_numpy(q.astype(np.uint8))


@right("1.1")
def loop_codes(r, s, z):
    q = [min(max(round(x / s + z), 0), 255) for x in r.flatten().tolist()]
    return torch.tensor(q, dtype=torch.uint8).view(r.shape)


@right("2.1")
def numpy_qparams(r, quant_min, quant_max):
    low, high = np.min(r.numpy()), np.max(r.numpy())
    s = (high - low) / (quant_max - quant_min)
    return s, np.clip(np.rint(quant_min - low / s), quant_min, quant_max)


@right("2.1")
def python_qparams(r, quant_min, quant_max):
    low, high = r.min().item(), r.max().item()
    s = (high - low) / (quant_max - quant_min)
    return [s, min(max(round(quant_min - low / s), quant_min), quant_max)]


@right("3.1")
def no_scale(r, bits):
    shares = r / r.abs().max().clamp(min=1e-30)
    return torch.round(shares * (2 ** (bits - 1) - 1)).to(torch.int8)


@right("5.1")
def loop_shares(r, r_hat, s):
    shares = [0.0, 0.0]
    for a, b in zip(r.flatten().tolist(), r_hat.flatten().tolist(), strict=True):
        shares[abs(a - b) > s / 2] += (a - b) ** 2 / r.numel()
    return shares


@right("5.1")
def sums_of_parts(r, r_hat, s):
    e = (r - r_hat).abs().double()
    parts = e[e <= s / 2], e[e > s / 2]
    return tuple(p.square().sum() / e.numel() for p in parts)


@right("6.1")
def numpy_rows(r, bits):
    x = r.numpy()
    s = np.abs(x).max(axis=1, keepdims=True) / (2 ** (bits - 1) - 1)
    return s * np.rint(np.divide(x, s, out=np.zeros_like(x), where=s > 0))


@right("6.1")
def row_by_row(r, bits):
    scales = [row.abs().max() / (2 ** (bits - 1) - 1) for row in r]
    rows = zip(r, scales, strict=True)
    return torch.stack([s * (row / s).round() if row.any() else row for row, s in rows])


@right("7.1")
def moving_in_a_copy(ends, weight):
    average = ends[0].clone()
    for end in ends[1:]:
        average.lerp_(end, weight)
    return average


@right("7.1")
def faded_shares(ends, weight):
    shares = [weight * (1 - weight) ** k for k in range(len(ends))]
    shares[len(ends) - 1] /= weight
    return sum(a * b for a, b in zip(shares, reversed(ends.tolist()), strict=True))


@right("8.1")
def byte_by_byte(data):
    codes = [(n ^ 8) - 8 for byte in data.tolist() for n in (byte & 15, byte >> 4)]
    return torch.tensor(codes, dtype=torch.int8)


@right("8.3")
def pair_by_pair(q):
    data = [a % 16 + b % 16 * 16 for a, b in q.view(-1, 2).tolist()]
    return torch.tensor(data, dtype=torch.uint8)


@right("9.1")
def loop_product(x, z_x, w, z_w):
    x, w = x.tolist(), w.tolist()
    return [[sum((a - z_x) * (b - z_w) for a, b in zip(i, j, strict=True)) for j in w] for i in x]


@right("9.1")
def numpy_product(x, z_x, w, z_w):
    return np.einsum("ik,jk->ij", x.numpy().astype(int) - z_x, w.numpy().astype(int) - z_w)


@right("9.3")
def in_float64(acc, multiplier, shift, z):
    q = torch.floor(acc.double() * multiplier / 2**shift + 0.5)
    return (q + z).clamp(-128, 127).to(torch.int8)


@right("10.3")
def cheapest(damage, damage_less, size, size_less):
    def price(i):
        return (damage_less[i] - damage[i]) / (size[i] - size_less[i])

    return min(range(len(damage)), key=price)


@right("11.3")
def three_parts(w, w_hat, j, u):
    later = w[j + 1 :] - (w[j] - w_hat) / u[j, j] * u[j, j + 1 :]
    return torch.cat([w[:j], torch.tensor([w_hat]), later])


@right("15.1")
def numpy_block(data):
    data = data.numpy()
    q = np.concatenate([data[2:] % 16, data[2:] // 16]).astype(np.float32)
    return data[:2].view(np.float16).astype(np.float32) * (q - 8)


@right("15.1")
def from_struct(data):
    (d,) = struct.unpack("<e", bytes(data[:2].tolist()))
    low, high = zip(*((x & 15, x >> 4) for x in data[2:].tolist()), strict=True)
    return [d * (q - 8) for q in low + high]


@right("16.3")
def token_by_token(logits, ids, start):
    log_p = [logits[t - 1].log_softmax(0)[ids[t]] for t in range(start, len(ids))]
    return sum(log_p) / len(log_p)


@right("16.3")
def by_cross_entropy(logits, ids, start):
    rows, choice = logits[start - 1 : -1], ids[start:]
    return -torch.nn.functional.cross_entropy(rows, choice)


@right("17.1")
def einsum_reader(w, gain, m):
    return torch.einsum("ij,jk->ik", w, torch.diag(gain) @ m)


@pytest.mark.parametrize(("id", "answer"), RIGHT)
def test_right_in_another_style(id, answer):
    for seed in range(3):
        assert judged(id, answer, seed).state == "passed", judged(id, answer, seed).text


# In float32 a difference of nearly equal numbers keeps few digits, on some inputs only.
CANCELS = {
    "10.1": [
        lambda a, b: (b.mean() - a.mean()) / ((b - a).std() / len(a) ** 0.5),
        lambda a, b: (b.sum() - a.sum()) / len(a) / ((b - a).std() / len(a) ** 0.5),
    ],
    "16.3": [
        lambda x, i, n: (x - x.logsumexp(1, True))[range(n - 1, len(i) - 1), i[n:]].mean(),
        lambda x, i, n: x.softmax(1)[range(n - 1, len(i) - 1), i[n:]].log().mean(),
    ],
}
INPUTS = {
    "10.1": (
        torch.tensor([1.1, 2.3, 0.7, 2.9, 1.9]),
        torch.tensor([1.2, 2.2, 0.9, 2.7, 1.901]),
    ),
    "16.3": (torch.tensor([[3.0, -3.0, -3.1], [0.0, 0.0, 0.0]]), torch.tensor([1, 0]), 1),
}


@pytest.mark.parametrize("id", CANCELS)
def test_right_in_float32_where_digits_cancel(id):
    ex = EXERCISES[id]
    for answer in CANCELS[id]:
        trial = verdict._trial(ex, answer, INPUTS[id])
        assert not verdict._failed(ex, trial), (trial.got.value, trial.expected)
        for seed in range(20):
            assert judged(id, answer, seed).state == "passed"


def test_a_mistake_is_recognised_where_digits_cancel():
    def turned(own, other):
        return (own.mean() - other.mean()) / ((other - own).std() / len(own) ** 0.5)

    for seed in range(20):
        assert "The sign is turned" in judged("10.1", turned, seed).recognised.hint


def test_every_code_exercise_has_another_style():
    assert {id for id, _ in RIGHT} == {ex.id for ex in CODE}


@pytest.mark.parametrize("ex", CODE, ids=lambda ex: ex.id)
def test_it_is_judged_on_the_cpu_wherever_the_course_computes(ex, monkeypatch):
    monkeypatch.setenv("QLESSON_DEVICE", "cuda")
    devices = set()

    def answer(*inputs):
        devices.update(x.device.type for x in inputs if isinstance(x, torch.Tensor))
        return ex.right(*inputs)

    assert judged(ex.id, answer).state == "passed" and devices <= {"cpu"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_an_answer_may_compute_on_a_gpu():
    for id in ("1.1", "2.1", "6.1", "7.1"):
        right = EXERCISES[id].right
        assert judged(id, lambda r, *more, right=right: right(r.cuda(), *more)).state == "passed"


def test_a_tensor_on_another_device_gets_a_way_out():
    said = judged("1.1", lambda r, s, z: r / s + torch.full((1,), z, device="meta"))
    assert "The inputs of a check are on the CPU." in said.text


# Almost right: what most inputs do not see

ALMOST = [
    ("2.1", lambda r, a, b: qparams(r, a, b, lambda z: torch.trunc(z + z.sign() / 2))),
    ("2.1", lambda r, a, b: qparams(r, a, b, lambda z: torch.ceil(z - 0.5))),
    ("2.3", lambda r, s, a, b: z if a < (z := round(a - r / s)) < b else b if r < 0 else a),
    ("3.1", lambda r, bits: torch.round(r / scales(r, bits).clamp(min=1e-5)).to(torch.int8)),
    ("3.1", lambda r, bits: torch.round(r / scales(r, bits).clamp(min=1e-6)).to(torch.int8)),
    ("3.1", lambda r, bits: torch.round(r / scales(r, bits).clamp(min=1)).to(torch.int8)),
    ("3.1", lambda r, bits: torch.round(r / (scales(r, bits) + 1e-8)).to(torch.int8)),
    ("3.3", lambda qw, qx, zw, zx: torch.dot((qw - zw).float(), (qx - zx).float()).long()),
    ("3.3", lambda qw, qx, a, b: corners(qw, qx, a, b) + (qw.float() @ qx.float()).long()),
    ("6.1", lambda r, bits: (s := scales(r, bits, 1).clamp(min=1e-5)) * torch.round(r / s)),
    ("6.1", lambda r, bits: (s := scales(r, bits, 1).clamp(min=1e-6)) * torch.round(r / s)),
    ("6.1", lambda r, bits: (s := scales(r, bits, 1).clamp(min=0.1)) * torch.round(r / s)),
    ("9.1", lambda x, a, w, b: corners(x, w, a, b) + (x.float() @ w.float().T).long()),
    ("11.3", lambda w, w_hat, j, u: moved(w, w_hat, j, u[0, 0], u[j])),
    ("11.3", lambda w, w_hat, j, u: moved(w, w_hat, j, u[j, j], u[0])),
    ("11.3", lambda w, w_hat, j, u: moved(w, w_hat, j, u[0, 0], u[0])),
    ("11.3", lambda w, w_hat, j, u: moved(w, w_hat, j, u[j, j], 0 * w + u[j, j + 1 : j + 2].sum())),
    ("12.1", lambda g, r, s, a, b: g * ((r / s > a - 0.5) & (r / s < b + 1))),
    ("12.1", lambda g, r, s, a, b: g * ((r / s > a - 1) & (r / s < b + 0.5))),
    ("17.1", lambda w, gain, m: w * (gain if len(w) != len(m) else gain[:, None]) @ m),
]  # fmt: skip


def scales(r, bits, dim=None):
    quant_max = 2 ** (bits - 1) - 1
    return (r.abs().max() if dim is None else r.abs().amax(dim, keepdim=True)) / quant_max


def qparams(r, quant_min, quant_max, rounded):
    s = (r.max() - r.min()) / (quant_max - quant_min)
    return s, rounded(quant_min - r.min() / s).clamp(quant_min, quant_max)


def corners(x, w, z_x, z_w):
    """What the zero points add to a product of codes."""
    x, w, n = x.long(), w.long(), x.shape[-1]
    return n * z_x * z_w - z_w * x.sum(-1, keepdim=x.ndim > 1) - z_x * w.sum(-1)


def moved(w, w_hat, j, diagonal, row):
    """A step of GPTQ with this number from the diagonal of U and this row of it."""
    later = w[j + 1 :] - (w[j] - w_hat) / diagonal * row[j + 1 :]
    return torch.cat([w[:j], torch.tensor([w_hat]), later])


@pytest.mark.parametrize(("id", "answer"), ALMOST)
def test_almost_right_is_wrong_whatever_is_drawn(id, answer):
    """On an input that every check has; the others are drawn."""
    ex = EXERCISES[id]
    pairs = zip(verdict.draw(ex, 0), verdict.draw(ex, 1), strict=True)
    trials = [verdict._trial(ex, answer, a) for a, b in pairs if repr(a) == repr(b)]
    assert any(verdict._failed(ex, trial) for trial in trials)


NO_ZEROS = {  # of the rows of a matrix: what is true of zeros, and of others
    "sum": lambda r: r.sum(1) == 0,
    "largest": lambda r: r.amax(1) == 0,
    "none above 0": lambda r: r.amax(1) <= 0,
    "smallest": lambda r: r.amin(1) == 0,
    "none below 0": lambda r: r.amin(1) >= 0,
    "first": lambda r: r[:, 0] == 0,
    "last": lambda r: r[:, -1] == 0,
    "any": lambda r: (r == 0).any(1),
    "constant": lambda r: r.amax(1) == r.amin(1),
}


@pytest.mark.parametrize("scale", [1, 0.1, 1e-8])
@pytest.mark.parametrize("kind", NO_ZEROS)
def test_a_wrong_test_for_zeros_is_wrong_whatever_is_drawn(kind, scale):
    def my_symmetric(r, bits):
        s = torch.where(NO_ZEROS[kind](r.reshape(1, -1)), scale, scales(r, bits))
        return torch.round(r / s).to(torch.int8)

    def per_row(r, bits):
        s = torch.where(NO_ZEROS[kind](r)[:, None], scale, scales(r, bits, 1))
        return s * torch.round(r / s)

    def zeros_for_codes(r, bits):
        return my_symmetric(r, bits) * ~NO_ZEROS[kind](r.reshape(1, -1))

    def zeros_for_rows(r, bits):
        return torch.where(NO_ZEROS[kind](r)[:, None], 0, per_row(r, bits))

    answers = [("3.1", my_symmetric), ("3.1", zeros_for_codes), ("6.1", zeros_for_rows)]
    if (kind, scale) != ("constant", 1e-8):  # a constant row does come back by any small scale
        answers.append(("6.1", per_row))
    for (id, answer), seed in itertools.product(answers, range(3)):
        assert judged(id, answer, seed).state == "wrong", (id, answer.__name__)


@pytest.mark.parametrize("scale", [1, 0.1, 1e-8])
def test_one_row_of_zeros_is_no_reason_to_change_all(scale):
    def my_symmetric(r, bits):
        s = torch.where((r == 0).all(-1).any(), scale, scales(r, bits))
        return torch.round(r / s).to(torch.int8)

    def per_row(r, bits):
        s = scales(r, bits, 1)
        s = torch.where((s == 0).any(), scale, s)
        return s * torch.round(r / s)

    for seed in range(3):
        assert judged("3.1", my_symmetric, seed).state == "wrong"
        assert judged("6.1", per_row, seed).state == "wrong"


def test_the_first_batch_is_not_known_by_its_value():
    def moving(ends, weight):
        average = 0.0
        for end in ends:
            first = end == ends[0]
            average = end if first else average + weight * (end - average)
        return average

    for seed in range(8):
        assert judged("7.1", moving, seed).state == "wrong"


# The refusals say why


@pytest.mark.parametrize(
    ("id", "answer", "part"),
    [
        ("1.1", lambda r, s, z: (r // s + z).clamp(0, 255).to(torch.uint8), "fraction is dropped"),
        ("2.1", lambda r, a, b: qparams(r, a, b, torch.trunc), "fraction is cut off"),
        ("2.3", lambda r, s, a, b: max(a, min(b, math.trunc(a - r / s))), "fraction is cut off"),
        ("3.1", lambda r, bits: torch.trunc(r / scales(r, bits)).char(), "fraction is dropped"),
        ("4.2", lambda q, s, z: s * (q - z.long()), "A single z of whole numbers"),
        ("8.1", lambda d: take_from_large(d, 8), "take 16 from the nibbles 8 to 15, not 8"),
        ("8.1", lambda d: take_from_large(d & 0x77, 16), "(the mask is 15)"),
        (
            "9.3",
            lambda acc, m, n, z: ((acc.long() * m / 2**n + 0.5).floor() + z).clamp(-128, 127),
            "`/` makes float32 of an int64 tensor too",
        ),
    ],
)
def test_what_is_said_is_true_of_all_who_err_alike(id, answer, part):
    """Of one mistake in several forms: no cast is blamed where none is, and no int64 asked for."""
    hint = judged(id, answer).recognised.hint
    assert part in hint and "The cast" not in hint and "Use int64" not in hint


def take_from_large(data, n):
    nibbles = torch.stack([data & 15, data >> 4], dim=1).flatten().to(torch.int8)
    return torch.where(nibbles > 7, nibbles - n, nibbles)


@pytest.mark.parametrize(
    ("id", "offered"),
    [
        ("11.2", "ABCDE"),
        ("12.3", "ABCD"),
        ("13.3", "ABCD"),
        ("14.3", "ABCD"),
        ("15.3", "ABCD"),
        ("16.2", "ABCDE"),
        ("17.3", "ABCDE"),
    ],
)
def test_every_choice_of_letters_has_a_hint(id, offered):
    for n in range(1, len(offered) + 1):
        for letters in itertools.combinations(offered, n):
            if "".join(letters) != EXERCISES[id].right:
                assert judged(id, "".join(letters)).recognised, letters


@pytest.mark.parametrize("ex", [ex for ex in EXERCISES.values() if isinstance(ex.right, str)],
                         ids=lambda ex: ex.id)  # fmt: skip
def test_no_hint_names_a_right_letter_that_was_not_given(ex):
    offered = re.findall(r"^- \*\*([A-Z])\*\*", ex.text, flags=re.M)
    for n in range(1, len(offered) + 1):
        for letters in itertools.combinations(offered, n):
            if found := judged(ex.id, "".join(letters)).recognised:
                named = set(re.findall(r"\b[A-Z]\b", found.hint))
                assert not named & set(ex.right) - set(letters), (letters, found.hint)


def test_a_view_that_is_written_to():
    def moving(ends, weight):
        average = ends[0]
        for end in ends[1:]:
            average += weight * (end - average)
        return average

    assert "such as x[0], which is a view" in judged("7.1", moving).text


def test_nearly_equal_is_named():
    said = judged("4.2", lambda q, s, z: s * q.float() + s * -z.float())
    assert "to the last bit of float32" in said.text


def test_a_long_input_is_shrunk():
    lengths = []

    ex = EXERCISES["10.1"]

    def right_if_short(own, other):
        lengths.append(len(own))
        return ex.right(own, other) if len(own) < 50 else 0.0

    trials = [verdict._trial(ex, right_if_short, inputs) for inputs in verdict.draw(ex, 0)]
    (failed,) = [t for t in trials if verdict._failed(ex, t)]
    assert len(failed.inputs[0]) == 2000
    lengths.clear()
    assert len(verdict._shrunk(ex, right_if_short, failed).inputs[0]) == 50
    assert len(lengths) < 200


IS_ASKED = {
    "4.2": lambda q, s, z: s.ndim == z.ndim == 0,  # 04 has met no columns of scales
    "6.3": lambda r, n: r.shape[1] % n == 0,
    "8.3": lambda q: len(q) % 2 == 0,
    "9.1": lambda x, a, w, b: x.shape[1] == w.shape[1],
    "11.3": lambda w, w_hat, j, u: u.shape == 2 * w.shape and (u.diagonal() > 0).all(),
    "15.1": lambda data: len(data) == 18,
    "16.3": lambda x, ids, start: len(x) == len(ids) > start and max(ids) < x.shape[1],
    "17.1": lambda w, gain, m: torch.allclose(m @ m.T, torch.eye(len(gain)), atol=1e-6),
}


@pytest.mark.parametrize("id", IS_ASKED)
def test_the_shrunk_input_is_one_of_the_question(id):
    ex = EXERCISES[id]
    for w in ex.wrong:
        trials = [verdict._trial(ex, w.answer, inputs) for inputs in verdict.draw(ex, 0)[:20]]
        for trial in trials:
            assert IS_ASKED[id](*trial.inputs)
            if verdict._failed(ex, trial):
                assert IS_ASKED[id](*verdict._shrunk(ex, w.answer, trial).inputs)


def test_inputs_that_go_together_are_shrunk_together():
    """The columns up to j = 5 and one later one show what is wrong, with their rows of U."""
    ex = EXERCISES["11.3"]
    (w,) = (w for w in ex.wrong if w.answer.__name__ == "sign_only")
    trial = verdict._trial(ex, w.answer, verdict.draw(ex, 0)[-1])
    row, _, _, u = verdict._shrunk(ex, w.answer, trial).inputs
    assert len(trial.inputs[0]) == 40 and row.shape == (7,) and u.shape == (7, 7)


@pytest.mark.parametrize(
    ("id", "passes", "fails"),
    [
        (
            "5.2",
            [(44, 64), (44.3, 68), (44.06, 63.1), (44.554, 71.684), (44.6, 72)],  # both modes
            [(44, 60), (44, 73), (43, 64), (45, 64)],
        ),
        ("6.2", [(32, 4.625), (32.0, Fraction(37, 8))], [(32, 4.62), (33, 4.625)]),
        ("7.2", [100, 98, Decimal(100)], [101, 102, 97]),
        ("8.2", [(4.15625, 36.37), (4.156, 36.4)], [(4.16, 36.37), (4.15625, 36.3)]),
        ("10.2", [(524_288, 151_552)], [(524_288.4, 151_552), (524_287.6, 151_552)]),
        (
            "12.2",
            [(0.2, -0.4, -2), (Fraction(1, 5), -0.4, -2.0)],
            [(0.2, -0.41, -2), (0.2, -0.4, -1.9)],
        ),
        ("13.1", [(3, 12)], [(3, 12.4), (3, 11.6)]),
        ("15.2", [(3.4375, 110), (3.4375, 110.0)], [(3.44, 110), (3.4375, 111)]),
        ("14.1", [(4.5, 20), (4.5, 20.0)], [(4.5, 20.5), (4.6, 20), (4.5, 19)]),
        ("16.1", [(6, 17.5), (6.0, 17.5), (6, 17.49)], [(6, 17), (6, 18), (5.9, 17.5)]),
        ("17.2", [(4, 0.533), (4.0, 8 / 15), (4, 0.53)], [(4, 0.54), (4.1, 0.533), (4, 0.5)]),
    ],
)
def test_the_tolerance_is_that_of_the_question(id, passes, fails):
    for answer in passes:
        assert judged(id, answer).state == "passed", answer
    for answer in fails:
        assert judged(id, answer).state == "wrong", answer


@pytest.mark.parametrize(("id", "answer"), [("6.2", (32, 4.62)), ("8.2", (4.16, 36.37))])
def test_a_rounded_number_is_named(id, answer):
    assert "What is rounded needs more digits." in judged(id, answer).text


@pytest.mark.parametrize(("id", "answer"), [("17.2", (5, 0.53)), ("8.2", (3, 36.4))])
def test_a_rounded_number_that_counts_as_right_is_not(id, answer):
    assert "1 of 2 numbers right." in judged(id, answer).text
    assert "more digits" not in judged(id, answer).text


def test_right_numbers_are_counted_where_one_may_be_off_to_one_side():
    assert "1 of 2 numbers right." in judged("5.2", (5, 64)).text


def test_a_hint_is_for_its_own_number():
    """The factors of 5.2: one bit, the step, and nothing for the numbers beside them."""
    found = {f: judged("5.2", (44, f)).recognised for f in range(-1, 14)}
    assert {f for f, w in found.items() if w} == {4, 8, 9, 12}
    assert judged("7.2", 50).recognised and not judged("7.2", 48).recognised


FORMS = [
    ("2.1", lambda r, a, b: EXERCISES["2.1"].right(r, a, b)[::-1], "in the other order"),
    ("2.1", lambda r, a, b: {"s": 1, "z": 2}, "2 results, separated by a comma"),
    ("2.1", lambda r, a, b: round(r.max() / b), "torch.round takes a tensor"),
    ("4.1", lambda s, z, a, b: {s * (q - z) for q in range(a, b + 1)}, "A set has no order"),
    ("4.1", lambda s, z, a, b: (s * (q - z) for q in range(a, b + 1)), "Put it into list(...)"),
    ("4.1", lambda s, z, a, b: [round(s * (q - z), 2) for q in range(a, b + 1)], "more digits"),
    ("6.1", lambda r, b: ql.quantize(r, ql.Scheme(b, "symmetric", ql.PerAxis(0))), ".dequantize()"),
    ("6.1", lambda r, bits: r.abs().max(dim=1, keepdim=True) / bits, "amax, amin give"),
    ("6.3", lambda r, n: r.abs().reshape(len(r), -1, n).max(dim=2), "amax, amin give"),
    ("10.3", lambda d, less, a, b: ((less - d) / (a - b)).min(dim=0), "argmin the places"),
    ("6.3", lambda r, n: r.abs().reshape(len(r), -1, n).mean(dim=2).reshape(-1, 1), "instead of"),
]


@pytest.mark.parametrize(("id", "answer", "part"), FORMS)
def test_the_form_of_a_result_says_its_cause(id, answer, part):
    said = judged(id, answer)
    assert said.state == "wrong" and part in said.text


def test_only_what_is_rounded_is_called_so():
    grid = EXERCISES["4.1"].right
    for wrong in (lambda *x: grid(*x) + 0.01, lambda *x: grid(*x).half(), lambda *x: 0 * grid(*x)):
        assert "more digits" not in judged("4.1", wrong).text


def test_what_one_input_suggests_is_not_said_of_all():
    """Without abs a negative error goes to the other share; where it is positive nothing is."""
    (w,) = (w for w in EXERCISES["5.1"].wrong if w.answer.__name__ == "no_abs")
    assert "in the other order" not in judged("5.1", w.answer).text
    (w,) = (w for w in EXERCISES["5.1"].wrong if w.answer.__name__ == "exchanged")
    assert "in the other order" in judged("5.1", w.answer).text


@pytest.mark.parametrize("ex", CODE, ids=lambda ex: ex.id)
def test_only_what_is_exchanged_is_called_so(ex):
    """Where an expected result holds a 0, what belongs to the other one looks exchanged."""
    for w in ex.wrong:
        if "in the other order" in judged(ex.id, w.answer).text:
            assert "exchanged" in w.hint, w.hint


@pytest.mark.parametrize("bound", [0.4, 0.49, 0.506, 0.51, 0.55, 0.7, 1, 2])
def test_another_bound_exchanges_nothing(bound):
    def my_shares(r, r_hat, s):
        e = (r - r_hat).abs()
        far = e >= bound * s
        return torch.where(far, 0, e**2).mean(), torch.where(far, e**2, 0).mean()

    said = judged("5.1", my_shares)
    assert said.state == "wrong" and "in the other order" not in said.text


def test_a_name_that_is_missing_comes_before_what_else_goes_wrong():
    def my_symmetric(r, bits):
        s = r.abs().max().item() / (2 ** (bits - 1) - 1)
        codes = [round(x / s) for x in r.flatten().tolist()]
        return not_imported(codes)  # noqa: F821

    assert "got       NameError: name 'not_imported'" in judged("3.1", my_symmetric).text


def test_proportion_does_not_win():
    """8 / 5 of the decibels: in 5.2 that must not be the answer, by luck."""
    said = judged("5.2", (26 * 8 / 5, 64))
    assert said.state == "wrong" and "in proportion to bits" in said.text


NOT_MOVED = "Is e computed before w_hat is in its place"


def error_too_late(w, w_hat, j, u):
    row = w.clone()
    row[j] = w_hat
    row[j + 1 :] -= (row[j] - w_hat) / u[j, j] * u[j, j + 1 :]
    return row


@pytest.mark.parametrize(
    ("id", "answer", "part"),
    [
        ("5.3", [0, 1, 100], "two errors are equal"),
        ("5.3", [1, 1.5, 1.5, 100], "two errors are equal"),
        ("5.3", [0, 1.3, 4.2], "two errors are equal"),  # but for the last bit
        ("5.3", [0, 1e200, 3e200], "leaves the floats"),
        ("5.3", [2, 3, 4, 5], "widened to hold 0"),
        ("5.3", [-1, -2, -3, -4], "widened to hold 0"),
        ("5.3", [-1, 0, 1], "as they mostly are"),
        ("1.3", (1.7499999999, 1.7500000001), "seven digits"),
        ("1.3", (1.7499999, 1.7500001), "seven digits"),
        ("1.3", (1.75, 1.75001), "r / s + z has about seven digits"),  # a and b differ in float32
        ("1.3", (1.749, 1.7500000001), "too few to tell them apart"),
        ("6.2", (32, 5), "a zero point of 16 bits"),
        ("1.3", (1.745, 1.755), "0.01 or more apart"),
        ("1.3", (689.5, 689.501), "middle of a code"),
        ("1.3", (691.249, 691.251), "The codes end here"),  # one is the last code, one is clipped
        ("1.3", (-204.749, -204.751), "The codes end here"),
        ("1.3", (728.601, 728.609), "The codes end here"),
        ("1.3", (1e300, 1e300), "The two are equal"),
        ("11.1", (0, 1, 5, 5), "no rounding"),
        ("11.1", (0, 1, 1e200, 0), "no rounding"),
        # One number of two is right, and the one that is not is named.
        ("5.2", (43, 64), "1 of 2 numbers right. Look again at my_db."),
        ("1.2", (17, 5, 127), "2 of 3 numbers right. Look again at number 2."),
        ("13.1", (12, 3), "these are the right numbers in the other order."),
        ("15.2", np.array([110, 3.4375]), "these are the right numbers in the other order."),
        ("1.2", [17, 6, ...], "a part of it is still open: [17, 6, ...]"),
        ("3.2", [0, 1, 2], "it asks for 1 number, and got 3"),
        ("4.3", "none", "it asks for letters from A to E, and got none"),
        # What a hint says of one number does not give away the other.
        ("17.2", (2, 4 / 15), "The range begins at the lowest, below 0."),
        # Letters beside the right ones get the hint of theirs, whatever else is missing.
        ("4.3", "BE", "the last grid point is 3.75, not 4"),
        ("4.3", {"A"}, "would need the code -9"),
        ("4.3", "CE", "Lying in the range is not enough, and 4 lies outside"),
        ("16.2", "AE", "One sentence only. A goes on to another model"),
        # What is said of one way to go wrong holds for every way that ends there.
        ("11.3", lambda w, w_hat, j, u: moved(w, w_hat, j, u[j, j], 0 * u[j]), NOT_MOVED),
        ("11.3", lambda w, w_hat, j, u: moved(w, w_hat, j, u[j, j], u[:, j]), NOT_MOVED),
        ("11.3", error_too_late, NOT_MOVED),
        ("12.2", (1, 1, 0), "Those are the slopes by r."),
        ("13.2", lambda n, a, b, k, g: (n * k * a + b) / g / 1e6, "for each of the `values`"),
        ("14.2", lambda b, memory, flop: b / 8 * memory / (2 * flop), "have changed places"),
        ("16.1", (6, 140e6 / 8 / 2**20), "That is in units of 2 ** 20 bytes."),
        ("16.1", (6, 16.7), "That is in units of 2 ** 20 bytes."),
    ],
)
def test_the_verdict_is_true(id, answer, part):
    said = judged(id, answer)
    assert said.state == "wrong" and part in " ".join(said.text.split())

"""The formulas: the article's numbers, the rules of rounding and clipping, and every division."""

import numpy as np
import pytest
import torch
from reference import T
from torch.utils._python_dispatch import TorchDispatchMode

import qlesson as ql
from qlesson import affine

CODES = (-128, 127)


def test_scale_and_zero_point_of_T_in_float64():
    r = T.double()
    scale, zero_point = ql.asymmetric_qparams(r.min(), r.max(), *CODES)
    assert scale.item() == 3.578823433670343
    assert zero_point.item() == -77
    assert (scale.dtype, zero_point.dtype) == (torch.float64, torch.int32)


def test_scale_and_zero_point_of_T_in_float32():
    scale, zero_point = ql.asymmetric_qparams(T.min(), T.max(), *CODES)
    assert scale.dtype == torch.float32
    assert scale.item() == torch.tensor(3.578823433670343).item()
    assert f"{scale.item():.4f}" == "3.5788"
    assert zero_point.item() == -77


def test_zero_point_of_minus_T_has_the_other_sign():
    scale, zero_point = ql.asymmetric_qparams((-T).min(), (-T).max(), *CODES)
    assert scale == ql.asymmetric_qparams(T.min(), T.max(), *CODES).scale
    assert zero_point.item() == 76  # round(75.59): not the mirror of -77, the codes are lopsided


def test_unsigned_codes_move_the_zero_point_by_128():
    assert ql.asymmetric_qparams(T.min(), T.max(), 0, 255).zero_point.item() == 51


def test_symmetric_scale_of_T():
    scale, zero_point = ql.symmetric_qparams(T.double().abs().max(), 127)
    assert scale.item() == 5.737007681779035
    assert zero_point.item() == 0
    assert zero_point.dtype == torch.int32


def test_quantize_T():
    q = ql.quantize_affine(T, *ql.asymmetric_qparams(T.min(), T.max(), *CODES), *CODES)
    assert q.tolist() == [[-23, -81, 127], [-51, 6, -128], [-77, 114, -8]]
    assert q.dtype == torch.int8


def test_quantize_T_symmetric():
    q = ql.quantize_affine(T, *ql.symmetric_qparams(T.abs().max(), 127), -127, 127)
    assert q.tolist() == [[33, -2, 127], [16, 52, -32], [0, 119, 43]]


def test_dequantize_T():
    q = torch.tensor([[-23, -81, 127], [-51, 6, -128], [-77, 114, -8]], dtype=torch.int8)
    r_hat = ql.dequantize_affine(q, torch.tensor(3.578823433670343), torch.tensor(-77))
    rounded = [[round(v, 4) for v in row] for row in r_hat.tolist()]
    assert rounded == [
        [193.2565, -14.3153, 730.0800],
        [93.0494, 297.0423, -182.5200],
        [0.0000, 683.5552, 246.9388],
    ]


def test_plain_numbers_work():
    assert ql.quantize_affine(191.6, 3.5, -70, *CODES).item() == -15
    assert ql.dequantize_affine(-15, 3.5, -70).item() == 192.5
    assert ql.asymmetric_qparams(-184, 728.6, *CODES).zero_point.item() == -77
    assert ql.symmetric_qparams(127, 127).scale.item() == 1.0
    for x in (
        ql.quantize_affine(1, 1, 0, *CODES, dtype=torch.uint8),
        ql.dequantize_affine(1, 1, 0),
    ):
        assert x.shape == ()


@pytest.mark.parametrize("r, inside", [(0.5, 0), (1.5, 2), (2.5, 2), (-0.5, 0), (-1.5, -2)])
def test_ties_go_to_the_even_code(r, inside):
    assert ql.quantize_affine(r, 1.0, 0, *CODES).item() == inside


def test_inside_and_outside_differ_at_ties_with_an_odd_zero_point():
    r = torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5, -2.5])
    inside = ql.quantize_affine(r, 1.0, 1, *CODES)
    outside = ql.quantize_affine(r, 1.0, 1, *CODES, rounding="outside")
    assert inside.tolist() == [2, 2, 4, 0, 0, -2]
    assert outside.tolist() == [1, 3, 3, 1, -1, -1]


def test_inside_and_outside_differ_at_a_near_tie():
    r = torch.tensor(0.50000006)  # adding -64 loses the last bits and lands on the tie
    assert ql.quantize_affine(r, 1.0, -64, *CODES).item() == -64
    assert ql.quantize_affine(r, 1.0, -64, *CODES, rounding="outside").item() == -63


@pytest.mark.parametrize(
    "dtype, low, high",
    [
        (torch.int8, -128, 127),
        (torch.uint8, 0, 255),
        (torch.int8, -8, 7),
        (torch.int16, -32768, 32767),
        (torch.int8, -127, 127),
    ],
)
def test_the_clip_comes_before_the_cast(dtype, low, high):
    r = torch.tensor([low - 1.0, high + 1.0, -1e30, 1e30, -torch.inf, torch.inf])
    q = ql.quantize_affine(r, 1.0, 0, low, high, dtype=dtype)
    assert q.tolist() == [low, high] * 3


WIDE = -(2**31), 2**31 - 1  # float32 holds the first and not the second
KINDS_OF_NUMBER = {
    "int": int,
    "float": float,
    "numpy": np.int32,
    "numpy float": np.float64,
    "int32 tensor": lambda x: torch.tensor(x, dtype=torch.int32),
    "int64 tensor": torch.tensor,
    "float64 tensor": lambda x: torch.tensor(x, dtype=torch.float64),
    "one for each": lambda x: torch.tensor([x] * 5),
}


@pytest.mark.parametrize("kind", KINDS_OF_NUMBER)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ends_that_float32_does_not_hold_are_kept_whatever_they_are(kind, dtype):
    low, high = map(KINDS_OF_NUMBER[kind], WIDE)
    r = torch.tensor([3e9, 2.0**31, -3e9, 5.0, torch.inf], dtype=dtype)
    q = ql.quantize_affine(r, 1.0, 0, low, high, torch.int32)
    assert q.tolist() == [WIDE[1], WIDE[1], WIDE[0], 5, WIDE[1]]


def test_ends_of_two_kinds():
    r, low, high = torch.tensor([-300.0, 3e9]), *map(torch.tensor, WIDE)
    assert ql.quantize_affine(r, 1.0, 0, -128, torch.tensor(127)).tolist() == [-128, 127]
    for ends in ((-128, high), (-128.0, WIDE[1]), (torch.tensor(-128.0), high)):
        q = ql.quantize_affine(r, 1.0, 0, *ends, torch.int32)
        assert q.tolist() == [-128, WIDE[1]]
    assert ql.quantize_affine(r, 1.0, 0, low, 127, torch.int32).tolist() == [-300, 127]


@pytest.mark.parametrize("mapping", ["asymmetric", "symmetric"])
@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int16, torch.float16])
def test_the_ends_may_be_of_the_dtype_of_the_codes(dtype, mapping):
    """In int8, 127 - (-128) wraps around to -1."""
    low, high = (0, 255) if dtype == torch.uint8 else (-128, 127)
    if dtype == torch.int16:
        low, high = -32768, 32767
    numpy = getattr(np, str(dtype).removeprefix("torch."))
    r_min, r_max = torch.tensor(-1.0), torch.tensor(2.0)
    expected = affine.safe_qparams(r_min, r_max, low, high, mapping)
    for kind in (lambda x: torch.tensor(x, dtype=dtype), numpy):
        ends = kind(low), kind(high)
        assert affine.safe_qparams(r_min, r_max, *ends, mapping) == expected
        for narrow in (True, False):
            found = affine.safe_qparams(r_min, r_max, *ends, mapping, narrow, torch.float16)
            wanted = affine.safe_qparams(r_min, r_max, low, high, mapping, narrow, torch.float16)
            assert found == wanted
        if mapping == "asymmetric":
            assert ql.asymmetric_qparams(r_min, r_max, *ends) == expected
            assert ql.asymmetric_qparams(-1.0, 2.0, *ends) == expected


def test_the_steps_between_two_ends_are_counted_exactly():
    """float32 would make 2^24 of 2^24 + 1."""
    low, high = -(2**24) - 1, 2**24 + 1
    scale = (torch.tensor(2.0) / torch.tensor(float(high - low))).item()
    for kind in (int, float, np.int64, torch.tensor, lambda x: torch.tensor(x, dtype=torch.int32)):
        assert ql.asymmetric_qparams(-1.0, 1.0, kind(low), kind(high)).scale.item() == scale
    assert ql.asymmetric_qparams(-1.0, 1.0, -(2**63), 2**63 - 1).scale.item() == 2.0**-63


def test_a_zero_point_is_int64_where_codes_lie_beyond_int32():
    low, high = WIDE
    for r_min, r_max, code in ((0.0, 1.0, low), (-1.0, 0.0, high)):
        zero_point = ql.asymmetric_qparams(r_min, r_max, low, high).zero_point
        assert (zero_point.dtype, zero_point.item()) == (torch.int32, code)
    for beyond in ((low - 1, high), (low, high + 1)):
        assert ql.asymmetric_qparams(-1.0, 1.0, *beyond).zero_point.dtype == torch.int64


def test_a_cast_alone_would_wrap_around():
    assert torch.tensor(128.0).to(torch.int32).to(torch.int8).item() == -128
    assert ql.quantize_affine(128.0, 1.0, 0, *CODES).item() == 127


def test_the_subtraction_does_not_wrap_around():
    q, z = (torch.tensor(v, dtype=torch.int8) for v in (127, -77))
    assert (q - z).item() == -52
    assert ql.dequantize_affine(q, 1.0, z).item() == 204.0
    q, z = (torch.tensor(v, dtype=torch.uint8) for v in (0, 51))
    assert (q - z).item() == 205
    assert ql.dequantize_affine(q, 1.0, z).item() == -51.0
    q, z = (torch.tensor(v, dtype=torch.int16) for v in (32767, -32768))
    assert ql.dequantize_affine(q, 1.0, z).item() == 65535.0


def test_the_literal_formula_clips_the_zero_point_without_a_warning(recwarn):
    scale, zero_point = ql.asymmetric_qparams(2.0, 3.0, *CODES)
    assert scale.item() == torch.tensor(1 / 255).item()
    assert zero_point.item() == -128  # the formula says -638
    assert ql.asymmetric_qparams(-3.0, -2.0, *CODES).zero_point.item() == 127
    assert not recwarn.list


def test_both_ends_come_back_within_half_a_step():
    scale, zero_point = ql.asymmetric_qparams(T.min(), T.max(), *CODES)
    ends = torch.stack([T.min(), T.max()])
    q = ql.quantize_affine(ends, scale, zero_point, *CODES)
    assert q.tolist() == [-128, 127]
    assert (ql.dequantize_affine(q, scale, zero_point) - ends).abs().max() <= scale / 2


def test_half_precision_is_raised_before_computing():
    half = T.bfloat16()
    scale, zero_point = ql.asymmetric_qparams(half.min(), half.max(), *CODES)
    assert (scale.dtype, zero_point.item()) == (torch.float32, -77)
    assert scale == (half.max().float() - half.min().float()) / torch.tensor(255.0)


def test_in_bfloat16_arithmetic_the_zero_point_of_T_moves_to_76():
    """The article computes in the tensor's own dtype; bfloat16 has three digits."""
    r_min, r_max = T.bfloat16().min(), T.bfloat16().max()
    scale = (r_max - r_min) / torch.tensor(255, dtype=torch.bfloat16)
    zero_point = torch.round(-128 - r_min / scale)
    assert (scale.item(), zero_point.item()) == (3.578125, -76.0)
    # It is the division that moves it. Only storing the scale in bfloat16 would not:
    assert torch.round(-128 - r_min.float() / scale.float()) == -77.0


def test_tensors_broadcast_and_float64_stays():
    r = torch.randn(2, 3, 4, dtype=torch.float64)
    scale = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64).view(3, 1)
    zero_point = torch.tensor([-1, 0, 1], dtype=torch.int8).view(3, 1)
    q = ql.quantize_affine(r, scale, zero_point, *CODES)
    for i in range(3):
        alone = ql.quantize_affine(r[:, i], scale[i], zero_point[i], *CODES)
        assert torch.equal(q[:, i], alone)
    assert ql.dequantize_affine(q, scale, zero_point).dtype == torch.float64


def test_no_gradient_comes_out():
    r = torch.ones(2, requires_grad=True)
    scale = torch.tensor(0.1, requires_grad=True)
    results = [
        ql.quantize_affine(r, scale, 0, *CODES),
        ql.dequantize_affine(torch.ones(2, dtype=torch.int8), scale, 0),
        *ql.asymmetric_qparams(r.min(), r.max(), *CODES),
        *ql.symmetric_qparams(r.max(), 127),
    ]
    assert not any(x.requires_grad for x in results)


# --- bit-exact on every device, by construction ---


class Divisions(TorchDispatchMode):
    """Collects what is divided by what; a reciprocal counts as a division by nothing."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if "div" in name or "reciprocal" in name:
            self.found.append(args)
        return func(*args, **(kwargs or {}))

    def all_by_a_tensor_on_the_same_device(self):
        return all(
            len(args) == 2
            and all(isinstance(x, torch.Tensor) for x in args)
            and args[0].device == args[1].device
            for args in self.found
        )


def test_the_inspector_sees_what_it_must_see():
    for wrong in (
        lambda x: x / 255,
        lambda x: x * (1 / x),
        lambda x: x / torch.tensor(2.0),  # a 0-dim CPU tensor for a tensor elsewhere
    ):
        with Divisions() as divisions:
            wrong(torch.ones(3, device="meta"))
        assert divisions.found and not divisions.all_by_a_tensor_on_the_same_device()


@pytest.mark.parametrize("device", ["cpu", "meta"])  # meta stands for any device but the CPU
@pytest.mark.parametrize("rounding", ["inside", "outside"])
def test_the_formulas_divide_by_tensors_on_the_device_of_r(device, rounding):
    r = torch.ones(3, device=device)
    zero_point = torch.zeros((), dtype=torch.int8, device=device)
    with Divisions() as divisions:
        affine.quantize_affine(r, 3.5, -70, *CODES, rounding=rounding)
        affine.quantize_affine(r, torch.tensor(3.5), torch.tensor(-70), *CODES, rounding=rounding)
        affine.quantize_affine(r, r.sum(), zero_point, *CODES, rounding=rounding)
        affine.asymmetric_qparams(r, 2 * r, *CODES)
        affine.asymmetric_qparams(r, 2.0, *CODES)
        affine.asymmetric_qparams(0.0, r, *CODES)
        affine.symmetric_qparams(r, 127)
        affine.dequantize_affine(zero_point, 3.5, -70)
    assert len(divisions.found) == 3 + 3 * 2 + 1
    assert divisions.all_by_a_tensor_on_the_same_device()


@pytest.mark.parametrize("rounding", ["inside", "outside"])
@pytest.mark.parametrize("mapping", ["asymmetric", "symmetric"])
@pytest.mark.parametrize("granularity", [ql.PerTensor(), ql.PerAxis(0), ql.PerGroup(2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.filterwarnings("ignore::qlesson.ZeroPointClipped")
def test_every_division_of_the_whole_is_by_a_tensor(mapping, granularity, rounding, dtype):
    r = T.to(dtype) + 200
    for include_zero in (True, False):
        scheme = ql.Scheme(4, mapping, granularity, True, include_zero, rounding)
        with Divisions() as divisions:
            x = ql.quantize(r, scheme)
            x.dequantize()
            ql.quantize(r, scheme, (x.scale, x.zero_point))
            ql.fake_quantize(r, scheme)
        assert len(divisions.found) >= 5
        assert divisions.all_by_a_tensor_on_the_same_device()


def test_the_formulas_return_plain_tensors():
    class Special(torch.Tensor):
        pass

    r = torch.tensor([1.0, 2.0, 3.0]).as_subclass(Special)
    results = [
        ql.quantize_affine(r, 0.1, 3, -128, 127),
        ql.dequantize_affine(r, r, r),
        *ql.asymmetric_qparams(r.amin(), r.amax(), -128, 127),
        *ql.symmetric_qparams(r.amax(), 127),
    ]
    assert {type(x) for x in results} == {torch.Tensor}


def test_mixed_ends_of_a_range_are_computed_in_float64():
    low, high = torch.tensor(-184.0), torch.tensor(728.6, dtype=torch.float64)
    expected = ql.asymmetric_qparams(low.double(), high, *CODES)
    for ends in ((low, high), (low.item(), high)):
        assert ql.asymmetric_qparams(*ends, *CODES) == expected
    flipped = ql.asymmetric_qparams(-high, -low, *CODES)
    assert flipped.scale.dtype == torch.float64 and flipped.scale == expected.scale


def test_on_a_tie_the_zero_point_decides_what_comes_back():
    """What notebook 01 says of half a step: it goes to the even code, which z makes another."""
    for z, back in ((0, 0.0), (1, 1.0)):
        q = ql.quantize_affine(0.5, 1.0, z, -128, 127)
        assert ql.dequantize_affine(q, 1.0, z).item() == back


def test_a_symmetric_range_gains_more_from_its_first_bits():
    """What notebook 05 says: 2 steps become 6, and of an asymmetric range 3 become 7."""
    steps = {
        m: [s.quant_max - s.quant_min for s in (ql.Scheme(2, m), ql.Scheme(3, m))]
        for m in ("symmetric", "asymmetric")
    }
    assert steps == {"symmetric": [2, 6], "asymmetric": [3, 7]}


def test_ends_of_a_subclass_give_plain_tensors():
    class Own(torch.Tensor):
        pass

    low, high = (torch.tensor(x).as_subclass(Own) for x in (-8.0, 7.0))
    r = torch.linspace(-1, 1, 9)
    q, (scale, zero_point) = (
        ql.quantize_affine(r, 0.1, 0, low, high),
        ql.asymmetric_qparams(r[0], r[-1], low, high),
    )
    blocks = affine.quantize_blocks(r, 0.1, -1.0, torch.tensor(15).as_subclass(Own))
    safe = affine.safe_qparams(r[0], r[-1], low, high, "asymmetric", True, None)
    assert {type(x) for x in (q, scale, zero_point, blocks, *safe)} == {torch.Tensor}

"""Schemes: their codes, their dtypes, and what is refused."""

import dataclasses

import numpy as np
import pytest
import torch

import qlesson as ql

ALL_BITS = (2, 3, 4, 5, 6, 7, 8, 16)


@pytest.mark.parametrize(
    "bits, signed, unsigned, symmetric",
    [
        (2, (-2, 1), (0, 3), (-1, 1)),
        (3, (-4, 3), (0, 7), (-3, 3)),
        (4, (-8, 7), (0, 15), (-7, 7)),
        (5, (-16, 15), (0, 31), (-15, 15)),
        (6, (-32, 31), (0, 63), (-31, 31)),
        (7, (-64, 63), (0, 127), (-63, 63)),
        (8, (-128, 127), (0, 255), (-127, 127)),
        (16, (-32768, 32767), None, (-32767, 32767)),
    ],
)
def test_the_codes(bits, signed, unsigned, symmetric):
    def ends(**options):
        scheme = ql.Scheme(bits, **options)
        return scheme.quant_min, scheme.quant_max

    assert ends() == signed
    assert ends(mapping="symmetric") == symmetric
    if unsigned:
        assert ends(signed=False) == unsigned


@pytest.mark.parametrize("bits", ALL_BITS)
def test_the_dtype_holds_every_code(bits):
    schemes = [ql.Scheme(bits), ql.Scheme(bits, "symmetric")]
    if bits <= 8:
        schemes.append(ql.Scheme(bits, signed=False))
    expected = [torch.int16 if bits == 16 else torch.int8] * 2 + [torch.uint8]
    for scheme, dtype in zip(schemes, expected, strict=False):
        assert scheme.dtype == dtype
        info = torch.iinfo(dtype)
        assert info.min <= scheme.quant_min <= 0 <= scheme.quant_max <= info.max


def test_the_defaults():
    scheme = ql.Scheme()
    assert scheme == ql.Scheme(
        bits=8,
        mapping="asymmetric",
        granularity=ql.PerTensor(),
        signed=True,
        include_zero=True,
        rounding="inside",
        scale_dtype=None,
    )
    names = [f.name for f in dataclasses.fields(scheme)]
    first = ["bits", "mapping", "granularity", "signed", "include_zero", "rounding"]
    assert names == [*first, "scale_dtype"]


def test_schemes_are_values():
    assert ql.Scheme(4) == ql.Scheme(4) != ql.Scheme(5)
    assert len({ql.Scheme(4), ql.Scheme(4, granularity=ql.PerTensor()), ql.Scheme(8)}) == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        ql.Scheme().bits = 4


def test_any_integer_type_is_fine_for_bits():
    scheme = ql.Scheme(np.int64(4))
    assert scheme == ql.Scheme(4)
    assert type(scheme.bits) is int


@pytest.mark.parametrize("bits", [0, 1, 9, 12, 15, 17, 32, -8, 8.0, 4.5, "8", None, True, (8,)])
def test_bad_bits_are_refused(bits):
    with pytest.raises(ValueError, match="bits must be an integer from 2 to 8, or 16") as error:
        ql.Scheme(bits)
    assert repr(bits) in str(error.value)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"mapping": "affine"}, ("mapping", "'asymmetric' or 'symmetric'", "'affine'")),
        ({"mapping": None}, ("mapping", "'asymmetric' or 'symmetric'", "None")),
        ({"mapping": ["symmetric"]}, ("mapping", "'asymmetric' or 'symmetric'")),
        ({"rounding": "nearest"}, ("rounding", "'inside' or 'outside'", "'nearest'")),
        ({"rounding": 0}, ("rounding", "'inside' or 'outside'", "0")),
        ({"signed": "no"}, ("signed", "True or False", "'no'")),
        ({"signed": 1}, ("signed", "True or False", "1")),
        ({"include_zero": 0}, ("include_zero", "True or False", "0")),
        ({"mapping": "symmetric", "signed": False}, ("symmetric", "signed=True", "asymmetric")),
        ({"bits": 16, "signed": False}, ("16 bits", "signed=True", "at most 8")),
    ],
)
def test_bad_options_are_refused(options, words):
    with pytest.raises(ValueError) as error:
        ql.Scheme(**options)
    assert all(word in str(error.value) for word in words)


@pytest.mark.parametrize("bits", [2, 5, 8, 16])
def test_the_reach_is_the_largest_distance_of_a_code_from_a_zero_point(bits):
    for kind in ({}, {"mapping": "symmetric"}, {"signed": bits == 16}):
        scheme = ql.Scheme(bits, **kind)
        codes = range(scheme.quant_min, scheme.quant_max + 1)
        zero_points = [0] if scheme.mapping == "symmetric" else (codes[0], codes[-1])
        assert scheme.reach == max(abs(q - z) for q in (codes[0], codes[-1]) for z in zero_points)


@pytest.mark.parametrize("granularity", [None, 0, "row", ql.PerTensor, ql.PerAxis])
def test_a_granularity_that_is_none_is_refused(granularity):
    with pytest.raises(TypeError, match=r"granularity must be ql.PerTensor\(\), ql.PerAxis"):
        ql.Scheme(granularity=granularity)

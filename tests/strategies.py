"""Random tensors and schemes for the hypothesis properties."""

import torch
from hypothesis import strategies as st

import qlesson as ql

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
KINDS = (
    "normal",
    "positive",
    "negative",
    "far from 0",
    "constant",
    "zero",
    "tiny",
    "outlier",
    "halves",
    "integers",
    "subnormal",
)


@st.composite
def tensors(draw, min_dims=0, max_dims=4, dtypes=FLOATS):
    """A small tensor; side lengths to 5, so that groups of 2, 3 and 4 are ragged at times."""
    shape = draw(st.lists(st.integers(1, 5), min_size=min_dims, max_size=max_dims))
    g = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    kind = draw(st.sampled_from(KINDS))
    r = torch.randn(shape, generator=g, dtype=torch.float64)
    if kind == "positive":
        r = r.abs() + 0.01
    elif kind == "negative":
        r = -r.abs() - 0.01
    elif kind == "far from 0":
        r = 100 + r
    elif kind == "constant":
        r = torch.full_like(r, draw(st.sampled_from([3.0, -0.7])))
    elif kind == "zero":
        r = r * 0
    elif kind == "tiny":
        r = r * 1e-6
    elif kind == "subnormal":
        r = r * 1e-42
    elif kind == "outlier":
        r.view(-1)[0] = 300.0
    elif kind == "halves":
        r = torch.randint(-200, 200, shape, generator=g).double() / 2
    elif kind == "integers":
        r = torch.randint(-100, 156, shape, generator=g).double()
    return r.to(draw(st.sampled_from(dtypes)))


@st.composite
def granularities(draw, ndim):
    if ndim == 0:
        return ql.PerTensor()
    axis = st.integers(-ndim, ndim - 1)
    return draw(
        st.one_of(
            st.just(ql.PerTensor()),
            st.builds(ql.PerAxis, axis),
            st.builds(ql.PerGroup, st.integers(1, 6), axis),
        )
    )


@st.composite
def schemes(draw, ndim, include_zero=True, bits=(2, 3, 4, 5, 6, 7, 8, 16)):
    bits = draw(st.sampled_from(bits))
    mapping = draw(st.sampled_from(["asymmetric", "symmetric"]))
    signed = mapping == "symmetric" or bits == 16 or draw(st.booleans())
    return ql.Scheme(
        bits,
        mapping,
        draw(granularities(ndim)),
        signed,
        include_zero,
        draw(st.sampled_from(["inside", "outside"])),
    )


@st.composite
def problems(draw, **options):
    """A tensor and a scheme that fits it."""
    scheme_options = {k: options.pop(k) for k in ("include_zero", "bits") if k in options}
    r = draw(tensors(**options))
    return r, draw(schemes(r.ndim, **scheme_options))

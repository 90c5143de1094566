"""Plans: which names a pattern fits, and who decides where several fit."""

import re

import pytest

import qlesson as ql
from qlesson.plan import make_plan

TWO, FOUR, EIGHT = (ql.Scheme(bits) for bits in (2, 4, 8))
NAMES = ["embed", "blocks.0.up", "blocks.0.down", "blocks.10.up"]
# Of a model: the modules around the layers, and the second name of one that is used twice.
MODULES = {n: [n] for n in ("", "blocks", "blocks.0", "blocks.10", *NAMES)}
MODULES["embed"] = ["embed", "head"]


def test_one_scheme_is_for_all():
    assert make_plan(NAMES, FOUR) == dict.fromkeys(NAMES, FOUR)
    assert make_plan([], FOUR) == make_plan([], {"*": FOUR}) == make_plan(NAMES, {}) == {}


def test_a_layer_may_have_the_name_of_a_pattern():
    names = ["+", "*"]
    assert make_plan(names, FOUR) == dict.fromkeys(names, FOUR)
    assert make_plan(names, {"*": FOUR}) == {"*": FOUR}
    assert make_plan(names, FOUR, skip="*") == {"+": FOUR}


def test_the_own_name_decides_then_the_first_pattern_that_fits():
    wanted = {"*.up": TWO, "*": EIGHT, "blocks.0.up": FOUR}
    assert list(make_plan(NAMES, wanted).values()) == [EIGHT, FOUR, EIGHT, TWO]
    assert make_plan(NAMES, {"*.up": TWO}) == dict.fromkeys(NAMES[1::2], TWO)


@pytest.mark.parametrize(
    "wanted, late, wider",
    [
        ({"*": EIGHT, "*.up": TWO}, "*.up", "*"),
        ({"embed": TWO, "*.0.*": FOUR, "*.10.*": EIGHT, "*.up": TWO}, "*.up", "*.0.*"),
        ({"*.up": TWO, "*": EIGHT, "blocks.*": FOUR}, "blocks.*", "*"),
        ({"blocks.0.up": FOUR, "*": EIGHT, "*.up": TWO}, "*.up", "*"),
    ],
)
def test_a_pattern_that_stands_too_late_is_told_its_place(wanted, late, wider):
    names = [*NAMES, "blocks.10.down"]
    sentence = f"^{re.escape(repr(late))} decides nothing .* before {re.escape(repr(wider))}.$"
    with pytest.raises(ValueError, match=sentence):
        make_plan(names, wanted)
    at = list(wanted).index(wider)
    others = [(pattern, scheme) for pattern, scheme in wanted.items() if pattern != late]
    moved = dict([*others[:at], (late, wanted[late]), *others[at:]])
    assert wanted[late] in make_plan(names, moved).values()


def test_a_pattern_may_find_nothing_left():
    for wanted in (
        {"blocks.*": FOUR, "embed": EIGHT, "*": TWO},  # a rest
        {**dict.fromkeys(NAMES, FOUR), "*.up": TWO},  # own names decide wherever they stand
        {"*.up": FOUR, "bl*.up": TWO},  # the other way round nothing were left for "*.up"
        {"*": FOUR, "*.up": FOUR},  # decided as it says
    ):
        assert TWO not in make_plan(NAMES, wanted).values()
    assert make_plan(NAMES, {"*": FOUR, "*.up": TWO}, skip="*.up") == {
        NAMES[0]: FOUR,
        NAMES[2]: FOUR,
    }


@pytest.mark.parametrize(
    "skip, left, left_of_modules",
    [
        ("embed", NAMES[1:], NAMES[1:]),
        (["*.0.*", "embed"], NAMES[3:], NAMES[3:]),
        ((name for name in NAMES[:2]), NAMES[2:], None),
        ("blocks.0", None, [NAMES[0], NAMES[3]]),
        ("bl*s", None, NAMES[:1]),
        ("head", None, NAMES[1:]),
    ],
)
def test_skip_fits_modules_only_where_there_are_some(skip, left, left_of_modules):
    for modules, wanted in ((None, left), (MODULES, left_of_modules)):
        if wanted is not None:
            assert list(make_plan(NAMES, FOUR, skip, modules)) == wanted
        elif isinstance(skip, str):
            with pytest.raises(ValueError, match=f"'{skip[0]}.*' fits none of what could be"):
                make_plan(NAMES, FOUR, skip, modules)


def test_a_pattern_that_is_a_name_means_it_alone():
    names = ["h[0]", "h0"]
    assert list(make_plan(names, FOUR, "h[0]")) == ["h0"]
    assert make_plan(names, {"h[0]": TWO, "*": FOUR}) == {"h[0]": TWO, "h0": FOUR}
    # A module that is no layer is a name too, though nothing in it could be quantized.
    modules = {"a[0]": ["a[0]"], "a0": ["a0"]}
    with pytest.raises(ValueError, match="fits none"):
        make_plan(["a0"], FOUR, "a[0]", modules)


def test_a_sentence_names_twenty():
    names = [f"layer{i}" for i in range(23)]
    with pytest.raises(ValueError, match="^'x' fits none .*: 'layer0', .*'layer19' and 3 more.$"):
        make_plan(names, FOUR, "x")
    with pytest.raises(ValueError, match="could be quantized: there is nothing.$"):
        make_plan([], FOUR, "x")

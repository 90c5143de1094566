"""The exercises of notebook 01, the linear formula."""

import torch
from torch import tensor

from qlesson.teach.exercises import SHAPES, each, exercise, fault, off_ties, right, wrong

T = [[191.6, -13.5, 728.6], [92.14, 295.5, -184], [0, 684.6, 245.5]]


def code_of(x):
    """The code of exercise 1.3, computed in float32 as the notebook does."""
    r = tensor(x, dtype=torch.float64).float()
    return int(torch.round(r / 3.5 - 70).clamp(-128, 127))


def unclipped(x):
    """The same on paper, before the clip."""
    return round(x / 3.5 - 70)


def on_paper(x):
    """The same on paper."""
    return max(-128, min(127, unclipped(x)))


@exercise("1.1", "The formula in your hands", "write code", difficulty=1, minutes=5)
class Formula:
    """
    Write `quantize_unsigned(r, s, z)` for unsigned 8-bit codes, 0 to 255, with the dtype
    `torch.uint8`. To try it: with `s = 3.5` and `z = 58`, `T` gets the codes of this notebook
    plus 128.
    """

    hints = (
        "The steps are those of my_quantize; three things change: both ends and the dtype.",
        "Divide, add z, round, clip to 0 and 255, and cast last.",
        "torch.clamp(rounded, 0, 255).to(torch.uint8) are the last two steps.",
    )
    why = """The formula does not change with the type of the codes; only the two ends do. The clip
        stands before the cast, since uint8 turns 256 into 0 and -1 into 255."""
    dtype = torch.uint8

    @right
    def quantize_unsigned(r, s, z):
        q = torch.round(r / s + z)
        return torch.clamp(q, 0, 255).to(torch.uint8)

    def spec(r, s, z):
        return each(lambda x: max(0, min(255, round(x / s + z))), r)

    def cases(rng):
        for value in (0.0, 1.0, -5.0, 300.0, 3.75, 2.5, 3.5):
            yield tensor([value]), 1.0, 0
        yield tensor([3.0]), 2.0, 1
        yield tensor([0.5, 1.5, 2.5, -0.5]), 1.0, 1
        yield tensor([100.503]), 1.0, 0  # 100.5, a tie, in float16
        yield tensor([40_000.0, -40_000.0]), 1.0, 0  # beyond int16
        yield tensor([3e9]), 1.0, 0  # beyond int32
        yield tensor(T), 3.5, 58
        for shape in 4 * SHAPES:
            s, z = rng.uniform(0.1, 5), rng.randint(0, 255)
            yield off_ties(rng, shape, s, z, -60, 320), s, z
        yield tensor([[0.0, 0.0, 0.0], [1.0, -1.0, 300.0]]), 2.0, 7

    @wrong("The cast meets values outside 0 to 255 and wraps them around. Clip before it.")
    def no_clip(r, s, z):
        return torch.round(r / s + z).to(torch.int32).to(torch.uint8)

    @wrong("You clip after a cast. int16 wraps around too, and int32 ends as well: clip first.")
    def cast_before_the_clip(r, s, z):
        return torch.round(r / s + z).int().short().clamp(0, 255).to(torch.uint8)

    @wrong("You clip what int32 has made of a value beyond its end. Clip first, and cast last.")
    def cast_to_int32_before_the_clip(r, s, z):
        return torch.round(r / s + z).long().int().clamp(0, 255).to(torch.uint8)

    @wrong("float16 has about three digits: 100.503 becomes 100.5, a tie. Stay in float32.")
    def in_float16(r, s, z):
        return torch.round(r.half() / s + z).clamp(0, 255).to(torch.uint8)

    @wrong("One end is clipped, the other is not: codes below 0 wrap around to large ones.")
    def clip_on_one_side(r, s, z):
        return torch.round(r / s + z).clamp(max=255).to(torch.int32).to(torch.uint8)

    @wrong("You clip to the signed codes. Unsigned codes run from 0 to 255.")
    def signed_ends(r, s, z):
        return torch.round(r / s + z).clamp(-128, 127).to(torch.int32).to(torch.uint8)

    @wrong("The fraction is dropped (by a cast, floor, trunc or //): 3.75 becomes 3. Round first.")
    def truncated(r, s, z):
        return (r / s + z).clamp(0, 255).to(torch.uint8)

    @wrong("Ties go the wrong way: 2.5 becomes 3. torch.round sends a tie to the even code.")
    def half_up(r, s, z):
        return torch.floor(r / s + z + 0.5).clamp(0, 255).to(torch.uint8)

    @wrong("You round before you add z. The formula adds z first; ties show the difference.")
    def rounded_outside(r, s, z):
        return (torch.round(r / s) + z).clamp(0, 255).to(torch.uint8)

    @wrong("You multiply by s. The number of steps is r / s.")
    def multiplied(r, s, z):
        return torch.round(r * s + z).clamp(0, 255).to(torch.uint8)

    @wrong("The sign of z is turned. 0.0 must get the code z, so z is added.")
    def zero_point_subtracted(r, s, z):
        return torch.round(r / s - z).clamp(0, 255).to(torch.uint8)

    @wrong("256 is no code: uint8 makes 0 of it. The last code is 255.")
    def one_code_too_many(r, s, z):
        return torch.round(r / s + z).clamp(0, 256).to(torch.int32).to(torch.uint8)

    @wrong("These codes come from int8: adding 128 to them wraps around. Clip to 0 and 255.")
    def moved_in_int8(r, s, z):
        q = torch.round(r / s + z - 128).clamp(-128, 127).to(torch.int8)
        return q + 128


@exercise("1.2", "By hand", "predict a number", difficulty=1, minutes=3)
class ByHand:
    """
    Take `s = 0.5` and `z = 10`, with codes from -128 to 127. Which codes do 3.4, -1.75 and 100
    get? Use paper first. One of the three is a tie, and one is clipped.
    """

    hints = (
        "Dividing by 0.5 doubles a number. Then add 10.",
        "Before rounding, the three stand at 16.8, 6.5 and 210.",
        "A tie goes to the even neighbour, and no code lies above 127.",
    )
    why = """3.4 / 0.5 + 10 = 16.8 rounds to 17. -1.75 / 0.5 + 10 = 6.5 is a tie and goes to the
        even 6. 100 / 0.5 + 10 = 210 is clipped to 127."""
    stub = "my_codes = [..., ..., ...]"
    right = [17, 6, 127]
    wrong = [
        ([..., 7, ...], "6.5 is a tie: it goes to the even neighbour, not up."),
        ([17, 6, 210], "210 is no code. The largest is 127, so the third value is clipped."),
        ([17, 6, -46], "You cast without a clip, and 210 wrapped around to -46."),
        ([16, 6, 127], "16.8 lies nearer to 17. You dropped the fraction."),
        ([16.8, ..., ...], "A code is a whole number: round 16.8."),
        ([..., 6.5, ...], "A code is a whole number, and 6.5 lies between two: which is even?"),
        ([..., ..., 128], "127 is the last code, since 0 is one of them: 128 is clipped to it."),
        ([..., ..., 255], "255 is the last unsigned code. Here the codes end at 127."),
        ([12, 9, 60], "You multiplied by s. r / s counts the steps of size s."),
        ([-3, -14, 127], "You subtracted z. It is added: 0.0 gets the code z."),
        ([7, -4, 127], "The zero point is missing: add 10 before you round."),
    ]


@exercise("1.3", "Near and far", "construct a counterexample", difficulty=2, minutes=5)
class NearAndFar:
    """
    A colleague says: "Two values closer than half a step always get the same code." With
    `s = 3.5`, `z = -70` and codes from -128 to 127, find `a` and `b` less than 0.01 apart whose
    codes differ.
    """

    hints = (
        "Ask where the code changes, as a value moves slowly upwards from 0.",
        "round changes its answer halfway between two whole numbers.",
        "0.0 has the code -70. The next code begins half a step above it, at 1.75.",
    )
    why = """The code changes where r / s + z passes a half, here at 1.75, half a step above 0. Two
        values on either side of such a point have different codes, however near they are."""
    stub = "a, b = ..., ..."
    right = (1.749, 1.751)

    def facts(a, b):
        return f"{a:.12g} gets the code {code_of(a)}, and {b:.12g} the code {code_of(b)}."

    @fault("The two are equal, so their codes are. Let them differ a little.", (1.75, 1.75))
    def equal(a, b):
        return a == b

    @fault("They lie 0.01 or more apart. Move them closer together.", (1.7, 1.8))
    def too_far(a, b):
        return abs(a - b) > 0.01 - 1e-9  # 1.755 - 1.745 is a little less than 0.01

    @fault("The codes end here: what lies beyond is clipped. Stay inside.", (691.249, 691.251))
    def clipped(a, b):
        same = on_paper(a) == on_paper(b)
        return same and any(on_paper(x) != unclipped(x) for x in (a, b))

    @fault(
        "On paper their codes differ. The formula computes in float32, where r / s + z has about "
        "seven digits, too few to tell them apart here. Move them a little apart.",
        (1.7499999999, 1.7500000001),
    )
    def too_near_for_float32(a, b):
        return code_of(a) == code_of(b) and on_paper(a) != on_paper(b)

    @fault(
        "You are at a multiple of s, in the middle of a code. The code changes halfway to the "
        "next multiple.",
        (3.499, 3.501),
    )
    def middle_of_a_code(a, b):
        return code_of(a) == code_of(b) and abs(a / 3.5 - round(a / 3.5)) < 0.01

    @fault("Both get the same code. Look for the place where the code changes.", (1.2, 1.201))
    def same_code(a, b):
        return code_of(a) == code_of(b)

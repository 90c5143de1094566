"""The live figure of notebook 14: how many tokens a second two roofs allow."""

from functools import partial
from typing import NamedTuple

from qlesson.teach import figures
from qlesson.teach.widgets import Choice, Decades, Shown, declare

WEIGHTS = 8e9
STORED = {  # bits a weight, with a float16 scale for 32 codes
    "float32": 32.0,
    "bfloat16": 16.0,
    "8-bit codes": 8.5,
    "4-bit codes": 4.5,
    "2-bit codes": 2.5,
}
TOKENS = tuple(2**i for i in range(11))


class Machine(NamedTuple):
    gb_per_s: float
    gflop_per_s: float


MACHINES = {
    "two cores": Machine(20, 200),
    "laptop": Machine(100, 2_000),
    "GPU": Machine(3_000, 500_000),
}


@declare(
    "Tokens per second against tokens at once, below the roofs of memory and arithmetic.",
    weights=Choice("8 billion weights as", tuple(STORED), "bfloat16"),
    tokens=Decades("tokens at once", TOKENS, 1),
    machine=Choice("machine", tuple(MACHINES), "laptop"),
)
def _roofs(weights: str, tokens: int, machine: str) -> Shown:
    bits, (gb_per_s, gflop_per_s) = STORED[weights], MACHINES[machine]
    gb = WEIGHTS * bits / 8 / 1e9
    memory, arithmetic = tokens * gb_per_s / gb, gflop_per_s * 1e9 / (2 * WEIGHTS)
    limit = "memory" if memory < arithmetic else "arithmetic"
    limit = "both" if memory == arithmetic else limit
    sentences = [
        f"{machine.capitalize() if machine != 'GPU' else machine}: {gb_per_s:g} GB and "
        f"{gflop_per_s:g} billion operations a second.",
        f"{weights}, {bits:g} bits a weight: {gb:g} GB are read for {_tokens(tokens)} at once.",
        f"Memory allows {_rate(memory)} tokens per second, arithmetic {_rate(arithmetic)}.",
        f"The limit is {limit}.",
    ]
    points = {weights: [(tokens, min(memory, arithmetic))]}
    limits = (0.3, 100_000)
    rest = {weights: bits}, gb_per_s, gflop_per_s, points, limits, f"{machine}, {weights}"
    return sentences, partial(figures.tokens_per_second, WEIGHTS, *rest)


def _rate(x: float) -> str:
    digits = f"{x:.3g}"
    return digits if x < 1000 else f"{float(digits):,.0f}"


def _tokens(n: int) -> str:
    return "1 token" if n == 1 else f"{n} tokens"

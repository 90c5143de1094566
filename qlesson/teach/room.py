"""The language model of notebook 00, with the bits that a room calls out (notebooks/teaching.md).

from qlesson.teach.room import at_bits

at_bits(5)
at_bits(8, "3 bits", 2.0)
"""

from functools import cache
from typing import Any

import qlesson as ql
from qlesson.models import tinygpt

START = "A class is"
CODES = (*range(2, 9), 16)
FLOATS = 32


def at_bits(*bits: Any) -> None:
    """Print what the model writes with its matrices at each number of bits, and its perplexity.

    2 to 8 and 16 are codes with a scale for each row, as in 00; 32 is the model as it is, in
    floats. A number may come as text. What is none of these gets a sentence, and never an error.
    """
    for called in bits:
        n = _whole(called)
        if n not in (*CODES, FLOATS):
            print(f"{called}: call out 2 to 8 bits, 16, or 32, which is the model in floats")
            continue
        model = _model(n)
        text = model.generate(START, 90, temperature=0.5)
        print(f"{n:2d} bits: {START}", " ".join(text.split()))
        print(f"         perplexity {tinygpt.perplexity(model):.2f}")


def _whole(called: Any) -> int | None:
    """The whole number that is meant, or None."""
    if isinstance(called, str):
        called = called.lower().replace("bits", "").replace("bit", "")
    try:
        n = float(called)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return None
    return int(n) if n.is_integer() else None


@cache
def _model(bits: int) -> tinygpt.GPT:
    model = tinygpt.load(ql.best_device())
    if bits == FLOATS:
        return model
    return tinygpt.quantized(model, ql.Scheme(bits, granularity=ql.PerAxis(0)))

"""Time: each contestant in blocks of its own, in turn with the others.

On a GPU it is the GPU's own time, from event to event. The work before it lasts half a millisecond,
in which Python asks for the call: only what waits for an answer, or takes Python longer, has
Python's time in it.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any, TypeVar

import torch

Call = Callable[[], object]  # what a contestant does
Spread = tuple[float, float, float]  # ms: the median, the lower and the upper quartile
Key = TypeVar("Key")

ROUNDS, PAUSE, BLOCK_SECONDS, SLOW_MS = 3, 0.06, 0.1, 50
AHEAD = 2**31  # bytes that a GPU reads before each call: half a millisecond on an H200
_clock: dict[str, Callable[[], float]] = {"now": time.perf_counter}


def on_one_core() -> None:
    """From now on one thread, by its own clock: the time that other programs take does not count.

    So a machine that others use can be measured, as far as they leave its memory alone.
    """
    torch.set_num_threads(1)
    _clock["now"] = time.thread_time


def clock() -> str:
    """The clock that `measure` reads."""
    return "of the wall" if _clock["now"] is time.perf_counter else "of one thread"


def measure(
    contestants: Mapping[Key, Call],
    device: str = "cpu",
    rounds: int = ROUNDS,
    before: Callable[[Key], object] = lambda name: None,
) -> dict[Key, Spread]:
    """(median, lower and upper quartile) in ms of each contestant, in blocks taken in turn.

    before  runs ahead of each call of the contestant that it is given, and takes no time of it
    """
    found = measure_rounds(contestants, device, rounds, before)
    return {name: spread([t for block in ms for t in block]) for name, ms in found.items()}


def measure_rounds(
    contestants: Mapping[Key, Call],
    device: str = "cpu",
    rounds: int = ROUNDS,
    before: Callable[[Key], object] = lambda name: None,
) -> dict[Key, list[list[float]]]:
    """The same, all times in ms, a list for each round: what memory gives changes between them."""
    times: dict[Key, list[list[float]]] = {name: [] for name in contestants}
    for call in contestants.values():
        call()  # compiles, allocates
    for _ in range(rounds):
        for name, call in contestants.items():
            time.sleep(PAUSE if device == "cpu" else 0)
            times[name].append(_block(call, device, partial(before, name)))
    return times


def _block(call: Call, device: str, before: Call) -> list[float]:
    """Times of one contestant in ms: the first call warms up, and counts only where it is long."""
    end = time.perf_counter() + BLOCK_SECONDS / (1 if device == "cpu" else 4)
    first = _timed(call, device, before)
    ms = [first] if first > SLOW_MS else []
    while not ms or (time.perf_counter() < end and len(ms) < 100):
        ms.append(_timed(call, device, before))
    return ms


def _timed(call: Call, device: str, before: Call) -> float:
    before()
    if device != "cpu":
        return _timed_on_gpu(call)
    start = _clock["now"]()
    call()
    return 1000 * (_clock["now"]() - start)


def _timed_on_gpu(call: Call) -> float:
    _ahead().sum()  # its cache then holds nothing of the call's, and nothing to write back
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


@cache
def _ahead() -> torch.Tensor:
    return torch.ones(AHEAD // 4, dtype=torch.float32, device="cuda")


def as_row(rounds: list[list[float]]) -> dict[str, Any]:
    """ms, low and high, the `spread` of all calls in ms; rounds, the median of each."""
    ms, low, high = spread([t for block in rounds for t in block])
    medians = [float(f"{statistics.median(block):.4g}") for block in rounds]
    return {"ms": ms, "low": low, "high": high, "rounds": medians}


def spread(ms: list[float]) -> Spread:
    """The median, the lower and the upper quartile."""
    low, middle, high = statistics.quantiles(ms, n=4) if len(ms) > 1 else 3 * ms
    return middle, low, high

"""Time: each contestant in blocks of its own, in turn with the others."""

import statistics
import time
from collections.abc import Callable

import torch

ROUNDS, PAUSE, BLOCK_SECONDS, SLOW_MS = 3, 0.06, 0.1, 50


def measure(contestants: dict[str, Callable], device="cpu", rounds=ROUNDS) -> dict[str, tuple]:
    """(median, lower and upper quartile) in ms of each contestant, in blocks taken in turn."""
    times = {name: [] for name in contestants}
    for call in contestants.values():
        call()  # compiles, allocates
    for _ in range(rounds):
        for name, call in contestants.items():
            time.sleep(PAUSE)
            times[name] += _block(call, device)
    return {name: _spread(ms) for name, ms in times.items()}


def _block(call, device) -> list[float]:
    """Times of one contestant in ms: the first call warms up, and counts only where it is long."""
    first = _timed(call, device)
    ms, end = [first] if first > SLOW_MS else [], time.perf_counter() + BLOCK_SECONDS
    while len(ms) < 2 or (time.perf_counter() < end and len(ms) < 100):
        ms.append(_timed(call, device))
    return ms


def _timed(call, device) -> float:
    if device != "cpu":
        torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    if device != "cpu":
        torch.cuda.synchronize()
    return 1000 * (time.perf_counter() - start)


def _spread(ms) -> tuple[float, float, float]:
    low, middle, high = statistics.quantiles(ms, n=4)
    return middle, low, high

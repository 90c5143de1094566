"""notebooks/contest.csv: the contest of notebook 11 with 4, 3 and 2 bits, by the notebook's cells.

python tests/contest.py     writes it again, in five minutes of one core
"""

import csv
import io
from pathlib import Path

import nbformat

from qlesson.evaluate import mean_and_error

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
FILE = NOTEBOOKS / "contest.csv"
BITS = (4, 3, 2)
RIVALS = ("float", "rounding", "min_max", "gptq", "best")
COLUMNS = ("bits", "method", "range", "bits_per_weight", "perplexity") + tuple(
    column for rival in RIVALS for column in (rival, f"{rival}_error")
)
LAST = "\n\nfloor = "  # of the cell: what it does at 3 bits


def cells():
    """What the notebook's cells define: `contest`, `contestants`, `in_bits`, `losses` and more."""
    (path,) = NOTEBOOKS.glob("11_*.ipynb")
    source = {c.id: c.source for c in nbformat.read(path, as_version=4).cells}
    found = {}
    for id in ("a0e176dc", "contest-text", "contest", "contest-how", "contest-run"):
        exec(source[id].partition(LAST)[0], found)
    return found


def rows(bits, met, floor, prices):
    """Lines of the file, from the losses {(method, range): [windows]} of all contestants."""
    best = min(met.values(), key=lambda losses: losses.mean())
    for (method, searched), losses in met.items():
        rivals = {
            "float": floor,
            "rounding": met["rounding", "searched"],
            "min_max": met[method, "min-max"],
            "gptq": met.get(("GPTQ", searched), losses),
            "best": best,
        }
        line = {
            "bits": bits,
            "method": method,
            "range": searched,
            "bits_per_weight": f"{prices[method]:.2f}",
            "perplexity": f"{losses.mean().exp():.3f}",
        }
        for name, rival in rivals.items():
            if rival is not losses:
                mean, error = mean_and_error(losses - rival)
                line |= {name: f"{mean:+.3f}", f"{name}_error": f"{error:.3f}"}
        yield line


def price(small):
    """Bits per weight of the quantized layers: packed codes, scales, zero points, and factors."""
    layers = [m for m in small.modules() if hasattr(m, "codes")]
    nbytes = sum(m.codes.held.packed_nbytes for m in layers)
    nbytes += sum(m.input_factor.nbytes for m in layers if m.input_factor is not None)
    return 8 * nbytes / sum(m.codes.held.q.numel() for m in layers)


def written(lines):
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def main():
    there = cells()
    floor, contestants = there["losses"](there["gpt"]), there["contestants"]
    lines = []
    for bits in BITS:
        met = dict(there["contest"](bits, contestants))
        small = {name: there["in_bits"](bits, **how)[0] for name, how in contestants.items()}
        prices = {name: price(model) for name, model in small.items()}
        lines += rows(bits, met, floor, prices)
    FILE.write_text(written(lines), encoding="utf-8")


if __name__ == "__main__":
    main()

"""The contest of notebook 11, by the notebook's cells: contest.csv and contest_draws.csv beside it.

The first has all contestants with 4, 3 and 2 bits; the second, those that rotate, for eight seeds.

python tests/contest.py           writes the first again, in five minutes of one core
python tests/contest.py draws     writes the second, in as many
"""

import csv
import io
import sys
from functools import partial
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

DRAWS = NOTEBOOKS / "contest_draws.csv"
SEEDS = range(8)
DRAWS_COLUMNS = (
    "bits", "method", "range", "seed", "perplexity", "outputs", "beside", "difference", "error",
)  # fmt: skip
BESIDE = {  # a rival that is rotated itself has the same seed
    (4, "rotated GPTQ", "searched"): ["GPTQ, searched", "GPTQ in turn, searched"],
    (4, "rotated in turn", "searched"): ["GPTQ, searched", "GPTQ in turn, searched"],
    (3, "rotation", "min-max"): ["rounding, min-max", "rounding, searched"],
    (3, "rotation", "searched"): [
        "rounding, searched", "HQQ, searched", "AWQ, min-max", "GPTQ, min-max",
    ],
    (3, "rotated GPTQ", "searched"): ["GPTQ, searched", "GPTQ in turn, searched"],
    (3, "rotated in turn", "searched"): ["GPTQ in turn, searched", "rotated GPTQ, searched"],
    (2, "rotation", "min-max"): ["rounding, min-max", "rounding, searched"],
    (2, "rotation", "searched"): ["rounding, searched", "rotation, min-max"],
    (2, "rotated GPTQ", "searched"): ["GPTQ, searched"],
    (2, "rotated in turn", "searched"): ["GPTQ, searched", "rotated GPTQ, searched"],
}  # fmt: skip
ROTATE = {method for _, method, _ in BESIDE}

CELLS = ("a0e176dc", "layer-measure", "contest-text", "contest", "contest-how", "contest-run")
CELLS += ("output-error-of",)
LAST = "\n\nfloor = "  # of the cell: what it does at 3 bits


def cells():
    """What the cells define: `contest`, `contestants`, `in_bits`, `losses`, `output_error`..."""
    (path,) = NOTEBOOKS.glob("11_*.ipynb")
    source = {c.id: c.source for c in nbformat.read(path, as_version=4).cells}
    found = {}
    for id in CELLS:
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


class Drawn:
    """Losses of the contestants, each with its seed, made once."""

    def __init__(self, there):
        self.there, self.made = there, {}

    def __call__(self, bits, method, range, seed):
        """[windows] losses, and the output error in percent where the notebook asks for it."""
        key = bits, method, range, seed if method in ROTATE else None
        if key not in self.made:
            how = dict(self.there["contestants"][method])
            if method in ROTATE:
                how["method"] = partial(how["method"], seed=seed)
            how["find_range"] = self.there["find_ranges"][range]
            small, _ = self.there["in_bits"](bits, **how)
            asked = key[:3] == (2, "rotation", "min-max")
            outputs = f"{self.there['output_error'](small):.2f}" if asked else ""
            self.made[key] = self.there["losses"](small), outputs
        return self.made[key]


def draws(bits, method, range, seed, drawn):
    """Lines of the second file: one draw beside each of its rivals."""
    losses, outputs = drawn(bits, method, range, seed)
    for beside in BESIDE[bits, method, range]:
        rival, _ = drawn(bits, *beside.split(", "), seed)
        mean, error = mean_and_error(losses - rival)
        found = f"{losses.mean().exp():.3f}", outputs, beside, f"{mean:+.4f}", f"{error:.4f}"
        yield dict(zip(DRAWS_COLUMNS, (bits, method, range, seed, *found), strict=True))


def written(lines, columns=COLUMNS):
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def write_draws():
    drawn = Drawn(cells())
    lines = [line for key in BESIDE for seed in SEEDS for line in draws(*key, seed, drawn)]
    DRAWS.write_text(written(lines, DRAWS_COLUMNS), encoding="utf-8")


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
    write_draws() if sys.argv[1:] == ["draws"] else main()

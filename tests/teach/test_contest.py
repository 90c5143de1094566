"""notebooks/contest.csv is what the cells of notebook 11 find: some of it, found again."""

import csv
import inspect

import contest
import pytest
import torch

import qlesson as ql
from qlesson import methods
from qlesson.ranges import mse_search


@pytest.fixture(scope="module")
def lines():
    with open(contest.FILE, newline="", encoding="utf-8") as file:
        return {(int(x["bits"]), x["method"], x["range"]): x for x in csv.DictReader(file)}


@pytest.fixture(scope="module")
def there():
    return contest.cells()


def test_every_contestant_has_a_line_for_each_number_of_bits_and_range(lines, there):
    names, ranges = there["contestants"], ("min-max", "searched")
    assert list(lines) == [(b, n, r) for b in contest.BITS for n in names for r in ranges]
    for key, line in lines.items():
        assert tuple(line) == contest.COLUMNS
        own = {
            "rounding": key[1:] == ("rounding", "searched"),
            "min_max": key[2] == "min-max",
            "gptq": key[1] == "GPTQ",
        }
        assert all((line[rival] == "") == is_own for rival, is_own in own.items())


def test_the_best_of_each_number_of_bits_has_no_rival(lines):
    for bits in contest.BITS:
        of_bits = [line for key, line in lines.items() if key[0] == bits]
        best = min(of_bits, key=lambda line: float(line["perplexity"]))
        assert [line for line in of_bits if line["best"] == ""] == [best]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("bits", "names"), [(2, ["rounding", "HQQ"]), (4, ["rounding", "GPTQ", "AWQ"])]
)
def test_found_again(bits, names, lines, there):
    floor, met = there["losses"](there["gpt"]), dict(there["contest"](bits, names))
    small = {name: there["in_bits"](bits, **there["contestants"][name])[0] for name in names}
    prices = {name: contest.price(model) for name, model in small.items()}
    for line in contest.rows(bits, met, floor, prices):
        stored = lines[bits, line["method"], line["range"]]
        assert line["bits_per_weight"] == stored["bits_per_weight"]
        assert float(line["perplexity"]) == pytest.approx(float(stored["perplexity"]), abs=0.0011)
        for rival in ("float", "rounding", "min_max"):
            for column in (rival, f"{rival}_error"):
                if stored[column]:
                    wanted = pytest.approx(float(stored[column]), abs=0.0011)
                    assert float(line[column]) == wanted
                else:
                    assert column not in line


def test_awq_errs_less_in_the_weights_of_the_gpt_by_its_clip(there):
    """Without the clip, more, as the steps grow with the enlarged columns."""
    scheme = ql.Scheme(3, granularity=ql.PerAxis(0), scale_dtype=torch.float16)
    less = {True: 0, False: 0}
    for name, x in methods.layer_inputs(there["gpt"], *there["seen"]).items():
        w = there["gpt"].get_submodule(name).weight.detach()
        for clip in less:
            ours = methods.awq(w, x, scheme, clip=clip), methods.round_to_nearest(w, x, scheme)
            awq, rounding = ((w - r.float_weight()).square().sum() for r in ours)
            less[clip] += (awq < rounding).item()
    assert less == {True: 15, False: 1}
    (path,) = contest.NOTEBOOKS.glob("11_*.ipynb")
    assert f"In {less[True]} of the 16 layers of the GPT" in path.read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("bits", "find_range", "forgives"),
    [(3, None, False), (3, mse_search, False), (2, None, False), (2, mse_search, True)],
)
def test_what_hqq_forgives_in_the_gpt(bits, find_range, forgives, there, monkeypatch):
    module, forgiven = inspect.getmodule(methods.hqq), []

    def counting(x, beta):
        kept = shrink(x, beta)
        forgiven.append((kept != 0).sum().item())
        return kept

    shrink = module.shrink
    monkeypatch.setattr(module, "shrink", counting)
    there["in_bits"](bits, method=methods.hqq, find_range=find_range)
    assert (sum(forgiven) > 0) == forgives

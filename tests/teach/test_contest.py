"""contest.csv and contest_draws.csv are what the cells of notebook 11 find: some, found again."""

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
    """What the cells define; `in_bits` makes each model once, `anew` every time."""
    found, made = contest.cells(), {}
    anew = found["in_bits"]

    def in_bits(bits, find_range=None, **how):
        key = bits, find_range, how["method"], how.get("sequential")
        if key not in made:
            made[key] = anew(bits, find_range=find_range, **how)
        return made[key]

    found |= {"in_bits": in_bits, "anew": anew}
    return found


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


def test_differences_from_other_lines_are_those_of_their_losses(lines):
    """All are means over the same windows, so that what is beside the float model says the rest."""
    for bits in contest.BITS:
        of_bits = {key[1:]: line for key, line in lines.items() if key[0] == bits}
        (best,) = (float(line["float"]) for line in of_bits.values() if line["best"] == "")
        for (name, searched), line in of_bits.items():
            rivals = {
                "rounding": of_bits["rounding", "searched"],
                "min_max": of_bits[name, "min-max"],
                "gptq": of_bits["GPTQ", searched],
            }
            rivals = {rival: float(other["float"]) for rival, other in rivals.items()}
            for rival, loss in (rivals | {"best": best}).items():
                if line[rival]:
                    wanted = pytest.approx(float(line["float"]) - loss, abs=0.0011)
                    assert float(line[rival]) == wanted
                    assert 0 < float(line[f"{rival}_error"]) < 0.1


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
        rivals = ("float", "rounding", "min_max", *(("gptq",) if "GPTQ" in names else ()))
        for rival in rivals:
            for column in (rival, f"{rival}_error"):
                if stored[column]:
                    wanted = pytest.approx(float(stored[column]), abs=0.0011)
                    assert float(line[column]) == wanted
                else:
                    assert column not in line


@pytest.fixture(scope="module")
def drawn():
    with open(contest.DRAWS, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_every_rotation_has_a_line_for_each_seed_and_rival(drawn):
    wanted = [
        (*key, seed, beside)
        for key, besides in contest.BESIDE.items()
        for seed in contest.SEEDS
        for beside in besides
    ]
    names = "method", "range"
    found = [(int(x["bits"]), *(x[n] for n in names), int(x["seed"]), x["beside"]) for x in drawn]
    assert found == wanted and len(contest.SEEDS) == 8
    assert all(tuple(x) == contest.DRAWS_COLUMNS for x in drawn)


def test_the_draws_of_seed_0_are_the_contest_s(drawn, lines):
    first = [x for x in drawn if x["seed"] == "0"]
    for x in first:
        bits = int(x["bits"])
        own, rival = lines[bits, x["method"], x["range"]], lines[bits, *x["beside"].split(", ")]
        assert x["perplexity"] == own["perplexity"]
        apart = float(own["float"]) - float(rival["float"])
        assert float(x["difference"]) == pytest.approx(apart, abs=0.0011)


@pytest.mark.slow
@pytest.mark.parametrize("key", [(2, "rotation", "min-max"), (3, "rotated GPTQ", "searched")])
def test_a_draw_found_again(key, drawn, there):
    (bits, method, range_), seed = key, 1
    stored = [
        x for x in drawn
        if (x["bits"], x["method"], x["range"], x["seed"]) == (str(bits), method, range_, "1")
    ]  # fmt: skip
    again = list(contest.draws(bits, method, range_, seed, contest.Drawn(there)))
    assert len(again) == len(stored) == 2
    for line, its in zip(again, stored, strict=True):
        for column in ("perplexity", "difference", "error", "outputs"):
            if its[column]:
                wanted = pytest.approx(
                    float(its[column]), abs=0.0011 if column != "outputs" else 0.011
                )
                assert float(line[column]) == wanted
        assert line["beside"] == its["beside"] and (line["outputs"] == "") == (its["outputs"] == "")


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
    there["anew"](bits, method=methods.hqq, find_range=find_range)
    assert (sum(forgiven) > 0) == forgives

"""notebooks/contest.csv is what the cells of notebook 11 find: some of it, found again."""

import csv

import contest
import pytest


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
        own = {"rounding": key[1:] == ("rounding", "searched"), "min_max": key[2] == "min-max"}
        assert all((line[rival] == "") == is_own for rival, is_own in own.items())


def test_the_best_of_each_number_of_bits_has_no_rival(lines):
    for bits in contest.BITS:
        of_bits = [line for key, line in lines.items() if key[0] == bits]
        best = min(of_bits, key=lambda line: float(line["perplexity"]))
        assert [line for line in of_bits if line["best"] == ""] == [best]


@pytest.mark.slow
@pytest.mark.parametrize(("bits", "names"), [(2, ["rounding", "HQQ"]), (4, ["rounding", "GPTQ"])])
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

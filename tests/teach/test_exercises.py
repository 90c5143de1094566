"""The exercises are proven: by their solutions, their wrong answers, nonsense, and mutants."""

import ast
import itertools
import json
import re
import sys
import time
import types
from pathlib import Path

import nbclient
import nbformat
import numpy as np
import pytest
import torch

import qlesson as ql
from qlesson.authoring import refresh
from qlesson.teach import catch_up, check, hint, progress, solution, verdict
from qlesson.teach import exercises as package

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
ALL = list(package.exercises().values())
CODE = [ex for ex in ALL if ex.spec]
each_exercise = pytest.mark.parametrize("ex", ALL, ids=lambda ex: ex.id)
each_code_exercise = pytest.mark.parametrize("ex", CODE, ids=lambda ex: ex.id)


@pytest.fixture(autouse=True)
def fresh(monkeypatch, tmp_path):
    """No progress and no hints yet, and no notebook beside us."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("QLESSON_SEED", raising=False)
    monkeypatch.setattr(package, "_states_here", {})
    monkeypatch.setattr(package, "_filled_in", {})
    monkeypatch.setattr(package, "_hints_given", {})


# The course asks for


def test_there_are_enough_of_enough_kinds():
    assert len(ALL) >= 17
    assert len({ex.kind for ex in ALL}) >= 4
    without_code = [ex for ex in ALL if ex.kind in ("predict a number", "choice")]
    assert 3 * len(without_code) >= len(ALL)
    for notebook, group in itertools.groupby(ALL, key=lambda ex: ex.notebook):
        group = list(group)
        assert 2 <= len(group) <= 3, notebook
        assert len({ex.kind for ex in group}) >= 2, notebook
        assert [ex.id for ex in group] == [f"{int(notebook)}.{i + 1}" for i in range(len(group))]


@each_exercise
def test_a_block_is_complete(ex):
    assert ex.text and ex.why and ex.title and ex.difficulty in (1, 2, 3) and ex.minutes > 0
    assert "  " not in ex.text, "a line that goes on was joined with its indentation"
    assert 2 <= len(ex.hints) <= 3
    assert len(ex.wrong) >= 4
    assert len({w.hint for w in ex.wrong}) == len(ex.wrong)
    code = ex.cells[1].split("\n")
    assert len(code) <= 15 and max(map(len, code)) <= 79


# Right and wrong answers


@each_exercise
@pytest.mark.parametrize("seed", [*range(8), None])
def test_the_solution_passes(ex, seed):
    assert verdict.judge(ex, ex.right, seed).state == "passed"
    if ex.spec:  # and no input was dropped because solution and spec differ on it
        assert all(verdict._trial(ex, ex.right, inputs) for inputs in verdict.draw(ex, seed))


def wrong_answer(ex, wrong):
    """The wrong answer, with the right number where it leaves one open."""
    if not isinstance(wrong.answer, tuple | list):
        return wrong.answer
    pairs = itertools.zip_longest(wrong.answer, ex.right)
    return [r if w is ... else w for w, r in pairs if w is not None]


@pytest.mark.parametrize(
    ("ex", "wrong"),
    [pytest.param(ex, w, id=f"{ex.id}-{w.hint[:30]}") for ex in ALL for w in ex.wrong],
)
def test_a_wrong_answer_gets_its_own_hint(ex, wrong, capsys):
    for seed in (0, 1, 2, None):
        found = verdict.judge(ex, wrong_answer(ex, wrong), seed)
        assert found.state == "wrong"
        assert found.recognised is wrong, found.text
    check(ex.id, wrong_answer(ex, wrong))
    said = capsys.readouterr().out
    assert said.startswith(f"{ex.id} not yet: ")
    assert " ".join(wrong.hint.split()) in " ".join(said.split())


@each_exercise
def test_the_untouched_stub(ex, capsys):
    names = {"check": check}
    exec(ex.cells[1], names)
    assert capsys.readouterr().out == f"{ex.id} not attempted yet\n"
    for nothing in (None, ..., [...], (..., ...), [None, None]):
        check(ex.id, nothing)
        assert capsys.readouterr().out == f"{ex.id} not attempted yet\n"
    assert not list(Path().iterdir())


@each_exercise
def test_the_solution_as_printed_passes(ex, capsys):
    names = {"check": check, "torch": torch, "ql": ql}
    exec(ex.cell(ex.answered), names)
    assert capsys.readouterr().out.startswith(f"Passed: {ex.id}")
    solution(ex.id)
    said = capsys.readouterr().out
    assert said.startswith(ex.answered + "\n\n")
    assert " ".join(said.split()).endswith(ex.why)


# Nonsense


class Spiteful:
    """Every question about it is an error."""

    def _raise(self, *args):
        raise RuntimeError("leave me alone")

    __eq__ = __len__ = __iter__ = __bool__ = __float__ = __array__ = __repr__ = _raise
    __hash__ = None
    shape = property(_raise)


class Callable:
    def __call__(self, *args):
        return Spiteful()


def endless(*args):
    return (i for i in itertools.count())


def raises(*args):
    raise SystemExit("bye")


def mutates(*args):
    for x in args:
        if isinstance(x, torch.Tensor) and x.ndim:
            x.zero_().resize_(7)
    return args[0]


def prints(*args):
    print("noise\n" * 1000, file=sys.stderr)
    print("noise\n" * 1000)


itself = []
itself.append(itself)

VALUES = [
    0, -1, 1e400, float("nan"), 10**400, 2j, True, "", "five", b"A", "Z" * 1000, [], (), {}, set(),
    [[]], [1, "a"], [1, ...], [None, 1.0], list(range(20_000)), itself, Spiteful(), [Spiteful()],
    object(), int, torch, torch.int8, np.zeros(3), np.array(["x"]), np.float32("inf"),
    torch.zeros(0), torch.zeros(2, 3, 4), torch.tensor(float("nan")), torch.zeros(3) * 1j,
    torch.zeros(2, device="meta"), torch.zeros(1).expand(10**9), torch.eye(2).to_sparse(),
    torch.zeros(3, requires_grad=True), ql.quantize(torch.ones(3)), torch.nn.Linear(2, 2),
]  # fmt: skip
FUNCTIONS = [
    raises, mutates, prints, endless, Callable(), max, print, dict, torch.add, lambda: 1,
    lambda *args, needed: 1, lambda *args: endless,
    lambda *args: args, lambda *args: 1 / 0, lambda *args: [args[0]] * 3,
    lambda *args: torch.zeros(10**6).expand(1000, 10**6),
]  # fmt: skip


@pytest.mark.slow
@each_exercise
def test_nonsense_never_raises(ex, capsys):
    returns = [lambda *args, value=value: value for value in VALUES] if ex.spec else []
    for answer in [*VALUES, *FUNCTIONS, *returns]:
        check(ex.id, answer, seed=0)
        said = capsys.readouterr()
        assert not said.err
        assert said.out.startswith((f"{ex.id} not yet: ", f"{ex.id} not attempted yet")), said.out
        assert len(said.out) < 2500
        assert "cannot be read" not in said.out or isinstance(answer, Spiteful), said.out


def test_an_unknown_exercise(capsys):
    for nothing in ("9.9", 1.1j, None, "", "1.1.1"):
        check(nothing, 1)
        hint(nothing)
        solution(nothing)
        assert capsys.readouterr().out.count("There is no exercise") == 3
    check(1.2, [17, 6, 127])
    assert capsys.readouterr().out.startswith("Passed: 1.2")


def test_nothing_passes_where_the_solution_does_not_run(monkeypatch):
    ex = package.exercises()["1.1"]
    monkeypatch.setattr(verdict, "_trial", lambda *args: None)
    assert verdict.judge(ex, ex.right).state == "wrong"


def test_an_interrupt_gets_through():
    def waits(*args):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check("1.1", waits)


# What a check does with honest answers


def said_of(capsys, id, answer):
    check(id, answer)
    return capsys.readouterr().out


def test_slow_but_right_passes(capsys):
    def quantize_unsigned(r, s, z):
        q = torch.zeros(r.shape, dtype=torch.uint8)
        for i in range(r.numel()):
            time.sleep(1e-5)
            print("element", i)
            q.view(-1)[i] = max(0, min(255, round(r.flatten()[i].item() / s + z)))
        return q

    def per_row(r, bits):
        top = 2 ** (bits - 1) - 1
        out = []
        for row in r.tolist():
            s = max(map(abs, row)) / top or 1.0
            out.append([s * round(x / s) for x in row])
        return out

    assert said_of(capsys, "1.1", quantize_unsigned).startswith("Passed: 1.1")
    assert said_of(capsys, "6.1", per_row).startswith("Passed: 6.1")
    assert (
        said_of(capsys, "2.1", lambda r, a, b: ql.asymmetric_qparams(r.min(), r.max(), a, b))[0]
        == "P"
    )
    assert said_of(capsys, "4.1", lambda s, z, a, b: np.arange(a - z, b - z + 1) * s)[0] == "P"


def test_other_forms_of_a_right_value(capsys):
    for answer in ((17, 6, 127), torch.tensor([17, 6, 127]), np.array([17.0, 6.0, 127.0]),
                   [torch.tensor(17), torch.tensor(6.0), 127]):  # fmt: skip
        assert said_of(capsys, "1.2", answer).startswith("Passed: 1.2")
    for answer in ("BD", "db", "B, D", ["D", "B"], ("b", "d"), {"D", "B"}):
        assert said_of(capsys, "4.3", answer).startswith("Passed: 4.3")
    for answer in ((44, 64), (44.3, 67.7), [44.0, 63.1], (44.554, 71.684)):
        assert said_of(capsys, "5.2", answer).startswith("Passed: 5.2")
    for answer in ((1.749, 1.751), (1.755, 1.7451), (-688.0, -687.0 - 0.9999), (1.75, 1.7501)):
        passed = said_of(capsys, "1.3", answer).startswith("Passed: 1.3")
        assert passed == (answer[0] > 0)
    for answer in ([0, 1, 2, 3], [10.0, 11, 12, 13, 0, 39], torch.tensor([-3.0, 0.0, 3.0, 6.0])):
        two, three = (
            ql.mse(r, ql.fake_quantize(r, ql.Scheme(bits=bits)))
            for bits in (2, 3)
            for r in [torch.as_tensor(answer, dtype=torch.float64)]
        )
        assert said_of(capsys, "5.3", answer).startswith("Passed") == bool(three > two)


def test_a_wrong_number_is_recognised_in_fewer_digits(capsys):
    for answers, part in [
        (((4.125, 36.1), (4.125, 36)), "The zero points are missing"),
        (((4.1875, 36.6), (4.188, 37)), "not 8."),
        (((4.15625, 33.9), (4.156, 33.87)), "GiB"),
    ]:
        for answer in answers:
            assert part in said_of(capsys, "8.2", answer)
    assert said_of(capsys, "8.2", (4.1, 38)).endswith('hint("8.2") gives a hint.\n')


def test_the_report(capsys):
    said = said_of(capsys, "1.1", lambda r, s, z: (r / s + z + 0.6).int())
    assert said.split("\n")[1:] == [
        "  r         [2.5]",
        "  s         1.0",
        "  z         0",
        "  expected  [2]",
        "  got       [3]",
        'hint("1.1") gives a hint.',
        "",
    ]
    assert "instead of torch.uint8" in said_of(
        capsys, "1.1", lambda r, s, z: (r / s + z).round().clamp(0, 255)
    )
    assert "changes its input" in said_of(
        capsys, "6.3", lambda r, n: r.abs_().unflatten(1, (-1, n)).amax(2)
    )
    assert "a numpy array instead of a tensor" in said_of(
        capsys, "1.1", lambda r, s, z: (r / s + z).round().clamp(0, 255).byte().numpy()
    )
    assert "list instead of a tensor" in said_of(
        capsys, "1.1", lambda r, s, z: (r / s + z).round().clamp(0, 255).int().tolist()
    )
    assert "NameError" in said_of(capsys, "1.1", lambda r, s, z: undefined)  # noqa: F821
    assert 'check("1.1", quantize_unsigned)' in said_of(capsys, "1.1", torch.zeros(3, 3))
    assert "quantize_unsigned(r, s, z)" in said_of(capsys, "1.1", lambda r: r)
    assert "no line with return was reached" in said_of(capsys, "1.1", lambda r, s, z: print(r))
    assert "It printed: " in said_of(capsys, "1.1", lambda r, s, z: print(r))
    assert "It asks for 2 results" in said_of(capsys, "2.1", lambda r, a, b: r.max())
    assert "2 of 3 numbers right" in said_of(capsys, "1.2", [17, 5, 127])
    assert "asks for 3 numbers, and got 1" in said_of(capsys, "1.2", 17)
    assert "asks for 2 numbers, and got 3" in said_of(capsys, "1.3", (1, 2, 3))
    assert "letters in quotes" in said_of(capsys, "4.3", [0, 3.75])


def test_letters_may_be_joined_by_a_word(capsys):
    for answer in ("BC", "b, c", "C and B", ["B", "C"]):
        assert said_of(capsys, "13.3", answer).startswith("Passed: 13.3"), answer
    assert "AD is not right" in said_of(capsys, "13.3", "A and D")


def test_the_failing_input_is_small(capsys):
    """What takes two elements to go wrong is shown with two."""

    def ignores_large_codes(r, s, z):
        q = torch.round(r / s + z).clamp(0, 255)
        return torch.where((q > 250) & (r.numel() > 1), 0, q).to(torch.uint8)

    def forgets_the_last_row(r, bits):
        s = r.abs().amax(dim=1, keepdim=True) / (2 ** (bits - 1) - 1)
        return torch.cat([s * torch.round(r / s)][:1])[: max(1, len(r) - 1)]

    for id, wrong in (("1.1", ignores_large_codes), ("6.1", forgets_the_last_row)):
        ex = package.exercises()[id]
        for seed in range(3):
            trials = [verdict._trial(ex, wrong, inputs) for inputs in verdict.draw(ex, seed)]
            failed = next(t for t in trials if verdict._failed(ex, t))
            assert verdict._shrunk(ex, wrong, failed).inputs[0].numel() == 2


def test_the_inputs_are_fresh_unless_seeded(monkeypatch):
    ex = package.exercises()["1.1"]

    def drawn(seed=None):
        return [
            [x.tolist() if isinstance(x, torch.Tensor) else x for x in i]
            for i in verdict.draw(ex, seed)
        ]

    torch_state = torch.get_rng_state()
    assert drawn() != drawn()
    assert drawn(1) == drawn(1) != drawn(2)
    monkeypatch.setenv("QLESSON_SEED", "7")
    assert drawn() == drawn()
    assert torch.equal(torch_state, torch.get_rng_state())


# Hints and progress


@each_exercise
def test_one_more_hint_at_each_call(ex, capsys):
    said = []
    for _ in range(len(ex.hints) + 2):
        hint(ex.id)
        said.append(" ".join(capsys.readouterr().out.split()))
    for number, (text, words) in enumerate(zip(said, ex.hints, strict=False), start=1):
        assert text.startswith(f"Hint {number} of {len(ex.hints)}: {words}")
    last = f'That was the last hint. solution("{ex.id}") shows an answer and its reason.'
    assert [last in text for text in said] == [False] * (len(ex.hints) - 1) + [True] * 3
    assert said[-1] == last


def test_progress(capsys, monkeypatch):
    file = Path(package.PROGRESS_FILE)
    progress()
    assert f"0 of {len(ALL)} passed" in capsys.readouterr().out
    check("1.2", [17, 6, 127])
    assert not file.exists()  # no notebook here
    Path("mine.ipynb").touch()
    check("2.2", (2, -5, 0))
    assert not file.exists()
    check("3.2", 8)
    assert json.loads(file.read_text()) == {"1.2": "passed", "3.2": "passed"}
    monkeypatch.setattr(package, "_states_here", {})  # another session
    check("4.3", "BD")
    capsys.readouterr()
    progress()
    said = capsys.readouterr().out
    assert "1.2 passed" in said and "2.2 -" in said and f"3 of {len(ALL)} passed" in said
    unknown = '{"1.1": 1, "1.3": [], "8.8": "passed"}'
    for spoiled in ("", "{", "3", '[["1.1"]]', '["8.8"]', unknown):
        file.write_text(spoiled)
        progress()
    file.unlink()
    file.mkdir()
    check("3.2", 8)  # cannot be written
    progress()
    assert f"2 of {len(ALL)} passed" in capsys.readouterr().out


@pytest.fixture
def kernel(monkeypatch):
    """The names of a notebook's kernel: those of its __main__."""
    module = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", module)
    return vars(module)


def test_catch_up_defines_what_is_missing(kernel, capsys):
    catch_up("2.2")
    said = [x for x in capsys.readouterr().out.splitlines() if re.match(r"\d+\.\d", x)]
    assert [line.split()[0] for line in said] == ["1.1", "1.2", "1.3", "2.1", "2.2"]
    assert said[3] == "2.1  my_qparams is defined"
    assert said[4] == "2.2  my_scale, my_zero_point, my_code = 2, -5, -3"
    assert kernel["my_code"] == -3 and kernel["my_qparams"] is package.exercises()["2.1"].right
    check("2.1", kernel["my_qparams"])
    assert "Passed" in capsys.readouterr().out
    kernel["my_codes"].clear()
    assert package.exercises()["1.2"].right == [17, 6, 127]
    catch_up(" 02")
    assert capsys.readouterr().out.splitlines()[-1] == "2.3  zero_point_of is defined"


def test_catch_up_says_what_to_remember(kernel, capsys):
    """The last sentence of each notebook, wherever it is asked for."""
    assert not list(Path().glob("*.ipynb"))
    catch_up("3.1")
    said = capsys.readouterr().out
    order = (
        "01   Divide by the scale,",
        "1.1  ",
        "1.3  ",
        "02   The scale is the width",
        "2.1  ",
        "03 ",
    )
    assert sorted(order, key=said.index) == list(order)
    assert "The zero point is the code of 0.0".lower() in " ".join(said.split()).lower()
    assert "3.1  my_symmetric is defined" in said
    assert max(map(len, said.splitlines())) <= 79


def test_catch_up_is_no_pass(kernel, capsys):
    Path("mine.ipynb").touch()
    check("1.2", [17, 6, 127])
    catch_up(1)
    capsys.readouterr()
    progress()
    said = capsys.readouterr().out
    assert "01  1.1 shown    1.2 passed   1.3 shown\n" in said and "1 of" in said
    assert json.loads(Path(package.PROGRESS_FILE).read_text())["1.1"] == "shown"
    check("1.1", kernel["quantize_unsigned"])
    catch_up(1)
    progress()
    assert "1.1 passed   1.2 passed   1.3 shown" in capsys.readouterr().out


def test_a_pass_in_one_notebook_is_not_taken_back_by_another(kernel, capsys, monkeypatch):
    """Whose session knows the exercise as shown."""
    Path("mine.ipynb").touch()
    catch_up(1)
    another, here = {}, package._states_here
    monkeypatch.setattr(package, "_states_here", another)
    check("1.2", [17, 6, 127])
    monkeypatch.setattr(package, "_states_here", here)
    check("3.2", 8)
    noted = json.loads(Path(package.PROGRESS_FILE).read_text())
    assert noted["1.2"] == noted["3.2"] == "passed" and noted["1.1"] == "shown"
    assert [p.name for p in Path().iterdir()].count(package.PROGRESS_FILE) == 1
    assert len(list(Path().glob(f"{package.PROGRESS_FILE}*"))) == 1


def test_a_right_answer_is_right_on_any_default_device():
    with torch.device("meta"):
        for ex in CODE:
            assert verdict.judge(ex, ex.right, 0).state == "passed", ex.id


def test_catch_up_leaves_what_is_written(kernel, capsys):
    stubs = {ex.id: ex.stub for ex in ALL}
    exec(stubs["1.1"] + "\n" + stubs["2.3"] + "\nmy_codes = [..., ..., ...]", kernel)
    exec("a = 7\ndef my_qparams(r, quant_min, quant_max): return 1, 2", kernel)
    exec("my_scale, my_zero_point, my_code = 2.5, ..., 7", kernel)
    mine = {name: kernel[name] for name in ("a", "my_qparams", "my_scale", "my_code")}
    catch_up(2)
    said = capsys.readouterr().out
    assert re.findall(r"^(\S+)  .* is yours and stays$", said, flags=re.M) == ["2.1"]
    assert "\n1.3  a, b = 1.749, 1.751; your a stays\n" in said and kernel["b"] == 1.751
    assert "= 2, -5, -3; your my_scale and my_code stay\n" in said and kernel["my_zero_point"] == -5
    assert mine == {name: kernel[name] for name in mine}
    for ex in ALL[:2] + [package.exercises()["2.3"]]:  # the stubs are nobody's
        assert kernel[ex.name] == ex.right
    catch_up(2)
    assert capsys.readouterr().out == said


def test_catch_up_knows_whose_answer_a_name_is(kernel, capsys):
    """my_bits is asked for in 6.2, 8.2 and 15.2, and my_two in 12.3 to 15.3."""
    exec("my_bits, my_bytes = 3.44, 110\nmy_two = 'AD'", kernel)
    catch_up(15)
    said = capsys.readouterr().out
    assert re.findall(r"^(\S+)  .* is yours and stays$", said, flags=re.M) == ["15.2", "15.3"]
    assert "\n6.2  my_group, my_bits = 32, 4.625; your my_bits stays\n" in said
    assert '\n12.3  my_two = "CD"; your my_two stays\n' in said
    assert kernel["my_group"] == 32 and (kernel["my_bits"], kernel["my_two"]) == (3.44, "AD")
    catch_up(15)
    assert capsys.readouterr().out == said
    catch_up(12)
    assert "my_two is yours and stays" in capsys.readouterr().out


def test_no_two_functions_have_one_name():
    """A notebook's own is found where an exercise asks for it, and catch_up defines it once."""
    assert len({ex.name for ex in CODE}) == len(CODE)


def test_catch_up_through_the_course(kernel, capsys):
    """Where two exercises have a name in common, the later one counts."""
    last = ALL[-1].notebook
    catch_up(int(last))
    catch_up(last)
    assert "yours" not in capsys.readouterr().out
    for ex in ALL:
        if ex.notebook == last:
            found = [kernel[name] for name in ex.names]
            assert verdict.judge(ex, found[0] if len(found) == 1 else found).state == "passed"


@pytest.mark.parametrize("nothing", ["9.9", 0, "x", None, "", 2.5, "1."])
def test_catch_up_to_nowhere(kernel, capsys, nothing):
    before = dict(kernel)
    catch_up(nothing)
    assert capsys.readouterr().out.startswith(f"There is no exercise or notebook {nothing}. ")
    assert kernel == before


# Mutants: every small change of a solution is caught

SWAPS = {
    ast.Add: [ast.Sub], ast.Sub: [ast.Add], ast.Mult: [ast.Div, ast.Add], ast.Div: [ast.Mult],
    ast.Pow: [ast.Mult], ast.MatMult: [ast.Mult],
    ast.BitAnd: [ast.BitOr], ast.BitOr: [ast.BitAnd],
    ast.LShift: [ast.RShift], ast.RShift: [ast.LShift],
    ast.Lt: [ast.LtE, ast.Gt], ast.Gt: [ast.GtE, ast.Lt], ast.LtE: [ast.Lt], ast.GtE: [ast.Gt],
}  # fmt: skip
# (exercise, the changed expression): why it changes nothing
EQUIVALENT = {
    ("2.3", "max(min(quant_max, z), quant_min)"): "max does not mind the order",
    ("2.3", "min(z, quant_max)"): "min does not mind the order",
    ("6.1", "torch.where(s > 0, s, 2)"): "zeros do not mind the scale",
    ("3.1", "torch.where(s > 0, s, 2)"): "zeros do not mind the scale",
    ("3.1", "s = s\n"): "the cast happens to make 0 of NaN",
    ("3.1", "torch.where(s >= 0, s, 1)"): "as above",
    ("3.1", "torch.where(s > 0, s, 0)"): "as above",
    ("3.1", "torch.where(s > -1, s, 1)"): "as above",
    ("16.3", "log_softmax(1)"): "logits have two axes",
}


def changes(node):
    """Nodes to put in this one's place."""
    if isinstance(node, ast.BinOp):
        for op in SWAPS[type(node.op)]:
            yield ast.BinOp(node.left, op(), node.right)
        yield node.left
        yield node.right
    if isinstance(node, ast.Compare):
        for op in SWAPS[type(node.ops[0])]:
            yield ast.Compare(node.left, [op()], node.comparators)
    if isinstance(node, ast.UnaryOp):
        yield node.operand
    if isinstance(node, ast.Constant):
        if isinstance(node.value, bool):
            yield ast.Constant(not node.value)
        elif isinstance(node.value, int | float):
            yield ast.Constant(node.value + 1)
            yield ast.Constant(node.value - 1)
    if isinstance(node, ast.Call):
        yield from node.args
        if isinstance(node.func, ast.Attribute):
            yield node.func.value
        for i in range(len(node.keywords)):
            yield ast.Call(node.func, node.args, node.keywords[:i] + node.keywords[i + 1 :])
        for i in range(len(node.args)):
            yield ast.Call(node.func, node.args[:i] + node.args[i + 1 :], node.keywords)
        if len(node.args) > 1:
            yield ast.Call(node.func, node.args[::-1], node.keywords)
    if isinstance(node, ast.Tuple):
        yield ast.Tuple(node.elts[::-1], node.ctx)


def mutants(source):
    """The source with one change, for every place and every change."""
    count = len(list(ast.walk(ast.parse(source))))
    for place in range(count):
        node = list(ast.walk(ast.parse(source)))[place]
        for number in range(len(list(changes(node)))):
            tree = ast.parse(source)
            target = list(ast.walk(tree))[place]
            put = list(changes(target))[number]

            class Put(ast.NodeTransformer):
                def visit(self, node, target=target, put=put):
                    return put if node is target else self.generic_visit(node)

            yield ast.unparse(ast.fix_missing_locations(Put().visit(tree)))


@each_code_exercise
def test_mutants_of_the_solution_are_caught(ex):
    original = ast.unparse(ast.parse(ex.answered))
    changed = [source for source in dict.fromkeys(mutants(original)) if source != original]
    survivors = []
    for source in changed:
        names = {"torch": torch, "ql": ql}
        exec(source, names)
        if any(verdict.judge(ex, names[ex.name], seed).state == "passed" for seed in range(2)):
            survivors.append(source)
    listed = [expression for id, expression in EQUIVALENT if id == ex.id]
    missed = [s for s in survivors if not any(expression in s for expression in listed)]
    assert not missed, "\n".join(missed)
    assert len(survivors) == len(listed)
    assert len(changed) >= 8


# The notebooks


def code_cells(notebook):
    nb = nbformat.read(next(NOTEBOOKS.glob(f"{notebook}_*.ipynb")), as_version=4)
    return [cell for cell in nb.cells if cell.cell_type == "code"]


def exercise_of(cell):
    return next((ex for ex in ALL if f'check("{ex.id}"' in cell.source), None)


def imports(cell):
    """What a cell imports, without the rest of it."""
    found = [s for s in ast.parse(cell.source).body if isinstance(s, ast.Import | ast.ImportFrom)]
    return "\n".join(map(ast.unparse, found))


@pytest.fixture(scope="module")
def said_in_a_kernel(tmp_path_factory):
    """By exercise: what its check prints where each stub holds the solution, in a real kernel.

    An exercise needs what its notebook imports and no more, or its solution fails here: of one
    notebook to the next nothing stays but the modules. That no other cell stands in its way is in
    the stored "not attempted yet", which `pytest notebooks` compares.
    """
    nb = nbformat.v4.new_notebook()
    for notebook in sorted({ex.notebook for ex in ALL}):
        nb.cells.append(nbformat.v4.new_code_cell("%reset -f"))
        for cell in code_cells(notebook):
            ex = exercise_of(cell)
            source = ex.cell(ex.answered) if ex else imports(cell)
            nb.cells.append(nbformat.v4.new_code_cell(source))
    where = {"metadata": {"path": str(tmp_path_factory.mktemp("kernel"))}}
    how = refresh.LIMITS | {"allow_errors": True}
    nbclient.NotebookClient(nb, **how, resources=where).execute()
    found = [(exercise_of(cell), cell.outputs) for cell in nb.cells]
    return {ex.id: "".join(map(printed, outputs)) for ex, outputs in found if ex}


def printed(output):
    return output.get("text", "") + "\n".join(output.get("traceback", ()))


@pytest.mark.slow
@each_exercise
def test_the_solution_passes_in_the_notebook(ex, said_in_a_kernel):
    said = said_in_a_kernel[ex.id]
    assert said.startswith(f"Passed: {ex.id}"), said


@each_exercise
def test_the_notebook_has_the_text_and_the_stub(ex):
    path = next(NOTEBOOKS.glob(f"{ex.notebook}_*.ipynb"))
    cells = nbformat.read(path, as_version=4).cells
    (number,) = [i for i, cell in enumerate(cells) if f'check("{ex.id}"' in cell.source]
    assert (cells[number - 1].source, cells[number].source) == ex.cells
    (output,) = cells[number].outputs
    assert output.text == f"{ex.id} not attempted yet\n"

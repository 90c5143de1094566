"""The numbers, links and commands of notebooks/teaching.md."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit

import nbformat
import pytest
import torch
import yaml

import qlesson as ql
from qlesson.authoring import address
from qlesson.authoring.lint import github, reading
from qlesson.models import tinygpt
from qlesson.qtensor import qparams_from_range
from qlesson.teach import room
from qlesson.teach.exercises import exercises
from qlesson.teach.room import at_bits

ROOT = Path(__file__).parents[2]
NOTEBOOKS = ROOT / "notebooks"
TEXT = (NOTEBOOKS / "teaching.md").read_text(encoding="utf-8")
NUMBERS = sorted(path.name[:2] for path in NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))
README = (ROOT / "README.md").read_text(encoding="utf-8")
FOLDER = address.REPOSITORY.rpartition("/")[2]  # which a clone makes
MINUTES = (NOTEBOOKS / "teaching_minutes.md").read_text(encoding="utf-8")


def rows(heading):
    section = TEXT.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    table = [line for line in section.split("\n") if line.startswith("|")][2:]
    return section, [[cell.strip() for cell in line.strip("|").split("|")] for line in table]


def test_three_hours_are_three_hours_and_two_fifths_exercises():
    section, table = rows("Three hours")
    minutes, worked = (sum(int(row[i]) for row in table) for i in (1, 2))
    assert f"Sum: {minutes} minutes. Exercises: {worked} minutes." in section
    assert minutes == 180 and worked >= 0.4 * minutes


DAYS = ["A full day", "A second day"]


@pytest.mark.parametrize("day", DAYS)
def test_a_day_adds_up_and_is_two_fifths_exercises(day):
    section, table = rows(day)
    minutes, worked = (sum(int(row[i]) for row in table) for i in (1, 2))
    assert f"Teaching time: {minutes} minutes. Exercises: {worked} minutes." in section
    assert worked >= 0.4 * minutes
    assert max(int(row[1]) for row in table) <= 50


# --- minute by minute ---


def minute_rows(notebook):
    """The rows of its table: [minutes of each schedule], the sections named, what to do."""
    table = MINUTES.split(f"\n## [{notebook} ")[1].split("\n## ")[0]
    lines = [line for line in table.split("\n") if line.startswith("|")][2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [([int(n) for n in row[:-2]], row[-2].split("; "), row[-1]) for row in cells]


def headings(notebook):
    """Those of its notebook, "the top" being what stands above the first."""
    (path,) = NOTEBOOKS.glob(f"{notebook}_*.ipynb")
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    text = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    return ["the top", *re.findall(r"^## (?!References)(.+)$", text, flags=re.M)]


@pytest.mark.parametrize("notebook", NUMBERS)
def test_the_minutes_name_every_section_in_its_order(notebook):
    named = [name for _, sections, _ in minute_rows(notebook) for name in sections]
    assert list(dict.fromkeys(named)) == headings(notebook)
    assert all(name.startswith("More") or minutes != [0] for minutes, (name, *_), _ in
               minute_rows(notebook))  # fmt: skip


@pytest.mark.parametrize("notebook", NUMBERS)
def test_the_minutes_have_the_vote_and_the_exercises(notebook):
    whole = " ".join(what for _, _, what in minute_rows(notebook))
    assert re.findall(r"\*\*Vote (\d\d)\*\*", whole) == [notebook]
    asked = {id for id, ex in exercises().items() if ex.notebook == notebook}
    assert asked <= set(re.findall(r"\d+\.\d", whole))


@pytest.mark.parametrize("notebook", NUMBERS)
def test_the_minutes_add_up_to_the_block(notebook):
    """Each schedule's minutes, and of these the lines that are the learners' work."""
    of = minute_rows(notebook)
    blocks = {name: row for day in DAYS for row in rows(day)[1] for name in row[0].split(" or ")}
    block = blocks[notebook]
    assert sums(of, 0) == [int(block[1]), int(block[2])]
    (stated,) = re.findall(rf"\(notebooks/{notebook}_.*\| (\d+) \|$", README, flags=re.M)
    assert int(stated) <= int(block[1])


def sums(of, column):
    worked = [minutes[column] for minutes, _, what in of if what.startswith("Work: ")]
    return [sum(minutes[column] for minutes, _, _ in of), sum(worked)]


def test_the_minutes_of_three_hours_add_up_to_the_blocks():
    for name, minutes, worked, _ in rows("Three hours")[1]:
        inside = re.findall(r"\[(\d\d)[^]]*\]\(", name)
        of = [sums(minute_rows(notebook), 1) for notebook in inside]
        if inside:
            assert [sum(x) for x in zip(*of, strict=True)] == [int(minutes), int(worked)], name


# --- votes, drawings, sheets ---


@pytest.mark.parametrize("notebook", NUMBERS)
def test_a_vote_has_four_answers_one_of_them_right(notebook):
    votes = TEXT.split("## A vote for each notebook")[1].split("\n## ")[0]
    vote = votes.split(f"**{notebook}. ")[1].split("\n**")[0]
    answers = re.findall(r"^- ([A-D]): (.*)$", vote, flags=re.M)
    assert [letter for letter, _ in answers] == list("ABCD")
    assert sum(text.startswith("**") for _, text in answers) == 1
    assert all(text.startswith("**") or text.endswith(")") for _, text in answers)


def test_no_letter_wins_most_votes():
    votes = TEXT.split("## A vote for each notebook")[1].split("\n## ")[0]
    right = re.findall(r"^- ([A-D]): \*\*", votes, flags=re.M)
    assert set(right) == set("ABCD") and max(map(right.count, "ABCD")) <= len(right) / 2


def test_every_notebook_has_its_part():
    drawn = re.findall(r"^- (\d\d): ", TEXT.split("## What to draw")[1], flags=re.M)
    assert drawn == NUMBERS[1:]
    for number in NUMBERS:
        assert re.search(rf"^\| .*\b{number}\b.* \| \d+ \|", TEXT, flags=re.M), number


def test_the_map_has_the_three_parts_that_the_kit_names():
    parts = re.split(r"\*\*Part I+, .*\*\*", words_of("00").split("## The map")[1])[1:]
    first, *later = (re.findall(r"^- \[?(\d\d) ", part, flags=re.M) for part in parts)
    assert len(later) == 2 and first + sum(later, []) == NUMBERS
    assert "\nParts II and III. Who comes" in TEXT
    (late,) = re.findall(r"^In Parts II and III: .*$", TEXT, flags=re.M)
    assert set(re.findall(r"of (\d\d)\b", late)) <= set(sum(later, []))


def words_of(number):
    (path,) = NOTEBOOKS.glob(f"{number}_*.ipynb")
    cells = nbformat.read(path, as_version=4).cells
    return "\n".join(c.source for c in cells if c.cell_type == "markdown")


def titles_of(number):
    return re.findall(r"^##+ (.+)$", words_of(number), flags=re.M)


@pytest.mark.parametrize("start", ["If you came to quantize a model at work", "Half an hour"])
def test_a_route_is_the_same_everywhere_and_stops_at_what_is_there(start):
    pages = (TEXT, words_of("00"))
    unlinked = "\n".join(re.sub(r"\[(\d\d)\]\([^)]*\)", r"\1", page) for page in pages)
    first, *others = re.findall(rf"^\*\*{start}.*$", unlinked, flags=re.M)
    assert others == [first]
    stops = re.findall(r'(\d\d) up to "([^"]+)"', first)
    assert len(stops) > 1 and all(title in titles_of(number) for number, title in stops)
    for number in re.findall(r"(\d\d) up to its bet", first):
        assert any("Predict" in title for title in titles_of(number))
    passed = list(dict.fromkeys(re.findall(r"\b\d\d\b", first.split("in this order")[0])))
    for k, number in enumerate(passed[:-1] if start != "Half an hour" else []):
        (needs,) = re.findall(r"^\*\*Needs:\*\* .*$", words_of(number), flags=re.M) or [""]
        assert set(re.findall(r"\[(\d\d)\]", needs)) <= set(passed[:k]), number
    if start == "Half an hour":
        assert sum(map(int, re.findall(r"\((\d+)(?: minutes)?\)", first))) == 30
        assert '"Half to even" (10) and its "Play"' in first and "Play" in titles_of("01")
        for number, title, said in re.findall(r'(\d\d) up to "([^"]+)" \((\d+)', first):
            assert abs(minutes_up_to(number, title) - int(said)) < 1, (number, title)


def minutes_up_to(number, title):
    """As lint counts them: 200 words a minute, 20 s a code cell."""
    nb = reading.read(next(NOTEBOOKS.glob(f"{number}_*.ipynb")))
    starts = [f"## {title}" in c.source.split("\n") for c in nb.cells]
    nb.cells = nb.cells[: starts.index(True)]
    text = sum(len(reading.words(c.source)) for c in reading.markdown(nb))
    return text / 200 + len(reading.code(nb)) / 3


def test_vote_07_clipping_pays_with_few_bits():
    r = torch.randn(10_000, generator=torch.Generator().manual_seed(0))
    r[0] = 20.0
    ends = r.kthvalue(10).values, r.kthvalue(9990).values
    for bits, pays in ((4, True), (8, False)):
        scheme = ql.Scheme(bits)
        clipped = ql.fake_quantize(r, scheme, qparams_from_range(*ends, scheme))
        assert bool(ql.mse(r, clipped) < ql.mse(r, ql.fake_quantize(r, scheme))) is pays


def test_vote_05_the_best_range_clips_a_little():
    r = torch.randn(10_000, generator=torch.Generator().manual_seed(0)).clamp(-4, 4)
    r[:5], r[5:10] = 20.0, -20.0
    four = ql.Scheme(4, "symmetric")
    found = {}
    for limit in (4.0, 7.0, 20.0):
        ends = torch.tensor(-limit), torch.tensor(limit)
        found[limit] = ql.mse(r, ql.fake_quantize(r, four, qparams_from_range(*ends, four)))
    assert min(found, key=found.get) == 7.0


def test_votes_06_and_08_the_price_of_scales():
    def bits(size):
        way = ql.PerGroup(size)
        scheme = ql.Scheme(4, "symmetric", way, scale_dtype=torch.float16)
        return ql.quantize(torch.ones(64, 4096), scheme).bits_per_value

    assert bits(16) == 5
    assert bits(32) / 32 == pytest.approx(1 / 7, abs=0.003)


def test_vote_02_a_quarter_of_the_codes():
    symmetric, (r_min, r_max) = ql.Scheme(8, "symmetric"), torch.tensor([-20.0, 20.0])
    qparams = qparams_from_range(r_min, r_max, symmetric)
    used = ql.quantize(torch.linspace(10, 20, 10_001), symmetric, qparams).q.unique()
    assert len(used) == 256 / 4


def test_vote_09_a_product_takes_15_bits_and_two_may_leave_int16():
    product = (-128) ** 2
    assert product.bit_length() == 15 and 2 * product == 32_768 > torch.iinfo(torch.int16).max


def test_vote_15_a_zero_point_that_is_one_less():
    scheme = ql.Scheme(4, granularity=ql.PerGroup(128), signed=False, scale_dtype=torch.float16)
    r = tinygpt.weight_matrices(tinygpt.load())["blocks.0.mlp.up"]
    x = ql.quantize(r, scheme)
    off = x.scale.float() * (x.q.float() - (x.zero_point.float() - 1))
    assert torch.allclose(off - x.dequantize(), x.scale.float().expand(r.shape), rtol=1e-4)
    lost = ql.sqnr(r, x.dequantize()) - ql.sqnr(r, off)
    assert f"a whole one costs {lost:.0f} dB" in TEXT


def test_learners_per_server():
    _, table = rows("One server for the room")
    for memory, learners in table:
        assert int(learners) == int((int(memory.removesuffix(" GB")) - 1) / 0.45)


def numbers(text):
    return [float(n) for n in re.findall(r"-?\d+(?:\.\d+)?", text)]


def test_the_pencil_sheet():
    section, table = rows("Pencil sheet")
    r = torch.tensor(numbers(section.split("Values:")[1].split("\n")[0]), dtype=torch.float64)
    x = ql.quantize(r, ql.Scheme(bits=2))
    r_hat, s, z = x.dequantize(), x.scale, x.zero_point
    asked, answered = table[:5], table[7:]
    assert [row[1:] for row in asked] == [[""] * 4] * 5
    expected = torch.stack([r, r / s + z, x.q.double(), r_hat, (r - r_hat).abs()], dim=1)
    assert [[float(n) for n in row] for row in answered] == [
        pytest.approx(row) for row in expected.tolist()
    ]
    first, then, errors, sixth = (numbers(line) for line in re.findall(
        r"^[1245]\. (.*)", section.split("**Answers**")[1], flags=re.M))  # fmt: skip
    assert first == pytest.approx([float(r.max() - r.min()), 3, float(s)])
    assert then == pytest.approx([float(-2 - r.min() / s), float(z)])
    assert errors[:3] == pytest.approx([float(ql.max_abs_error(r, r_hat)), float(s) / 2, 0])
    of_six = ql.dequantize_affine(ql.quantize_affine(6.0, s, z, -2, 1), s, z)
    assert sixth[:4] == pytest.approx(
        [6 / float(s) + float(z), 1, float(of_six), 6 - float(of_six)]
    )


def test_rounding_is_practised_on_the_pencil_sheet():
    """Up, down and below zero, nothing near a tie, and every code is met."""
    before = [float(row[1]) for row in rows("Pencil sheet")[1][7:]]
    parts = [abs(x - round(x)) for x in before]
    assert max(parts) < 0.45 and sum(part > 0 for part in parts) >= 4
    assert {round(x) for x in before} == {-2, -1, 0, 1}
    assert {round(x) > x for x in before if x < 0} == {True, False}


def test_the_exit_ticket():
    q = ql.quantize_affine(1.0, 0.1, 5, -8, 7)
    assert q.item() == 7 and ql.dequantize_affine(q, 0.1, 5).item() == pytest.approx(0.2)


def test_the_cast_of_vote_01():
    assert torch.tensor([300]).to(torch.int8).item() == 44
    assert ql.quantize_affine(300.0, 1, 0, -128, 127).item() == 127


# --- what learners and teachers type ---

LINES = re.findall(r"^    (.+)$", TEXT, flags=re.M)


def test_the_lines_for_learners():
    """The small torch of the README; what they run is there; PowerShell 5.1 has no `&&`."""
    section, _ = rows("Before the day")
    linux, macos, windows = re.findall(r"(?:^    .+\n)+", section, flags=re.M)
    assert "make env TORCH_INDEX=" + re.findall(r"TORCH_INDEX=(\S+)", README)[0] in linux
    assert linux.count("\n") == macos.count("\n") == 3 and "make env\n" in macos
    assert all("-m qlesson.teach.preflight\n" in lines for lines in (linux, macos, windows))
    assert not re.search("&&|;|/", windows.partition(f"cd {FOLDER}\n")[2])  # the prompt has no `;`
    name = re.findall(r"^name: (.*)$", (ROOT / "environment.yml").read_text(), flags=re.M)[0]
    assert set(re.findall(r"conda run .*?-n (\S+)", section)) == {name}
    assert "conda env create -f environment.yml" in windows


def test_github_shows_its_formulas():
    """In a Markdown file a backslash before punctuation is gone before the formula is read."""
    for text in (TEXT, MINUTES):
        assert list(github.github_breaks(re.sub(r"`[^`]*`", "", text))) == []
        assert not re.search(r"\\[!-/:-@]", "".join(re.findall(r"\$([^$\n]+)\$", text)))


def test_what_the_kit_names_is_there():
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.M)
    assert set(re.findall(r"`make ([a-z-]+)", TEXT)) <= set(targets)
    for line in LINES:
        words = shlex.split(line)
        assert words[0] != "make" or words[1] in targets


def test_the_room_chooses_the_bits(capsys):
    """What 00 writes and measures, however a number is called; a sentence for what is none."""
    (path,) = NOTEBOOKS.glob("00_*.ipynb")
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    stored = "".join("".join(o.get("text", "")) for c in cells for o in c.get("outputs", []))
    at_bits(3, 2.0, " 8", 32)
    said = capsys.readouterr().out.splitlines()
    assert [line[:8] for line in said[::2]] == [f"{n:2d} bits:" for n in (3, 2, 8, 32)]
    assert all(line in stored for line in said[::2])
    for line, value in zip(said[::2], said[1::2], strict=True):
        assert re.search(rf"^{line[:8]} +{value.split()[1]}$", stored, flags=re.M)
    at_bits(16)
    assert capsys.readouterr().out.splitlines()[1] == said[-1]
    assert list(map(room._whole, ("3 bits", torch.tensor(8), 8.0))) == [3, 8, 8]


@pytest.mark.parametrize("called", [1, 0, -3, 2.5, 9, "many", "", None, True, float("nan"), [8]])
def test_what_is_no_number_of_bits_gets_a_sentence(called, capsys):
    at_bits(called)
    assert capsys.readouterr().out == (
        f"{called}: call out 2 to 8 bits, 16, or 32, which is the model in floats\n"
    )


# --- the room ---

FIRST = "https://HUB/hub/user-redirect/git-pull?"


def links(start):
    return re.findall(rf"^    ({re.escape(start)}\S+)$", TEXT, flags=re.M)


def opened(urlpath, before):
    """The notebook that JupyterLab opens, `before` being what stands between it and the root."""
    assert urlpath.startswith(f"lab/tree/{before}notebooks/")
    return NOTEBOOKS / urlpath.rpartition("/")[2]


def test_the_link_for_a_hub():
    """As nbgitpuller documents it: the last part of the repository is the folder it makes."""
    (link,) = links(FIRST)
    query = dict(parse_qsl(link.removeprefix(FIRST), strict_parsing=True))
    assert set(query) == {"repo", "branch", "urlpath"}
    assert query["repo"] == address.REPOSITORY and query["branch"] == "main"
    assert opened(query["urlpath"], f"{FOLDER}/").exists()
    assert FIRST + urlencode(query) == link


def test_the_link_for_binder():
    (link,) = links("https://mybinder.org/")
    badge = re.search(r"\]\((https://mybinder.org/v2\S+)\)", README)[1]
    assert urlsplit(link)[:3] == urlsplit(badge)[:3]
    query = dict(parse_qsl(urlsplit(link).query, strict_parsing=True))
    assert set(query) == {"urlpath"} and opened(query["urlpath"], "").exists()


def test_the_commands_for_a_room_without_a_network():
    section, _ = rows("No internet")
    assert re.findall(r"^    make (\w+) (\w+)=(\S+)$", section, flags=re.M) == [
        ("wheelhouse", "TORCH_INDEX", "https://download.pytorch.org/whl/cpu"),
        ("lab", "WHEELS", "build/wheelhouse"),
    ]


# --- Kubernetes ---

VALUES = yaml.safe_load((ROOT / "binder" / "jupyterhub.yaml").read_text())
# From values.schema.yaml of the chart's version 4.4.0, against which the file was validated. Below
# hub.config stand the options of JupyterHub 5.5 and of KubeSpawner 7.0, which the chart passes on.
KEYS = {
    "hub.config.JupyterHub.authenticator_class",
    "hub.config.KubeSpawner.working_dir",
    "singleuser.image.name",
    "singleuser.image.tag",
    "singleuser.defaultUrl",
    "singleuser.memory.guarantee",
    "singleuser.memory.limit",
    "singleuser.cpu.guarantee",
    "singleuser.cpu.limit",
    "singleuser.storage.capacity",
    "singleuser.lifecycleHooks.postStart.exec.command",
    "cull.timeout",
}


def paths(values, before=""):
    if not isinstance(values, dict):
        return {before.removesuffix(".")}
    return set().union(*(paths(value, f"{before}{key}.") for key, value in values.items()))


def test_the_values_have_keys_of_the_chart():
    assert paths(VALUES) == KEYS
    assert isinstance(VALUES["singleuser"]["image"]["tag"], str)
    assert "version 4.4.0" in (ROOT / "binder" / "jupyterhub.yaml").read_text()


def test_a_learner_on_kubernetes_gets_what_the_kit_plans():
    room, _ = rows("One server for the room")
    hub, _ = rows("A hub, or Binder")
    of_one = float(re.search(r"plan ([\d.]+) GB a learner there", room)[1])
    kernel = float(re.search(r"plan ([\d.]+) GB a learner and", room)[1])
    server = int(re.search(r"a server as well, (\d+) MB", room)[1]) / 1000
    assert kernel + server <= of_one < kernel + server + 0.02
    promised, limit = re.search(r"promised ([\d.]+) GB and stopped at ([\d.]+) GB", hub).groups()
    memory = VALUES["singleuser"]["memory"]
    assert memory == {"guarantee": f"{promised}G", "limit": f"{limit}G"}
    assert float(promised) == of_one and float(limit) >= 2 * 0.7 + server
    for size, learners in re.findall(r"of (\d+) GB (?:holds )?(\d+)", hub):
        assert int(learners) == int((int(size) - 1) / of_one)


def test_the_hub_starts_with_copies_of_the_notebooks(tmp_path):
    """The command that runs in each learner's home, with the image's folder in its place."""
    shell, option, command = VALUES["singleuser"]["lifecycleHooks"]["postStart"]["exec"]["command"]
    command = command.replace("/srv/qlesson", str(ROOT)).replace("python", sys.executable)
    for _ in range(2):  # and a second start, which finds them
        subprocess.run([shell, option, command], cwd=tmp_path, check=True)
    url = VALUES["singleuser"]["defaultUrl"]
    assert (tmp_path / url.removeprefix("/lab/tree/")).exists()
    assert VALUES["hub"]["config"]["KubeSpawner"]["working_dir"] == "/home/jovyan"
    full = tmp_path / "full"
    full.mkdir()
    (full / "my_notebooks").write_text("no folder")
    subprocess.run([shell, option, command], cwd=full, check=True)  # else nobody could make room

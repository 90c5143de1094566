"""The numbers, links and commands of notebooks/teaching.md."""

import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit

import nbformat
import pytest
import torch
import yaml

import qlesson as ql
from qlesson.qtensor import qparams_from_range
from qlesson.teach.exercises import exercises

ROOT = Path(__file__).parents[2]
NOTEBOOKS = ROOT / "notebooks"
TEXT = (NOTEBOOKS / "teaching.md").read_text(encoding="utf-8")
NUMBERS = sorted(path.name[:2] for path in NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))
README = (ROOT / "README.md").read_text(encoding="utf-8")


def rows(heading):
    section = TEXT.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    table = [line for line in section.split("\n") if line.startswith("|")][2:]
    return section, [[cell.strip() for cell in line.strip("|").split("|")] for line in table]


def test_three_hours_are_three_hours():
    section, table = rows("Three hours")
    assert sum(int(row[1]) for row in table) == 180
    assert "Sum: 180 minutes" in section


@pytest.mark.parametrize("day", ["A full day", "A second day"])
def test_a_day_adds_up_and_is_two_fifths_exercises(day):
    section, table = rows(day)
    minutes, worked = (sum(int(row[i]) for row in table) for i in (1, 2))
    assert f"Teaching time: {minutes} minutes. Exercises: {worked} minutes." in section
    assert worked >= 0.4 * minutes
    assert max(int(row[1]) for row in table) <= 50
    for name, _, minutes in table:
        asked = [ex.minutes for ex in exercises().values() if ex.notebook == name]
        assert sum(asked) <= int(minutes), name


@pytest.mark.parametrize("notebook", NUMBERS)
def test_a_vote_has_four_answers_one_of_them_right(notebook):
    votes = TEXT.split("## A vote for each notebook")[1].split("\n## ")[0]
    vote = votes.split(f"**{notebook}. ")[1].split("\n**")[0]
    answers = re.findall(r"^- ([A-D]): (.*)$", vote, flags=re.M)
    assert [letter for letter, _ in answers] == list("ABCD")
    assert sum(text.startswith("**") for _, text in answers) == 1
    assert all(text.startswith("**") or text.endswith(")") for _, text in answers)


def test_every_notebook_has_its_part():
    drawn = re.findall(r"^- (\d\d): ", TEXT.split("## What to draw")[1], flags=re.M)
    assert drawn == NUMBERS[1:]
    for number in NUMBERS:
        assert re.search(rf"^\| .*\b{number}\b.* \| \d+ \|", TEXT, flags=re.M), number


def words_of(number):
    (path,) = NOTEBOOKS.glob(f"{number}_*.ipynb")
    cells = nbformat.read(path, as_version=4).cells
    return "\n".join(c.source for c in cells if c.cell_type == "markdown")


def titles_of(number):
    return re.findall(r"^##+ (.+)$", words_of(number), flags=re.M)


@pytest.mark.parametrize("start", ["If you came to quantize a model at work", "Half an hour"])
def test_a_route_is_the_same_everywhere_and_stops_at_what_is_there(start):
    pages = (README, TEXT, words_of("00"))
    unlinked = "\n".join(re.sub(r"\[(\d\d)\]\([^)]*\)", r"\1", page) for page in pages)
    first, *others = re.findall(rf"^\*\*{start}.*$", unlinked, flags=re.M)
    assert others == [first, first]
    stops = re.findall(r'(\d\d) up to "([^"]+)"', first)
    assert len(stops) > 1 and all(title in titles_of(number) for number, title in stops)
    for number in re.findall(r"(\d\d) up to its bet", first):
        assert any("Predict" in title for title in titles_of(number))
    if start == "Half an hour":
        assert sum(map(int, re.findall(r"\((\d+)(?: minutes)?\)", first))) == 30


def test_vote_07_clipping_pays_with_few_bits():
    r = torch.randn(10_000, generator=torch.Generator().manual_seed(0))
    r[0] = 20.0
    ends = r.kthvalue(10).values, r.kthvalue(9990).values
    for bits, pays in ((4, True), (8, False)):
        scheme = ql.Scheme(bits)
        clipped = ql.fake_quantize(r, scheme, qparams_from_range(*ends, scheme))
        assert bool(ql.mse(r, clipped) < ql.mse(r, ql.fake_quantize(r, scheme))) is pays


def test_vote_08_and_09():
    assert ql.quantize(torch.ones(1000, 1000), ql.Scheme(4)).q.nbytes == 1_000_000
    product = 128 * 128
    assert product.bit_length() == 15 and 2 * 127 * 127 < 2**15 < 3 * 127 * 127


def test_learners_per_server():
    _, table = rows("One server for the room")
    for memory, learners in table:
        assert int(learners) == int((int(memory.removesuffix(" GB")) - 1) / 0.45)


def numbers(text):
    return [float(n) for n in re.findall(r"-?\d+(?:\.\d+)?", text)]


def test_the_pencil_sheet():
    section, _ = rows("Pencil sheet: five numbers, 2 bits")
    r = torch.tensor(numbers(section.split("Values:")[1].split("\n")[0]))
    x = ql.quantize(r, ql.Scheme(bits=2))
    r_hat = x.dequantize()
    found = numbers(section.split("Answers:")[1])
    width = float(r.max() - r.min())
    z = float(-2 - r.min() / x.scale)
    largest = float(ql.max_abs_error(r, r_hat))
    expected = [width, 3, float(x.scale), z, float(x.zero_point), *x.q.tolist(), *r_hat.tolist()]
    assert found == pytest.approx([*expected, largest, float(x.scale) / 2])


def test_the_exit_ticket():
    q = ql.quantize_affine(1.0, 0.1, 5, -8, 7)
    assert q.item() == 7 and ql.dequantize_affine(q, 0.1, 5).item() == pytest.approx(0.2)


def test_the_cast_of_vote_01():
    assert torch.tensor([300]).to(torch.int8).item() == 44
    assert ql.quantize_affine(300.0, 1, 0, -128, 127).item() == 127


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
    assert query["repo"] == "https://github.com/OWNER/NAME" and query["branch"] == "main"
    assert opened(query["urlpath"], "NAME/").exists()
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

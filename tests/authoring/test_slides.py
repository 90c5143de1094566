"""The slides: made from the notebooks' cells, and shown in a Chromium that has no network."""

import re
from pathlib import Path

import nbformat
import pytest

from qlesson.authoring import slides

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)


def stream(text):
    return nbformat.v4.new_output("stream", text=text)


def picture(alt="a <line>"):
    data = {"image/png": "iVBO\nRw0=", "text/plain": "facts"}
    metadata = {"image/png": {"alt": alt}}
    return nbformat.v4.new_output("display_data", data=data, metadata=metadata)


def code(source, *outputs, **metadata):
    return nbformat.v4.new_code_cell(source, outputs=list(outputs), metadata=metadata)


# --- from cells to blocks ---


def test_code_and_what_it_prints_become_lines():
    made = slides.code(code("x = 1 < 2\nprint(x)", stream("True\n<b>\n")))
    source, output = re.findall(r'<pre class="(?:code|output)">.*?</pre>', made, flags=re.S)
    assert source.count("\n</span>") == 2 and "1 </span>" not in source and "&lt;" in source
    assert output == '<pre class="output"><span>True\n</span><span>&lt;b&gt;\n</span></pre>'


def test_a_value_is_its_text():
    value = nbformat.v4.new_output("execute_result", data={"text/plain": "tensor(3)"})
    assert "<span>tensor(3)\n</span>" in slides.code(code("x", value))


def test_the_source_of_a_function_is_colored():
    assert '<span class="k">def</span>' in slides.code(code("show_source(f)", stream("def f(): 1")))
    assert '<span class="k">' not in slides.code(code("1", stream("def f(): 1")))


def test_a_picture_stands_for_its_code():
    made = slides.code(code("rows = 3\nshow(f(rows), alt='')", picture()))
    assert made == '<img alt="a &lt;line&gt;" src="data:image/png;base64,iVBORw0=">\n'
    made = slides.code(code("print(1)\nshow(f)", stream("1"), picture()))
    assert made.count("<pre") == 2 and made.count("<img") == 1


def test_an_import_alone_is_left_out_and_a_setting_is_not():
    assert slides.code(code("import torch\nfrom a import b")) == ""
    assert "<pre" in slides.code(code("import torch\n\nx = 1"))


def test_a_folded_answer_waits():
    made = slides.code(code("print(1)", stream("1"), jupyter={"outputs_hidden": True}))
    before, _, answer = made.partition('<div class="answer">')
    assert 'class="code"' in before and 'class="output"' in answer


def test_an_exercise_shows_its_stub_and_nothing_else():
    made = slides.code(code('a = ...\n\ncheck("1.1", a)', stream("1.1 not attempted yet\n")))
    assert "check" in made and "attempted" not in made


def test_markdown_has_mathml_and_links_from_deck_to_deck():
    made = slides.markdown(
        "Half: $x \\le \\frac{1}{2}$ of [01](01_a.ipynb), [there](02_b.ipynb#There), "
        "[the map](#map), [teaching](teaching.md), [paper](https://example.org/x.ipynb?y).\n\n"
        "$$s = 1$$\n\n[previous](00_a.ipynb) · [next](02_b.ipynb)"
    )
    assert made.count("<mfrac>") == 1 and 'display="block"' in made and "$" not in made
    assert re.findall('href="(.*?)"', made) == ["01_a.html", "02_b.html", PAPER]
    assert "the map" in made and "teaching" in made and "previous" not in made


def test_a_logarithm_keeps_its_distance():
    assert slides.spaced(r"20 \log_{10} 2 = x") == r"20\,\log_{10}\,2 = x"
    assert slides.spaced(r"\frac{1}{2}") == r"\frac{1}{2}"


PAPER = "https://example.org/x.ipynb?y"


def test_what_is_more_is_left_out_and_the_end_has_a_slide():
    nb = nbformat.v4.new_notebook()
    nb.cells = [
        nbformat.v4.new_markdown_cell("# 09 A & B"),
        nbformat.v4.new_markdown_cell("secret<br><br>", id="space-1"),
        nbformat.v4.new_markdown_cell("## More: secret", metadata={"tags": ["more"]}),
        code("print('secret')", stream("secret"), tags=["more"]),
        nbformat.v4.new_markdown_cell("**Remember.** One thing."),
    ]
    page = slides.deck(nb)
    assert "secret" not in page and "{{" not in page
    assert "<title>09 A &amp; B</title>" in page
    assert re.search(r"<h2[^>]*>Remember</h2>\s*<p>One thing", page)


@each_notebook
def test_no_formula_is_left_in_tex(path):
    made = slides.blocks(nbformat.read(path, as_version=4))
    words = re.sub(r"<pre.*?</pre>|<code>.*?</code>|<[^>]+>", "", made, flags=re.S)
    assert "$" not in words and "\\" not in words


def test_only_the_named_decks_are_written(tmp_path, capsys):
    assert slides.main(ROOT / "notebooks", ["01"], tmp_path) == 0
    assert [p.stem for p in tmp_path.iterdir()] == ["01_linear_formula"]
    assert "01_linear_formula.html" in capsys.readouterr().out

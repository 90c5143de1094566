"""What the book adds to Sphinx: formulas that browsers draw, answers that fold, docstrings.

docs/conf.py names this module, and Sphinx calls `setup`.
"""

import ast
import re
from collections.abc import Iterator
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.docutils import SphinxDirective

from qlesson.authoring import address
from qlesson.authoring.book.pages import BET
from qlesson.authoring.slides import spaced


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    app.add_node(folded, html=(_open, _close))
    app.add_directive("fold", Fold)
    app.add_post_transform(FoldBets)
    app.connect("autodoc-process-docstring", _docstring)
    app.connect("html-page-context", _to_colab, priority=900)  # after the theme's buttons
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _to_colab(app: Sphinx, name: str, template: str, context: dict[str, Any], tree: Any) -> None:
    """The theme's button for Colab leads to the notebook that installs the course there."""
    groups = context.get("header_buttons", [])
    for button in (b for group in groups for b in group.get("buttons", [])):
        if button.get("url", "").startswith("https://colab."):
            button["url"] = address.colab(f"{name.rpartition('/')[2]}.ipynb")


def slug(title: str) -> str:
    """The anchor of a heading, as JupyterLab and the links of the notebooks have it."""
    return title.replace(" ", "-")


# Formulas


def _inline(translator: Any, node: nodes.math) -> None:
    translator.body.append(convert(spaced(node.astext())))
    raise nodes.SkipNode


def _block(translator: Any, node: nodes.math_block) -> None:
    formula = convert(spaced(node.astext()), display="block")
    translator.body.append(f'<div class="math" tabindex="0">{formula}</div>\n')
    raise nodes.SkipNode


# Answers


class folded(nodes.container):  # noqa: N801  # as docutils names its nodes
    """A title that opens what it holds when it is clicked, without a script."""


def _open(translator: Any, node: folded) -> None:
    translator.body.append(
        f'<details class="fold {node["kind"]}"><summary>{node["title"]}</summary>'
    )


def _close(translator: Any, node: folded) -> None:
    translator.body.append("</details>\n")


class Fold(SphinxDirective):
    """`{fold} Title`: its content, folded."""

    has_content = True
    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        return [folded("", *self.parse_content_to_nodes(), title=self.arguments[0], kind="help")]


class FoldBets(SphinxPostTransform):
    """Below a bet, its output and all that follows up to the next heading is one fold."""

    default_priority = 190
    formats = ("html",)

    def run(self, **kwargs: Any) -> None:
        for cell in list(self.document.findall(nodes.container)):
            if f"tag_{BET}" not in cell["classes"]:
                continue
            answer = [x for x in cell.children if x.get("nb_element") == "cell_code_output"]
            below = cell.parent.children[cell.parent.index(cell) + 1 :]
            end = next((i for i, x in enumerate(below) if isinstance(x, nodes.section)), len(below))
            for node in (*answer, *below[:end]):
                node.parent.remove(node)
            at, parent = cell.parent.index(cell), cell.parent
            title = "The answer: open it when your letter is written down"
            parent.insert(at + 1, folded("", *answer, *below[:end], title=title, kind=BET))


# Docstrings


def _docstring(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    lines[:] = [line for part in _paragraphs(lines) for line in (*_restructured(part), "")]


def _paragraphs(lines: list[str]) -> Iterator[list[str]]:
    part: list[str] = []
    for line in [*lines, ""]:
        if line.strip():
            part.append(line)
        elif part:
            yield part
            part = []


def _is_code(part: list[str]) -> bool:
    try:
        tree = ast.parse("\n".join(part))
    except SyntaxError:
        return False
    return any(isinstance(node, ast.Import | ast.ImportFrom | ast.Assign) for node in tree.body)


def _restructured(part: list[str]) -> list[str]:
    """A paragraph of a docstring as reStructuredText: a table or code as it is, words as words."""
    if _is_code(part):
        return [".. code-block:: python", "", *(f"    {line}" for line in part)]
    if any(re.search(r"^ |\S {2,}\S", line) for line in part):
        return [".. code-block:: text", "", *(f"    {line}" for line in part)]
    words = re.sub(r"([\\*_|])", r"\\\1", " ".join(part))
    return [re.sub(r"`([^`]+)`", lambda code: f"``{code[1].replace(chr(92), '')}``", words)]

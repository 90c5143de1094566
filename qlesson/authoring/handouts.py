"""What a teacher prints, from the sections of notebooks/teaching.md: one HTML file, A4.

The pencil sheet and its answers, the letters and formulas, the exit ticket, the votes as learners
get them, and the votes with their answers for whoever teaches. It fetches nothing.
"""

import re
from pathlib import Path

from qlesson.authoring.slides import markdown
from qlesson.authoring.teaching import VOTES, section

PAGE = Path(__file__).with_name("handouts.html")
SHEETS = "Pencil sheet", "Letters and formulas", "Exit ticket"
ANSWERS = "\n**Answers**\n"


def unanswered(votes: str) -> str:
    """The questions with their letters; which is right, and why the others are not, is left out."""
    lines = [re.sub(r" \([^()]*(?:\([^()]*\)[^()]*)*\)$", "", x) for x in votes.splitlines()]
    return "\n".join(re.sub(r"^(- [A-D]: )\*\*(.*)\*\*.*$", r"\1\2", x) for x in lines)


def sheet(title: str, source: str, kind: str = "") -> str:
    """The HTML of what begins a page; a line to write on stands where the Markdown has ____."""
    made = re.sub("_{4,}", '<span class="blank"></span>', markdown(source))
    # A vote is a paragraph and its list, which no page may part.
    made = re.sub(r"<p>.*?</p>\s*<ul>.*?</ul>", r"<div>\g<0></div>", made, flags=re.S)
    return f'<section class="{kind}">\n<h1>{title}</h1>\n{made}</section>\n'


def page(text: str) -> str:
    """The HTML file for the text of teaching.md."""
    pencil, letters, ticket = (section(text, title).split(ANSWERS) for title in SHEETS)
    votes = section(text, VOTES).partition("\n\n")[2]
    sheets = [
        sheet("Pencil sheet", pencil[0]),
        sheet("Pencil sheet: answers", pencil[1]),
        sheet("Letters and formulas", letters[0]),
        sheet("Exit ticket", ticket[0], "ticket"),
        sheet("Votes", unanswered(votes), "votes"),
        sheet("Votes, with their answers", votes, "votes"),
    ]
    return PAGE.read_text(encoding="utf-8").replace("{{SHEETS}}", "".join(sheets))


def main(folder: Path, to: Path = Path("build/handouts.html")) -> int:
    """Write the file `to`; return 0."""
    to.parent.mkdir(parents=True, exist_ok=True)
    text = page((folder / "teaching.md").read_text(encoding="utf-8"))
    to.write_text(text, encoding="utf-8", newline="\n")
    print(f"{to}: open it in a browser and print it on A4")
    return 0

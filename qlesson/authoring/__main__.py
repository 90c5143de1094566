"""`python -m qlesson.authoring COMMAND`, run at the root of the checkout."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from qlesson.authoring import colab, handouts, lint, refresh, slides, translation

NOTEBOOKS = Path("notebooks")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m qlesson.authoring", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("refresh", help="run the notebooks and store their outputs")
    command.add_argument("--check", action="store_true", help="only say what would change")
    command.add_argument("names", nargs="*", help="as in 05; all, if none is named")
    commands.add_parser("lint", help="check the rules of the notebooks, print their sizes")
    command = commands.add_parser("slides", help="write a deck of each into build/slides")
    command.add_argument("--draw", action="store_true", help="run them, and draw finer pictures")
    command.add_argument("names", nargs="*", help="as in 05; all, if none is named")
    commands.add_parser("handouts", help="write the sheets to print into build/handouts.html")
    commands.add_parser("book", help="write the web book into build/book/html")
    commands.add_parser("colab", help="write the notebooks as Colab opens them into build/colab")
    command = commands.add_parser("translate", help="texts to translate, notebooks in build/de")
    command.add_argument("language", help="as in de")
    options = parser.parse_args(argv)
    if not NOTEBOOKS.is_dir():
        parser.error("run this at the root of the checkout, where notebooks/ is")
    if options.command == "refresh":
        return refresh.main(NOTEBOOKS, options.names, options.check)
    if options.command == "slides":
        return slides.main(NOTEBOOKS, options.names, draw=options.draw)
    if options.command == "handouts":
        return handouts.main(NOTEBOOKS)
    if options.command == "book":
        from qlesson.authoring import book  # its libraries are in an extra of their own

        return book.main()
    if options.command == "colab":
        return colab.main(NOTEBOOKS)
    if options.command == "translate":
        return translation.main(NOTEBOOKS, options.language)
    return lint.main(NOTEBOOKS, Path("README.md"))


if __name__ == "__main__":
    sys.exit(main())

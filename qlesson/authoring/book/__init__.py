"""The web book: the stored notebooks as pages that need neither a kernel nor another server.

`make book` assembles in build/book/source what Sphinx reads (docs/, and each notebook made ready
by `pages`), lets Sphinx write the pages into build/book/html, and adds what they fetch: the frames
of live figures, and the notebooks themselves behind the download buttons.
"""

import re
import shutil
from collections.abc import Iterable
from pathlib import Path

import nbformat
from sphinx.cmd.build import build_main

import qlesson
from qlesson.authoring import address, errata
from qlesson.authoring.book import plays
from qlesson.authoring.book.light import lighten
from qlesson.authoring.book.pages import page
from qlesson.teach import lessons


def main(
    root: Path = Path(),
    to: Path = Path("build/book"),
    numbers: Iterable[str] | None = None,
) -> int:
    """Build the book of the checkout at `root` in the folder `to`; 0, or what Sphinx gave.

    numbers  of the notebooks whose live figures get frames; None is all, and takes minutes
    """
    source, out = to / "source", to / "html"
    assemble(root, source)
    settings = {
        "release": qlesson.__version__,
        "html_theme_options.repository_url": address.REPOSITORY,
    }
    given = [part for name, value in settings.items() for part in ("-D", f"{name}={value}")]
    options = ["-b", "html", "-q", "-W", "--keep-going", "-d", str(to / "doctrees"), *given]
    if failed := build_main([*options, str(source), str(out)]):
        return failed
    for path in _notebooks(root):
        shutil.copyfile(path, out / "_sources" / "notebooks" / path.name)
    lighten(out)
    for number, path in lessons.files("rules", ".js").items():
        (out / "_static" / "rules").mkdir(exist_ok=True)
        shutil.copyfile(path, out / "_static" / "rules" / f"{number}.js")
    plays.write(out / "_static" / "play", to / "frames", numbers)
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    print(f"{out / 'index.html'}: {size / 1e6:.1f} MB in all")
    return 0


def _notebooks(root: Path) -> Iterable[Path]:
    return sorted((root / "notebooks").glob("[0-9][0-9]_*.ipynb"))


def assemble(root: Path, source: Path) -> None:
    """Write what Sphinx reads. What has not changed keeps its time, so that Sphinx skips it."""
    files = {path.relative_to(root / "docs"): path.read_bytes() for path in _below(root / "docs")}
    readme = (root / "README.md").read_text(encoding="utf-8")
    index = files[Path("index.md")].decode().replace("{{ map }}", chapters(readme))
    files[Path("index.md")] = index.encode()
    changelog = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    files[Path("changelog.md")] = changelog.encode()
    files[Path("errata.md")] = errata.page(changelog, "changelog.md").encode()
    for path in (root / "notebooks").iterdir():
        if path.suffix in (".md", ".csv"):
            files[Path("notebooks", path.name)] = path.read_bytes()
    for path in _notebooks(root):
        made = page(nbformat.read(path, as_version=4), path.name)
        files[Path("notebooks", path.name)] = nbformat.writes(made).encode()
    for path in _below(source):
        if path.relative_to(source) not in files:
            path.unlink()
    for name, data in files.items():
        file = source / name
        if not file.exists() or file.read_bytes() != data:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)


def _below(folder: Path) -> list[Path]:
    return [p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts]


def chapters(readme: str) -> str:
    """The table of README.md that names every notebook and its question."""
    return re.findall(r"^\| notebook \|.*\n(?:\|.*\n)+", readme, flags=re.M)[0]

"""The page of errata has every correction of CHANGELOG.md, and nothing else of it."""

import re
from pathlib import Path

from qlesson.authoring import errata

ROOT = Path(__file__).parents[2]
CHANGELOG = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_corrections_of_each_version_are_found_newest_first():
    text = """# What changed

## 0.3.0

### Names

- b is a

### Corrections

- 05: said x; it is y.
- 07: said z; nobody knows.

## 0.2.0

### Corrections
- 01: said 3; it is 4.

## 0.1.0

The first.
"""
    assert errata.corrections(text) == {
        "0.3.0": ["- 05: said x; it is y.", "- 07: said z; nobody knows."],
        "0.2.0": ["- 01: said 3; it is 4."],
    }
    made = errata.page(text, "changes.md")
    assert made.startswith("# Errata\n") and "](changes.md)" in made and "b is a" not in made
    assert re.findall(r"^## (.*)", made, flags=re.M) == ["0.3.0", "0.2.0"]


def test_each_correction_says_where_it_stood():
    lines = [line for found in errata.corrections(CHANGELOG).values() for line in found]
    assert lines and all(re.match(r"- \d\d: .{20}", line) for line in lines)
    numbers = {p.name[:2] for p in (ROOT / "notebooks").glob("*.ipynb")}
    assert {line[2:4] for line in lines} <= numbers


def test_every_line_of_the_changelog_stands_under_a_heading_of_its_kind():
    for version in re.split(r"^## ", CHANGELOG, flags=re.M)[1:]:
        first, *parts = re.split(r"^### .+\n", version.partition("\n")[2], flags=re.M)
        assert not first.strip() and len(parts) > 3
        assert all(re.fullmatch(r"\s*(?:- .+\n)+\s*", part) for part in parts)

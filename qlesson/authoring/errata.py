"""What the course got wrong and when it was put right, from CHANGELOG.md: a page of its own."""

import re

TOP = """# Errata

What an earlier version of the course said and this one does not, newest first. Each line begins
with the notebook where it stood. All that changed is in the [changelog]({changelog}).
"""


def corrections(changelog: str) -> dict[str, list[str]]:
    """{version: the lines of its part "Corrections"}, of the versions that have one."""
    found = {}
    for version in re.split(r"^## ", changelog, flags=re.M)[1:]:
        title, _, text = version.partition("\n")
        if part := re.search(r"^### Corrections\n+((?:- .*\n)+)", text, flags=re.M):
            found[title.strip()] = part[1].splitlines()
    return found


def page(changelog: str, address: str) -> str:
    """The page as Markdown; `address` leads to the changelog."""
    parts = [TOP.format(changelog=address)]
    for version, lines in corrections(changelog).items():
        parts.append("\n".join([f"## {version}\n", *lines]) + "\n")
    return "\n".join(parts)

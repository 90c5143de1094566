"""A notebook on a page where nothing runs: what slides and the book leave out of it."""

import re
from collections.abc import Mapping
from typing import Any


def without_running(source: str) -> str:
    """Markdown without what helps to use a notebook: links to the next, and words about cells."""
    source = re.sub(r"^\[(previous|contents)\]\(.*$", "", source, flags=re.M)
    return re.sub(r"^(Bet|Write your letter down), run.*$", "", source, flags=re.M)


def alt_of(output: Mapping[str, Any]) -> str:
    """The sentence of a picture among a cell's outputs, or nothing."""
    return output.get("metadata", {}).get("image/png", {}).get("alt", "")


def is_caption(output: Mapping[str, Any], alt: str) -> bool:
    """Whether it repeats below a picture its sentence, `alt`, which a page can give the picture."""
    data = output.get("data", {})
    said = data.get("text/plain", "")
    return "text/html" in data and bool(said) and alt.startswith(said)

"""Where the course is on the web: the links that do not lead to a neighbouring file.

CONTRIBUTING.md, "Publish", says how the repository's own owner and name get here and elsewhere.
"""

from urllib.parse import urlencode

REPOSITORY = "https://github.com/OWNER/NAME"
BINDER = REPOSITORY.replace("https://github.com", "https://mybinder.org/v2/gh")
COLAB = REPOSITORY.replace("https://github.com", "https://colab.research.google.com/github")


def page(path: str) -> str:
    """A file of the repository as GitHub shows it."""
    return f"{REPOSITORY}/blob/main/{path}"


def colab(notebook: str) -> str:
    """A notebook, by its file's name, in Colab: from the branch colab, which a workflow writes."""
    return f"{COLAB}/blob/colab/{notebook}"


def binder(notebook: str) -> str:
    """A notebook, by its file's name, in JupyterLab on Binder."""
    return f"{BINDER}/HEAD?urlpath=lab/tree/notebooks/{notebook}"


def mistake(where: str) -> str:
    """GitHub's form for a sentence that is wrong, which says already where it stands."""
    query = urlencode({"template": "sentence-wrong.yml", "where": where})
    return f"{REPOSITORY}/issues/new?{query}"

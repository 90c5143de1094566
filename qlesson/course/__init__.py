"""The notebooks on their way to a reader: where they are, copies of one's own, JupyterLab.

It stands on the standard library alone, so that it starts at once and where nothing is installed.
"""

from pathlib import Path


def notebooks() -> Path:
    """The folder of the notebooks and of the files that they read.

    It lies inside an installed package, and beside it in a checkout.
    """
    inside = Path(__file__).with_name("notebooks")
    return inside if inside.is_dir() else Path(__file__).parents[2] / "notebooks"

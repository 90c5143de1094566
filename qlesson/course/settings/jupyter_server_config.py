"""For Jupyter's server, which reads this file in any folder of its settings.

A live figure is saved as its picture. What makes it live is gone with its kernel, and JupyterLab
would show "model not found" in its place. And custom/custom.css hides the answer of a bet until its
cell has run.
"""

import warnings
from pathlib import Path
from typing import Any

c: Any  # given by Jupyter

VIEW = "application/vnd.jupyter.widget-view+json"


def save_pictures(model: dict[str, Any], **kwargs: Any) -> None:
    """Drop the live view where a picture stands beside it, before a notebook is written."""
    if model["type"] != "notebook" or not model.get("content"):
        return
    for cell in model["content"].get("cells", []):
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                output["data"].pop(VIEW, None)


# JupyterLab and its server both read this file, and the second is told of the first.
warnings.filterwarnings("ignore", "Overriding existing pre_save_hook")
c.ContentsManager.pre_save_hook = save_pictures  # noqa: F821

c.LabApp.custom_css = True  # noqa: F821
custom = str(Path(__file__).with_name("custom"))
c.ServerApp.tornado_settings = {"static_custom_path": [custom]}  # noqa: F821

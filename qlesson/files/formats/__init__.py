"""Other people's files, opened: {name: QTensor, Blocks or Tensor}.

    with formats.open("model.gguf") as file:
        file.metadata["general.architecture"]
        file["blk.0.attn_q.weight"].dequantize()

Tensors come in torch's order of axes, each when it is asked for.
"""

from pathlib import Path

from qlesson import checks
from qlesson.files.formats import gguf
from qlesson.files.formats.opened import Opened, Stored

__all__ = ["Opened", "Stored", "gguf", "open"]


def open(path: str | Path) -> Opened:
    """A file of quantized tensors, as a mapping that reads one tensor at a time.

    path  a GGUF file

    Raises ValueError for a file that is damaged, or of another format.
    """
    return gguf.GGUF(checks.file("path", path))

"""Other people's files, opened: {name: QTensor, Blocks or Tensor}.

    with formats.open("model.gguf") as file:
        file.metadata["general.architecture"]
        file["blk.0.attn_q.weight"].dequantize()

Tensors come in torch's order of axes, each when it is asked for.
"""

import builtins
from pathlib import Path

from qlesson import checks
from qlesson.files.formats import gguf, safetensors
from qlesson.files.formats.layout import MAGIC
from qlesson.files.formats.opened import NotRead, Opened, Stored

__all__ = ["NotRead", "Opened", "Stored", "gguf", "open"]


def open(path: str | Path) -> Opened:
    """A file of quantized tensors, as a mapping that reads one tensor at a time.

    path  a GGUF file; a safetensors file, the index of a sharded one, or the folder that holds one
          of these

    Plain tensors are torch.Tensors. GPTQ, AWQ, compressed-tensors, bitsandbytes' 8 bits and
    torchao's integers come as QTensors, with the bits and the scale's dtype that are stored, and as
    Blocks where a scale is 0 or negative; NF4, FP4, FP8, MX, NVFP4 and the types of ggml in the
    table of `qlesson.files.formats.ggml` as Blocks, or a subclass: a tensor of another type is in
    the list, and raises NotRead. The configuration of a folder is in
    `.metadata["quantization_config"]`.

    Raises ValueError for a file that is damaged, or of another format.
    """
    path = checks.path("path", path)
    if path.is_dir():
        return safetensors.Safetensors(path)
    with builtins.open(checks.file("path", path), "rb") as file:
        is_gguf = file.read(len(MAGIC)) == MAGIC or path.suffix.lower() == ".gguf"
    return gguf.GGUF(path) if is_gguf else safetensors.Safetensors(path)

"""Where the course computes (notebook 00)."""

import os
import warnings

import torch

from qlesson import checks


def best_device() -> torch.device:
    """cuda when it is available, else cpu. The environment variable QLESSON_DEVICE overrides.

    A GPU that torch reports and cannot use, one too old for it say, gives cpu and a warning. Raises
    ValueError when QLESSON_DEVICE names a device that torch does not have.
    """
    if asked := os.environ.get("QLESSON_DEVICE"):
        return checks.device("QLESSON_DEVICE", asked)
    if torch.cuda.is_available():
        try:
            torch.zeros(1, device="cuda").item()
            return torch.device("cuda")
        except RuntimeError as error:
            warnings.warn(
                f"torch cannot use the GPU that it reports ({str(error).splitlines()[0]}), so the "
                "course computes on the CPU. With QLESSON_DEVICE=cpu it does without a word.",
                RuntimeWarning,
                stacklevel=checks.levels_to_caller(),
            )
    return torch.device("cpu")

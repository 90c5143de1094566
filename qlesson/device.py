"""Where the course computes (notebook 00)."""

import os

import torch

from qlesson import checks


def best_device() -> torch.device:
    """cuda when it is available, else cpu. The environment variable QLESSON_DEVICE overrides.

    Raises ValueError when QLESSON_DEVICE names a device that torch does not have.
    """
    name = os.environ.get("QLESSON_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")
    return checks.device("QLESSON_DEVICE", name)

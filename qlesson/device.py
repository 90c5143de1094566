"""Where the course computes (notebook 00)."""

import os

import torch


def best_device() -> torch.device:
    """cuda when it is available, else cpu. The environment variable QLESSON_DEVICE overrides.

    Raises ValueError when QLESSON_DEVICE names a device that torch does not have.
    """
    name = os.environ.get("QLESSON_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # meta holds no values, and fails here
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(
            f"QLESSON_DEVICE={name!r} cannot be used here ({str(error).splitlines()[0]}): "
            'set it to "cpu", or unset it.'
        ) from None
    return device

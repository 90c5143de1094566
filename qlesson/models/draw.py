"""What a model writes next, from the logits of all that could come."""

from torch import Tensor


def drawn(logits: Tensor, temperature: float, noise: Tensor | None) -> int:
    """argmax(logits / temperature + noise), or argmax(logits) where there is no noise.

    Raises ValueError for logits that are NaN or infinite.
    """
    best = logits.max()
    if not best.isfinite():
        raise ValueError(
            f"The model's logits reach {best.item()}, and none is the likeliest: look for NaN and "
            "infinity in its weights, or compute in a wider dtype, as model.float() does."
        )
    if noise is None:
        return int(logits.argmax())
    # less the best, so that a tiny temperature makes no infinity of it
    return int(((logits - best) / temperature + noise).argmax())

"""Train the course's GPT again, from its seed: `python -m qlesson.models.tinygpt.train`.

About 20 minutes on two free CPU cores. The text is Python's own documentation, which every Python
carries in `pydoc_data.topics`; it differs a little between versions, and so do the weights.
"""

import argparse
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from qlesson.models.tinygpt.measure import perplexity
from qlesson.models.tinygpt.model import GPT, Config
from qlesson.models.tinygpt.text import VOCABULARY, encode, heldout_text

BATCH, WARM_UP, PEAK_RATE, WEIGHT_DECAY = 64, 100, 1.5e-3, 0.1
PLAIN = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "–": "-", "—": "-", "…": "..."})


def paragraphs() -> list[str]:
    """The paragraphs of `pydoc_data.topics` in their order, each once, in the 94 characters.

    Once, because the topics repeat each other ("for" is also a part of "compound"): a paragraph
    on both sides of the cut would test the model on what it has learned by heart.
    """
    from pydoc_data.topics import topics

    text = "\n\n".join(topics.values()).translate(PLAIN)
    kept = "".join(character for character in text if character in VOCABULARY)
    return list(dict.fromkeys(p.strip("\n") for p in kept.split("\n\n") if p.strip()))


def training_text() -> Tensor:
    """All paragraphs but the held-out ones, as integers [length].

    Another Python than 3.11.7 has reworded copies of held-out paragraphs, which stay in (of the
    measured text, 7 % in 3.13): weights trained there look better than they are.
    """
    heldout = set(heldout_text().split("\n\n"))
    return encode("\n\n".join(p for p in paragraphs() if p not in heldout))


def learning_rate(step: int, steps: int) -> float:
    """A linear warm-up over 100 steps, and half a cosine from the peak down to a tenth of it."""
    warm_up = min(1.0, (step + 1) / WARM_UP)
    return PEAK_RATE * warm_up * (0.55 + 0.45 * math.cos(math.pi * step / steps))


def make_optimizer(model: nn.Module) -> torch.optim.AdamW:
    """AdamW with weight decay on the matrices, none on biases and norms."""
    matrices = [p for p in model.parameters() if p.dim() == 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    decayed = {"params": matrices, "weight_decay": WEIGHT_DECAY}
    return torch.optim.AdamW(
        [decayed, {"params": vectors, "weight_decay": 0.0}], lr=PEAK_RATE, betas=(0.9, 0.99)
    )


def batch_loss(model: GPT, text: Tensor, batch: int) -> Tensor:
    """Mean of -log p(next character) over `batch` windows at random places, in nats.

    The matrix products run in bfloat16, twice as fast on two cores; the weights stay float32.
    """
    device = model.token_embedding.weight.device
    starts = torch.randint(len(text) - model.config.context, (batch, 1))
    window = text[starts + torch.arange(model.config.context + 1)].to(device)
    with torch.autocast(device.type, torch.bfloat16):
        logits = model(window[:, :-1])
    return F.cross_entropy(logits.float().flatten(0, 1), window[:, 1:].flatten())


def train(
    text: Tensor,
    steps: int = 2000,
    seed: int = 0,
    config: Config = Config(),
    batch: int = BATCH,
    device: torch.device | str = "cpu",
    report: Callable[[GPT, int, float], object] | None = None,
) -> GPT:
    """A GPT trained on text [length]. report(model, step, loss) is called after every step."""
    torch.manual_seed(seed)
    model = GPT(config).to(device).train()
    optimizer = make_optimizer(model)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps)
        loss = batch_loss(model, text, batch)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if report:
            report(model, step + 1, loss.item())
    return model.eval()


def save(model: nn.Module, path: str | Path) -> None:
    """The weights in float32, with the vocabulary beside them."""
    weights = {name: w.cpu().contiguous() for name, w in model.state_dict().items()}
    save_file(weights, path, metadata={"vocabulary": VOCABULARY})


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    prog = "python -m qlesson.models.tinygpt.train"
    parser = argparse.ArgumentParser(prog=prog, description=__doc__)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("my_notebooks/tinygpt"), help="a folder")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    options, start = parse(arguments), time.monotonic()

    def report(model: GPT, step: int, loss: float) -> None:
        if step % 100 == 0 or step == options.steps:
            seconds = time.monotonic() - start
            print(
                f"step {step:5d}  training loss {loss:.3f}  "
                f"held-out perplexity {perplexity(model):.3f}  {seconds:.0f} s",
                flush=True,
            )

    model = train(
        training_text(), options.steps, options.seed, device=options.device, report=report
    )
    options.out.mkdir(parents=True, exist_ok=True)
    save(model, options.out / "weights.safetensors")


if __name__ == "__main__":
    main()

"""Train the course's GPT through its own rounding (notebook 12):

    python -m qlesson.models.tinygpt.train_quantized

About ten minutes on two free CPU cores; trained.md says what comes of it. The float model teaches
what it predicts on the calibration text, and only the linear layers' 16 matrices learn.
"""

import argparse
import copy
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from qlesson.affine import QParams
from qlesson.files import checkpoint
from qlesson.granularity import PerAxis
from qlesson.models.tinygpt.codes import BITS, STEPS_OF, _file, _with_codes
from qlesson.models.tinygpt.measure import perplexity
from qlesson.models.tinygpt.model import GPT, load
from qlesson.models.tinygpt.text import calibration_text, encode
from qlesson.qtensor import QTensor, choose_qparams, fake_quantize, quantize
from qlesson.ranges import mse_search
from qlesson.scheme import Scheme

BATCH, STEPS, PEAK_RATE = 8, 400, 1e-3


class MinMax(nn.Module):
    """W -> W_hat, each row's range from its smallest to its largest value of now."""

    def __init__(self, weight: Tensor, scheme: Scheme) -> None:
        super().__init__()
        self.scheme = scheme

    def forward(self, weight: Tensor) -> Tensor:
        return fake_quantize(weight, self.scheme)

    def codes(self, weight: Tensor) -> QTensor:
        return quantize(weight, self.scheme)


class Learned(nn.Module):
    """W -> W_hat with steps that are trained too, from those of `mse_search`; zero points stay.

    Esser et al. 2020, arXiv:1902.08153. What is trained is log(step): a step stays positive. Their
    factor 1 / sqrt(n quant_max) on its gradient is for plain descent, and Adam divides it out.
    """

    zero_point: Tensor

    def __init__(self, weight: Tensor, scheme: Scheme) -> None:
        super().__init__()
        self.scheme = scheme
        scale, zero_point = choose_qparams(weight, scheme, mse_search)
        self.log_step = nn.Parameter(scale.log())
        self.register_buffer("zero_point", zero_point)

    def qparams(self) -> QParams:
        return QParams(self.log_step.exp(), self.zero_point)

    def forward(self, weight: Tensor) -> Tensor:
        return fake_quantize(weight, self.scheme, self.qparams())

    def codes(self, weight: Tensor) -> QTensor:
        return quantize(weight, self.scheme, self.qparams())


ROUNDING: dict[str, type[MinMax] | type[Learned]] = {"min-max": MinMax, "learned": Learned}


def batch_loss(student: nn.Module, teacher: GPT, text: Tensor, g: torch.Generator) -> Tensor:
    """Mean of KL(teacher, student) over 8 windows at random places, in nats per character."""
    context, device = teacher.config.context, teacher.token_embedding.weight.device
    starts = torch.randint(len(text) - context + 1, (BATCH, 1), generator=g)
    window = text[starts + torch.arange(context)].to(device)
    with torch.no_grad():
        wanted = teacher(window).log_softmax(-1).flatten(0, 1)
    got = student(window).log_softmax(-1).flatten(0, 1)
    return F.kl_div(got, wanted, log_target=True, reduction="batchmean")


def train(
    teacher: GPT,
    bits: int,
    steps_of: str,
    text: Tensor,
    steps: int = STEPS,
    rate: float = PEAK_RATE,
    seed: int = 0,
    report: Callable[[int, float], object] | None = None,
) -> dict[str, QTensor]:
    """{name.weight: codes} of the linear layers, trained to predict text [length] as the teacher.

    steps_of  "min-max" or "learned"
    rate      Adam's, falling to 0 in a line
    report(step, loss) is called after every step.
    """
    student = copy.deepcopy(teacher).requires_grad_(False)
    linear = {name: m for name, m in student.named_modules() if isinstance(m, nn.Linear)}
    held: dict[str, tuple[MinMax | Learned, Tensor]] = {}
    for name, layer in linear.items():
        weight = layer.weight.requires_grad_()
        rounding = ROUNDING[steps_of](weight.detach(), Scheme(bits, granularity=PerAxis(0)))
        held[f"{name}.weight"] = rounding, weight
        parametrize.register_parametrization(layer, "weight", rounding)
    learned = [p for p in student.parameters() if p.requires_grad]
    optimizer, g = torch.optim.Adam(learned), torch.Generator().manual_seed(seed)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rate * (1 - step / steps)
        loss = batch_loss(student, teacher, text, g)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if report:
            report(step + 1, loss.item())
    return {name: rounding.codes(weight.detach()) for name, (rounding, weight) in held.items()}


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    prog = "python -m qlesson.models.tinygpt.train_quantized"
    parser = argparse.ArgumentParser(prog=prog, description=__doc__.split("\n\n")[2])
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--rate", type=float, default=PEAK_RATE)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("my_notebooks/tinygpt"), help="a folder")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    teacher, text = load(options.device), encode(calibration_text())
    options.out.mkdir(parents=True, exist_ok=True)
    for bits in BITS:
        for steps_of in STEPS_OF:
            start, losses = time.monotonic(), []
            codes = train(
                teacher, bits, steps_of, text, options.steps, options.rate, options.seed,
                lambda step, loss: losses.append(loss),  # noqa: B023  called before the next model
            )  # fmt: skip
            checkpoint.save(_file(bits, steps_of, options.out), codes)
            print(
                f"{bits} bits, {steps_of:8s}  loss {losses[0]:.3f} -> "
                f"{sum(losses[-20:]) / len(losses[-20:]):.3f}  held-out perplexity "
                f"{perplexity(_with_codes(teacher, codes)):.3f}  {time.monotonic() - start:.0f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()

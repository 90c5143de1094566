"""A model of your own, from floats to a file that runs elsewhere   (notebook 17).

    python my_project.py                   all six steps
    python my_project.py codes.safetensors the last one: what another process makes of the file

Yours are the three functions at the top; here they have the course's own model. A safetensors
checkpoint of Llama's kind becomes a GGUF file, too, by `qlesson quantize IN OUT.gguf`, and a layer
becomes ONNX by `qlesson.nn.to_onnx_qdq`.
"""

import copy
import subprocess
import sys
from pathlib import Path

import torch

import qlesson as ql
from qlesson.evaluate import compare, mean_and_error, window_losses
from qlesson.files import checkpoint
from qlesson.models import tinygpt
from qlesson.nn import load_state, quantize_model, state


def my_model():
    """A float model that gives logits [windows, time, vocabulary] for ids [windows, time].

    Where yours gives more (a tuple, an object with .logits), wrap it in a module of a few lines.
    """
    return tinygpt.load()


def my_windows():
    """Text that it has not seen, as ids [windows, time], int64: half of the windows choose, the
    others judge. At least four; the more, the smaller the standard errors."""
    return tinygpt.encode(tinygpt.heldout_text()).unfold(0, 129, 128)[:32]


def my_scheme():
    """{pattern: Scheme} of the layers to quantize; "*" fits every layer."""
    return {"blocks.*": ql.Scheme(3, granularity=ql.PerGroup(32), scale_dtype=torch.float16)}


EIGHT = ql.Scheme(8, granularity=ql.PerGroup(32), scale_dtype=torch.float16)


def exact(model):
    """In float64 every machine prints the same; leave it out where memory is short."""
    return copy.deepcopy(model).double()


def quantized(model, scheme, skip=()):
    return exact(quantize_model(model, scheme, skip)[0])


def gains(model, scheme, names, windows):
    """{layer: nats that are gained where this one layer stays float}."""
    small, gained = quantized(model, scheme), {}
    for name in names:
        gained[name] = -compare(small, quantized(model, scheme, name), [windows]).difference
    return gained


def loss(model):
    """On the windows that judge, and its standard error."""
    _, judge = my_windows().chunk(2)
    return mean_and_error(window_losses(exact(model), [judge]))


def run(path):
    """The loss of the model in the file."""
    return loss(load_state(my_model(), checkpoint.load(path)))[0]


def main(path):
    model, scheme = my_model(), dict(my_scheme())
    choose, judge = my_windows().chunk(2)
    print("1 float: {:.3f} ± {:.3f} nats per token".format(*loss(model)))

    small, report = quantize_model(model, scheme)
    c = compare(exact(model), exact(small), [judge])
    print(f"2 one scheme: {told(c, 1)}; {report.bytes_before:,} to {report.bytes_after:,} bytes")

    gained = gains(model, scheme, [row.name for row in report], choose)
    order = sorted(gained, key=gained.get, reverse=True)
    costly = ", ".join(f"{name} {gained[name]:.3f}" for name in order[:3])
    print(f"3 layers that cost most, in nats: {costly}")

    worst = order[0]
    better, report = quantize_model(model, scheme | {worst: EIGHT})
    c = compare(exact(small), exact(better), [judge])
    print(f"4 {worst} in 8 bits: {told(c, 2)}; {report.bytes_after:,} bytes")

    checkpoint.save(path, state(better))
    print(f"5 export: {Path(path).name}, {Path(path).stat().st_size:,} bytes", flush=True)
    subprocess.run([sys.executable, __file__, path], check=True)


def told(c, step):
    """The loss of a model, and its difference from that of an earlier step."""
    difference = f"{c.difference:+.3f} ± {c.standard_error:.3f}, {c.verdict}"
    return f"{c.other_loss:.3f} nats; beside {step}: {difference}"


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(f"6 elsewhere: {run(sys.argv[1]):.3f} nats")
    else:
        main("my_codes.safetensors")

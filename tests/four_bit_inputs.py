"""notebooks/four_bit_inputs.csv and the inputs of play("17"): what takes too long there.

python tests/four_bit_inputs.py          writes both again, in twenty minutes of one core
python tests/four_bit_inputs.py 8 4      the lines with weights of 8 and inputs of 4 bits

The language model with weights of 8 or 4 bits, and inputs of 16 (float), 8, 6 or 4 bits: as it is,
with its rotation folded into the weights, and with the inputs of `down` rotated online as well; and
as it is with a scale for each 32 inputs of 4 bits. In float32, by the compiled products; so the
last digits are those of the machine, and they are not printed.
"""

import csv
import datetime
import sys

import judged
import torch

import qlesson as ql
from qlesson.authoring import refresh
from qlesson.evaluate import mean_and_error, window_losses
from qlesson.models import llama
from qlesson.nn import QuantizedLinear, Rotation, record

CSV = judged.ROOT / "notebooks/four_bit_inputs.csv"
TOKEN = judged.ROOT / "qlesson/teach/lessons/n17/token.csv"
BLOCK, AT = 15, 40  # whose inputs are shown, and for which token of the first window
PAIRS = ((8, 16), (8, 8), (8, 6), (8, 4), (4, 16), (4, 8), (4, 4))
WAYS = ("none", "folded", "online", "groups")
PROMPT = judged.PROMPTS[0]


def schemes(weights):
    """Of the matrices in the blocks; embedding and head keep 8 bits, as in the file."""
    return {"blocks.*": judged.scheme(weights), "*": judged.scheme(8)}


def made(model, weights, inputs, way):
    """The model with weights and inputs of these bits; a scale and a zero point for each token."""
    if way == "groups":
        return in_groups(llama.requantized(model, schemes(weights)), inputs)
    activations = None if inputs == 16 else ql.Scheme(inputs, granularity=ql.PerAxis(0))
    if way == "none":
        return llama.requantized(model, schemes(weights), activations=activations)
    return llama.rotated(model, schemes(weights), activations, online=way == "online")


def in_groups(model, bits):
    """The model with a scale and a zero point for each 32 inputs: its layers take one a token."""
    scheme = ql.Scheme(bits, granularity=ql.PerGroup(32))
    for layer in model.blocks.modules():
        if isinstance(layer, QuantizedLinear):
            layer.register_forward_pre_hook(lambda _, x: ql.fake_quantize(x[0], scheme))
    return model


def line(model, tokenizer, weights, inputs, way, its, own, plain):
    """One line of the file, from the loss of each window: its, the file's, and that of the same
    bits with a scale a token and no rotation."""
    difference, error = mean_and_error(its - own)
    beside, beside_error = mean_and_error(its - plain)
    answer = tokenizer.decode(model.generate(tokenizer.chat(PROMPT), 12))
    return {
        "processor": refresh.machine().partition(",")[0],
        "date": f"{datetime.date.today():%Y-%m}",
        "weights": weights,
        "inputs": inputs,
        "way": way,
        "perplexity": f"{its.mean().exp():.2f}",
        "difference": f"{difference:.4f}",
        "error": f"{error:.4f}",
        "beside": f"{beside:.4f}",
        "beside_error": f"{beside_error:.4f}",
        "two_windows": f"{(its - own)[:2].mean():.3f}",
        "answer": " ".join(answer.split()),
    }


def write(lines):
    """In the place of the lines of the same kind, in the order of PAIRS."""
    found = {}
    if CSV.exists():
        with open(CSV, newline="", encoding="utf-8") as file:
            found = {_kind(x): x for x in csv.DictReader(file)}
    found |= {_kind(x): x for x in lines}
    order = [(str(w), str(i), way) for w, i in PAIRS for way in WAYS]
    with open(CSV, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(lines[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(found[kind] for kind in order if kind in found)


def _kind(x):
    return str(x["weights"]), str(x["inputs"]), x["way"]


def one_token(model, window):
    """{layer: (its input for one token, the same rotated)}, in float64 and rounded to float32."""
    model, block = model.double(), f"blocks.{BLOCK}."
    layers = {name: model.get_submodule(block + name) for name in ("attention.qkv", "mlp.down")}
    met = {}
    record(model, [window[None]], lambda name, x: met.setdefault(name, x[AT]), layers)
    gain = model.get_submodule(block + "norm_1").weight
    turned = {"attention.qkv": met["attention.qkv"] / gain, "mlp.down": met["mlp.down"]}
    return {n: (x, Rotation.of_width(len(x)).apply(turned[n])) for n, x in met.items()}


def write_token(model, window):
    with open(TOKEN, "w", encoding="utf-8") as file:
        file.write("layer,input,rotated\n")
        for name, both in one_token(model, window).items():
            file.writelines(f"{name},{x:.4g},{y:.4g}\n" for x, y in zip(*both, strict=True))


def main():
    model, tokenizer = llama.load(llama.smollm2())
    batches = [judged.windows(tokenizer)]
    ql.use_kernels("compiled")
    own = window_losses(model, batches)
    asked = tuple(map(int, sys.argv[1:]))
    if not asked:
        write_token(model, batches[0][0])
        model.float()
    for weights, inputs in [asked] if asked else PAIRS:
        lines, plain = [], None
        for way in WAYS if inputs == 4 else WAYS[:-1]:
            other = made(model, weights, inputs, way)
            its = window_losses(other, batches)
            plain = its if plain is None else plain
            told = line(other, tokenizer, weights, inputs, way, its, own, plain)
            print(told, flush=True)
            lines.append(told)
        write(lines)


if __name__ == "__main__":
    with torch.inference_mode():
        main()

"""notebooks/judged.csv and the answers of play("16"): what takes too long to be computed there.

python tests/judged.py          writes them again, in ten minutes of one core
python tests/judged.py 4 3      the lines of these bits; the others stay

The language model with its weights rounded again, with 2 to 8 bits: how it predicts a text that the
course holds, how many of the 60 questions it answers, and what it writes. In float32, by the
compiled products; so the last digits are those of the machine, and they are not printed.
"""

import csv
import datetime
import sys
from pathlib import Path

import torch

import qlesson as ql
from qlesson.authoring import refresh
from qlesson.evaluate import choice_accuracy, compare
from qlesson.models import llama, tinygpt

ROOT = Path(__file__).parents[1]
JUDGED = ROOT / "notebooks/judged.csv"
ANSWERS = ROOT / "qlesson/teach/lessons/n16/answers.csv"
ALL = ("file", "8", "6", "5", "4", "3", "2")
WINDOWS, LENGTH = 40, 129  # 128 predictions each
PROMPTS = (
    "What is the capital of France?",
    "Why is the sky blue?",
    "What is 2 plus 3?",
    "Tell me about cats.",
    "Write a poem about the sea.",
)


def scheme(bits):
    return ql.Scheme(bits, granularity=ql.PerGroup(32), scale_dtype=torch.float16)


def windows(tokenizer):
    ids = torch.tensor(tokenizer.encode(tinygpt.heldout_text()))
    return ids.unfold(0, LENGTH, LENGTH - 1)[:WINDOWS]


def nbytes(model):
    return sum(x.nbytes for x in {id(b): b for b in model.buffers()}.values())


def judged(name, model, other, batches, asked):
    """One line of judged.csv; `right` has a 1 for each question that is answered."""
    accuracy = choice_accuracy(other, asked)
    c = compare(model, other, [batches])
    line = {
        "processor": refresh.machine().partition(",")[0],
        "date": f"{datetime.date.today():%Y-%m}",
        "bits": name,
        "megabytes": f"{nbytes(other) / 1e6:.1f}",
        "perplexity": f"{c.other_perplexity:.2f}",
        "difference": f"{c.difference:.4f}",
        "error": f"{c.standard_error:.4f}",
        "kl": f"{c.kl:.4f}",
        "agreement": f"{c.agreement:.3f}",
        "questions": int(accuracy.right.sum()),
        "low": f"{accuracy.low:.3f}",
        "high": f"{accuracy.high:.3f}",
    }
    return line | {"right": "".join(str(int(x)) for x in accuracy.right)}


def answers(name, model, tokenizer):
    """Lines of answers.csv: a prompt each, with the likeliest first tokens and the answer."""
    for prompt in PROMPTS:
        ids = tokenizer.chat(prompt)
        with torch.no_grad():
            p = model(torch.tensor([ids]))[0, -1].softmax(-1)
        found = p.topk(3)
        line = {"bits": name, "prompt": prompt}
        for i, (token, share) in enumerate(zip(found.indices, found.values, strict=True)):
            line |= {f"token_{i}": tokenizer.decode([token]), f"p_{i}": f"{share:.3f}"}
        yield line | {"answer": tokenizer.decode(model.generate(ids, 40))}


def write(path, bits, lines):
    """In the place of the lines of these bits, in the order of ALL."""
    kept = []
    if path.exists():
        with open(path, newline="", encoding="utf-8") as file:
            kept = [line for line in csv.DictReader(file) if line["bits"] != bits]
    lines = sorted([*kept, *lines], key=lambda line: ALL.index(line["bits"]))
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(lines[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)


def main():
    model, tokenizer = llama.load(llama.smollm2())
    batches = windows(tokenizer)
    asked = llama.as_ids(tokenizer, llama.questions())
    ql.use_kernels("compiled")
    for bits in sys.argv[1:] or ALL:
        other = model if bits == "file" else llama.requantized(model, scheme(int(bits)))
        line = judged(bits, model, other, batches, asked)
        print(line, flush=True)
        write(JUDGED, bits, [line])
        write(ANSWERS, bits, list(answers(bits, other, tokenizer)))


if __name__ == "__main__":
    main()

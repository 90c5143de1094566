"""notebooks/judged.csv and notebooks/answers.csv: what notebook 16 shows and does not wait for.

python tests/judged.py     writes them again, in half an hour of one core

The language model with its weights rounded again, with 2 to 8 bits: how it predicts a text that the
course holds, how many of the 60 questions it answers, and what it writes. In float32, by the
compiled products; so the last digits are those of the machine, and they are not printed.
"""

import csv
import datetime
import math
from pathlib import Path

import torch

import qlesson as ql
from qlesson.authoring import refresh
from qlesson.evaluate import choice_accuracy, compare, mean_and_error
from qlesson.models import llama, tinygpt

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
BITS = (8, 6, 5, 4, 3, 2)
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


def judged(name, model, other, batches, asked, floor):
    """One line of judged.csv."""
    accuracy = choice_accuracy(other, asked)
    line = {
        "bits": name,
        "megabytes": f"{nbytes(other) / 1e6:.1f}",
        "questions": int(accuracy.right.sum()),
        "low": f"{accuracy.low:.3f}",
        "high": f"{accuracy.high:.3f}",
    }
    if other is not model:
        c = compare(model, other, [batches])
        lost, error = mean_and_error(floor - accuracy.right)
        line |= {
            "perplexity": f"{c.other_perplexity:.2f}",
            "difference": f"{c.difference:.4f}",
            "error": f"{c.standard_error:.4f}",
            "kl": f"{c.kl:.4f}",
            "agreement": f"{c.agreement:.3f}",
            "lost": f"{lost:.3f}",
            "lost_error": f"{error:.3f}",
        }
    else:
        loss = compare(model, model, [batches]).loss
        line |= {"perplexity": f"{math.exp(loss):.2f}"}
    return line, accuracy.right


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


def write(name, lines):
    with open(NOTEBOOKS / name, "w", newline="", encoding="utf-8") as file:
        columns = list(max(lines, key=len))
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)


def main():
    model, tokenizer = llama.load(llama.smollm2())
    batches = windows(tokenizer)
    asked = llama.as_ids(tokenizer, llama.questions())
    ql.use_kernels("compiled")
    floor, lines, said = None, [], []
    for bits in ("file", *BITS):
        other = model if bits == "file" else llama.requantized(model, scheme(bits))
        line, right = judged(bits, model, other, batches, asked, floor)
        floor = right if floor is None else floor
        lines.append(line)
        said += answers(bits, other, tokenizer)
        print(line, flush=True)
        write("judged.csv", lines)
        write("answers.csv", said)
    where = f"{refresh.machine()}, {datetime.date.today():%B %Y}"
    (NOTEBOOKS / "judged_on.txt").write_text(where + "\n")


if __name__ == "__main__":
    main()

"""notebooks/judged.csv and judged_cache.csv, and the answers of play("16"): what takes too long to
be computed there.

python tests/judged.py          writes them again, in a quarter of an hour of one core
python tests/judged.py 4 3      the lines of these bits in judged.csv; the others stay
python tests/judged.py cache    judged_cache.csv alone

The language model with its weights rounded again, with 2 to 8 bits: how it predicts a text that the
course holds, how many of the 60 questions it answers, and what it writes. In float32, by the
compiled products; so the last digits are those of the machine, and they are not printed. And the
same model with its own weights, which reads the text through a quantized cache of keys and values.
"""

import csv
import datetime
import sys
from pathlib import Path

import torch

import qlesson as ql
from qlesson.authoring import refresh
from qlesson.evaluate import choice_accuracy, compare
from qlesson.models import cache, llama, tinygpt

ROOT = Path(__file__).parents[1]
JUDGED = ROOT / "notebooks/judged.csv"
CACHE = ROOT / "notebooks/judged_cache.csv"
ANSWERS = ROOT / "qlesson/teach/lessons/n16/answers.csv"
PER = {"token": cache.PER_TOKEN, "channel": cache.PER_CHANNEL}
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


class Cached(torch.nn.Module):
    """The model as it reads in pieces, as long as a cache's blocks, through a new cache."""

    def __init__(self, model, new_cache):
        super().__init__()
        self.model, self.new_cache = model, new_cache

    def forward(self, ids):
        held = self.new_cache()
        return torch.cat([self.model(piece, held) for piece in ids.split(cache.BLOCK, 1)], 1)


def with_cache(model, bits, keys, values):
    schemes = [
        ql.Scheme(bits, granularity=PER[x], scale_dtype=torch.float16) for x in (keys, values)
    ]
    return Cached(model, lambda: cache.KVCache(*schemes))


def judged_caches(model, batches):
    """The lines of judged_cache.csv."""
    for bits in (8, 4, 3, 2):
        for keys in PER:
            other = with_cache(model, bits, keys, "token")
            c = compare(model, other, [batches])
            yield where_and_when() | {
                "bits": bits,
                "keys per": keys,
                "values per": "token",
                "difference": f"{c.difference:.4f}",
                "error": f"{c.standard_error:.4f}",
                "agreement": f"{c.agreement:.3f}",
            }


def where_and_when():
    processor = refresh.machine().partition(",")[0]
    return {"processor": processor, "date": f"{datetime.date.today():%Y-%m}"}


def judged(name, model, other, batches, asked, own):
    """One line of judged.csv; own: which of the questions the model answers right."""
    accuracy = choice_accuracy(other, asked)
    change = accuracy.right - own
    c = compare(model, other, [batches])
    return where_and_when() | {
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
        "lost": int((change < 0).sum()),
        "won": int((change > 0).sum()),
    }


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
    store(path, sorted([*kept, *lines], key=lambda line: ALL.index(line["bits"])))


def store(path, lines):
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(lines[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)


def main():
    model, tokenizer = llama.load(llama.smollm2())
    batches = windows(tokenizer)
    questions = llama.as_ids(tokenizer, llama.questions())
    ql.use_kernels("compiled")
    asked = sys.argv[1:] or [*ALL, "cache"]
    if "cache" in asked:
        store(CACHE, list(judged_caches(model, batches)))
    own = choice_accuracy(model, questions).right
    for bits in [x for x in asked if x in ALL]:
        other = model if bits == "file" else llama.requantized(model, scheme(int(bits)))
        line = judged(bits, model, other, batches, questions, own)
        print(line, flush=True)
        write(JUDGED, bits, [line])
        write(ANSWERS, bits, list(answers(bits, other, tokenizer)))


if __name__ == "__main__":
    main()

"""60 questions with four choices each, written for the course   (notebook 16)."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from qlesson import checks
from qlesson.models.llama.tokens import Tokenizer

FILE = Path(__file__).with_suffix(".txt")
Question = tuple[str, tuple[str, ...]]


@cache
def questions() -> tuple[Question, ...]:
    """(question, choices) each; the first choice is the right one."""
    lines = FILE.read_text(encoding="utf-8").splitlines()
    return tuple((line.split("|")[0], tuple(line.split("|")[1:])) for line in lines)


def as_ids(
    tokenizer: Tokenizer, asked: Sequence[Question]
) -> list[tuple[list[int], list[list[int]], int]]:
    """The questions as `evaluate.choice_accuracy` takes them: "Question: ...\\nAnswer:", and each
    choice behind a space.

    The right choice stands last, so that of equal scores a wrong one wins.
    """
    checks.of_type("tokenizer", tokenizer, Tokenizer, "llama.load gives it")
    found = []
    for question, (right, *wrong) in asked:
        prompt = f"Question: {question}\nAnswer:"
        ids = tokenizer.encode(prompt)
        choices = [_behind(ids, tokenizer, prompt, f" {choice}") for choice in (*wrong, right)]
        found.append((ids, choices, len(choices) - 1))
    return found


def _behind(ids: list[int], tokenizer: Tokenizer, prompt: str, text: str) -> list[int]:
    """The ids of a text behind the prompt: alone, some tokenizers begin it with a space."""
    whole = tokenizer.encode(prompt + text)
    return whole[len(ids) :] if whole[: len(ids)] == ids else tokenizer.encode(text)

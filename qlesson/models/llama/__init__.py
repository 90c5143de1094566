"""A language model that somebody published, from the file in which it is   (notebook 16).

from qlesson.models import llama

model, tokenizer = llama.load("SmolLM2-135M-Instruct.Q4_1.gguf")
ids = tokenizer.chat("What is the capital of France?")
print(tokenizer.decode(model.generate(ids, 20)))
"""

from qlesson.models.llama.again import requantized
from qlesson.models.llama.load import HOW_TO_GET_IT, load, smollm2
from qlesson.models.llama.model import Config, Llama
from qlesson.models.llama.questions import as_ids, questions
from qlesson.models.llama.rotation import rotated
from qlesson.models.llama.tokens import Tokenizer

__all__ = [
    "HOW_TO_GET_IT",
    "Config",
    "Llama",
    "Tokenizer",
    "as_ids",
    "load",
    "questions",
    "requantized",
    "rotated",
    "smollm2",
]

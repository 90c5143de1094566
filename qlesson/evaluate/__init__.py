"""Is one language model better than another (notebook 10)?

Both read the same windows of text, and their losses are subtracted window by window: what makes a
window hard makes it hard for both, and drops out of the difference.

from qlesson.evaluate import compare, table

print(table(compare(model, {"4 bits": four, "3 bits": three}, batches)))

A language model is here any nn.Module with forward(ids [1, time]) -> logits [1, time, vocabulary];
position t predicts id t + 1. It computes in the dtype that it has, and what follows its logits is
float64. A float32 model gives other last digits on another machine: for numbers that are the same
everywhere, pass copies in float64.
"""

from qlesson.evaluate.choices import Accuracy, choice_accuracy, wilson_interval
from qlesson.evaluate.paired import Comparison, compare, mean_and_error, table, window_losses

__all__ = [
    "Accuracy",
    "Comparison",
    "choice_accuracy",
    "compare",
    "mean_and_error",
    "table",
    "wilson_interval",
    "window_losses",
]

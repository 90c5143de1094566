"""What the text of a notebook says of two models is what its stored tables say.

The outputs are compared when the notebooks run; here a table that changes meets the sentences
below it, which nothing else reads.
"""

import re
from pathlib import Path

import nbformat
import pytest

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
WORSE, BETTER, EQUAL = "worse", "better", "cannot be told apart"
SAID = [  # notebook, cell with the table, a part of the sentence, what it says of each model
    ("07", "6fe13f15", "Each of the eight batches alone gives a lower loss",
     {f"batch {i}": BETTER for i in range(1, 9)}),
    ("07", "2356fe2e", "the search and the average cannot be told apart from min-max, and the "
     "percentile is worse",
     {"moving average": EQUAL, "percentile 99.9": WORSE, "MSE search": EQUAL}),
    ("07", "2356fe2f", "With 4 bits every rule here is better than min-max",
     {"moving average": BETTER, "percentile 99.9": BETTER, "MSE search": BETTER}),
    ("07", "519432bf", "One range per window is dynamic, and worse",
     {"one per window": WORSE, "one per character": BETTER}),
    ("07", "f7d9605a", "than the percentile, and the two models cannot be told apart",
     {"min-max": [WORSE, EQUAL], "percentile 99": [EQUAL, WORSE]}),
    ("07", "f7d9605a", "The search is better than the percentile, and cannot be told apart",
     {"min-max": [WORSE, EQUAL], "percentile 99": [EQUAL, WORSE]}),
    ("08", "formats-compared", "predicts this text better; NF4 has 0.5 dB less and cannot be told",
     {"NVFP4": BETTER, "NF4": EQUAL, "MXFP4": WORSE, "int4 symmetric": WORSE,
      "int4 asymmetric": WORSE}),
    ("08", "formats-second-text", "int4 and MXFP4 are worse than Q4_0",
     {"NVFP4": EQUAL, "NF4": EQUAL, "MXFP4": WORSE, "int4 symmetric": WORSE,
      "int4 asymmetric": WORSE}),
]  # fmt: skip


@pytest.mark.parametrize(("number", "cell", "sentence", "verdicts"), SAID)
def test_the_text_says_what_the_table_says(number, cell, sentence, verdicts):
    (path,) = NOTEBOOKS.glob(f"{number}_*.ipynb")
    cells = nbformat.read(path, as_version=4).cells
    (at,) = [i for i, c in enumerate(cells) if c.id == cell]
    after = " ".join(c.source for c in cells[at + 1 : at + 3])
    assert sentence in after
    printed = "".join(o.text for o in cells[at].outputs)
    for name, wanted in verdicts.items():
        lines = re.findall(rf"^{re.escape(name)}  .* %  (.+)$", printed, flags=re.M)
        assert lines == ([wanted] if isinstance(wanted, str) else wanted), name

"""What `play` says."""

import re

import pytest

from qlesson.teach import play


@pytest.fixture
def said(capsys):
    """From a notebook and settings to the text that play prints, and the numbers in it."""

    def of(notebook, **settings):
        assert play(notebook, **settings) is None
        text = capsys.readouterr().out
        return text, [float(x) for x in re.findall(r"(?<![\w.])-?\d+(?:\.\d+)?", text)]

    return of

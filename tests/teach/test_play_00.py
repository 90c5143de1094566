"""What the live figure of notebook 00 says is true: bits and levels of grey."""

import qlesson as ql
from qlesson.teach import figures


def test_it_says_how_many_levels_are_left(said):
    picture = figures.grey_picture()
    for bits in range(2, 9):
        levels = ql.quantize(picture, ql.Scheme(bits)).q.unique().numel()
        assert levels <= 2**bits
        _, numbers = said("00", bits=bits)
        assert numbers == [bits, 32, 4096, 4096, picture.unique().numel(), levels]

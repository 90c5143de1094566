"""The exercises of notebook 10, a quantized language model."""

import math

import torch
from torch import tensor

from qlesson.teach.exercises import exercise, right, wrong


@exercise("10.1", "Perplexity by hand", "write code", difficulty=1, minutes=6)
class PerplexityByHand:
    """
    A model read a text. `p` holds, for each character, the probability that the model gave to the
    character that came. Write `my_perplexity(p)`.
    """

    hints = (
        "Perplexity is exp of a mean. Of what?",
        "Take -log of each probability, then the mean over the characters.",
    )
    why = """The mean of -log p is how many nats a character costs on average, and exp turns it into
        a number of equally likely choices: with p = 1/3 everywhere, the perplexity is 3."""

    @right
    def my_perplexity(p):
        nats = -torch.log(p)
        return torch.exp(nats.sum() / p.numel())

    def spec(p):
        return math.exp(sum(-math.log(x) for x in p) / len(p))

    def cases(rng):
        yield (tensor([0.25]),)
        yield (tensor([0.5, 0.125]),)
        yield (tensor([0.5, 0.5, 0.5]),)
        yield (tensor([0.9, 0.1]),)
        for _ in range(20):
            yield (tensor([rng.uniform(0.05, 1) for _ in range(rng.randint(2, 6))]),)
        yield (tensor([1.0]),)
        yield (tensor([rng.uniform(0.05, 1) for _ in range(2000)]),)  # even float64 has no product

    @wrong("You average the probabilities. Average their logarithms.")
    def mean_first(p):
        return 1 / p.mean()

    @wrong("This is the mean number of nats. Perplexity is its exp.")
    def no_exp(p):
        return (-p.log()).mean()

    @wrong("The sign is missing: log p is negative, and a perplexity is at least 1.")
    def no_sign(p):
        return p.log().mean().exp()

    @wrong("The logarithm of base 2 belongs to 2 to the power, the natural one to exp.")
    def mixed_bases(p):
        return (-p.log2()).mean().exp()

    @wrong("You sum over the characters. A longer text would be more perplexing: take the mean.")
    def summed(p):
        return (-p.log()).sum().exp()

    @wrong("The product of a long text's probabilities is too small for a float. Add logarithms.")
    def product(p):
        return p.prod() ** (-1 / len(p))

    @wrong("You average 1/p. One unlikely character then outweighs all the others.")
    def mean_of_inverse(p):
        return (1 / p).mean()


@exercise("10.2", "A character's memory", "predict a number", difficulty=2, minutes=5)
class Memory:
    """
    A model has 32 layers. In each it keeps, for every token it has read, a key of 4,096 numbers and
    a value of 4,096 numbers. How many bytes does one token take at 16 bits? And at 4 bits in groups
    of 32, asymmetric, where each group has a scale of 32 bits and a zero point of 4 bits?
    """

    hints = (
        "Count the numbers first: layers, times two, times 4,096.",
        "At 4 bits a number costs its code and a share of what its group stores beside it.",
        "4 + (32 + 4) / 32 = 5.125 bits, in place of 16.",
    )
    why = """32 * 2 * 4096 = 262,144 numbers take two bytes each. At 4 bits one number costs
        4 + 36/32 = 5.125 bits, and eight bits are a byte: 3.1 times smaller, not 4 times."""
    stub = "my_16_bits, my_4_bits = ..., ..."
    right = (524_288, 167_936)
    wrong = [
        (
            (262_144, ...),
            "Keys and values: each layer keeps two vectors, and a number has 2 bytes.",
        ),
        ((16_384, ...), "That is one layer. There are 32."),
        ((1_048_576, ...), "16 bits are two bytes, not four."),
        ((4_194_304, ...), "Those are bits. Eight of them are a byte."),
        ((524_288, 131_072), "You left out the scales: each group of 32 has one of 32 bits."),
        ((524_288, 163_840), "You left out the zero points: each group has one of 4 bits."),
        ((524_288, 196_608), "You gave the zero point 32 bits. It is a code, of 4 bits."),
        ((524_288, 1_343_488), "Your second number counts bits. Eight of them are a byte."),
    ]


@exercise("10.3", "The next bit to go", "repair a bug", difficulty=2, minutes=8)
class NextBit:
    """
    This function should say which matrix loses a bit next: the one whose damage grows least for a
    byte saved. For each matrix it gets the damage and the bytes as they are, and as they would be
    with one bit less. It tends to pick a small matrix. Why? Repair it.
    """

    hints = (
        "A small matrix does little damage and saves few bytes. What is the price of one byte?",
        "Damage grows by damage_less - damage, and bytes - bytes_less are saved.",
        "Divide the first by the second, and take the argmin.",
    )
    why = """What counts is the price: the growth of the damage divided by the bytes saved. A large
        matrix that does somewhat more damage may save far more bytes for it."""
    stub = """
        def next_matrix(damage, damage_less, size, size_less):
            return damage_less.argmin()
        """

    @right
    def next_matrix(damage, damage_less, size, size_less):
        return ((damage_less - damage) / (size - size_less)).argmin()

    def spec(damage, damage_less, size, size_less):
        rows = list(zip(damage, damage_less, size, size_less, strict=True))
        prices = [(after - before) / (b - a) for before, after, b, a in rows]
        return prices.index(min(prices))

    def cases(rng):
        yield tensor([1.0, 1.0]), tensor([2.0, 3.0]), tensor([8.0, 8.0]), tensor([6.0, 2.0])
        yield tensor([1.0, 4.0]), tensor([3.0, 5.0]), tensor([8.0, 8.0]), tensor([4.0, 4.0])
        yield tensor([1.0, 1.0]), tensor([3.0, 6.0]), tensor([9.0, 99.0]), tensor([8.0, 66.0])
        yield tensor([0.0, 5.0]), tensor([2.0, 6.0]), tensor([4.0, 9.0]), tensor([2.0, 1.0])
        for _ in range(30):
            n = rng.randint(2, 5)
            damage = [rng.uniform(0, 4) for _ in range(n)]
            grown = [d + rng.uniform(0.2, 2) for d in damage]
            less = [rng.uniform(1, 20) for _ in range(n)]
            size = [b + rng.uniform(1, 40) for b in less]
            yield tuple(map(tensor, (damage, grown, size, less)))

    @wrong("It looks at how the damage grows, and not yet at the bytes that this saves.")
    def growth_alone(damage, damage_less, size, size_less):
        return (damage_less - damage).argmin()

    @wrong("It takes what saves most bytes, whatever the damage.")
    def bytes_alone(damage, damage_less, size, size_less):
        return (size - size_less).argmax()

    @wrong("That is the matrix with the highest price. Take the lowest.")
    def highest(damage, damage_less, size, size_less):
        return ((damage_less - damage) / (size - size_less)).argmax()

    @wrong("That is the lowest price itself. Return its place: argmin in place of min.")
    def the_price(damage, damage_less, size, size_less):
        return ((damage_less - damage) / (size - size_less)).min()

    @wrong("You divide by the bytes that stay. Divide by the bytes saved.")
    def bytes_that_stay(damage, damage_less, size, size_less):
        return ((damage_less - damage) / size_less).argmin()

    @wrong("You divide what the matrix would have. What counts is how damage and bytes change.")
    def not_the_change(damage, damage_less, size, size_less):
        return (damage_less / size_less).argmin()

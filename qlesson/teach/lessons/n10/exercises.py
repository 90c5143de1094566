"""The exercises of notebook 10, a quantized language model."""

import math

from torch import tensor

from qlesson.teach.exercises import exercise, right, wrong


@exercise("10.1", "Is 0.02 real?", "write code", difficulty=2, minutes=8)
class IsItReal:
    """
    Two models read the same windows, and the second has a mean loss that is 0.02 higher. `own` and
    `other` hold the loss of each window. Write `my_z(own, other)`: the mean difference
    other - own, counted in its standard errors.
    """

    hints = (
        "Subtract window by window first: what is hard for both then drops out.",
        "The standard error is the standard deviation of the differences over the root of n.",
        "The standard deviation divides the squares by n - 1, as torch's std does.",
    )
    why = """Both models meet the same hard and easy windows, so the differences scatter far less
        than the losses. Their mean is as uncertain as their standard deviation over the root of n
        says; a mean of less than two such errors cannot be told apart from nothing."""
    within = 1e-4  # the difference of two means keeps few digits in float32

    @right
    def my_z(own, other):
        d = other - own
        return d.mean() / (d.std() / len(d) ** 0.5)

    def spec(own, other):
        d = [b - a for a, b in zip(own, other, strict=True)]
        mean = sum(d) / len(d)
        squares = sum((x - mean) ** 2 for x in d)
        return mean / math.sqrt(squares / (len(d) - 1) / len(d))

    def cases(rng):
        yield tensor([1.0, 2.0]), tensor([1.0, 3.0])
        yield tensor([1.0, 3.0, 2.0]), tensor([2.0, 3.0, 4.0])
        yield tensor([1.5, 1.5, 1.5]), tensor([1.0, 2.5, 1.5])
        yield tensor([2.0, 1.0, 4.0, 2.0]), tensor([1.0, 1.0, 3.0, 1.5])
        for n in (3, 5, 8, 2000):
            own = [rng.uniform(0.5, 3) for _ in range(n)]
            yield tensor(own), tensor([x + rng.uniform(-0.4, 0.6) for x in own])

    @wrong("You take the error of each model alone. Subtract window by window first.")
    def unpaired(own, other):
        n = len(own)
        return (other.mean() - own.mean()) / ((own.var() + other.var()) / n).sqrt()

    @wrong("That is the error of one difference. The mean of n is surer, by the root of n.")
    def no_root_of_n(own, other):
        d = other - own
        return d.mean() / d.std()

    @wrong("You divide the squares by n. The mean was taken from them, so divide by n - 1.")
    def by_n(own, other):
        d = other - own
        return d.mean() / (d.std(correction=0) / len(d) ** 0.5)

    @wrong("The sign is turned: above 0 means that the other model predicts worse.")
    def turned(own, other):
        d = own - other
        return d.mean() / (d.std() / len(d) ** 0.5)

    @wrong("You divide by n. Errors of a mean fall with the root of n.")
    def divided_by_n(own, other):
        d = other - own
        return d.mean() / (d.std() / len(d))

    @wrong("That is the mean difference. Count it in its standard errors.")
    def the_difference(own, other):
        return (other - own).mean()


@exercise("10.2", "A character's memory", "predict a number", difficulty=2, minutes=5)
class Memory:
    """
    A model has 32 layers. In each it keeps, for every token it has read, a key of 4,096 numbers and
    a value of 4,096 numbers. How many bytes does one token take at 16 bits? And at 4 bits in groups
    of 32, asymmetric, where each group has a scale in float16 and a zero point of 4 bits?
    """

    hints = (
        "Count the numbers first: layers, times two, times 4,096.",
        "At 4 bits a number costs its code and a share of what its group stores beside it.",
        "4 + (16 + 4) / 32 = 4.625 bits, in place of 16.",
    )
    why = """32 * 2 * 4096 = 262,144 numbers take two bytes each. At 4 bits one number costs
        4 + 20/32 = 4.625 bits, and eight bits are a byte: 3.5 times smaller, not 4 times."""
    stub = "my_16_bits, my_4_bits = ..., ..."
    right = (524_288, 151_552)
    wrong = [
        (
            (262_144, ...),
            "Keys and values: each layer keeps two vectors, and a number has 2 bytes.",
        ),
        ((16_384, ...), "That is one layer. There are 32."),
        ((1_048_576, ...), "16 bits are two bytes, not four."),
        ((4_194_304, ...), "Those are bits. Eight of them are a byte."),
        ((524_288, 131_072), "You left out the scales: each group of 32 has one of 16 bits."),
        ((524_288, 147_456), "You left out the zero points: each group has one of 4 bits."),
        ((524_288, 163_840), "You gave the zero point 16 bits. It is a code, of 4 bits."),
        ((524_288, 167_936), "You gave the scale 32 bits. In float16 it has 16."),
        ((524_288, 1_212_416), "Your second number counts bits. Eight of them are a byte."),
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
        yield tensor([1.0, 1.0]), tensor([0.5, 1.25]), tensor([8.0, 8.0]), tensor([6.0, 6.0])
        yield tensor([1.0, 1.0]), tensor([0.75, 1.5]), tensor([8.0, 8.0]), tensor([6.0, 6.0])
        yield tensor([1.0, 1.0]), tensor([1.0, 0.5]), tensor([8.0, 8.0]), tensor([6.0, 6.0])
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

    @wrong("Damage may fall, too: a price below 0 is the lowest, and abs makes a high one of it.")
    def without_sign(damage, damage_less, size, size_less):
        return ((damage_less - damage).abs() / (size - size_less)).argmin()

    @wrong("Bytes for a damage: where damage falls or stays, this is below 0 or infinite. Turn it.")
    def bytes_for_damage(damage, damage_less, size, size_less):
        return ((size - size_less) / (damage_less - damage)).argmax()

"""The exercises of notebook 06, granularity."""

import torch
from torch import tensor

import qlesson as ql
from qlesson.teach.exercises import SHAPES, each, exercise, right, symmetric_values, wrong


@exercise("6.1", "One scale per row", "write code", difficulty=2, minutes=8)
class PerRow:
    """
    Write `per_row(r, bits)`: quantize a matrix in symmetric mode with one scale for each row, and
    return the values that come back; a row of zeros must come back as zeros. Run it on `T` and on
    a matrix of 2 rows and 4 columns, since a square tensor can hide a wrong axis.
    """

    hints = (
        "r.abs().amax(dim=...) takes the largest magnitude along one axis. Which one goes away?",
        "The scale must have the shape (rows, 1), so that it stretches along the columns.",
        "s = r.abs().amax(dim=1, keepdim=True) / quant_max; what comes back is s * round(r / s). "
        "A scale of 0 needs one more line.",
    )
    why = """amax over dim 1 removes the columns and leaves one number per row. keepdim=True keeps
        the shape (rows, 1); without it, a square tensor takes the scales along the columns, and
        no message appears. A row of zeros takes any scale above 0: with scale 0 it would be
        0 / 0, which is NaN."""

    @right
    def per_row(r, bits):
        s = r.abs().amax(dim=1, keepdim=True) / (2 ** (bits - 1) - 1)
        s = torch.where(s > 0, s, 1)
        return s * torch.round(r / s)

    def spec(r, bits):
        result = []
        for row in r:
            scale = max(abs(x) for x in row) / (2 ** (bits - 1) - 1) or 1.0
            result.append([scale * round(x / scale) for x in row])
        return result

    def cases(rng):
        yield tensor([[3.0, 1.25]]), 3
        yield tensor([[-3.0, 1.25]]), 3
        yield tensor([[3.0, 1.5]]), 3
        yield tensor([[3.0, 2.5]]), 3
        yield tensor([[3.0], [6.0]]), 3
        yield tensor([[3.0, 1.25], [6.0, 4.5]]), 3
        yield tensor([[0.0, 0.0]]), 3
        yield tensor([[3.0, 1.25], [0.0, 0.0], [0.6, 0.25]]), 3
        for r in ([-0.75, 0.25, 0.5], [0.0, -0.35, -0.15], [0.35, 0.15, 0.0], [0.37, 0.37]):
            yield tensor([r]), 2  # no row of zeros, though a sum, an end or the width is 0
        for r in ([6e-7, 2.5e-7], [3e-30, 1.25e-30]):  # the scale is small, and not 0
            yield tensor([r]), 3
        for rows, columns in 5 * SHAPES[1:]:
            bits = rng.randint(2, 8)
            quant_max = 2 ** (bits - 1) - 1
            scales = [rng.uniform(0.1, 1) * 10**i for i in range(rows)]
            r = [symmetric_values(rng, (columns,), s, quant_max) for s in scales]
            yield torch.stack(r), bits

    @wrong("This is one scale per column. For one per row, take the maximum over dim 1.")
    def per_column(r, bits):
        s = r.abs().amax(dim=0, keepdim=True) / (2 ** (bits - 1) - 1)
        return s * torch.round(r / s)

    @wrong("Your scale has the shape (rows,) and stretches the wrong way. Use keepdim=True.")
    def flat_scale(r, bits):
        s = r.abs().amax(dim=1) / (2 ** (bits - 1) - 1)
        return s * torch.round(r / s)

    @wrong("One scale for the whole tensor: the small rows lose their values. Use one per row.")
    def whole_tensor(r, bits):
        s = r.abs().max() / (2 ** (bits - 1) - 1)
        return s * torch.round(r / s)

    @wrong("A row of zeros has the scale 0, and 0 / 0 is NaN. Any scale above 0 will do for it.")
    def zeros_divided(r, bits):
        s = r.abs().amax(dim=1, keepdim=True) / (2 ** (bits - 1) - 1)
        return s * torch.round(r / s)

    @wrong("A row can have its largest magnitude below 0. Take abs before the maximum.")
    def no_abs(r, bits):
        quant_max = 2 ** (bits - 1) - 1
        s = r.amax(dim=1, keepdim=True) / quant_max
        return s * torch.round(r / s).clamp(-quant_max, quant_max)

    @wrong("Divide by quant_max = 2 ** (bits - 1) - 1; you divide by one more.")
    def off_by_one(r, bits):
        s = r.abs().amax(dim=1, keepdim=True) / 2 ** (bits - 1)
        return s * torch.round(r / s).clamp(max=2 ** (bits - 1) - 1)

    @wrong("These are the codes. Multiply by the scale to get the values that come back.")
    def codes(r, bits):
        s = r.abs().amax(dim=1, keepdim=True) / (2 ** (bits - 1) - 1)
        return torch.round(r / s)

    @wrong("127 is the largest code of 8 bits. With other bits it is 2 ** (bits - 1) - 1.")
    def eight_bits_always(r, bits):
        s = r.abs().amax(dim=1, keepdim=True) / 127
        return s * torch.round(r / s)

    @wrong("The fraction is dropped, by a cast or by trunc. Round first.")
    def truncated(r, bits):
        s = r.abs().amax(dim=1, keepdim=True) / (2 ** (bits - 1) - 1)
        return s * torch.trunc(r / s)

    @wrong("The mean magnitude leaves the larger values outside. The scale comes from the largest.")
    def mean_magnitude(r, bits):
        s = r.abs().mean(dim=1, keepdim=True) / (2 ** (bits - 1) - 1)
        return s * torch.round(r / s)

    @wrong("What you add to the scale moves every value. Replace a scale of 0, and no other.")
    def scale_moved(r, bits):
        s = r.abs().amax(dim=1, keepdim=True) / (2 ** (bits - 1) - 1) + 1e-3
        return s * torch.round(r / s)

    @wrong("1e-8 is much beside the scale of a small row. Replace a scale of 0, and no other.")
    def scale_moved_a_little(r, bits):
        s = r.abs().amax(dim=1, keepdim=True) / (2 ** (bits - 1) - 1) + 1e-8
        return s * torch.round(r / s)

    @wrong("A floor under the scale moves small rows. Replace a scale of 0, and no other.")
    def scale_floored(r, bits):
        s = r.abs().amax(dim=1, keepdim=True) / (2 ** (bits - 1) - 1)
        s = s.clamp(min=1e-3)
        return s * torch.round(r / s)

    @wrong("Ties go the wrong way: 2.5 becomes 3. torch.round sends a tie to the even code.")
    def half_up(r, bits):
        s = r.abs().amax(dim=1, keepdim=True) / (2 ** (bits - 1) - 1)
        return s * torch.floor(r / s + 0.5)

    @wrong("This is asymmetric mode. Symmetric codes have the zero point 0.")
    def asymmetric(r, bits):
        return ql.fake_quantize(r, ql.Scheme(bits, granularity=ql.PerAxis(0)))


@exercise("6.2", "What does this file cost?", "predict a number", difficulty=2, minutes=6)
class FileCost:
    """
    A file holds a layer of 512 x 128 weights in three tensors:

    - `up.codes`, uint8, shape (512, 64)
    - `up.scale`, float16, shape (512, 4)
    - `up.zero_point`, uint8, shape (512, 2)

    The codes are packed, and the zero points too: each takes as many bits as a code. How many
    weights share a scale? And how many bits does one weight cost, everything counted?
    """

    hints = (
        "All three tensors have a row for each row of weights. Look at one row: 128 weights.",
        "A row has 4 scales. In bytes it has 64 of codes, 4 * 2 of scales and 2 of zero points.",
        "128 / 4 weights share a scale, and 74 bytes of 8 bits are shared by 128 weights.",
    )
    why = """A row of 128 weights has 4 scales: groups of 32. It takes 64 + 8 + 2 = 74 bytes, and
        74 * 8 / 128 = 4.625 bits for each weight: 4 for the code, 0.5 for the scale, 0.125 for the
        zero point. The formula says the same: 4 + (16 + 4) / 32."""
    stub = "my_group, my_bits = ..., ..."
    right = (32, 4.625)
    within = (0, 0.001)
    wrong = [
        ((64, ...), "64 is the number of bytes in a row of codes. The row has 128 weights."),
        ((16, ...), "Two codes lie in a byte: the 64 bytes of a row hold 128 weights, not 64."),
        ((128, ...), "That would be one scale per row. The scale tensor has 4 in a row."),
        ((512, ...), "512 is the number of rows. Each row has 4 scales of its own."),
        ((4, ...), "4 is the number of scales in a row. Each is shared by 128 / 4 weights."),
        ((..., 4), "That is the code alone. Scales and zero points are in the file too."),
        ((..., 4.5), "The zero points are missing: 2 bytes in each row."),
        ((..., 4.125), "The scales are missing: 4 in each row, with 16 bits each."),
        ((..., 5.125), "A float16 scale takes 16 bits, not 32."),
        ((..., 4.75), "Two zero points lie in a byte: a row has 4 of them in 2 bytes."),
        ((..., 5), "That is a zero point of 16 bits; packed, it takes 4. Or give all digits."),
        ((..., 8.625), "Two codes lie in a byte: a row of 128 weights has 64 bytes of codes."),
        ((..., 74), "74 is the bytes of a row. It has 128 weights, and a byte 8 bits."),
        ((..., 0.578125), "That is in bytes. A byte has 8 bits."),
        ((..., 9.25), "Divide by the 128 weights of a row; its codes have only 64 bytes."),
    ]


@exercise("6.3", "Three groups of two", "repair a bug", difficulty=3, minutes=8)
class Groups:
    """
    This function should return the largest magnitude of each group of `group_size` neighbours in
    a row, with the shape (rows, groups). It passed a test with 4 columns and groups of 2. With 6
    columns it goes wrong. Why? Repair it; the columns always divide into whole groups.
    """

    hints = (
        "Print the middle line for one row of 6 columns, torch.arange(6.0).reshape(1, 6).",
        "The last axis must hold the members of one group. How long is it now?",
        "reshape(rows, -1, group_size) puts neighbours side by side; then take the last axis.",
    )
    why = """reshape keeps neighbours together on the last axis, so that axis must have the length
        group_size. The old line gave it the number of groups; with 4 columns and groups of 2 both
        are 2, and the test could not tell."""
    stub = """
        def group_max(r, group_size):
            groups = r.abs().reshape(len(r), group_size, -1)
            return groups.amax(dim=2)
        """

    @right
    def group_max(r, group_size):
        groups = r.abs().reshape(len(r), -1, group_size)
        return groups.amax(dim=2)

    def spec(r, group_size):
        result = []
        for row in r:
            starts = range(0, len(row), group_size)
            result.append([max(abs(x) for x in row[i : i + group_size]) for i in starts])
        return each(float, result)

    def cases(rng):
        yield tensor([[1.0, 2.0, 3.0, 4.0]]), 2
        yield tensor([[-1.0, -2.0]]), 2
        yield tensor([[1.0, 2.0]]), 1
        yield tensor([[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]]), 2
        yield tensor([[1.0, 5.0], [4.0, 2.0]]), 2
        for _ in range(20):
            rows, groups, size = rng.randint(1, 4), rng.randint(1, 4), rng.randint(1, 4)
            values = [[rng.randint(-99, 99) / 4 for _ in range(groups * size)] for _ in range(rows)]
            yield tensor(values), size
        wide = [[rng.randint(-99, 99) / 4 for _ in range(96)], [0.0] * 96]
        yield tensor(wide), 32

    @wrong("This still makes group_size groups instead of groups of group_size.")
    def unchanged(r, group_size):
        return r.abs().reshape(len(r), group_size, -1).max(dim=2).values

    @wrong("You take every group_size-th value of the row, not neighbours: reduce the last axis.")
    def wrong_axis(r, group_size):
        return r.abs().reshape(len(r), -1, group_size).amax(dim=1)

    @wrong("The groups are right, the abs is gone: the largest magnitude can be negative.")
    def no_abs(r, group_size):
        return r.reshape(len(r), -1, group_size).amax(dim=2)

    @wrong("The numbers are right and their shape is flat. It should be (rows, groups).")
    def flat(r, group_size):
        return r.abs().reshape(-1, group_size).amax(dim=1)

    @wrong("This is one number per row. Each row has several groups.")
    def whole_row(r, group_size):
        return r.abs().amax(dim=1, keepdim=True)

    @wrong("The groups run down the columns. Here they run along the rows.")
    def down_the_columns(r, group_size):
        return r.abs().reshape(-1, group_size, r.shape[1]).amax(dim=1)

    @wrong("Your groups overlap. The next group begins where the one before it ends.")
    def overlapping(r, group_size):
        return r.abs().unfold(1, group_size, 1).amax(2)

    @wrong("abs comes too late: the largest value need not have the largest magnitude.")
    def abs_of_the_maximum(r, group_size):
        return r.reshape(len(r), -1, group_size).amax(dim=2).abs()

    @wrong("Your groups take one value from each stretch of the row. Neighbours belong together.")
    def far_apart(r, group_size):
        return r.abs().reshape(len(r), group_size, -1).amax(dim=1)

    @wrong("One axis too many: without keepdim=True the shape is (rows, groups).")
    def axis_kept(r, group_size):
        return r.abs().reshape(len(r), -1, group_size).amax(dim=2, keepdim=True)

"""What the live figure of notebook 06 says is true: another bit or smaller groups."""

import torch

import qlesson as ql


def test_the_winner_flips(said):
    w = torch.randn(64, 1024, generator=torch.Generator().manual_seed(0))
    winners = {}
    for times in range(1, 13):
        o = w.clone()
        o[:, ::128] *= times
        text, _ = said("06", times=times)
        db = {}
        for bits, granularity, name in (
            (5, ql.PerAxis(0), "one scale per row"),
            (4, ql.PerGroup(32), "groups of 32"),
            (3, ql.PerGroup(16), "groups of 16"),
        ):
            x = ql.quantize(o, ql.Scheme(bits, "symmetric", granularity))
            db[f"{bits} bits, {name}"] = ql.sqnr(o, x.dequantize()).item()
            assert (
                f"{bits} bits, {name}: {x.bits_per_value:.2f} bits per value, "
                f"{db[f'{bits} bits, {name}']:.2f} dB." in text
            )
        winners[times] = max(db, key=db.get)
        assert f"Best at this price: {winners[times]}." in text
    assert winners[1] == "5 bits, one scale per row"
    assert winners[10] == "4 bits, groups of 32"
    flips = sum(winners[t] != winners[t + 1] for t in range(1, 12))
    assert flips == 1

"""What the live figure of notebook 02 says is true: what the range must contain."""

import re

import torch


def test_past_zero_the_zero_point_sticks_and_values_pile_up(said):
    values = torch.linspace(2, 6, 200)
    left, points = [], []
    for r_min in (-2.0, -1.0, 0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0):
        s = (6 - r_min) / 31
        free = round(-16 - r_min / s)
        z = min(max(free, -16), 15)
        q = torch.clamp(torch.round(values / s + z), -16, 15)
        text, _ = said("02", r_min=r_min)
        used, counts = q.unique(return_counts=True)
        back, most = len(used), counts.max().item()
        assert f"scale {s:.4f}, zero point {z} (codes -16 to 15)" in text
        verb = "comes" if back == 1 else "come"
        assert f"200 different values go in, {back} {verb} back; {most} of the 200" in text
        left.append(back)
        points.append((free, z))
    assert all(z == -16 and free < z for free, z in points[3:])  # the wall
    assert all(z == free for free, z in points[:3])
    assert left[3:] == sorted(left[3:], reverse=True) and left[-1] < left[2]
    # Holding 0 takes the pile away, and the wall with it.
    text, _ = said("02", r_min=2.0, include_zero=True)
    assert "zero point -16" in text and "0.00 to 6.00" in text
    assert int(re.search(r"; (\d+) of the 200", text)[1]) < 15


def test_one_comes_back(said):
    text, _ = said("02", r_min=3.0, r_max=4.0)
    assert "200 different values go in, 1 comes back; 200 of the 200 share code 15." in text


def test_an_end_between_two_notches_is_said_as_it_is(said):
    assert said("02", r_min=2.04, r_max=5.96)[0].startswith("Range 2.04 to 5.96, hold 0 off:")
    assert said("02", r_min=-0.0)[0].startswith("Range 0.0 to 6.0, hold 0 off:")

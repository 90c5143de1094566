"""The moving picture of README.md: the first live figure of the course, a bit less at a time.

It plays once, in less than five seconds, so that nothing moves beside what is read.
"""

import io

from PIL import Image

from qlesson.teach.show import png
from qlesson.teach.widgets import declarations

NAME = "readme.gif"
BITS = range(8, 1, -1)
PACE = 700  # milliseconds for each frame


def frames() -> list[Image.Image]:
    look = declarations()["00"].look
    drawn = (png(look(bits=bits)[1]()) for bits in BITS)
    return [Image.open(io.BytesIO(data)).convert("L") for data in drawn]


def gif() -> bytes:
    first, *others = frames()
    out = io.BytesIO()
    first.save(out, "GIF", save_all=True, append_images=others, duration=PACE)
    return out.getvalue()

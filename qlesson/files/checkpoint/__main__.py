"""The command: `python -m qlesson.files.checkpoint`."""

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from qlesson.files.checkpoint.convert import dequantize_file, quantize_file, table
from qlesson.granularity import Granularity, PerAxis, PerGroup, PerTensor
from qlesson.report import Row
from qlesson.scheme import SCALE_DTYPES, Scheme

SCALE_DTYPES_BY_NAME = {str(d).removeprefix("torch."): d for d in SCALE_DTYPES if d}


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m qlesson.files.checkpoint",
        description="Quantize a safetensors checkpoint tensor by tensor, or turn it back.",
        epilog="A sharded source is named by its *.safetensors.index.json or its folder; the "
        "target is then a new folder.",
    )
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--bits", type=int, default=8, help="2 to 8, or 16 (default: 8)")
    mappings = ("asymmetric", "symmetric")
    parser.add_argument("--mapping", choices=mappings, default="asymmetric")
    who = parser.add_mutually_exclusive_group()
    who.add_argument("--group-size", type=int, metavar="N", help="one scale for N neighbours")
    who.add_argument("--per-row", action="store_true", help="one scale for a row (the default)")
    who.add_argument("--per-tensor", action="store_true", help="one scale for a tensor")
    parser.add_argument(
        "--scale-dtype", choices=SCALE_DTYPES_BY_NAME,
        help="what scales are stored in; without it, what they are computed in",
    )  # fmt: skip
    parser.add_argument(
        "--skip", action="append", default=[], metavar="PATTERN",
        help='leave tensors of these names as they are, such as "*.embed.*"; may be repeated',
    )  # fmt: skip
    parser.add_argument("--dequantize", action="store_true", help="back to floats")
    return parser.parse_args(argv)


def _run(a: argparse.Namespace) -> list[Row]:
    if a.dequantize:
        return dequantize_file(a.source, a.target)
    granularity: Granularity = PerTensor() if a.per_tensor else PerAxis(0)
    if a.group_size is not None:
        granularity = PerGroup(a.group_size)
    scale_dtype = SCALE_DTYPES_BY_NAME.get(a.scale_dtype)
    scheme = Scheme(a.bits, a.mapping, granularity, scale_dtype=scale_dtype)
    return quantize_file(a.source, a.target, scheme, skip=a.skip)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0, 1 after an error, 130 after an interrupt."""
    arguments = _arguments(argv)
    try:
        print(table(_run(arguments)))
        return 0
    except KeyboardInterrupt:
        print(f"Interrupted: {arguments.target} was not written.", file=sys.stderr)
        return 130
    except (ValueError, TypeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: clean up, then go
    sys.exit(main())

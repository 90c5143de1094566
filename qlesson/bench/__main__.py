"""Kernels beside their peers and the limit of memory: `python -m qlesson.bench` (notebooks 13, 14).

python -m qlesson.bench                      the table, in under four minutes on a CPU
python -m qlesson.bench --json out.json      the same, stored, with device, date and versions
python -m qlesson.bench --plot out.png       and a picture of it
python -m qlesson.bench --sizes              from 4 KB to 1 GB: where the crossover is
python -m qlesson.bench --mb 16              another size
python -m qlesson.bench --one-core           one thread by its own clock, where others are at work
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import qlesson as ql
from qlesson import checks
from qlesson.bench.measure import on_one_core
from qlesson.bench.report import as_json, plot, report, table


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="qlesson.bench", description=str(__doc__).splitlines()[0])
    parser.add_argument("--json", metavar="FILE", help="store the report")
    parser.add_argument("--plot", metavar="FILE", help="store a picture of it")
    parser.add_argument("--sizes", action="store_true", help="4 KB to 1 GB as well")
    parser.add_argument("--one-core", action="store_true", help="one thread, by its own clock")
    parser.add_argument("--mb", type=int, default=128, help="MB of input, as 2^20 bytes")
    args = parser.parse_args(argv)
    try:
        for name, path in (("--json", args.json), ("--plot", args.plot)):
            if path is not None:
                checks.new_file(name, path)
        checks.whole("--mb", args.mb, low=1)
    except (ValueError, FileNotFoundError) as error:
        parser.error(str(error))
    device = ql.best_device().type
    if args.one_core:
        on_one_core()
        device = "cpu"
    results = report(
        args.mb * 2**20, device, args.sizes, lambda cell: print(".", end="", flush=True)
    )
    print("\n" + table(results))
    if args.json:
        Path(args.json).write_text(as_json(results), encoding="utf-8")
    if args.plot:
        plot(results).savefig(args.plot, dpi=100)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The command `qlesson`."""

import argparse
import io
import sys
from collections.abc import Sequence

import qlesson


def main(arguments: Sequence[str] | None = None) -> int:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a file may have any name, on any console
            stream.reconfigure(errors="replace")
    parser = argparse.ArgumentParser(prog="qlesson", description="Quantization, taught and done.")
    parser.add_argument("--version", action="version", version=f"qlesson {qlesson.__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("lab", help="open the course in JupyterLab", add_help=False)
    commands.add_parser("preflight", help="check that this machine is ready for it")
    options, rest = parser.parse_known_args(arguments)
    if options.command == "lab":
        from qlesson.course import lab

        return lab.main(rest)
    from qlesson.teach import preflight

    return int(preflight.report(details=True) > 0)


if __name__ == "__main__":
    sys.exit(main())

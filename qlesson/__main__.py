"""The command: `qlesson`, or `python -m qlesson`.

What asks for no tensor runs without torch: lab, preflight, --version and --help.
"""

import argparse
import io
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import qlesson
from qlesson.report import printable

Arguments = argparse.Namespace
# What a file, an option or this machine can bring about: no memory is a RuntimeError of torch.
FAILURES = (ValueError, TypeError, OSError, ArithmeticError, RuntimeError, MemoryError, ImportError)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="qlesson", description="A course on quantization; quantized files, seen and made."
    )
    parser.add_argument("--version", action="version", version=f"qlesson {qlesson.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_inspect(commands.add_parser(
        "inspect", help="a table of the tensors of a file",
        description="A table of the tensors of a file: GGUF; safetensors, plain or quantized by "
        "GPTQ, AWQ, compressed-tensors, bitsandbytes, torchao, or in FP8, MX and NVFP4.",
    ))  # fmt: skip
    _add_quantize(commands.add_parser(
        "quantize", help="quantize a checkpoint, or turn it back",
        description="Quantize a safetensors checkpoint tensor by tensor, or turn it back.",
        epilog="A sharded source is named by its *.safetensors.index.json or its folder; the "
        "target is then a new folder. A target that ends in .gguf makes the folder of a Llama-type "
        "model a file of llama.cpp.",
    ))  # fmt: skip
    commands.add_parser("lab", help="open the course in JupyterLab")  # main hands it on
    checked = commands.add_parser("preflight", help="is this machine ready for the course?")
    checked.set_defaults(run=_preflight)
    return parser


def _add_inspect(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", help="a file, or the folder of a model")
    parser.add_argument("--tensor", metavar="NAME", help="how often one tensor has each code")
    parser.set_defaults(run=_inspect)


def _add_quantize(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source")
    parser.add_argument("target")
    parser.add_argument("--bits", type=int, help="2 to 8, or 16 (default: 8)")
    mappings = ("asymmetric", "symmetric")
    parser.add_argument("--mapping", choices=mappings, help="(default: asymmetric)")
    who = parser.add_mutually_exclusive_group()
    who.add_argument("--group-size", type=int, metavar="N", help="one scale for N neighbours")
    who.add_argument("--per-row", action="store_true", help="one scale for a row (the default)")
    who.add_argument("--per-tensor", action="store_true", help="one scale for a tensor")
    parser.add_argument(
        "--scale-dtype", choices=("float32", "float16", "bfloat16"),
        help="what scales are stored in; without it, what they are computed in",
    )  # fmt: skip
    parser.add_argument(
        "--skip", action="append", default=[], metavar="PATTERN",
        help='leave tensors of these names as they are, such as "*.embed.*"; may be repeated',
    )  # fmt: skip
    parser.add_argument(
        "--dequantize", action="store_true", help="back to floats; takes no other option"
    )
    parser.add_argument(
        "--type", choices=("Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0", "F16", "F32"),
        help="of a target that ends in .gguf, and no other option with it (default: Q8_0)",
    )  # fmt: skip
    parser.set_defaults(run=_quantize)


def _inspect(a: Arguments) -> int:
    from qlesson.files import inspect

    print(inspect.report(a.file) if a.tensor is None else inspect.histogram(a.file, a.tensor))
    return 0


def _quantize(a: Arguments) -> int:
    import torch

    from qlesson.files import checkpoint
    from qlesson.files.formats.from_llama import to_gguf
    from qlesson.granularity import Granularity, PerAxis, PerGroup, PerTensor
    from qlesson.scheme import Scheme

    _refuse_mixed(a)
    if _is_gguf(a.target):
        rows = to_gguf(a.source, a.target, a.type or "Q8_0")
    elif a.dequantize:
        rows = checkpoint.dequantize_file(a.source, a.target)
    else:
        granularity: Granularity = PerTensor() if a.per_tensor else PerAxis(0)
        if a.group_size is not None:
            granularity = PerGroup(a.group_size)
        scale_dtype = getattr(torch, a.scale_dtype) if a.scale_dtype else None
        how = 8 if a.bits is None else a.bits, a.mapping or "asymmetric", granularity
        scheme = Scheme(*how, scale_dtype=scale_dtype)
        rows = checkpoint.quantize_file(a.source, a.target, scheme, skip=a.skip)
    print(checkpoint.table(rows))
    return 0


def _is_gguf(target: str) -> bool:
    return Path(target).suffix.lower() == ".gguf"


def _refuse_mixed(a: Arguments) -> None:
    """GGUF has its own types, and its own ending; what is turned back has its scheme already."""
    how = [a.bits, a.mapping, a.group_size, a.scale_dtype]
    given = any(x is not None for x in how) or a.per_row or a.per_tensor or a.skip
    is_gguf = _is_gguf(a.target)
    if (a.type and not is_gguf) or (is_gguf and (given or a.dequantize)):
        raise ValueError(
            "--type is for a target that ends in .gguf, and the other options are for one that "
            "does not: leave one of them out."
        )
    if a.dequantize and given:
        raise ValueError(
            "--dequantize turns back what there is, as it was quantized: leave out the other "
            "options."
        )


def _preflight(a: Arguments) -> int:
    from qlesson.teach import preflight

    return 1 if preflight.report(details=True) else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0, 1 after an error, 130 after an interrupt."""
    if argv is None:
        _clean_up_when_ended()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a file may have any name, on any console
            stream.reconfigure(errors="replace")
    words = sys.argv[1:] if argv is None else list(argv)
    if words[:1] == ["lab"]:  # JupyterLab takes options that are not ours
        from qlesson.course import lab

        return lab.main(words[1:])
    arguments = _parser().parse_args(words)
    try:
        return arguments.run(arguments)
    except KeyboardInterrupt:
        target = getattr(arguments, "target", None)
        return _told(f"Interrupted: {target} was not written." if target else "Interrupted.", 130)
    except BrokenPipeError:  # the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except FAILURES as error:
        return _told(f"error: {str(error) or type(error).__name__}", 1)


def _clean_up_when_ended() -> None:
    """As after Ctrl-C. A signal that is ignored stays so: nohup ignores SIGHUP."""
    for name in ("SIGTERM", "SIGHUP"):  # Windows has no SIGHUP
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)


def _told(what: str, code: int) -> int:
    """One line for the reader, in which somebody's file may have named anything."""
    print(printable(what), file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())

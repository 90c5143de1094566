"""A file of plain C++ as a library: compiled once for this processor, and kept on disk."""

import ctypes
import getpass
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

# -ffp-contract=off rounds the product before a sum. The next two let the compiler take vectors:
# nobody looks at errno, and that the processor stops at what is no number is nobody's wish.
FLAGS = ["-std=c++17", "-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]
FLAGS += ["-shared", "-fPIC"]
# What ATEN_CPU_CAPABILITY asks torch for, asked of the compiler: so an older processor is played.
LEVELS = {"avx2": "-march=x86-64-v3", "default": "-march=x86-64"}


@cache
def library(source: Path, *flags: str, **macros: object) -> ctypes.CDLL:
    """The functions of a C++ file, with OpenMP: compiled by g++ on torch's own threads.

    It is compiled again where the source, a header beside it, the compiler, its flags or the
    processor are others.

    flags   of the compiler, beside FLAGS
    macros  names that the source leaves open, such as TYPE="float"

    Raises NoCompiler, a RuntimeError; RuntimeError where it fails; OSError where nothing can be
    kept, or loaded from where it is.
    """
    compile_it = [*command(), *flags, *(f"-D{name}={value}" for name, value in macros.items())]
    folder, name = _folder(), f"{source.stem}-{_fingerprint(source, compile_it)}"
    kept = next(filter(_is_whole, folder.glob(f"{name}-*.so")), None)
    if kept is None:
        with tempfile.TemporaryDirectory(dir=folder) as own:
            made = Path(own, "made.so")
            _output(*compile_it, str(source), "-o", str(made))
            # At once, since another process may look for it.
            kept = made.replace(folder / f"{name}-{_hash(made.read_bytes())}.so")
    return ctypes.CDLL(str(kept))


class NoCompiler(RuntimeError):
    """There is none, so that nothing can be compiled."""


def _is_whole(kept: Path) -> bool:
    """Whether a library has the bytes that its name says: to load half of one ends the process."""
    try:
        return kept.stem.endswith(_hash(kept.read_bytes()))
    except OSError:
        return False


def _hash(*parts: bytes) -> str:
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def command() -> list[str]:
    """The compiler and its flags; the source and the output are still to be named."""
    return [*_compiler(), *FLAGS, *_processor(), *_threads()]


def _compiler() -> list[str]:
    """CXX, a path, or a command with flags, such as "ccache g++"; else what is there."""
    names = ["clang++", "g++"] if sys.platform == "darwin" else ["g++", "clang++"]
    asked = os.environ.get("CXX", "")
    try:
        first, *flags = [asked] if shutil.which(asked) else shlex.split(asked) or [""]
    except ValueError:  # a quote that does not end
        first, flags = asked, []
    found = next(filter(None, map(shutil.which, [first] if asked else [*names, "c++"])), None)
    if not found:
        raise NoCompiler(f"no C++ compiler is named {asked}" if asked else "no C++ compiler")
    return [found, *flags]


def of_many_words() -> str | None:
    """The compiler, where CXX is a command with flags, which torch's own takes for one name."""
    words = _compiler()
    return [word for word in words if not word.startswith("-")][-1] if len(words) > 1 else None


def _processor() -> list[str]:
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return ["-mcpu=native"] if platform.machine().lower() in ("aarch64", "arm64") else []
    asked = os.environ.get("ATEN_CPU_CAPABILITY", "").lower()
    flags = [LEVELS.get(asked, "-march=native"), "-mprefer-vector-width=512"]
    return [*flags, "-DINTEL"] if _is_intels() else flags


@cache
def _is_intels() -> bool:
    """Whether Intel made the processor: no compiler says so."""
    try:
        return "GenuineIntel" in Path("/proc/cpuinfo").read_text("utf-8")
    except OSError:
        return "GenuineIntel" in platform.processor()


def _threads() -> list[str]:
    """torch has loaded OpenMP, g++'s, and what is loaded is taken; Apple's compiler must be told.
    clang++ elsewhere brings its own, so every loop is told how many threads to take."""
    if sys.platform == "darwin":
        return ["-Xclang", "-fopenmp", "-undefined", "dynamic_lookup"]
    return ["-fopenmp"]


def _fingerprint(source: Path, compile_it: list[str]) -> str:
    """Of all that the library depends on: what the compiler predefines says its version, and the
    instructions of the processor."""
    predefined = _output(*compile_it, "-dM", "-E", "-x", "c++", os.devnull)
    headers = [file.read_bytes() for file in sorted(source.parent.glob("*.h"))]
    parts = [source.read_bytes(), *headers, " ".join(compile_it).encode(), predefined]
    return _hash(*parts)


def _folder() -> Path:
    """Where libraries are kept: beside torch.compile's loops where TORCHINDUCTOR_CACHE_DIR says
    where, else a folder for temporary files that is nobody else's."""
    asked = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    folder = Path(asked or Path(tempfile.gettempdir(), f"qlesson-{_user()}"))
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if hasattr(os, "getuid") and folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to somebody else, so no library is loaded from it")
    return folder.resolve()  # a library is not looked for by a bare name


def _user() -> int | str:
    return os.getuid() if hasattr(os, "getuid") else getpass.getuser()


def _output(*command: str) -> bytes:
    made = subprocess.run(command, capture_output=True)
    if made.returncode:
        lines = made.stderr.decode(errors="replace").strip().splitlines()
        named = [line for line in lines if "error" in line] or lines or ["it says nothing"]
        raise RuntimeError(f"{Path(command[0]).name} fails: {named[0]}")
    return made.stdout

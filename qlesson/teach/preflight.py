"""Is this machine ready for the course? `python -m qlesson.teach.preflight` (notebook 00).

It needs nothing but Python itself, so that it can say what is missing.

Each check prints OK, or FIX with the remedy. The exit status is 1 if there is a line to fix.
"""

import os
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

# As in pyproject.toml; a test compares them.
NEEDS = {
    "torch": (2, 11),
    "numpy": (2, 0),
    "matplotlib": (3, 10),
    "pillow": (10,),
    "safetensors": (0, 5),
    "tqdm": (4, 66),
    "ipywidgets": (7, 7),
}
LAB = {"jupyterlab": (4, 4)}  # where a notebook runs already, something else may show it
MEMORY_GB = 1.0


def checks() -> Iterator[tuple[str, bool, str | None, str]]:
    """(what is needed, whether it is there, what was found, the remedy), one for each need."""
    python = sys.version.split()[0]
    yield "Python 3.11 or later", sys.version_info >= (3, 11), python, "install a newer Python"
    for name, least in (NEEDS if _in_notebook() else NEEDS | LAB).items():
        found = _version(name)
        ok = found is not None and _numbers(found) >= least
        number = ".".join(map(str, least))
        yield f"{name} {number} or later", ok, found, f'run: pip install "{name}>={number}"'
    device, remedy = _device()
    yield "a device for torch", device is not None, device, remedy
    if device and device.startswith("cuda"):
        yield f"a GPU: {_gpu(device)}", True, "what computes long is faster there", ""
    free = _free_gigabytes()
    yield (
        f"{MEMORY_GB:g} GB of free memory",
        free is None or free >= MEMORY_GB,
        "unknown" if free is None else f"{free:.1f} GB",
        "close other notebooks (Kernel, Shut Down All Kernels)",
    )
    yield "a folder to write to", _can_write(), os.getcwd(), "open the course in a folder you own"


def report(details: bool = False) -> int:
    """Print every check; returns how many need fixing. `details` adds what was found."""
    problems = 0
    for wanted, ok, found, remedy in checks():
        problems += not ok
        print(f"OK   {wanted}" if ok else f"FIX  {wanted}: {remedy}", end="")
        print(f"   ({found})" if details else "")
    return problems


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _numbers(text: str) -> tuple[int, ...]:
    """(2, 13) from "2.13.0+cpu"."""
    return tuple(int("".join(c for c in part if c.isdigit()) or 0) for part in text.split(".")[:2])


def _device() -> tuple[str | None, str]:
    try:
        from qlesson.device import best_device

        return str(best_device()), ""
    except ImportError as error:
        return None, f"{error}: install it first"
    except Exception as error:  # a wrong device, or a torch that is broken or too old
        return None, str(error)


def _gpu(device: str) -> str:
    import torch

    return torch.cuda.get_device_name(device)


def _in_notebook() -> bool:
    shell = sys.modules.get("IPython")
    return shell is not None and shell.get_ipython() is not None


def _free_gigabytes() -> float | None:
    """Memory that a new program could get, by /proc/meminfo and a container's limit, if any."""
    free = []
    try:
        with open("/proc/meminfo", encoding="utf-8") as lines:
            free += [int(x.split()[1]) / 1e6 for x in lines if x.startswith("MemAvailable")]
        with (
            open("/sys/fs/cgroup/memory.max", encoding="utf-8") as limit,
            open("/sys/fs/cgroup/memory.current", encoding="utf-8") as used,
            open("/sys/fs/cgroup/memory.stat", encoding="utf-8") as parts,
        ):
            # Files that were read are counted as used, and given up where memory is asked for.
            cached = sum(int(x.split()[1]) for x in parts if x.startswith("inactive_file "))
            free.append((int(limit.read()) - int(used.read()) + cached) / 1e9)
    except (OSError, ValueError):
        pass  # not Linux, or no limit: what was found so far stands
    return min(free, default=None)


def _can_write() -> bool:
    try:
        with tempfile.TemporaryFile(dir="."):
            return True
    except OSError:
        return False


if __name__ == "__main__":
    sys.exit(1 if report(details=True) else 0)

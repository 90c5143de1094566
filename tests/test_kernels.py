"""Which device, and what `import qlesson` costs."""

import os
import subprocess
import sys

import pytest
import torch

import qlesson as ql


def test_the_best_device_is_cuda_where_there_is_one(monkeypatch):
    monkeypatch.delenv("QLESSON_DEVICE", raising=False)
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert ql.best_device() == torch.device(expected)
    monkeypatch.setenv("QLESSON_DEVICE", "")
    assert ql.best_device() == torch.device(expected)


def test_cuda_is_taken_when_torch_reports_it(monkeypatch):
    monkeypatch.delenv("QLESSON_DEVICE", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "zeros", lambda *size, device: torch.ones(*size))
    assert ql.best_device() == torch.device("cuda")


def test_the_environment_variable_overrides(monkeypatch):
    monkeypatch.setenv("QLESSON_DEVICE", "cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert ql.best_device() == torch.device("cpu")


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "tpu", "cpu:x", "xpu", "meta"])
def test_a_device_that_is_not_there_is_refused(monkeypatch, name):
    monkeypatch.setenv("QLESSON_DEVICE", name)
    with pytest.raises(ValueError, match=f"QLESSON_DEVICE='{name}' cannot be used") as error:
        ql.best_device()
    assert 'set it to "cpu", or unset it.' in str(error.value)
    assert "\n" not in str(error.value)


def run(code):
    """What a fresh interpreter prints; the package is found as it is found here."""
    path = os.pathsep.join(
        filter(None, [os.path.dirname(os.path.dirname(ql.__file__)), os.environ.get("PYTHONPATH")])
    )
    environment = os.environ | {"PYTHONPATH": path}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    ).stdout


def test_import_loads_neither_the_teachers_nor_the_authors_side():
    loaded = run("import sys, qlesson; print(*sys.modules)").split()
    heavy = ("matplotlib", "ipywidgets", "IPython", "onnx", "onnxruntime", "torchao", "safetensors")
    upper = ("tinygpt", "teach", "authoring", "bench", "layers", "checkpoint", "methods")
    assert not set(heavy) & set(loaded)
    assert not {f"qlesson.{name}" for name in upper} & set(loaded)


def test_import_adds_at_most_50_ms_to_torch():
    """Processor time, the least of up to five fresh interpreters: a busy machine does not count."""
    code = (
        "import time, torch; start = time.process_time(); import qlesson; "
        "print(time.process_time() - start)"
    )
    milliseconds = []
    for _ in range(5):
        milliseconds.append(1000 * float(run(code)))
        if milliseconds[-1] <= 50:
            return
    pytest.fail(f"import qlesson took {min(milliseconds):.0f} ms at best")


def test_the_public_face():
    assert set(ql.__all__) >= {
        "asymmetric_qparams",
        "symmetric_qparams",
        "quantize_affine",
        "dequantize_affine",
        "PerTensor",
        "PerAxis",
        "PerGroup",
        "Scheme",
        "QParams",
        "choose_qparams",
        "quantize",
        "fake_quantize",
        "QTensor",
        "mse",
        "sqnr",
        "max_abs_error",
        "ZeroPointClipped",
        "best_device",
    }
    assert all(getattr(ql, name).__doc__ for name in ql.__all__)
    assert issubclass(ql.ZeroPointClipped, UserWarning)

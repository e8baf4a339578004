"""The Triton kernels without a GPU: interpreted against the reference, and compiled for two generations of GPUs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from dien.errors import ConfigError
from dien.ops import engine_for, triton_kernels
from dien.ops import triton as engine

SHARED_KIB = {80: 163, 90: 227}  # of one program, by compute capability
TYPES = {torch.float32: "fp32", torch.bfloat16: "bf16"}


def test_interpreted_kernels_equal_the_reference() -> None:
    """Runs `test_scan_engines.py` in a process of its own: Triton reads its switch when it is imported."""
    environment = os.environ | {"TRITON_INTERPRET": "1", "DIEN_SCAN": "triton", "OMP_NUM_THREADS": "1"}
    tests = Path(__file__).with_name("test_scan_engines.py")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tests)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-3000:]
    assert " passed" in result.stdout


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("dtype", TYPES, ids=TYPES.get)
@pytest.mark.parametrize("hidden", [36, 128, 256])
@pytest.mark.parametrize("capability", SHARED_KIB)
def test_compiles_for(capability: int, hidden: int, dtype: torch.dtype, direction: str, monkeypatch, tmp_path) -> None:
    layout = engine.plan(hidden, dtype)
    kernel = getattr(triton_kernels, f"{direction}_{'held' if layout.held else 'streamed'}")
    constants = {
        "H": hidden,
        "HP": layout.padded,
        "ROWS": engine.ROWS,
        "TILE": layout.tile,
        "P": 1.0,
        "Q": -1.0,
        "S": 1.0,
        "SAVE": True,
        "HAS_ATTENTION": True,
        "HAS_INITIAL": True,
        "PRECISION": "tf32x3",
        "DTYPE": engine._product_dtype(dtype),
    }
    others = {"batch": "i32", "offsets": "*i64", "order": "*i64", "saved": "*fp32", "scratch": "*fp32"}
    signature = {
        parameter.name: "constexpr" if parameter.is_constexpr else others.get(parameter.name, f"*{TYPES[dtype]}")
        for parameter in kernel.params
    }
    constants = {name: value for name, value in constants.items() if name in signature}
    compiled = triton.compile(
        ASTSource(kernel, signature, constants),
        target=GPUTarget("cuda", capability, 32),
        options={"num_warps": layout.warps, **engine.OPTIONS},
    )
    assert compiled.asm["cubin"]
    assert 0 < compiled.metadata.shared <= SHARED_KIB[capability] << 10


@pytest.mark.parametrize(
    ("hidden", "dtype", "padded", "held"),
    [
        (1, torch.float32, 16, True),
        (36, torch.float32, 64, True),
        (65, torch.float32, 128, False),
        (128, torch.bfloat16, 128, True),
        (129, torch.float16, 256, False),
    ],
)
def test_plan(hidden: int, dtype: torch.dtype, padded: int, held: bool) -> None:
    layout = engine.plan(hidden, dtype)
    assert (layout.padded, layout.held) == (padded, held)
    assert layout.padded % layout.tile == 0


def test_reasons(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "cpu" in engine.unavailable("cpu", False)
    assert "float32" in engine.unavailable("cuda", True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    assert "8.0" in engine.unavailable("cuda", False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    assert engine.unavailable("cuda", False) is None
    monkeypatch.setenv("DIEN_SCAN", "triton")
    with pytest.raises(ConfigError, match="float64"):
        engine_for("cuda", torch.float64)

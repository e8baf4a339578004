"""The Triton kernels without a GPU: interpreted against the reference, and compiled for five generations of GPUs."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from dien.errors import ConfigError
from dien.ops import engine_for, triton_kernels
from dien.ops import triton as engine

SHARED_KIB = {80: 163, 86: 99, 89: 99, 90: 227, 120: 99}  # of one program, by compute capability
TYPES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
DEFAULT, HALF = (36, torch.float32), (128, torch.bfloat16)
# Everywhere what is held where it fits; the streamed layouts, which fit everywhere, where there is most and least room.
CASES = [
    *[(capability, *case) for capability in SHARED_KIB for case in (DEFAULT, HALF)],
    *[(capability, 256, dtype) for capability in (80, 90) for dtype in (torch.float32, torch.bfloat16)],
    (86, 36, torch.float16),
]


def test_interpreted_kernels_equal_the_reference() -> None:
    """Runs `test_scan_engines.py` in a process of its own: Triton reads its switch when it is imported."""
    environment = os.environ | {"TRITON_INTERPRET": "1", "DIEN_SCAN": "triton", "OMP_NUM_THREADS": "1"}
    tests = Path(__file__).with_name("test_scan_engines.py")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tests)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-3000:]
    assert " passed" in result.stdout


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize(("capability", "hidden", "dtype"), CASES, ids=str)
def test_compiles_for(capability: int, hidden: int, dtype: torch.dtype, direction: str) -> None:
    """Half precision as autocast calls the kernels: the parameters are float32."""
    layout = engine.plan(hidden, dtype, "tf32x3", SHARED_KIB[capability] << 10)
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
    others |= {"weight": "*fp32", "bias": "*fp32", "attention": "*fp32", "grad_attention": "*fp32"}
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
    ("hidden", "dtype", "precision", "shared_kib", "padded", "held"),
    [
        (1, torch.float32, "tf32x3", 99, 16, True),
        (32, torch.float32, "tf32x3", 99, 32, True),
        (36, torch.float32, "tf32x3", 163, 64, True),
        (36, torch.float32, "tf32x3", 99, 64, False),  # two copies of the weights, 104 KiB
        (36, torch.float32, "tf32", 99, 64, True),
        (36, torch.bfloat16, "tf32x3", 99, 64, True),
        (65, torch.float32, "tf32", 227, 128, False),
        (128, torch.bfloat16, "tf32x3", 163, 128, True),
        (128, torch.float16, "tf32x3", 99, 128, False),
        (129, torch.float16, "tf32x3", 227, 256, False),
    ],
)
def test_plan(hidden: int, dtype: torch.dtype, precision: str, shared_kib: int, padded: int, held: bool) -> None:
    layout = engine.plan(hidden, dtype, precision, shared_kib << 10)
    assert (layout.padded, layout.held) == (padded, held)
    assert layout.padded % layout.tile == 0


def test_the_room_is_that_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    properties = SimpleNamespace(shared_memory_per_block_optin=99 << 10)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    engine.shared_bytes.cache_clear()
    assert engine.shared_bytes(torch.device("cuda", 1)) == 99 << 10
    engine.shared_bytes.cache_clear()


def test_precision_is_what_torch_allows() -> None:
    """By its new switch, after which reading the old one is an error, and by the old one."""
    matmul = torch.backends.cuda.matmul
    assert engine._precision() == "tf32x3"
    try:
        matmul.fp32_precision = "tf32"
        assert engine._precision() == "tf32"
        matmul.fp32_precision = "ieee"
        assert engine._precision() == "tf32x3"
        matmul.fp32_precision = "none"
        matmul.allow_tf32 = True
        assert engine._precision() == "tf32"
    finally:
        matmul.allow_tf32 = False
        matmul.fp32_precision = "none"


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

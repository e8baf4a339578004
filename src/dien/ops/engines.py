"""Which engine runs the scan: the fastest that works on the device, or the one that DIEN_SCAN names."""

import functools
import importlib
import importlib.util
import logging
import os
from types import ModuleType

import torch

from dien.errors import ConfigError, check_choice

logger = logging.getLogger(__name__)

ENGINES = ("reference", "cpu", "triton")
_FASTEST = {"cpu": "cpu", "cuda": "triton"}


def engine_for(device: torch.device | str, dtype: torch.dtype = torch.float32) -> str:
    """Name of the engine, `reference`, `cpu` or `triton`, that scans tensors of `dtype` on `device`.

    The environment variable DIEN_SCAN forces one. Logged once per device type and process; a fallback to the
    reference is a warning with its reason. Raises `ConfigError` if DIEN_SCAN is no engine or names one that cannot run.
    """
    return _choose(torch.device(device).type, dtype == torch.float64, os.environ.get("DIEN_SCAN", ""))


# Marks the function: torch.compile asks it once while tracing instead of tracing into the log and the compiler.
torch.compiler.assume_constant_result(engine_for)


def traced() -> bool:
    """Whether torch is writing down a program, by `torch.compile`, `torch.export` or `torch.jit.trace`.

    The direct call of a kernel would not be in it, and sizes may be unknown.
    """
    return torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined]


@functools.cache
def _choose(device_type: str, double: bool, forced: str) -> str:
    where = f"{device_type}{', float64' if double else ''}"
    if forced:
        check_choice("DIEN_SCAN", forced, ENGINES)
        if reason := _unavailable(forced, device_type, double):
            raise ConfigError(f"DIEN_SCAN={forced} cannot run here ({where}): {reason}.")
        logger.info("gated scan on %s: engine %s, set by DIEN_SCAN", where, forced)
        return forced
    fastest = _FASTEST.get(device_type, "reference")
    if reason := _unavailable(fastest, device_type, double):
        logger.warning("gated scan on %s: engine reference, slower than %s, because %s", where, fastest, reason)
        return "reference"
    logger.info("gated scan on %s: engine %s", where, fastest)
    return fastest


@functools.cache
def kernel(engine: str) -> ModuleType | None:
    """The module with the `forward` and `backward` of an engine, None for the reference, which needs none.

    Imported only when it is used: Triton is not part of every build of torch.
    """
    return None if engine == "reference" else importlib.import_module(f"dien.ops.{engine}")


def _unavailable(engine: str, device_type: str, double: bool) -> str | None:
    if engine == "triton" and importlib.util.find_spec("triton") is None:
        return "the package triton is not installed"
    module = kernel(engine)
    return module.unavailable(device_type, double) if module else None

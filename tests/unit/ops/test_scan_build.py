"""Building the CPU kernel: once, safely, again when something changes, and with a reason when it fails."""

import ctypes
import logging
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dien.ops import build


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """An empty cache, and flags that compile fast."""
    monkeypatch.setenv("DIEN_CACHE", str(tmp_path))
    monkeypatch.setattr(build, "FLAGS", ("-std=c++17", "-O0", "-fPIC"))
    build.library.cache_clear()
    yield tmp_path / "kernels"
    build.library.cache_clear()


def test_compiles_once_and_says_so(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="dien")
    assert hasattr(build.library(), "forward_f32")
    build.library.cache_clear()
    assert isinstance(build.library(), ctypes.CDLL)
    assert len([r for r in caplog.records if "compiling the CPU kernels" in r.getMessage()]) == 1
    assert [path.suffix for path in cache.iterdir()] == [".so"]  # no temporary folder is left


def test_two_builds_at_once_end_with_one_whole_library(cache: Path) -> None:
    compiler = build._compiler()
    with ThreadPoolExecutor(2) as pool:
        for built in [pool.submit(build._compile, compiler, cache / "kernel.so") for _ in range(2)]:
            built.result()
    assert [path.name for path in cache.iterdir()] == ["kernel.so"]
    assert ctypes.CDLL(str(cache / "kernel.so")).backward_f64


def test_fingerprint_follows_sources_flags_and_processor(monkeypatch, tmp_path: Path) -> None:
    shutil.copytree(build.SOURCES, tmp_path / "native")
    monkeypatch.setattr(build, "SOURCES", tmp_path / "native")
    seen = [build._fingerprint("g++")]
    (tmp_path / "native" / "simd.h").write_text("// changed")
    seen.append(build._fingerprint("g++"))
    monkeypatch.setattr(build, "FLAGS", ("-O0",))
    seen.append(build._fingerprint("g++"))
    monkeypatch.setattr(build, "_processor", lambda: "another")
    seen.append(build._fingerprint("g++"))
    assert len(set(seen)) == 4


def test_a_failing_compiler_gives_its_reason(cache: Path, monkeypatch, tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "gated_scan.cpp").write_text("this is not C++\n")
    monkeypatch.setattr(build, "SOURCES", tmp_path / "broken")
    with pytest.raises(build.BuildError, match=r"failed: .*error"):
        build.library()
    assert list(cache.iterdir()) == []


def test_a_cache_that_cannot_be_written_names_the_variable(monkeypatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DIEN_CACHE", str(tmp_path / "file"))
    build.library.cache_clear()
    with pytest.raises(build.BuildError, match="DIEN_CACHE"):
        build.library()


def test_a_library_that_does_not_load_is_a_reason(cache: Path) -> None:
    path = cache / f"kernels-{build._fingerprint(build._compiler())}.so"
    path.parent.mkdir()
    path.write_bytes(b"not a library")
    with pytest.raises(build.BuildError, match="do not load"):
        build.library()

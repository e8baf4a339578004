"""Checkpoint files: whole or not there, damage is found, the one before is kept."""

import logging
import os
import resource
import zipfile
from pathlib import Path

import pytest
import torch

from dien import checkpoint
from dien.checkpoint import DamagedError, newest, read_checkpoint, write_checkpoint
from dien.errors import DienError


def state(value: float) -> dict[str, object]:
    return {"state_dict": {"weight": torch.full((50, 20), value)}, "epoch": 3}


def value_of(path: Path) -> float:
    return float(read_checkpoint(path)["state_dict"]["weight"][0, 0])


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_is_written_is_read_and_carries_its_checksum(tmp_path):
    path = tmp_path / "deep" / "last.ckpt"
    write_checkpoint(state(1.5), path)
    assert value_of(path) == 1.5
    assert read_checkpoint(path)["epoch"] == 3
    assert zipfile.ZipFile(path).comment.startswith(b"sha256:")
    assert torch.load(path, weights_only=True)["epoch"] == 3  # an ordinary file of torch
    assert files(path.parent) == ["last.ckpt"]


def test_every_damage_is_found(tmp_path):
    path = tmp_path / "last.ckpt"
    write_checkpoint(state(1), path)
    whole = path.read_bytes()
    for cut in (0, 1, 100, len(whole) // 2, len(whole) - 100, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(DamagedError, match=r"last.ckpt is not a whole checkpoint"):
            read_checkpoint(path)
    generator = torch.Generator().manual_seed(0)
    content = len(whole) - 75  # behind it stand the mark and the checksum
    for place in torch.randint(content, (60,), generator=generator).tolist():
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
        with pytest.raises(DamagedError):
            read_checkpoint(path)
    path.write_bytes(whole[:-1] + b"g")
    with pytest.raises(DamagedError):
        read_checkpoint(path)


def test_a_file_of_something_else_is_named(tmp_path):
    path = tmp_path / "other.ckpt"
    torch.save({"weights": 1}, path)
    with pytest.raises(DienError, match=r"other\.ckpt is not a checkpoint of dien-train"):
        read_checkpoint(path)


def test_no_code_is_run(tmp_path):
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return os.mkdir, (str(tmp_path / "run"),)

    torch.save({"state_dict": Evil()}, tmp_path / "last.ckpt")
    with pytest.raises(DamagedError):
        read_checkpoint(tmp_path / "last.ckpt")
    assert files(tmp_path) == ["last.ckpt"]


@pytest.mark.parametrize("links", [True, False])
def test_the_one_before_is_kept(tmp_path, monkeypatch, links):
    def no_links(*paths: object) -> None:
        raise OSError("the file system has none")

    if not links:
        monkeypatch.setattr(os, "link", no_links)
    path, previous = tmp_path / "last.ckpt", tmp_path / "previous.ckpt"
    for value in (1, 2, 3):
        write_checkpoint(state(value), path, keep=previous)
    assert (value_of(path), value_of(previous)) == (3, 2)
    assert files(tmp_path) == ["last.ckpt", "previous.ckpt"]


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "last.ckpt"
    write_checkpoint(state(1), path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    for size in (0, 10, 1000, path.stat().st_size - 10):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            with pytest.raises(OSError, match="File too large") as caught:
                write_checkpoint(state(2), path, keep=tmp_path / "previous.ckpt")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert caught.value.filename == str(path)
        assert files(tmp_path) == ["last.ckpt"]
        assert value_of(path) == 1


@pytest.mark.parametrize("call", ["fsync", "replace", "chmod"])
def test_stopped_between_any_two_calls_there_is_a_whole_checkpoint(tmp_path, monkeypatch, call):
    """Each call in turn is the last that the process makes."""
    path = tmp_path / "last.ckpt"
    write_checkpoint(state(1), path, keep=tmp_path / "previous.ckpt")
    write_checkpoint(state(2), path, keep=tmp_path / "previous.ckpt")
    original = getattr(os, call)
    for last in (1, 2):
        left = [None] * (last - 1)

        def killed(*arguments: object, left: list[None] = left) -> object:
            if not left:
                raise KeyboardInterrupt
            left.pop()
            return original(*arguments)

        monkeypatch.setattr(os, call, killed)
        try:
            write_checkpoint(state(3), path, keep=tmp_path / "previous.ckpt")
        except KeyboardInterrupt:
            monkeypatch.undo()
        assert value_of(newest(tmp_path)) in (2, 3)
        assert value_of(path) in (2, 3)


def test_newest(tmp_path, caplog):
    assert newest(tmp_path) is None
    path, previous = tmp_path / "last.ckpt", tmp_path / "previous.ckpt"
    write_checkpoint(state(1), path)
    assert newest(tmp_path) == path
    write_checkpoint(state(2), path, keep=previous)
    assert newest(tmp_path) == path
    path.write_bytes(path.read_bytes()[:-1])
    with caplog.at_level(logging.WARNING):
        assert newest(tmp_path) == previous
    assert f"{path} is not a whole checkpoint" in caplog.text
    assert f"going on from {previous}" in caplog.text
    previous.write_bytes(b"")
    with pytest.raises(DamagedError):
        newest(tmp_path)


def test_lightning_saves_and_loads_through_it(tmp_path):
    plugin = checkpoint.AtomicIO()
    for value in (1, 2):
        plugin.save_checkpoint(state(value), tmp_path / "last.ckpt")
        plugin.save_checkpoint(state(value), str(tmp_path / "best.ckpt"))
    assert files(tmp_path) == ["best.ckpt", "last.ckpt", "previous.ckpt"]
    assert plugin.load_checkpoint(tmp_path / "last.ckpt", weights_only=True)["epoch"] == 3

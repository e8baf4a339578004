"""Fetching into the cache and reading archives, without a network."""

import hashlib
import http.client
import io
import subprocess
import tracemalloc
import zipfile
from email.message import Message
from pathlib import Path
from typing import Any

import pytest

from dien.data.sources import archive
from dien.data.sources.archive import UnreachableError, download, downloads_folder, pip_download, read_members
from dien.errors import DataError

CONTENT = b"0123456789" * 20_000
MD5 = hashlib.md5(CONTENT).hexdigest()
URL = "https://example.org/data/set.zip"


class Answer(io.BytesIO):
    """What `urlopen` returns; with `broken`, the connection ends in the middle."""

    def __init__(self, content: bytes, *, length: bool = True, broken: Exception | None = None) -> None:
        super().__init__(content)
        self.headers = Message()
        self.broken = broken
        if length:
            self.headers["Content-Length"] = str(len(content))

    def read(self, size: int | None = -1) -> bytes:
        if self.broken is not None and self.tell() > 0:
            raise self.broken
        return super().read(size)


def serve(monkeypatch: pytest.MonkeyPatch, answer: Answer | Exception) -> list[tuple[str, float]]:
    """Answer every request alike; returns the addresses asked for and the time limits set."""
    asked: list[tuple[str, float]] = []

    def urlopen(url: str, timeout: float) -> Answer:
        asked.append((url, timeout))
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    return asked


@pytest.mark.parametrize("length", [True, False])
def test_a_download_is_verified_and_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, length: bool
) -> None:
    asked = serve(monkeypatch, Answer(CONTENT, length=length))
    target = tmp_path / "cache" / "set.zip"
    download(URL, target, MD5)
    assert target.read_bytes() == CONTENT
    assert list(target.parent.iterdir()) == [target]
    assert asked == [(URL, archive.TIMEOUT)]


@pytest.mark.parametrize("before", [None, b"older"])
def test_a_wrong_checksum_leaves_everything_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: bytes | None
) -> None:
    target = tmp_path / "set.zip"
    if before is not None:
        target.write_bytes(before)
    serve(monkeypatch, Answer(CONTENT[:-1]))
    with pytest.raises(DataError, match=rf"^{URL}: the checksum of what came is wrong \(MD5 .*, not {MD5}\); try"):
        download(URL, target, MD5)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == ([] if before is None else [before])


@pytest.mark.parametrize(
    "trouble",
    [
        OSError("no route"),
        TimeoutError("timed out"),
        Answer(CONTENT, broken=http.client.IncompleteRead(b"")),
        Answer(CONTENT, broken=ConnectionResetError("reset")),
    ],
)
def test_an_address_without_answer_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: Answer | Exception
) -> None:
    serve(monkeypatch, trouble)
    with pytest.raises(UnreachableError, match=rf"^{URL}: cannot be fetched \("):
        download(URL, tmp_path / "set.zip", MD5)
    assert list(tmp_path.iterdir()) == []


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, Answer(CONTENT))
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"cannot be written \(.*\); set data.source.cache or DIEN_CACHE"):
        download(URL, tmp_path / "file" / "set.zip", MD5)


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIEN_CACHE", "/some/where")
    assert downloads_folder(None) == Path("/some/where/downloads")
    assert downloads_folder("/else") == Path("/else/downloads")
    monkeypatch.delenv("DIEN_CACHE")
    assert downloads_folder(None) == Path.home() / ".cache" / "dien" / "downloads"


def fake_pip(monkeypatch: pytest.MonkeyPatch, *, wheels: int = 1, error: Exception | None = None) -> list[list[str]]:
    """Replace pip by something that writes `wheels` files, or fails; returns its command lines."""
    commands: list[list[str]] = []

    def run(command: list[str], **options: Any) -> None:
        assert options["check"]
        assert options["timeout"] == archive.PIP_TIMEOUT
        commands.append(command)
        if error is not None:
            raise error
        for number in range(wheels):
            (Path(command[command.index("--dest") + 1]) / f"{number}.whl").write_bytes(CONTENT)

    monkeypatch.setattr("subprocess.run", run)
    return commands


def test_pip_downloads_one_wheel_and_builds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = fake_pip(monkeypatch)
    target = tmp_path / "cache" / "a.whl"
    pip_download("a==1", target)
    assert target.read_bytes() == CONTENT
    assert list(target.parent.iterdir()) == [target]
    assert commands[0][1:4] == ["-m", "pip", "download"]
    assert {"--no-deps", "--only-binary", ":all:", "a==1"} <= set(commands[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"error": subprocess.CalledProcessError(1, "pip", stderr="line\nERROR: none found\n")}, "ERROR: none found"),
        ({"error": subprocess.CalledProcessError(1, "pip", stderr="")}, "no reason given"),
        ({"error": subprocess.TimeoutExpired("pip", 300)}, "timed out after 300 seconds"),
        ({"wheels": 0}, "pip downloaded no wheel for a==1"),
    ],
)
def test_pip_that_fails_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], message: str
) -> None:
    fake_pip(monkeypatch, **options)
    with pytest.raises(UnreachableError, match=message):
        pip_download("a==1", tmp_path / "a.whl")
    assert list(tmp_path.iterdir()) == []


def test_members_are_read_in_the_order_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("set/a", b"A")
        file.writestr("../b", b"B")  # a hostile name is an ordinary one where nothing is unpacked
    assert read_members(path, ["../b", "set/a"]) == [b"B", b"A"]
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(DataError, match=r"set.zip: the archive has no member set/c\.$"):
        read_members(path, ["set/c"])


def test_damaged_archives_and_members_that_are_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as file:
        file.writestr("a", CONTENT)
    monkeypatch.setattr(archive, "MEMBER_LIMIT", len(CONTENT) - 1)
    with pytest.raises(DataError, match=r"set.zip: the member a has 200000 bytes, more than 199999"):
        read_members(path, ["a"])
    monkeypatch.undo()
    whole = path.read_bytes()
    for content in (whole[:100], whole.replace(b"0123", b"0124", 1), b""):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"set.zip: cannot be read, it is damaged"):
            read_members(path, ["a"])
    with pytest.raises(DataError, match=r"no.zip: there is no such file"):
        read_members(tmp_path / "no.zip", ["a"])


def hostile(path: Path, names: list[str | zipfile.ZipInfo], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as file:
        for name in names:
            file.writestr(name, b"target")
    return path


def test_nothing_of_an_archive_reaches_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names that point elsewhere, and links, are read like any other member: there is nothing they could do."""
    place = tmp_path / "place"
    place.mkdir()
    monkeypatch.chdir(place)
    link = zipfile.ZipInfo("link")
    link.create_system, link.external_attr = 3, (0o120777 << 16)
    names: list[str | zipfile.ZipInfo] = ["../out", "/tmp/dien_absolute", "a/../../out", "C:\\out", "..\\out", link]
    path = hostile(place / "set.zip", names)
    plain = [name if isinstance(name, str) else name.filename for name in names]
    assert read_members(path, plain) == [b"target"] * len(names)
    assert [file.name for file in place.iterdir()] == ["set.zip"]
    assert [file.name for file in tmp_path.iterdir()] == ["place"]
    assert not Path("/tmp/dien_absolute").exists()


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_methods_whose_output_has_no_limit_are_refused(tmp_path: Path, method: int) -> None:
    path = hostile(tmp_path / "set.zip", ["a"], method)
    with pytest.raises(DataError, match=r"set.zip: the member a is compressed in an unusual way\.$"):
        read_members(path, ["a"])


def test_bombs_take_no_memory(tmp_path: Path) -> None:
    """One that says how large it is, and one that says that it is small."""
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file, file.open("a", "w") as member:
        for _ in range(64):
            member.write(bytes(1 << 20))
    honest = path.read_bytes()
    size = (64 << 20).to_bytes(4, "little")
    assert len(honest) < 100_000
    tracemalloc.start()
    try:
        for claimed, message in ((archive.MEMBER_LIMIT + 1, "more than"), (10, "cannot be read, it is damaged")):
            path.write_bytes(honest.replace(size, claimed.to_bytes(4, "little")))
            with pytest.raises(DataError, match=rf"bomb.zip: .*{message}"):
                read_members(path, ["a"])
        assert tracemalloc.get_traced_memory()[1] < 2 << 20
    finally:
        tracemalloc.stop()


def test_an_answer_that_ends_early_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where no checksum is published."""
    short = Answer(CONTENT)
    short.headers.replace_header("Content-Length", str(len(CONTENT) + 1))
    serve(monkeypatch, short)
    with pytest.raises(UnreachableError, match=r"cannot be fetched \(IncompleteRead"):
        download(URL, tmp_path / "set.gz", None)
    assert list(tmp_path.iterdir()) == []
    serve(monkeypatch, Answer(CONTENT))
    download(URL, tmp_path / "set.gz", None)
    assert (tmp_path / "set.gz").read_bytes() == CONTENT

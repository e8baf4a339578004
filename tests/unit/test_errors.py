"""Messages of mistakes name the thing and what is wrong with it."""

from pathlib import Path

import pytest

from dien.errors import DienError, make_folder
from dien.export.archive import atomic_folder
from dien.runs.folder import run_folder_of


def test_a_file_in_place_of_a_folder_is_named(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    for folder in (file, file / "a", file / "a" / "b"):
        with pytest.raises(DienError, match=f"^{file} is a file, not a folder.$"):
            make_folder(folder)
    with pytest.raises(DienError, match="is a file, not a folder"), atomic_folder(file / "z"):
        pass
    make_folder(tmp_path / "new" / "one")
    assert (tmp_path / "new" / "one").is_dir()


def test_a_missing_run_is_named_without_an_option_of_another_command(tmp_path: Path) -> None:
    with pytest.raises(DienError, match=r"^nowhere does not exist: give a run folder or a checkpoint in one\.$"):
        run_folder_of("nowhere")
    with pytest.raises(DienError, match=f"^{tmp_path} is not a run folder"):
        run_folder_of(str(tmp_path))

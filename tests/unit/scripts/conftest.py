"""The scripts as modules: they import `bench` and one another from their own folder."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _scripts_are_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[3] / "scripts")

"""The notebooks: committed without outputs, and executed from top to bottom on runs that the tests make."""

import base64
import json
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from dien import notebook
from dien.errors import DienError
from dien.reporting.tables import metric_name

FOLDER = Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = sorted(path.stem for path in FOLDER.glob("*.ipynb"))
TINY = [
    "trainer.max_epochs=1",
    "trainer.limit_train_batches=6",
    "trainer.limit_val_batches=1",
    "trainer.limit_test_batches=1",
    "trainer.log_every_n_steps=2",
    "callbacks=quiet",
]


def read(name: str) -> nbformat.NotebookNode:
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def execute(name: str, folder: Path) -> tuple[str, list[bytes]]:
    """All text that the cells show, and all pictures."""
    notebook = read(name)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()
    text, pictures = "", []
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            assert output.get("name") != "stderr", output
            data = output.get("data", {})
            text += output.get("text", "") + data.get("text/markdown", data.get("text/plain", "")) + "\n"
            pictures += [base64.b64decode(data["image/png"])] if "image/png" in data else []
    assert all(picture.startswith(b"\x89PNG") and len(picture) > 5_000 for picture in pictures)
    return text, pictures


def test_the_list_is_whole():
    assert NOTEBOOKS == ["ablation", "data", "interest_evolution"]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_is_committed_without_outputs(name):
    notebook = read(name)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None
            assert len(cell.source.splitlines()) <= 30  # longer ones belong in the package
    assert notebook.cells[0].source.startswith("# ")


@pytest.fixture
def quiet_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIEN_SCAN", "reference")  # the process of the notebook need not compile kernels
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")


@pytest.mark.usefixtures("quiet_kernel")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
class TestExecution:
    def test_ablation(self, dien_train, monkeypatch, tmp_path):
        for number, model in enumerate((["model=base"], ["model=dien", "model.alpha=0,1"])):
            assert dien_train("-m", *TINY, *model, "seed=0,1", f"hydra.sweep.dir=sweep/{number}") == 0
        monkeypatch.setenv("DIEN_RUNS", str(tmp_path / "sweep"))
        text, pictures = execute("ablation", tmp_path)
        means = {}
        for file in Path("sweep").rglob("metrics.json"):
            variant = file.parent.name.split("_", 1)[1].rsplit("_seed", 1)[0], file.parent.name
            means[variant] = json.loads(file.read_text())["test/auc"]
        base = [auc for (name, _), auc in means.items() if name.startswith("base")]
        assert len(base) == 2
        assert f"{sum(base) / 2:.4f}" in text
        assert metric_name("test/auc") in text
        assert "attention_entropy" in text
        assert len(pictures) == 4  # differences, losses, alpha, cost

    def test_interest_evolution(self, dien_train, monkeypatch, tmp_path):
        assert dien_train("-m", *TINY, "model/evolution=gru,augru", "hydra.sweep.dir=sweep") == 0
        assert dien_train("-m", *TINY, "model.alpha=0", "hydra.sweep.dir=sweep/plain") == 0
        monkeypatch.setenv("DIEN_RUNS", str(tmp_path / "sweep"))
        text, pictures = execute("interest_evolution", tmp_path)
        assert "3 networks: dien-gru; dien-augru, alpha=1; dien-augru, alpha=0" in text
        assert len(pictures) == 8  # attention and path of two users, gates, attention, both gates with and without

    def test_data(self, monkeypatch, tmp_path):
        monkeypatch.setenv("DIEN_DATA", "data=sample data.min_history=2")
        text, pictures = execute("data", tmp_path)
        assert "1,000 users, 1,348 items" in text
        assert "34% of the test clicks: the same item" in text
        assert len(pictures) == 3
        assert "median 5.0 days" in text

    def test_data_whose_times_are_no_seconds(self, monkeypatch, tmp_path):
        monkeypatch.setenv("DIEN_DATA", "data=synthetic data.source.users=200")
        text, pictures = execute("data", tmp_path)
        assert "median 3600.0 units of the log's time" in text
        assert len(pictures) == 3


class TestNetworks:
    """`notebook.networks`: one for each variant, whatever the state of the other runs."""

    def test_a_damaged_run_is_left_out_and_another_seed_taken(self, dien_train, small, capsys):
        options = [*small, "trainer.max_epochs=1", "callbacks=quiet", "seed=0,1", "hydra.sweep.dir=sweep"]
        assert dien_train("-m", *options, "data.history_length=4,8") == 0
        damaged = next(Path("sweep").glob("0_*"))
        (damaged / "checkpoints" / "best.ckpt").unlink()
        capsys.readouterr()
        networks = notebook.networks([Path("sweep")], having="evolution")
        assert list(networks) == ["history_length=4", "history_length=8"]  # and not one for both
        assert [run.config.data.history_length for run in networks.values()] == [4, 8]
        assert [run.config.seed for run in networks.values()] in ([0, 1], [1, 0])
        assert f"left out: {damaged}: " in capsys.readouterr().out

    def test_different_datasets_are_one_sentence(self, dien_train, small):
        for number, length in enumerate((2, 3)):
            options = [f"data.min_history={length}", "trainer.max_epochs=1", "callbacks=quiet"]
            assert dien_train(*small, *options, f"hydra.run.dir=runs/{number}") == 0
        with pytest.raises(DienError, match="of 2 different datasets"):
            notebook.networks([Path("runs")], having="evolution")
        with pytest.raises(DienError, match="no finished run has a network with wings"):
            notebook.networks([Path("runs/0")], having="wings")

"""From a run folder to an export and from there to scores of raw ids, in a process without torch."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from dien import runs
from dien.errors import ConfigError, DataError
from dien.export import command
from dien.export.check import check_export, trained_logits
from dien.export.runtime import Request, Scorer
from dien.export.weights import load_weights

# torch's own: its eager `scan` imports what is deprecated there.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")

REQUESTS = [
    ("u3", ["i1", "i5", "i2"], ["i7", "i0", "nothing"]),
    ("nobody", [], ["i3"]),
    (None, ["i4"], ["i4", "i9"]),
    ("u5", [f"i{n % 20}" for n in range(30)], ["i1", "i2", "i3", "i19"]),  # longer than the history length of 8
    ("u1", ["i2"], []),
]

RUNTIME = """
import json, sys
from dien.export.runtime import Request, Scorer
scorer = Scorer(sys.argv[1])
print(json.dumps([s.tolist() for s in scorer.score_many([Request(*r) for r in json.loads(sys.argv[2])])]))
heavy = {"torch", "lightning", "hydra", "omegaconf", "polars", "pyarrow", "pandas", "scipy", "onnx", "onnxscript"}
assert not heavy & {name.split(".")[0] for name in sys.modules}, heavy & set(sys.modules)
"""


def dien_export(*arguments: str) -> int:
    try:
        command.main(list(arguments))
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def expected(run: Path, requests=REQUESTS) -> list[np.ndarray]:
    """Probabilities by the training network, one request after the other."""
    loaded = runs.load_model(run)
    out = []
    for user, history, candidates in requests:
        rows = loaded.data.data.item_rows(history[-8:])
        user_row = 1 if user is None else loaded.data.data.user_rows([user])[0]
        inputs = (
            torch.tensor([user_row]),
            torch.tensor(rows)[None],
            torch.tensor([len(rows)]),
            torch.tensor(loaded.data.data.item_rows(candidates))[None],
        )
        out.append(trained_logits(loaded.network, inputs).sigmoid()[0].numpy() if candidates else np.zeros(0))
    return out


def test_onnx_scores_raw_ids_without_torch(finished_run, capsys):
    assert dien_export(str(finished_run), "--format", "onnx") == 0
    assert "of the trained network" in capsys.readouterr().out
    folder = finished_run / "export" / "onnx"
    assert {path.name for path in folder.iterdir()} == {
        *("model.onnx", "ids.json", "manifest.json", "model_card.json", "README.md"),
    }
    line = [sys.executable, "-c", RUNTIME, str(folder), json.dumps(REQUESTS)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for got, wanted in zip(json.loads(done.stdout), expected(finished_run), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5)

    scorer = Scorer(folder)
    user, history, candidates = REQUESTS[0]
    scores = scorer.scores(user, history, candidates)
    np.testing.assert_array_equal(scores, scorer.score_many([Request(*r) for r in REQUESTS])[0])
    ranked = scorer.rank(user, history, candidates)
    assert [r.score for r in ranked] == sorted(scores.tolist(), reverse=True)
    assert {r.item: r.known for r in ranked} == {"i7": True, "i0": True, "nothing": False}
    assert scorer.rank(user, history, candidates, top=1) == ranked[:1]
    assert scorer.score_many([]) == []
    for wrong in ((None, candidates), ("i1", candidates), (history, "i7"), (history, None)):
        with pytest.raises(TypeError, match="must be a list of ids, not"):
            scorer.scores(user, *wrong)
    _card_says_what_is_known(folder, finished_run)
    _damage_is_one_sentence(folder)


def _card_says_what_is_known(folder: Path, run: Path) -> None:
    card = json.loads((folder / "model_card.json").read_text())
    environment = runs.read_json(run / "environment.json")
    assert card["data"]["fingerprint"] == environment["dataset_fingerprint"]
    assert card["metrics"] == runs.read_json(run / "metrics.json")
    assert card["environment"] == environment
    assert card["config"]["model"]["evolution"]["_target_"] == "dien.model.evolution.AUGRU"
    assert card["check"]["largest_difference"] <= 1e-5
    assert card["check"]["lengths"] == [0, 1, 4, 8]
    text = (folder / "README.md").read_text()
    assert environment["dataset_fingerprint"] in text
    assert f"| test/auc | {card['metrics']['test/auc']:.6g} |" in text


def _damage_is_one_sentence(folder: Path) -> None:
    manifest = folder / "manifest.json"
    content, ids = manifest.read_text(), (folder / "ids.json").read_bytes()
    for damaged, message in [
        ("no", "is not a folder of dien-export: no JSON"),
        ("[]", "is not a JSON object"),
        ("[" * 100_000, "is not a folder of dien-export: no JSON"),
        ('{"version": 1}', "is not an export of version 2"),
        (content.replace('"ids.json"', '"../ids.json"'), "names a file outside of itself"),
        (content.replace('"ids.json"', '"/etc/passwd"'), "names a file outside of itself"),
        (content.replace('"format": "onnx"', '"format": "pt2"'), "holds the format pt2, not onnx"),
    ]:
        manifest.write_text(damaged)
        with pytest.raises(DataError, match=message):
            Scorer(folder)
    manifest.write_text(content)
    (folder / "ids.json").write_bytes(ids.replace(b"i1", b"i2"))
    with pytest.raises(DataError, match=r"ids\.json is damaged"):
        Scorer(folder)
    (folder / "ids.json").unlink()
    (folder / "ids.json").symlink_to("/etc/passwd")
    with pytest.raises(DataError, match="names a file outside of itself"):
        Scorer(folder)
    with pytest.raises(DataError, match="is not a folder of dien-export"):
        Scorer(folder / "nowhere")


def test_weights_give_the_network_back_without_the_dataset(finished_run, tmp_path):
    folder = tmp_path / "weights"
    assert dien_export(str(finished_run), "--format", "weights", "--output", str(folder)) == 0
    loaded = runs.load_model(finished_run)
    network = load_weights(folder)
    for batch in loaded.data.test_dataloader():
        with torch.no_grad():
            torch.testing.assert_close(network(batch).logit_B, loaded.network(batch).logit_B, rtol=0, atol=0)
    for path, text, message, error in [
        ("config.json", "dien.model.evolution.AUGRU", "os.system", (ConfigError, "is not allowed")),
        ("config.json", '"embedding_size": 4', '"embedding_size": 5', (DataError, "does not fit together")),
        ("config.json", '"kind": "categorical"', '"kind": "odd"', (DataError, "is not one of categorical")),
        ("config.json", '"size": ', '"size": -', (DataError, "has ids outside of 0 to")),
    ]:
        before = (folder / path).read_text()
        assert text in before
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["files"] = {"model.safetensors": manifest["files"]["model.safetensors"]}  # a thorough attacker
        (folder / "manifest.json").write_text(json.dumps(manifest))
        (folder / path).write_text(before.replace(text, message))
        with pytest.raises(error[0], match=error[1]):
            load_weights(folder)
        (folder / path).write_text(before)


def test_pt2_runs_with_torch_alone(finished_run, tmp_path, capsys):
    folder = tmp_path / "new" / "place"
    assert dien_export(str(finished_run), "--format", "pt2", "--output", str(folder)) == 0
    loaded = runs.load_model(finished_run)
    inputs = (
        torch.tensor([2, 3]),
        torch.tensor([[3, 4, 5], [6, 0, 0]]),
        torch.tensor([3, 1]),
        torch.tensor([[7], [8]]),
    )
    scores, logits = torch.export.load(folder / "model.pt2").module()(*inputs)
    torch.testing.assert_close(logits, trained_logits(loaded.network, inputs), rtol=0, atol=1e-5)
    torch.testing.assert_close(scores, logits.sigmoid())
    assert "torch.export.load" in (folder / "README.md").read_text()

    assert dien_export(str(finished_run), "--format", "pt2", "--output", str(folder)) == 2
    assert capsys.readouterr().err == (
        f"dien-export: {folder} exists already: name another folder with --output, or delete it.\n"
    )
    with pytest.raises(Exception, match="differs from its network by"):
        check_export(
            loaded.network, lambda x: trained_logits(loaded.network, x) + 1e-3, items=9, users=9, history_length=4
        )


def test_mistakes_are_one_sentence_and_leave_nothing(finished_run, tmp_path, capsys, monkeypatch):
    for arguments, message in [
        (("nowhere", "--format", "onnx"), "does not exist"),
        ((str(finished_run), "--format", "onnx", "--checkpoint", "other.ckpt"), "other.ckpt is missing"),
        ((str(finished_run), "--format", "jar"), "invalid choice: 'jar'"),
        ((str(finished_run),), "required: --format"),
    ]:
        assert dien_export(*arguments) == 2
        assert message in capsys.readouterr().err
    monkeypatch.setattr("dien.export.write.check_export", lambda *a, **k: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        command.export(finished_run, "weights", tmp_path / "made")
    for number, status in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        monkeypatch.setattr("dien.export.write.check_export", lambda *a, by=number, **k: signal.raise_signal(by))
        capsys.readouterr()
        assert dien_export(str(finished_run), "--format", "weights", "--output", str(tmp_path / "made")) == status
        assert capsys.readouterr() == ("", "")
    assert not [path for path in tmp_path.iterdir() if "made" in path.name]
    assert not (finished_run / "export").exists()


def test_a_configuration_that_names_a_command_is_refused(finished_run, capsys, tmp_path):
    config = finished_run / "config.yaml"
    config.write_text(config.read_text().replace("dien.model.evolution.AUGRU", "os.system"))
    assert dien_export(str(finished_run), "--format", "weights") == 2
    assert "model.evolution._target_='os.system' is not allowed" in capsys.readouterr().err

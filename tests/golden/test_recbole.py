"""RecBole's and hopwise's networks, moved in, give the scores that their own code gave (see make_recbole.py)."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from dien import Ranker
from dien.batch import Batch
from dien.convert.checkpoint import read_peer
from dien.convert.command import main, move_in
from dien.convert.peer import Field, Options, convert
from dien.errors import DataError, DienError
from dien.export.archive import read_ids, read_manifest
from dien.export.command import main as export_main
from dien.export.runtime import Request, Scorer
from dien.export.weights import load_weights

# torch's own: its eager `scan` imports what is deprecated there.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")

FOLDER = Path(__file__).parent / "recbole"
FILES = sorted(FOLDER.glob("*.npz"))


def moved_in(golden):
    description = json.loads(str(golden["description"]))
    fields = {
        kind: [
            Field(name, size, torch.from_numpy(golden[f"{kind}/{i}"]))
            for i, (name, size) in enumerate(description[kind])
        ]
        for kind in ("items", "users")
    }
    weights = {name.removeprefix("weights/"): torch.from_numpy(golden[name]) for name in golden if "weights/" in name}
    return convert(weights, Options.of(description["config"]), fields["items"], fields["users"])[0]


def scores(network, golden):
    """Probabilities by our network; their id i is our row i + 1."""

    def rows(name):
        ids = torch.from_numpy(golden[name])
        return torch.where(ids > 0, ids + 1, 0)

    history_BT = rows("history")
    batch = Batch(
        user_B=rows("user"),
        history_BT=history_BT,
        negative_BT=torch.zeros_like(history_BT),
        length_B=torch.from_numpy(golden["length"]),
        target_B=rows("target"),
        label_B=torch.zeros(len(history_BT)),
    )
    with torch.no_grad():
        return network(batch).logit_B.sigmoid().numpy()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_scores_are_those_of_the_peer(path):
    with np.load(path, allow_pickle=False) as golden:
        np.testing.assert_allclose(scores(moved_in(golden), golden), golden["scores"], rtol=0, atol=1e-5)
        assert golden["scores"].std() > 0.01  # the rows can be told apart


@pytest.mark.parametrize("peer", ["recbole", "hopwise"])
def test_the_installed_peer_agrees(peer, tmp_path):
    """Against the peer itself, in a process of its own: importing it changes torch, numpy and autograd."""
    python = os.environ.get(f"DIEN_PYTHON_{peer.upper()}") or (importlib.util.find_spec(peer) and sys.executable)
    if not python:
        pytest.skip(f"{peer} is not installed; DIEN_PYTHON_{peer.upper()} can name a Python that has it")
    line = [python, "-W", "ignore", str(Path(__file__).parent / "make_recbole.py"), peer, str(tmp_path)]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(line, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    files = sorted(tmp_path.glob("*.npz"))
    assert len(files) == 7
    for path in files:
        with np.load(path, allow_pickle=False) as golden:
            np.testing.assert_allclose(scores(moved_in(golden), golden), golden["scores"], rtol=0, atol=1e-5)


def test_all_variants_of_both_peers_are_there():
    for peer in ("recbole", "hopwise"):
        for variant in ("GRU", "AIGRU", "AGRU", "AUGRU"):
            assert (FOLDER / f"{peer}-{variant}-mean.npz").exists()


@pytest.mark.parametrize("peer", ["recbole", "hopwise"])
def test_a_checkpoint_is_enough(peer, tmp_path, capsys):
    """Weights, features and ids are all in the file, and neither the peer nor its pickled classes are needed."""
    main([str(FOLDER / f"{peer}.pth"), "--output", str(tmp_path / "moved")])
    assert f"12 items, from a {peer} checkpoint {peer}.pth" in capsys.readouterr().out
    network = load_weights(tmp_path / "moved")
    with np.load(FOLDER / f"{peer}-AUGRU-mean.npz", allow_pickle=False) as golden:
        np.testing.assert_allclose(scores(network, golden), golden["scores"], rtol=0, atol=1e-5)
    items, users = read_ids(tmp_path / "moved")
    assert sorted(items.ids) == sorted(f"i{n}" for n in range(12))
    assert sorted(users.ids) == sorted(f"u{n}" for n in range(6))
    assert read_manifest(tmp_path / "moved", kind="weights")["history_length"] == 7


def ids_of(golden, items, users):
    """The rows of a golden file as raw ids: (user, history, candidates)."""
    for user, history, length, target in zip(
        *(golden[k] for k in ("user", "history", "length", "target")), strict=True
    ):
        yield users.ids[user - 1], [items.ids[i - 1] for i in history[:length]], [items.ids[target - 1]]


@pytest.mark.parametrize(("peer", "kind"), [("recbole", "onnx"), ("hopwise", "pt2")])
def test_what_moved_in_goes_on_to_programs_and_is_ranked_with(peer, kind, tmp_path):
    moved = tmp_path / "moved"
    main([str(FOLDER / f"{peer}.pth"), "--output", str(moved)])
    export_main([str(moved), "--format", kind])
    folder, ranker, (items, users) = moved / "export" / kind, Ranker.load(moved), read_ids(moved)
    with np.load(FOLDER / f"{peer}-AUGRU-mean.npz", allow_pickle=False) as golden:
        asked, wanted = list(ids_of(golden, items, users)), golden["scores"]
    ranked = [ranker.score(history, candidates, user=user)[0] for user, history, candidates in asked]
    np.testing.assert_allclose(ranked, wanted, rtol=0, atol=1e-5)
    if kind == "onnx":
        got = [scores[0] for scores in Scorer(folder).score_many([Request(*one) for one in asked])]
    else:
        program = torch.export.load(folder / "model.pt2").module()
        rows = [(users.rows([user]), items.rows(history), items.rows(target)) for user, history, target in asked]
        got = [
            program(torch.tensor(user), torch.tensor([history]), torch.tensor([len(history)]), torch.tensor([target]))[
                0
            ]
            for user, history, target in rows
        ]
    np.testing.assert_allclose(np.array(got).ravel(), wanted, rtol=0, atol=1e-5)
    card = json.loads((folder / "model_card.json").read_text())
    assert (card["format"], card["history_length"], card["options"]["gru_type"]) == (kind, 7, "AUGRU")
    assert card["check"]["lengths"] == [0, 1, 3, 7]
    assert f"moved in from a {peer} checkpoint" in (folder / "README.md").read_text()


def test_a_state_dict_of_ids_needs_the_configuration(tmp_path, capsys):
    with np.load(FOLDER / "recbole-AUGRU-mean-ids.npz", allow_pickle=False) as golden:
        weights = {n.removeprefix("weights/"): torch.from_numpy(golden[n]) for n in golden if "weights/" in n}
        torch.save(weights, tmp_path / "weights.pt")
        (tmp_path / "config.json").write_text(json.dumps(json.loads(str(golden["description"]))["config"]))
        line = [str(tmp_path / "weights.pt"), "--output", str(tmp_path / "moved")]
        with pytest.raises(SystemExit) as stop:
            main(line)
        assert stop.value.code == 2
        assert "says nothing of its configuration: give it with --config." in capsys.readouterr().err
        assert not (tmp_path / "moved").exists()
        main([*line, "--config", str(tmp_path / "config.json")])
        got = scores(load_weights(tmp_path / "moved"), golden)
        np.testing.assert_allclose(got, golden["scores"], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("key", "value"),
    [("gru_type", "GRU"), ("embedding_size", 4), ("pooling_mode", "max"), ("alpha", 2), ("MAX_ITEM_LIST_LENGTH", 5)],
)
def test_a_configuration_that_contradicts_its_checkpoint_is_refused(key, value, tmp_path):
    """GRU and AIGRU, say, have the same weights, and would be converted to wrong scores without a word."""
    (tmp_path / "config.json").write_text(json.dumps({key: value}))
    move = [FOLDER / "recbole.pth", tmp_path / "moved"]
    with pytest.raises(DataError, match=f"was trained with {key}=.*, but --config says {value}: leave it out"):
        move_in(*move, config=tmp_path / "config.json")
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
    same = {"gru_type": "AUGRU", "mlp_hidden_size": [6, 5], "pooling_mode": None, "learning_rate": 1}
    (tmp_path / "config.json").write_text(json.dumps(same))
    assert read_ids(move_in(*move, config=tmp_path / "config.json"))[0].ids


def test_a_signal_leaves_nothing_and_says_nothing(tmp_path, capsys, monkeypatch):
    for number, status in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        monkeypatch.setattr("dien.export.write.check_export", lambda *a, by=number, **k: signal.raise_signal(by))
        with pytest.raises(SystemExit) as stop:
            main([str(FOLDER / "recbole.pth"), "--output", str(tmp_path / "moved")])
        assert (stop.value.code, *capsys.readouterr()) == (status, "", "")
        assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_moved_in_says_why(tmp_path):
    with np.load(FOLDER / "recbole-AUGRU-mean.npz", allow_pickle=False) as golden:
        weights = {n.removeprefix("weights/"): torch.from_numpy(golden[n]) for n in golden if "weights/" in n}
        config = json.loads(str(golden["description"]))["config"]
    options = {"embedding_size": 3, "mlp_hidden_size": [6, 5], "gru_type": "AUGRU"}
    item, user = [Field("item_id", 13, torch.arange(13))], [Field("user_id", 7, torch.arange(7))]
    floats = {"embedding_layer.float_embedding_table.item.embedding.weight": torch.ones(1, 3)}
    for wrong, config_, message in [
        (weights | floats, options, "float_embedding_table cannot be converted: float features"),
        (weights, options, r"the item features have 13 ids in all"),
        (weights, options | {"gru_type": "augru"}, "gru_type='augru' is not one of GRU, AIGRU, AGRU, AUGRU"),
        (weights, options | {"pooling_mode": "first"}, "pooling_mode='first' is not one of mean, max, sum"),
        (weights, {"gru_type": "AUGRU"}, "the configuration lacks embedding_size, mlp_hidden_size"),
        (weights, options | {"embedding_size": 4}, r"embedding_size=4 does not fit the weights: theirs is 3\."),
        (weights, options | {"mlp_hidden_size": [6]}, r"mlp_hidden_size=\[6\] does not .* theirs is \[6, 5\]\."),
        (weights, options | {"gru_type": "AIGRU"}, r"gru_type=AIGRU does not .* theirs is AGRU or AUGRU\."),
    ]:
        with pytest.raises(DienError, match=message):
            convert(wrong, Options.of(config_), item, user)
    torch.save(weights, tmp_path / "weights.pt")  # its items have a category
    with pytest.raises(DataError, match="does not say which features items and users have"):
        read_peer(tmp_path / "weights.pt", config)
    torch.save({"weight": torch.ones(2)}, tmp_path / "other.pt")
    with pytest.raises(DataError, match="does not hold a DIEN of RecBole or hopwise"):
        read_peer(tmp_path / "other.pt", config)

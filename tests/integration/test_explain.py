"""`dien-explain` on a real run: what it prints and draws is what the network does."""

from pathlib import Path

import numpy as np
import pytest
import torch

from dien import explain, runs
from dien.data.dataset import RowBatch
from dien.data.names import item_features, item_names, row_of
from dien.errors import ConfigError


def test_an_explanation_is_of_the_users_test_row(finished_run, dien_explain, capsys):
    loaded = runs.load_model(finished_run)
    data, prepared = loaded.data, loaded.data.data
    user = row_of(prepared, "user", "u7")
    told = explain.explain(loaded.network, prepared, user=user, history_length=data.history_length)

    rows = data.rows("test")
    batch = rows[RowBatch(0, np.arange(len(rows)))]
    mine = int(torch.nonzero((batch.user_B == user) & (batch.label_B == 1)).squeeze())  # last_out: the last event
    length = int(batch.length_B[mine])
    assert told.history_T.tolist() == batch.history_BT[mine, :length].tolist()
    assert told.next_item == told.candidate_C[0] == int(batch.target_B[mine])
    with torch.no_grad():
        score_B = loaded.network(batch).logit_B.sigmoid()
    assert told.score_C[0] == pytest.approx(score_B[mine].item(), abs=1e-6)
    assert not set(told.candidate_C[1:]) & {*told.history_T.tolist(), told.next_item}
    assert told.attention_CT.shape == (explain.CANDIDATES, length)
    assert told.attention_CT.sum(1) == pytest.approx(1, abs=1e-5)

    assert dien_explain(str(finished_run), "--user", "u7", "--figure", "new/attention.svg") == 0
    printed = capsys.readouterr().out
    lines = printed.splitlines()
    candidate = next(line for line in lines if "the user's next event" in line)
    names = item_names(prepared, told.candidate_C)
    assert f"{told.score_C[0]:.4f}" in candidate
    assert names[0] in candidate
    steps = [line for line in printed.partition("history, oldest first")[2].splitlines() if line.startswith("│")]
    for line, attention in zip(steps, told.attention_CT.T, strict=True):
        assert [float(cell) for cell in line.split("│")[-6:-1]] == pytest.approx(100 * attention, abs=0.051)
    assert "<svg" in Path("new/attention.svg").read_text()


def test_items_can_be_named(finished_run, dien_explain, capsys):
    prepared = runs.load_model(finished_run).data.data
    ids = prepared.item_ids().to_list()
    assert dien_explain(str(finished_run), "--user", "u0", "--item", ids[3], "--item", ids[0]) == 0
    printed = capsys.readouterr().out
    table = printed[: printed.index("history, oldest first")]
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in table.splitlines() if line.startswith("│")]
    assert [row[:2] for row in rows] == [["c1", ids[3]], ["c2", ids[0]]]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--user", "nobody"], ["--user nobody", "u0"]),
        (["--user", "u0", "--item", "i999"], ["--item i999"]),
        (["--user", "u0", "--figure", "x.gif"], ["x.gif", ".png, .svg or .pdf"]),
        (["--user", "u0", "--checkpoint", "none.ckpt"], ["none.ckpt"]),
    ],
)
def test_mistakes_are_one_sentence(finished_run, dien_explain, capsys, arguments, named):
    capsys.readouterr()
    assert dien_explain(str(finished_run), *arguments) == 2
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1
    for name in named:
        assert name in printed.err


def test_ids_are_text_and_no_markup(dien_train, small, events, dien_explain, capsys):
    events.write_text(events.read_text().replace("u7,", "x[/b],").replace(",c0", ",[red]c0"))
    assert dien_train(*small, "hydra.run.dir=run", "trainer.max_epochs=1") == 0
    capsys.readouterr()
    assert dien_explain("run", "--user", "x[/b]", "--figure", "[b]/x.svg") == 0
    printed = capsys.readouterr().out
    assert "user x[/b]: candidates" in printed
    assert "user x[/b]: history" in printed
    assert "figure: [b]/x.svg" in printed
    assert "[red]c0" in printed


def test_the_figure_names_candidates_as_the_table_does(finished_run):
    loaded = runs.load_model(finished_run)
    prepared = loaded.data.data
    told = explain.explain(loaded.network, prepared, user=row_of(prepared, "user", "u7"), history_length=8)
    labels = [label.get_text() for label in explain.figure_of(told).axes[0].get_yticklabels()]
    names = item_names(prepared, told.candidate_C)
    assert labels == [
        f"c{c + 1} {name} ({score:.2f}{', next' if c == 0 else ''})"
        for c, (name, score) in enumerate(zip(names, told.score_C, strict=True))
    ]
    with pytest.raises(ConfigError, match="no history to draw"):
        explain.figure_of(told._replace(history_T=told.history_T[:0]))


def test_what_cannot_be_written_or_has_no_checkpoint_is_named(finished_run, dien_explain, capsys):
    assert dien_explain(str(finished_run), "--user", "u0", "--figure", "/proc/x.png") == 2
    assert capsys.readouterr().err.endswith(": /proc/x.png\n")
    (finished_run / "checkpoints").rename("elsewhere")
    assert dien_explain(str(finished_run), "--user", "u0") == 2
    assert "has no checkpoint: its run ended before it saved one" in capsys.readouterr().err


def test_a_network_without_attention_says_so(dien_train, small, dien_explain, capsys):
    assert dien_train(*small, "model=base", "hydra.run.dir=run", "trainer.max_epochs=1") == 0
    assert dien_explain("run", "--user", "u0") == 2
    assert "no attention to show" in capsys.readouterr().err


def test_names_are_those_of_the_log(finished_run):
    prepared = runs.load_model(finished_run).data.data
    rows = np.arange(1, prepared.n_items)
    features = item_features(prepared, rows)
    assert features["item_id"].to_list() == ["unknown", *prepared.item_ids().to_list()]
    for item, category in features.rows()[1:]:
        assert category in (f"c{int(item[1:]) % 4}", "unknown")  # how the fixture makes its items
    assert item_names(prepared, rows) == features["category"].to_list()


def test_a_user_without_events_has_nobodys_history(finished_run):
    loaded = runs.load_model(finished_run)
    prepared = loaded.data.data
    user = row_of(prepared, "user", "u7")
    offsets = prepared.user_offsets.copy()
    offsets[user + 1 :] -= offsets[user + 1] - offsets[user]  # as if the log had the user's features alone
    prepared.user_offsets = offsets
    with pytest.raises(ConfigError, match="user u7 has no event"):
        explain.explain(loaded.network, prepared, user=user, history_length=loaded.data.history_length)

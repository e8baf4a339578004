"""The one rule of raw ids (`dien.raw_ids`), asked at every door: what is the same id there, and what is none."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from dien import Ranker, predict, train
from dien.errors import DataError
from dien.export.command import export
from dien.export.runtime import Scorer as Runtime
from dien.raw_ids import spelling
from dien.serving.refusal import Refusal
from dien.serving.requests import parse
from dien.serving.scoring import Scorer
from dien.serving.store import MemoryStore

# torch's own: its eager `scan` imports what is deprecated there.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")

HUGE = 2**70
GIVEN = [  # and how it is spelled; None for what is no id
    *((same, "7") for same in (7, "7", 7.0, np.int64(7), np.float32(7), np.str_("7"))),
    *((text, text) for text in ("007", " 7 ", "7 ", "+7", "7.0", "7e0", "７", "٧", "-3", "-0", "é", "e\u0301", "É")),  # noqa: RUF001
    *((text, text) for text in ("None", "null", "nan", "True", "[7]", "7.5", "\x00", "no such", str(HUGE))),
    *((-3, "-3"), (0, "0"), (-0.0, "0"), (42.0, "42"), (2**63 - 1, str(2**63 - 1)), (HUGE, str(HUGE))),
    *((none, None) for none in (None, math.nan, math.inf, "", True, False, 7.5, 2.0**60, [7], {"a": 7}, b"7")),
    *((10**5000, None), (np.True_, None)),
]
IDS = {
    "numbers": [7, -3, 0, 42, 2**63 - 1],
    "texts": ["7", "007", " 7 ", "+7", "7.0", "７", "-0", "-3", "0", "é", "e\u0301", "None", "nan", "True", "[7]", str(HUGE)],  # noqa: RUF001, E501
}  # fmt: skip


@pytest.fixture(scope="module", params=IDS)
def models(request, tmp_path_factory):
    """The ids of a log, and a folder with a run of it and its exports."""
    folder, ids = tmp_path_factory.mktemp(request.param), IDS[request.param]
    events = [(user, ids[(5 * n + step) % len(ids)], step) for n, user in enumerate(ids) for step in range(9)]
    pl.DataFrame(events, ["user_id", "item_id", "timestamp"], orient="row").write_parquet(folder / "log.parquet")
    options = [f"data.source.events={folder}/log.parquet", f"data.cache={folder}", f"hydra.run.dir={folder}/run"]
    options += ["data=table", "model=base", "model.features.std=0.5", "trainer.max_epochs=1"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["dien-train", *options])
        train.main()
    for kind in ("onnx", "weights"):
        export(folder / "run", kind, folder / kind)
    return ids, folder


def wanted(ranker, ids, raw, *, history=True):
    """The score that a user gets for their own id after two clicks on it, and whether the log has the id."""
    text = spelling(raw)
    (same,) = [one for one in ids if str(one) == text] or [None]
    if same is None:
        return ranker.score(["nobody's"] * 2 * history, ["nobody's"], user="nobody's")[0], False
    return ranker.score([same, same], [same], user=same)[0], True


def ask_ranker(ranker):
    def ask(raw):
        known = ranker.known([raw])[0]
        assert known == ranker.known_user(raw)
        return ranker.score([raw, raw], [raw], user=raw)[0], known

    return ask


def ask_runtime(folder):
    scorer = Runtime(folder)

    def ask(raw):
        (ranked,) = scorer.rank(raw, [raw, raw], [raw])
        assert ranked.known == scorer.known_user(raw)
        return ranked.score, ranked.known

    return ask


def ask_server(ranker):
    """The status of a refusal, which is the answer to what is no id, or is a number beyond 64 bits."""

    def ask(raw):
        body = json.dumps({"user": raw, "history": [raw, raw], "candidates": [raw]})
        try:
            request = parse(body.encode())
        except Refusal as refusal:
            return refusal.status
        (answer,) = Scorer(ranker, MemoryStore(limit=1 << 20))([request])
        assert answer["items"][0]["known"] == answer["known_user"]
        return answer["items"][0]["score"], answer["known_user"]

    return ask


@pytest.mark.parametrize("door", ["ranker", "ranker of weights", "runtime", "server"])
def test_ids_asked_one_by_one(models, door):
    ids, folder = models
    ranker = Ranker.load(folder / "run")
    assert np.diff(np.sort([wanted(ranker, ids, raw)[0] for raw in [*ids, "nobody's"]])).min() > 1e-5
    ask = {
        "ranker": lambda: ask_ranker(ranker),
        "ranker of weights": lambda: ask_ranker(Ranker.load(folder / "weights")),
        "runtime": lambda: ask_runtime(folder / "onnx"),
        "server": lambda: ask_server(ranker),
    }[door]()
    for raw, text in GIVEN:
        assert spelling(raw) == text
        if door == "server" and (type(raw) not in (str, int, float, bool, list, dict, type(None)) or raw == 10**5000):
            continue  # JSON cannot say it
        answer = ask(raw)
        if door == "server" and (text is None or raw is HUGE):
            assert answer == 422, raw
            continue
        score, known = wanted(ranker, ids, raw)
        assert answer == (pytest.approx(score, abs=1e-6), known), raw


def table_of(raws: list[object], path: Path) -> Path:
    """A table with these ids of users and of items, written by hand where polars could not."""
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps({"user_id": raw, "item_id": raw}) + "\n" for raw in raws))
    else:
        frame = pl.DataFrame({"user_id": raws, "item_id": raws})
        (frame.write_csv if path.suffix == ".csv" else frame.write_parquet)(path)
    return path


@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl"])
def test_ids_of_tables(models, suffix, tmp_path):
    """A column has one type. Empty fields and NaN are nobody's; what else is no id is refused, with its line."""
    ids, folder = models
    ranker = Ranker.load(folder / "run")
    clicks = table_of([str(one) for one in ids for _ in range(2)], tmp_path / "clicks.csv")
    given = [raw for raw, _ in GIVEN]
    columns = [[raw for raw in given if type(raw) is str and raw != "\x00"] + [None]]
    if suffix != "csv":  # a field of CSV is text
        columns.append([raw for raw in given if type(raw) is int and abs(raw) < 2**63] + [None])
        columns.append([raw for raw in given if type(raw) is float and spelling(raw)] + [None])
        columns.append([None, None])
    if suffix == "parquet":
        columns[2].append(math.nan)
    if suffix == "jsonl":
        columns.append([HUGE, 7])
    for raws in columns:
        out = tmp_path / "out.csv"
        counts = predict.predict(
            folder / "run", input=table_of(raws, tmp_path / f"in.{suffix}"), output=out, history=clicks
        )
        scored = pl.read_csv(out, infer_schema_length=None)
        expected = [wanted(ranker, ids, raw, history=False) for raw in raws]
        np.testing.assert_allclose(scored["score"], [score for score, _ in expected], rtol=0, atol=1e-6)
        for kind in ("user", "item"):
            assert scored[f"unknown_{kind}"].to_list() == [not known for _, known in expected], raws
        assert counts.unknown_users == counts.unknown_items == sum(not known for _, known in expected)
    for raws, message in (
        ([7.0, 7.5], r"(row|line) 2: item_id 7\.5 is not a whole number|user_id 7\.5 is not a whole number"),
        ([2.0**60], "is not a whole number"),
        ([True], "is Boolean, but ids are strings or integers"),
        ([[7]], r"is List\(Int64\), but ids are strings or integers"),
    ):
        if suffix != "csv":
            with pytest.raises(DataError, match=message):
                predict.predict(folder / "run", input=table_of(raws, tmp_path / f"odd.{suffix}"), output=out)

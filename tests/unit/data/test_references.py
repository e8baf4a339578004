"""What a known score and counting reach, by hand."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from dien.data.dataset import Prepared
from dien.data.prepare import prepare
from dien.data.protocol import Protocol
from dien.data.sources import Synthetic
from dien.errors import DataError

EVENTS = [  # user, item, time, label: two sessions to learn from, one to validate, one to test
    ("b", "x", 1, 1),
    ("b", "y", 1, 0),
    ("b", "x", 2, 1),
    ("b", "z", 3, 1),
    ("b", "w", 3, 0),
    ("b", "w", 4, 0),
    ("b", "x", 4, 1),
    ("a", "x", 1, 1),
    ("a", "z", 2, 1),
    ("a", "w", 3, 1),
    ("a", "x", 3, 0),
    ("a", "y", 4, 0),
    ("a", "x", 4, 1),
    ("a", "z", 4, 0),
]
CHANCE = [0.9, 0.1, 0.9, 0.5, 0.2, 0.8, 0.6, 0.9, 0.5, 0.7, 0.3, 0.1, 0.7, 0.6]
ITEMS = {"item_id": ["w", "x", "y", "z"], "category": ["p", "q", "q", "p"]}


@pytest.fixture
def prepared(make_source, tmp_path: Path) -> Prepared:
    source = make_source(EVENTS, items=ITEMS)
    source.log = replace(source.log, scores=pl.DataFrame({"known": CHANCE}, schema={"known": pl.Float32}))
    return Prepared(prepare(source, Protocol(), name="known", folder=tmp_path / "known"))


def test_scores_follow_their_events(prepared: Prepared) -> None:
    score = np.load(prepared.folder / "event_score_known.npy")
    np.testing.assert_allclose(score, CHANCE[7:] + CHANCE[:7], rtol=1e-6)  # user a comes first


def test_references_by_hand(prepared: Prepared) -> None:
    # Test rows: b: w 0 (.8), x 1 (.6); a: y 0 (.1), x 1 (.7), z 0 (.6).
    found = {name.removeprefix("reference/"): value for name, value in prepared.references.items()}
    assert found["known/test/auc"] == pytest.approx(
        (1 + 1 + 0 + 1 + 0.5 + 0) / 6
    )  # x of a beats y, z; x of b beats y, ties z
    assert found["known/test/gauc"] == pytest.approx((2 * 0 + 3 * 1) / 5)
    chances, labels = np.array([0.8, 0.6, 0.1, 0.7, 0.6]), np.array([0, 1, 0, 1, 0])
    loss = -np.log(np.where(labels == 1, chances, 1 - chances)).mean()
    assert found["known/test/logloss"] == pytest.approx(loss, rel=1e-5)
    # Clicks in training: x 3 (b twice, a once), z 1. Scores w 0, x 3; y 0, x 3, z 1.
    assert found["popularity/test/auc"] == 1
    # Clicks in the whole history: b: x x z; a: x z w. Targets b: w 0, x 2; a: y 0, x 1, z 1.
    assert found["item_count/test/auc"] == pytest.approx((1 + 1 + 1 + 1 + 1 + 0.5) / 6)
    # Of the category, p for w and z: b: w 1, x 2; a: y 1, x 1, z 2.
    assert found["category_count/test/auc"] == pytest.approx((1 + 1 + 0.5 + 0.5 + 0.5 + 0) / 6)
    # The last click is z in b, w in a, of category p both: b: w 1, x 0; a: y 0, x 0, z 1.
    assert found["last_category/test/auc"] == pytest.approx((0 + 0.5 + 0) * 2 / 6)
    assert "popularity/test/logloss" not in found


def test_a_log_without_scores_has_no_references(make_source, tmp_path: Path) -> None:
    folder = prepare(make_source(EVENTS, items=ITEMS), Protocol(), name="plain", folder=tmp_path / "plain")
    assert Prepared(folder).references == {}
    assert "references" not in json.loads((folder / "dataset.json").read_text())


@pytest.mark.parametrize(
    ("scores", "message"),
    [(CHANCE[1:], "13 rows of scores for 14 events"), ([1.5, *CHANCE[1:]], "known, .* not all probabilities")],
)
def test_scores_that_are_none(make_source, tmp_path: Path, scores: list[float], message: str) -> None:
    source = make_source(EVENTS)
    source.log = replace(source.log, scores=pl.DataFrame({"known": scores}))
    with pytest.raises(DataError, match=message):
        prepare(source, Protocol(), name="known", folder=tmp_path / "known")


def test_the_oracle_of_two_categories_of_one_item(tmp_path: Path) -> None:
    """Every second impression is of the interest and clicked with 0.8, others with 0.2: AUC 0.8^2 + 0.8 * 0.2 = 0.8.

    Both categories are equally likely whatever was clicked, so nobody can know: the ceiling is 1/2.
    """
    world = Synthetic(
        users=6_000,
        categories=2,
        items_per_category=1,
        tastes=1,
        concentration=1000,
        order=0.0,
        targeting=0.0,
        click=0.8,
        noise=0.25,
        min_sessions=4,
        max_sessions=4,
        cache=str(tmp_path),
    )
    folder = prepare(world, Protocol(), name="two", folder=tmp_path / "two")
    found = Prepared(folder).references
    assert len(Prepared(folder).samples("test")) == pytest.approx(12_000, rel=0.03)  # one click in two impressions
    assert found["reference/oracle/test/auc"] == pytest.approx(0.8, abs=0.012)
    assert found["reference/ceiling/test/auc"] == pytest.approx(0.5, abs=0.02)
    entropy = -(0.8 * np.log(0.8) + 0.2 * np.log(0.2))
    assert found["reference/oracle/test/logloss"] == pytest.approx(entropy, abs=0.012)


def test_the_ceiling_lies_between_counting_and_the_truth_and_the_same_twice(tmp_path: Path) -> None:
    options = {"users": 1_000, "max_sessions": 15}
    folders = [
        prepare(
            Synthetic(**options, block=block, cache=str(tmp_path)), Protocol(), name="w", folder=tmp_path / str(block)
        )
        for block in (1_000, 99)
    ]
    first, second = ((folder / "dataset.json").read_bytes() for folder in folders)
    assert first == second
    found = {name.split("/")[1]: value for name, value in Prepared(folders[0]).references.items() if "test/auc" in name}
    counting = max(found[name] for name in ("popularity", "item_count", "category_count", "last_category"))
    assert counting + 0.1 < found["ceiling"] < found["oracle"] - 0.02

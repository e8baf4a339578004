"""The synthetic world does what its law says, whatever the blocks it is made in."""

import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal
from scipy import stats

from dien.data.sources import Synthetic
from dien.data.synthetic import World, write_events
from dien.data.synthetic.belief import beliefs
from dien.data.synthetic.events import users_events
from dien.errors import ConfigError, DataError

SMALL: dict[str, Any] = {"users": 400, "categories": 5, "items_per_category": 4, "min_sessions": 2, "max_sessions": 9}


def events_of(world: World) -> pl.DataFrame:
    return users_events(world, np.arange(world.users))


@pytest.fixture(scope="module")
def world() -> World:
    return World(**{**SMALL, "users": 6_000}, noise=0.3, click=0.9, seed=3)


@pytest.fixture(scope="module")
def events(world: World) -> pl.DataFrame:
    return events_of(world)


def p_value(clicks: pl.DataFrame, column: str) -> float:
    """Chi-squared test of label frequencies against probabilities, over all values of the probability."""
    groups = clicks.group_by(pl.col(column).round(4)).agg(
        pl.len(), pl.col("label").sum(), p=pl.col(column).cast(pl.Float64).mean()
    )
    groups = groups.filter((pl.col("len") * pl.col("p") * (1 - pl.col("p"))) > 10)
    z = (groups["label"] - groups["len"] * groups["p"]) / (groups["len"] * groups["p"] * (1 - groups["p"])).sqrt()
    assert len(z) >= 8
    return float(stats.chi2.sf((z**2).sum(), len(z)))


def test_clicks_are_as_frequent_as_the_oracle_says(events: pl.DataFrame) -> None:
    assert events.height > 50_000
    assert p_value(events, "oracle") > 0.01


def test_clicks_are_as_frequent_as_the_ceiling_says(events: pl.DataFrame) -> None:
    """That is calibration: among impressions with the same belief, that share is clicked."""
    bins = events.with_columns(ceiling=pl.col("ceiling").cast(pl.Float64))
    bins = bins.group_by((pl.col("ceiling") * 40).floor()).agg(
        pl.len(),
        pl.col("label").sum(),
        p=pl.col("ceiling").mean(),
        variance=(pl.col("ceiling") * (1 - pl.col("ceiling"))).sum(),
    )
    bins = bins.filter(pl.col("variance") > 10)
    z = (bins["label"] - bins["len"] * bins["p"]) / bins["variance"].sqrt()
    assert len(z) > 10
    assert stats.chi2.sf((z**2).sum(), len(z)) > 0.01


def test_a_wrong_probability_would_be_noticed(events: pl.DataFrame) -> None:
    assert p_value(events.with_columns(oracle=pl.col("oracle") * 0.97), "oracle") < 1e-4


def test_impressions_follow_the_law(world: World, events: pl.DataFrame) -> None:
    sessions = events.group_by("user_id", "timestamp").agg(pl.col("label").sum(), pl.len())
    assert (sessions["label"] == 1).all()  # a session ends with its one click
    expected = 1 / world.click_rate
    spread = np.sqrt(1 - world.click_rate) / world.click_rate / np.sqrt(sessions.height)
    assert sessions["len"].mean() == pytest.approx(expected, abs=4 * spread)
    ranks = np.empty(world.items, np.int64)
    ranks[world.item_CQ] = np.arange(world.items_per_category)
    shown = np.bincount(ranks[events["item_id"]])
    assert stats.chisquare(shown, world.shown_Q * shown.sum()).pvalue > 0.01
    places = events.filter(pl.len().over("user_id", "timestamp") == 4).with_columns(
        place=pl.int_range(pl.len()).over("user_id", "timestamp")
    )
    clicked = places.filter(pl.col("label") == 1).group_by("place").len()["len"]
    assert stats.chisquare(clicked).pvalue > 0.01  # the click has no place of its own


def test_sessions_per_user_are_even(world: World, events: pl.DataFrame) -> None:
    sessions = events.group_by("user_id").agg(pl.col("timestamp").n_unique())["timestamp"]
    assert (sessions.min(), sessions.max()) == (2, 9)
    assert stats.chisquare(np.bincount(sessions)[2:]).pvalue > 0.01


def interests(world: World, sessions: int = 2) -> np.ndarray:
    """Categories (places in the cycle) of the first clicks of a world whose clicks show the interest."""
    events = events_of(world).filter(pl.col("label") == 1)
    place = np.empty(world.items, np.int64)
    place[world.item_CQ] = np.arange(world.categories)[:, None]
    first = events.group_by("user_id", maintain_order=True).head(sessions)["item_id"].to_numpy()
    return place[first].reshape(-1, sessions)


@pytest.mark.parametrize(("order", "speed"), [(1.0, 0.0), (1.0, 1.0), (0.75, 0.6)])
def test_interests_follow_the_cycle_as_often_as_asked(order: float, speed: float) -> None:
    world = World(**{**SMALL, "users": 3_000}, order=order, speed=speed, noise=0, tastes=1, concentration=1000)
    before, after = interests(world).T
    moved = (after - before) % world.categories
    taste = 1 / world.categories  # nearly: the taste is all but even
    expected = {0: order * (1 - speed) + (1 - order) * taste, 1: order * speed + (1 - order) * taste}
    for step, share in expected.items():
        assert (moved == step).mean() == pytest.approx(share, abs=4 * np.sqrt(share * (1 - share) / 3_000) + 0.005)


def test_without_order_sessions_are_exchangeable_and_follow_tastes() -> None:
    world = World(**{**SMALL, "users": 6_000}, order=0, noise=0, tastes=2, concentration=0.5)
    table = np.zeros((world.categories, world.categories))
    np.add.at(table, tuple(interests(world).T), 1)
    expected = np.einsum("kc,kd->cd", world.taste_KC, world.taste_KC) / 2 * 6_000
    kept = expected > 5
    assert stats.chi2.sf(((table - expected)[kept] ** 2 / expected[kept]).sum(), kept.sum()) > 0.01


@pytest.mark.parametrize(
    "changed", [{}, {"order": 0.0}, {"order": 1.0, "noise": 0.0}, {"noise": 1.0}, {"targeting": 0.0}]
)
def test_beliefs_equal_the_sum_over_all_hidden_paths(changed: dict[str, float]) -> None:
    world = World(**SMALL | {"categories": 3}, tastes=2, **changed)
    follows = np.eye(3) * (1 - world.speed) + np.roll(np.eye(3), 1, axis=1) * world.speed
    seen = np.where(np.eye(3) == 1, world.shown_inside, world.shown_outside * world.noise)  # [clicked, interest]
    clicked = [1, 2, 2]
    weight = np.zeros((4, 3))
    for path in itertools.product(range(3), repeat=4):
        for taste in world.taste_KC:
            probability = taste[path[0]]
            for before, after in itertools.pairwise(path):
                probability *= world.order * follows[before, after] + (1 - world.order) * taste[after]
            for session in range(4):
                evidence = np.prod([seen[clicked[s], path[s]] for s in range(session)])
                weight[session, path[session]] += probability * evidence
    expected = weight / weight.sum(1, keepdims=True)
    found = beliefs(world, np.array([[*clicked, 0]]).T)[:, :, 0]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_blocks_change_nothing_and_seeds_do(tmp_path: Path) -> None:
    world = World(**SMALL)
    whole = events_of(world)
    for block in (7, 133, 400):
        write_events(world, tmp_path / "events.arrow", block=block)
        assert_frame_equal(pl.read_ipc(tmp_path / "events.arrow"), whole, check_exact=True)
    assert_frame_equal(
        events_of(World(**SMALL | {"users": 100})), whole.filter(pl.col("user_id") < 100), check_exact=True
    )
    assert not events_of(World(**SMALL, seed=1)).equals(whole)


MEASURED = """
import sys
from pathlib import Path
from dien.data.synthetic import World, write_events

for users in (3_000, 40_000):
    write_events(World(users=users), Path(sys.argv[1]), block=1_000)
    print(next(line.split()[1] for line in Path("/proc/self/status").open() if line.startswith("VmHWM")))
"""


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs Linux's account of the memory")
def test_more_users_need_no_more_memory(tmp_path: Path) -> None:
    path = tmp_path / "events.arrow"
    command = [sys.executable, "-c", MEASURED, str(path)]
    few, many = map(int, subprocess.run(command, capture_output=True, check=True, text=True).stdout.split())
    assert path.stat().st_size > 60 << 20
    assert many - few < 20 << 10  # KiB


def test_the_source_gives_the_log_keeps_the_file_and_knows_its_parameters(tmp_path: Path) -> None:
    place = tmp_path / "kept" / "world.arrow"
    source = Synthetic(**SMALL, keep=str(place), block=50)
    log = source.load()
    assert_frame_equal(pl.read_ipc(place), events_of(source), check_exact=True)
    assert [path.name for path in place.parent.iterdir()] == ["world.arrow"]
    assert log.items is not None
    assert log.items["category"].n_unique() == 5
    assert log.scores is not None
    assert source.fingerprint() == Synthetic(**SMALL, cache="elsewhere").fingerprint()
    assert source.fingerprint() != Synthetic(**SMALL, noise=0.2).fingerprint()
    with pytest.raises(DataError, match="cannot be written to"):
        Synthetic(**SMALL, keep=f"{place}/below.arrow").load()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"users": 2}, "data.source.users=2 is out of range"),
        ({"categories": 1}, "data.source.categories=1"),
        ({"items_per_category": 0}, "data.source.items_per_category=0"),
        ({"order": 1.1}, r"data.source.order=1.1 is out of range: it must be a number of at most 1"),
        ({"speed": -0.1}, "data.source.speed=-0.1"),
        ({"noise": float("nan")}, "data.source.noise=nan"),
        ({"targeting": True}, "data.source.targeting=True"),
        ({"popularity": 11}, "data.source.popularity=11"),
        ({"concentration": 0}, "data.source.concentration=0"),
        ({"min_sessions": 9, "max_sessions": 8}, "data.source.max_sessions=8 is below data.source.min_sessions=9"),
        ({"click": 0.0}, "data.source.click=0.0 with .* gives one click in"),
        ({"categories": 1000, "tastes": 101}, "data.source.categories=1000 and data.source.tastes=101"),
        ({"seed": -1}, "data.source.seed=-1"),
        ({"block": 0}, "data.source.block=0"),
    ],
)
def test_out_of_range_parameters_name_their_key(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Synthetic(**options)

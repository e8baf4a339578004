"""The rule of raw ids for whole columns is that for single ids."""

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from dien.data.vocabulary import spelled
from dien.raw_ids import IdRows, spelling

TEXTS = st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=5) | st.from_regex(r"[+-]?0*7(\.0)?\s?")
COLUMNS = {
    pl.String: TEXTS,
    pl.Int64: st.none() | st.integers(-(2**63), 2**63 - 1),
    pl.Int128: st.none() | st.integers(-(2**127), 2**127 - 1),
    pl.UInt8: st.none() | st.integers(0, 255),
    pl.Float64: st.none() | st.floats() | st.integers(-(2**60), 2**60).map(float),
    pl.Float32: st.none() | st.floats(width=32).map(np.float32),
    pl.Boolean: st.none() | st.booleans(),
}


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(list(COLUMNS)).flatmap(lambda kind: st.tuples(st.just(kind), st.lists(COLUMNS[kind]))))
def test_a_column_is_spelled_as_each_of_its_ids(column):
    kind, values = column
    assert spelled(pl.Series(values, dtype=kind)).to_list() == [spelling(value) for value in values]


@settings(max_examples=100, deadline=None)
@given(st.lists(TEXTS.filter(bool), unique=True, min_size=1), st.data())
def test_an_id_finds_the_row_of_its_spelling_and_no_other(ids, data):
    rows = IdRows(ids, untrained=[2])
    asked = data.draw(st.lists(TEXTS | st.integers(-9, 9) | st.floats(-9, 9)))
    expected = [ids.index(spelling(one)) + 2 if spelling(one) in ids else 1 for one in asked]
    assert rows.rows(asked) == expected
    assert rows.known(asked) == [row > 2 for row in expected]

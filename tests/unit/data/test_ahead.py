"""The next item is made while one works on the last."""

from collections.abc import Iterator
from threading import Event

import pytest

from dien.data.ahead import ahead


def test_items_keep_their_order_and_the_next_one_is_made_meanwhile() -> None:
    second = Event()

    def items() -> Iterator[int]:
        yield 1
        second.set()
        yield 2

    coming = ahead(items())
    assert next(coming) == 1
    assert second.wait(10)
    assert list(coming) == [2]
    assert list(ahead(iter(()))) == []


def test_an_error_comes_where_its_item_would() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise OSError("the disk is gone")

    coming = ahead(items())
    assert next(coming) == 1
    with pytest.raises(OSError, match="the disk is gone"):
        next(coming)

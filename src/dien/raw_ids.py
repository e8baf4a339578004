"""What a raw id is, and when two are the same: one rule for predicting, ranking, serving and exports.

An id is text with at least one character, or a whole number. Two ids are the same if they are spelled the same: text as
it is, a number in decimal digits without a point, leading zeros or a plus sign. So 7 and "7" are one id, while "007",
" 7 ", "+7", "7.0" are others; letter case and the forms of Unicode count. A float that is a whole number below
2**53 is that number, because tables turn whole numbers into floats where some are missing: 7.0 is 7. Nothing else is an
id: not None, NaN, "", True, 7.5 or a list. What is no id is nobody's, and is never found.

Needs nothing but Python, as exports do; `dien.data.vocabulary.spelled` is the rule for whole columns.
"""

from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real

RawId = str | int

PADDING = 0
UNKNOWN = 1
FIRST_ID = 2  # the first row of a feature table that stands for something real

EXACT = 2**53
"""From here on floats skip whole numbers."""


def spelling(raw: object) -> str | None:
    """How an id is spelled; None for what is no id."""
    if isinstance(raw, str):
        return str(raw) or None  # also of numpy's strings
    if isinstance(raw, bool) or not isinstance(raw, Real):
        return None
    try:
        if isinstance(raw, Integral):
            return str(int(raw))
        number = float(raw)
    except (ValueError, OverflowError):  # Python writes no number of more than some thousand digits
        return None
    return str(int(number)) if number.is_integer() and abs(number) < EXACT else None


def check_ids(name: str, ids: object) -> None:
    """Raise `TypeError` for what is no list of ids: None, one id alone, whose letters are no ids, or a mapping."""
    if isinstance(ids, str | bytes | Mapping) or not hasattr(ids, "__getitem__"):
        raise TypeError(f"{name} must be a list of ids, not {ids!r:.50}.")


class IdRows:
    """From raw ids to the rows of a feature table, for a few ids at a time; `Prepared.item_rows` is for many.

    Args:
        ids: the raw ids of rows 2, 3, ...
        untrained: rows whose ids training did not know: their embedding is the unknown one, as that of row 1.
    """

    def __init__(self, ids: Sequence[RawId], *, untrained: Sequence[int] = ()) -> None:
        self.ids, self.untrained = ids, untrained
        self.row_of = {text: row for row, raw in enumerate(ids, FIRST_ID) if (text := spelling(raw)) is not None}
        """By spelling."""
        self._unknown = {UNKNOWN, *untrained}

    def rows(self, raw: Iterable[object]) -> list[int]:
        """The row of each id, 1 for one that is not in the table."""
        find = self.row_of.get
        return [find(one if type(one) is str else spelling(one) or "", UNKNOWN) for one in raw]

    def known(self, raw: Iterable[object]) -> list[bool]:
        """Which ids training knew; the others have the unknown embedding."""
        return [row not in self._unknown for row in self.rows(raw)]

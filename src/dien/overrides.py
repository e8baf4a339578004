"""Overrides of a command line as text, before Hydra acts on them: the key that each gives, and what a file may give."""

import re
from typing import NamedTuple

from dien.errors import DienError

_WORD = r"[\w$][\w$-]*"
_FORM = re.compile(
    rf"(?P<sign>\+\+|\+|~)?(?P<key>{_WORD}(?:[./]{_WORD})*)(?:@(?P<package>[\w.:]*))?(?:=(?P<value>.*))?",
    re.ASCII | re.DOTALL,
)


class Override(NamedTuple):
    """`[+|++|~]key[@package]=value`; `~` needs no value."""

    key: str
    package: str
    value: str


def parse(argument: str) -> Override | None:
    """None if the argument is something else, such as a flag of Hydra."""
    found = _FORM.fullmatch(argument)
    if found is None or (found["value"] is None and found["sign"] != "~"):
        return None
    return Override(found["key"], found["package"] or "", found["value"] or "")


def check_from_file(argument: object, place: str) -> str:
    """An override that a run folder brings along, which somebody else may have made.

    Raises:
        DienError: Hydra would do more with it than to set an option: flags unpickle, `hydra.*` calls and writes what it
            likes, and the choice of a group that leaves `conf/` can set `hydra.*` again.
    """
    override = parse(argument) if isinstance(argument, str) else None
    if override is None or any(map(_is_hydras, (override.key, *override.package.split(":")))) or _leaves_conf(override):
        raise DienError(
            f"{place}: the override {str(argument)[:80]!r} sets no option of dien-train, so nothing of it is followed: "
            "take it out of that file if you trust the others."
        )
    assert isinstance(argument, str)
    return argument


def _is_hydras(name: str) -> bool:
    return re.match(r"hydra(?:[./]|$)", name) is not None


def _leaves_conf(override: Override) -> bool:
    """Whether it may choose a file outside of `conf/`; a key with a dot is never a group, nor is `name`."""
    if "." in override.key:
        return False
    return ".." in override.value or ("$" in override.value and override.key != "name")

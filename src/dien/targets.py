"""The one door through which a configuration becomes objects, and what it may name.

A configuration may come with a run folder that somebody else made, and `_target_` can name anything that Python can
import. So only classes of this project, of torch's optimizers and of Lightning are built, and the few functions below.
Interpolations may look elsewhere in the configuration, and not beyond it: what they find is written into run folders.
"""

import os
import re
from collections.abc import Iterator
from typing import Any

import hydra.utils
from omegaconf import DictConfig, OmegaConf

from dien.errors import ConfigError

PACKAGES = ("dien", "torch.optim", "lightning.pytorch")
FUNCTIONS = ("dien.model.authors.build",)
RESOLVERS = ("hydra", "now", "oc.dict.keys", "oc.dict.values", "oc.select")
"""What `${NAME:...}` may call. `oc.env` reads secrets, `oc.create` and `oc.decode` interpolate what they are given."""
EXTRA = "DIEN_TARGETS"
"""Environment variable: packages, separated by commas, whose classes may be built too, such as your own."""


def instantiate(config: DictConfig, **options: Any) -> Any:
    """`hydra.utils.instantiate`, if everything that `config` names may be built.

    Raises:
        ConfigError: for a `_target_` or an interpolation that is not allowed; nothing was called then.
    """
    check_interpolations(config._get_root())
    for place, value in _nodes(OmegaConf.to_container(config, resolve=True), config._get_full_key("") or ""):
        if place.rpartition(".")[2] == "_target_":
            check_target(value, place)
        elif isinstance(value, str):  # two parts can make a new one, which Hydra would resolve
            check_interpolation(f"{place}={value}")
    return hydra.utils.instantiate(config, **options)


def check_target(target: object, place: str) -> None:
    """Raise `ConfigError` unless `target`, found at `place` of a configuration, names something that may be built."""
    allowed = (*PACKAGES, *filter(None, os.environ.get(EXTRA, "").split(",")))
    refusal = ConfigError(
        f"{place}={target!r} is not allowed: a configuration may name classes of {', '.join(allowed)} only; "
        f"set {EXTRA}=PACKAGE for those of your own."
    )
    if not isinstance(target, str) or not _within(target, allowed):
        raise refusal
    if target in FUNCTIONS:
        return
    try:
        found = hydra.utils.get_object(target)
    except Exception as error:  # whatever importing it raised
        raise ConfigError(f"{place}={target!r} does not exist: check its spelling.") from error
    # A path can lead through a module to what that module imported: dien.data.storage.os.system.
    if not isinstance(found, type) or not _within(f"{found.__module__}.{found.__qualname__}", allowed):
        raise refusal


def check_interpolations(node: Any) -> None:
    """Raise `ConfigError` unless all interpolations of an unresolved configuration look at nothing but itself."""
    for place, value in _nodes(OmegaConf.to_container(node, resolve=False), ""):
        if isinstance(value, str):
            check_interpolation(f"{place}={value}")


def check_interpolation(text: str) -> None:
    """Raise `ConfigError` if `KEY=VALUE` calls anything but `RESOLVERS`, whatever is escaped or quoted in it."""
    rest = text
    while found := re.search(r"(\$?)\{([^{}]*)\}", rest):  # the innermost first
        name, colon, _ = found[2].partition(":")
        if found[1] and colon and name.strip() not in RESOLVERS:
            break
        rest = rest.replace(found[0], "\0")
    if "${" in rest:
        raise ConfigError(
            f"{text[:200]!r}: an interpolation with a colon may only be one of {', '.join(RESOLVERS)}, since its value "
            "is written into the run folder; give the value itself."
        )


def _within(name: str, packages: tuple[str, ...]) -> bool:
    return any(name.startswith(f"{package.strip()}.") for package in packages)


def _nodes(node: Any, place: str) -> Iterator[tuple[str, object]]:
    """Everything in a tree, with its dotted place."""
    yield place, node
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _nodes(value, f"{place}.{key}" if place else str(key))
    elif isinstance(node, list):
        for i, value in enumerate(node):
            yield from _nodes(value, f"{place}[{i}]")

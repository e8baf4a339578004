"""The one door through which a configuration becomes objects, and what it may name.

A configuration may come with a run folder that somebody else made, and `_target_` can name anything that Python can
import. So only classes of this project, of torch's optimizers and of Lightning are built, and the few functions below.
"""

import os
from collections.abc import Iterator
from typing import Any

import hydra.utils
from omegaconf import DictConfig, OmegaConf

from dien.errors import ConfigError

PACKAGES = ("dien", "torch.optim", "lightning.pytorch")
FUNCTIONS = ("dien.model.authors.build",)
EXTRA = "DIEN_TARGETS"
"""Environment variable: packages, separated by commas, whose classes may be built too, such as your own."""


def instantiate(config: DictConfig, **options: Any) -> Any:
    """`hydra.utils.instantiate`, if everything that `config` names may be built.

    Raises:
        ConfigError: for a `_target_` that is not allowed; nothing was called then.
    """
    for place, target in _targets(OmegaConf.to_container(config, resolve=True), config._get_full_key("") or ""):
        check_target(target, place)
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


def _within(name: str, packages: tuple[str, ...]) -> bool:
    return any(name.startswith(f"{package.strip()}.") for package in packages)


def _targets(node: Any, place: str) -> Iterator[tuple[str, object]]:
    """Every `_target_` in a tree, with its dotted place."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "_target_":
                yield f"{place}.{key}" if place else key, value
            yield from _targets(value, f"{place}.{key}" if place else str(key))
    elif isinstance(node, list):
        for i, value in enumerate(node):
            yield from _targets(value, f"{place}[{i}]")

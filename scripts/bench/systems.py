"""The systems of the benchmark: how each is installed, configured and footnoted; and the peers of `dien-convert`."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Installed:
    """How a peer comes into an environment of its own."""

    package: str | None = None
    """What must be importable; None for this project."""
    requirements: tuple[str, ...] = ()
    """What pip installs if it is not."""
    bare: tuple[str, ...] = ()
    """What pip installs without its dependencies, because these cannot be had on every Python we run on."""


@dataclass(frozen=True, kw_only=True)
class System(Installed):
    """One row of the tables."""

    title: str
    adapter: str
    """Module in `bench.adapters`."""
    options: dict[str, Any] = field(default_factory=dict)
    """Arguments of the adapter's `build`."""
    notes: tuple[str, ...] = ()
    """How it differs from the others, in words."""
    auxiliary: bool = True
    """Trains with an auxiliary loss."""
    auc: bool = True
    """False for the twin of another row that learns exactly the same."""


RECBOLE: dict[str, Any] = {
    "adapter": "recbole",
    "package": "recbole",
    "bare": ("recbole==1.2.1",),
    "requirements": (
        *("colorama", "colorlog", "pandas", "plotly", "psutil", "pyyaml", "scikit-learn", "scipy", "setuptools<81"),
        *("tabulate", "tensorboard", "texttable", "thop", "tqdm"),
    ),
}
RECBOLE_NOTE = "one MLP size for all: attention, auxiliary network and head are 80-40; no history sum in the head"
FUXICTR: dict[str, Any] = {"adapter": "fuxictr", "package": "fuxictr", "requirements": ("fuxictr==2.3.10",)}

SYSTEMS: dict[str, System] = {
    "dien": System(title="dien (this project)", adapter="dien"),
    "fuxictr-aux": System(
        title="FuxiCTR + auxiliary loss",
        options={"auxiliary": True},
        notes=(
            "not as published: a subclass of ours adds the auxiliary loss that FuxiCTR's own code was meant to have",
        ),
        **FUXICTR,
    ),
    "recbole": System(
        title="RecBole, anomaly mode off",
        options={"anomaly": False},
        notes=(RECBOLE_NOTE, "not as shipped: autograd's anomaly mode, which its import switches on, is switched off"),
        **RECBOLE,
    ),
    "deepctr": System(
        title="DeepCTR-Torch",
        adapter="deepctr",
        package="deepctr_torch",
        requirements=("deepctr-torch==0.3.0", "requests"),
        notes=(
            "the loss is a sum over the rows plus the auxiliary mean, so the auxiliary weight is 1 / batch size",
            "weights drawn with std 0.1, because with its default 1e-4 it learns nothing in this epoch",
            "head with ReLU, because its Dice fails on two dimensions; no history sum in the head",
        ),
    ),
    "torch-rechub": System(
        title="torch-rechub",
        adapter="torch_rechub",
        package="torch_rechub",
        requirements=("torch-rechub==0.9.0",),
        notes=(
            "two recurrences of 18, one for each history field, instead of one of 36; bilinear attention, no MLP",
            "inner-product auxiliary loss without a network; no history sum in the head",
        ),
    ),
    "fuxictr": System(
        title="FuxiCTR",
        options={"auxiliary": False},
        auxiliary=False,
        notes=("as published on PyPI it has NO auxiliary loss",),
        **FUXICTR,
    ),
    "recbole-shipped": System(
        title="RecBole, as shipped",
        options={"anomaly": True},
        auc=False,
        notes=(RECBOLE_NOTE, "autograd's anomaly mode on, as its import leaves it; learns as the row without"),
        **RECBOLE,
    ),
}

HOPWISE = Installed(
    package="hopwise",
    bare=("hopwise==0.9.1",),  # it wants protobuf 3.20
    requirements=(
        *("cachetools", "colorama", "colorlog", "numba", "pandas", "psutil", "scikit-learn", "scipy", "setuptools<81"),
        *("tabulate", "tensorboard", "texttable", "thop", "tqdm"),
    ),
)
CONVERTED: dict[str, Installed] = {"recbole": SYSTEMS["recbole"], "hopwise": HOPWISE}
"""Whose networks `dien-convert` takes. hopwise's DIEN is RecBole's code, so it is no row of the tables."""

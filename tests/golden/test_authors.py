"""`model=authors` equals the authors' TensorFlow code: outputs to 1e-5, gradients to 1e-4.

Two sets of files. The small ones of this folder, one for each of the nine variants, come from an independent
restatement (`make_authors.py`) and always run. Those of `../shared/golden/authors`, made by the authors' own code
under TensorFlow 1.4, run where that folder lies beside the repository.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from dien.model.authors import VARIANTS, AuthorsNetwork, load

HERE = Path(__file__).parent
ORIGINAL = HERE.parents[1].parent / "shared" / "golden" / "authors"
ORIGINALS = sorted(ORIGINAL.glob("*.npz"))

Arrays = Mapping[str, NDArray[np.generic]]


def small(variant: str) -> dict[str, NDArray[np.generic]]:
    """A small file in the format of the original ones."""
    with np.load(HERE / "authors" / f"{variant}.npz", allow_pickle=False) as packed:
        arrays = {name: packed[name] for name in packed if "/" in name}
        shapes = [tuple(size for size in shape if size) for shape in packed["shapes"].tolist()]
        ends = np.cumsum([np.prod(shape, dtype=int) for shape in shapes])[:-1]
        for kind in ("var", "grad"):
            for name, shape, values in zip(packed["names"], shapes, np.split(packed[kind], ends), strict=True):
                if kind == "var" or "moving" not in str(name):
                    arrays[f"{kind}/{name}:0"] = values.reshape(shape)
    return arrays


def assert_equal(network: AuthorsNetwork, arrays: Arrays) -> None:
    tensors = network.run(arrays)
    expected = {name.removeprefix("out/"): arrays[name] for name in arrays if name.startswith("out/")}
    assert {"y_hat", "loss", "accuracy"} <= expected.keys() <= tensors.keys()
    for name, values in expected.items():
        torch.testing.assert_close(
            tensors[name].detach(),
            torch.from_numpy(values),
            rtol=0,
            atol=1e-5,
            msg=lambda text, name=name: f"{name}: {text}",
        )
    network.zero_grad()
    tensors["loss"].backward()
    gradients = {name.removeprefix("grad/"): arrays[name] for name in arrays if name.startswith("grad/")}
    variables = network.variables()
    assert variables.keys() == gradients.keys()
    for name, values in gradients.items():
        # Small gradients must be right too: 1e-4 of the largest of a variable, 1e-6 where that is nothing.
        atol = max(1e-4 * min(1.0, float(np.abs(values).max())), 1e-6)
        torch.testing.assert_close(
            variables[name].grad,
            torch.from_numpy(values),
            rtol=0,
            atol=atol,
            msg=lambda text, name=name: f"{name}: {text}",
        )


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_equals_the_restatement(variant: str, training: bool):
    arrays = small(variant)
    network = load(arrays, variant).train(training)
    assert type(network) is VARIANTS[variant]
    assert_equal(network, arrays)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_restatement_exercises_every_variable(variant: str):
    """A gradient that is nothing would not see a mistake."""
    arrays = small(variant)
    dead = {name for name in arrays if name.startswith("grad/") and np.abs(arrays[name]).max() < 1e-4}
    shift_invariant = {f"grad/f3_att{suffix}/bias:0" for suffix in ("null", "1_1")}  # of a softmax
    assert dead <= shift_invariant


@pytest.mark.skipif(
    not ORIGINALS, reason=f"no files of the authors' own code in ../{ORIGINAL.relative_to(HERE.parents[2])}"
)
@pytest.mark.parametrize("path", ORIGINALS, ids=lambda path: path.stem)
def test_equals_the_original_code(path: Path):
    network = load(path)
    assert network.model_type == path.stem
    with np.load(path, allow_pickle=False) as arrays:
        assert_equal(network, arrays)

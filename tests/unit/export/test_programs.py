"""Exported programs against the trained network: every network, both attentions, every pooling, every length."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from dien.batch import Batch
from dien.errors import DienError
from dien.export.padded import PaddedNetwork
from dien.export.programs import program_of, write_onnx, write_pt2
from dien.model.authors import DIEN, AuthorsNetwork, Sizes

# torch's own: its eager `scan` imports what is deprecated there.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")

# Tracing takes seconds: each network once, and the options that a program has to follow shared out among them.
NETWORKS: dict[str, dict[str, Any]] = {
    "gru": {"attention": "mlp", "pooling": "sum"},
    "aigru": {"attention": "bilinear", "pooling": "max"},
    "agru": {"attention": "mlp", "hidden_size": 4},
    "augru": {"attention": "bilinear", "ignore": ["price"]},
    "augru_code": {"attention": "mlp", "pooling": "max"},
    "din": {"attention": "bilinear"},
    "pnn": {},
    "wide_deep": {"pooling": "sum"},
    "base": {"pooling": "max"},
}
SIZES = [([4, 0, 1, 7, 2], 3), ([0], 1), ([1], 2), ([0, 0], 4), ([30], 5), ([3, 30], 1)]
"""Lengths of the histories, and the number of candidates."""


def inputs(lengths: list[int], candidates: int, seed: int = 0) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    rows, width = len(lengths), max(lengths)

    def ids(*shape: int, high: int = 32) -> Tensor:
        return torch.randint(1, high, shape, generator=generator)

    history_BT = ids(rows, width)  # padding holds real items: nothing may look at them
    return ids(rows, high=14), history_BT, torch.tensor(lengths), ids(rows, candidates)


def expected(network, user_B, history_BT, length_B, candidate_BC) -> Tensor:
    """The training forward, one candidate a row."""
    rows, candidates = candidate_BC.shape

    def repeat(x: Tensor) -> Tensor:
        return x.repeat_interleave(candidates, 0)

    history = repeat(history_BT)
    pairs = Batch(
        repeat(user_B), history, torch.zeros_like(history), repeat(length_B), candidate_BC.flatten(), torch.zeros(0)
    )
    with torch.no_grad():
        return network.eval()(pairs).logit_B.view(rows, candidates)


class Exported(NamedTuple):
    network: nn.Module
    program: ExportedProgram
    session: onnxruntime.InferenceSession


@pytest.fixture(scope="module")
def kept() -> dict[str, Exported]:
    return {}


@pytest.fixture
def exported(make_network, kept, tmp_path) -> Callable[[str], Exported]:
    """`exported("augru")`: a network and its programs, made once for all tests."""

    def make(name: str) -> Exported:
        if name not in kept:
            network = make_network(name, **NETWORKS[name])
            for parameter in network.parameters():
                parameter.data.mul_(1.5)  # away from saturation and from zero: every part has to matter
            program = program_of(network)
            write_onnx(program, tmp_path / "model.onnx")
            kept[name] = Exported(network, program, onnxruntime.InferenceSession(tmp_path / "model.onnx"))
        return kept[name]

    return make


def run_onnx(session, arguments) -> list[np.ndarray]:
    names = [one.name for one in session.get_inputs()]
    assert names == ["user", "history", "length", "candidates"]
    return session.run(None, {name: one.numpy() for name, one in zip(names, arguments, strict=True)})


@pytest.mark.parametrize("name", NETWORKS)
def test_programs_equal_the_training_forward(exported, name):
    network, program, session = exported(name)
    assert [o.name for o in session.get_outputs()] == ["scores", "logits"]
    module = program.module()
    for lengths, candidates in SIZES:
        arguments = inputs(lengths, candidates)
        logit_BC = expected(network, *arguments)
        assert logit_BC.numel() == 1 or logit_BC.std() > 1e-3
        scores, logits = module(*arguments)
        torch.testing.assert_close(logits, logit_BC, rtol=0, atol=1e-5)
        torch.testing.assert_close(scores, logit_BC.sigmoid(), rtol=0, atol=1e-5)
        scores, logits = run_onnx(session, arguments)
        np.testing.assert_allclose(logits, logit_BC.numpy(), rtol=0, atol=1e-5)
        np.testing.assert_allclose(scores, logit_BC.sigmoid().numpy(), rtol=0, atol=1e-5)


RUN = """
import sys, torch
program = torch.export.load(sys.argv[1]).module()
for arguments, logits in torch.load(sys.argv[2], weights_only=True):
    torch.testing.assert_close(program(*arguments)[1], logits, rtol=0, atol=1e-5)
assert not [name for name in sys.modules if name.split(".")[0] == "dien"]
"""


def test_pt2_runs_where_nobody_imports_dien(exported, tmp_path):
    """Only operators of torch are in the graph: a kernel of ours would have to be registered first."""
    network, program, _ = exported("augru")
    assert "dien" not in str(program.graph)
    assert str(program.graph).count("higher_order.scan") == 2  # one loop for the extractor, one for the evolution
    write_pt2(program, tmp_path / "model.pt2")
    cases = [inputs(lengths, candidates) for lengths, candidates in SIZES]
    torch.save([(case, expected(network, *case)) for case in cases], tmp_path / "cases.pt")
    done = subprocess.run(
        [sys.executable, "-c", RUN, tmp_path / "model.pt2", tmp_path / "cases.pt"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_candidates_share_the_interests_of_their_user(make_network, monkeypatch):
    network = make_network("augru")
    rows = []
    forward = network.extractor.forward
    monkeypatch.setattr(network.extractor, "forward", lambda x, steps: rows.append(len(x)) or forward(x, steps))
    with torch.no_grad():
        PaddedNetwork(network)(*inputs([4, 2], 6))
    assert rows == [2 * 5]  # two users and five cells (four steps and one of padding), not twelve pairs


def test_large_tables_lie_beside_the_graph(exported, tmp_path, monkeypatch):
    monkeypatch.setattr("dien.export.programs.LARGEST_FILE", 100)
    network, program, _ = exported("base")
    write_onnx(program, tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx.data").stat().st_size > 100
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    arguments = inputs([4, 0], 3)
    np.testing.assert_allclose(run_onnx(session, arguments)[1], expected(network, *arguments).numpy(), atol=1e-5)


def test_what_cannot_be_exported_says_why():
    sizes = Sizes(users=4, items=8, categories=4, embedding=2)
    network = DIEN(sizes)
    assert isinstance(network, AuthorsNetwork)
    with pytest.raises(DienError, match="a score depends on the rows beside it"):
        program_of(network)
    with pytest.raises(DienError, match=r"Linear cannot be exported: known are DIEN, DIN, PNN, WideDeep, Base\."):
        program_of(torch.nn.Linear(2, 2))

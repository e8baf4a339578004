"""Exported programs against the trained network: every variant, every attention, every length."""

import subprocess
import sys

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor

from dien.batch import Batch
from dien.errors import DienError
from dien.export.padded import PaddedNetwork
from dien.export.programs import program_of, write_onnx, write_pt2
from dien.model.authors import DIEN, AuthorsNetwork, Sizes

# torch's own: its eager `scan` imports what is deprecated there.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")

# Tracing takes seconds: the other combinations of variant and attention come with the slow tests.
CASES = [("gru", "mlp"), ("augru", "bilinear"), ("augru_code", "mlp"), ("din", "mlp")]
MORE = [("gru", "bilinear"), ("augru", "mlp"), ("augru_code", "bilinear"), ("aigru", "mlp"), ("aigru", "bilinear")]
MORE += [("agru", "mlp"), ("agru", "bilinear"), ("din", "bilinear"), ("pnn", "mlp"), ("wide_deep", "mlp")]
MORE += [("base", "mlp")]
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


@pytest.mark.parametrize(
    ("name", "attention"), [*CASES, *(pytest.param(*case, marks=pytest.mark.slow) for case in MORE)]
)
def test_programs_equal_the_training_forward(make_network, tmp_path, name, attention):
    network = make_network(name, attention=attention, pooling="max" if name == "augru" else "mean")
    for parameter in network.parameters():
        parameter.data.mul_(1.5)  # away from saturation and from zero: every part has to matter
    program = program_of(network)
    write_onnx(program, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    assert [i.name for i in session.get_inputs()] == ["user", "history", "length", "candidates"]
    assert [o.name for o in session.get_outputs()] == ["scores", "logits"]
    module = program.module()
    for lengths, candidates in SIZES:
        arguments = inputs(lengths, candidates)
        logit_BC = expected(network, *arguments)
        assert logit_BC.numel() == 1 or logit_BC.std() > 1e-3
        scores, logits = module(*arguments)
        torch.testing.assert_close(logits, logit_BC, rtol=0, atol=1e-5)
        torch.testing.assert_close(scores, logit_BC.sigmoid(), rtol=0, atol=1e-5)
        feeds = dict(zip(("user", "history", "length", "candidates"), (x.numpy() for x in arguments), strict=True))
        scores, logits = session.run(None, feeds)
        np.testing.assert_allclose(logits, logit_BC.numpy(), rtol=0, atol=1e-5)
        np.testing.assert_allclose(scores, logit_BC.sigmoid().numpy(), rtol=0, atol=1e-5)


RUN = """
import sys, torch
program = torch.export.load(sys.argv[1]).module()
for arguments, logits in torch.load(sys.argv[2], weights_only=True):
    torch.testing.assert_close(program(*arguments)[1], logits, rtol=0, atol=1e-5)
assert not [name for name in sys.modules if name.split(".")[0] == "dien"]
"""


def test_pt2_runs_where_nobody_imports_dien(make_network, tmp_path):
    """Only operators of torch are in the graph: a kernel of ours would have to be registered first."""
    network = make_network("augru")
    program = program_of(network)
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


def test_large_tables_lie_beside_the_graph(make_network, tmp_path, monkeypatch):
    monkeypatch.setattr("dien.export.programs.LARGEST_FILE", 100)
    network = make_network("base")
    write_onnx(program_of(network), tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx.data").stat().st_size > 100
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    arguments = inputs([4, 0], 3)
    feeds = dict(zip(("user", "history", "length", "candidates"), (x.numpy() for x in arguments), strict=True))
    np.testing.assert_allclose(session.run(["logits"], feeds)[0], expected(network, *arguments).numpy(), atol=1e-5)


def test_what_cannot_be_exported_says_why():
    sizes = Sizes(users=4, items=8, categories=4, embedding=2)
    network = DIEN(sizes)
    assert isinstance(network, AuthorsNetwork)
    with pytest.raises(DienError, match="a score depends on the rows beside it"):
        program_of(network)
    with pytest.raises(DienError, match=r"Linear cannot be exported: known are DIEN, DIN, PNN, WideDeep, Base\."):
        program_of(torch.nn.Linear(2, 2))

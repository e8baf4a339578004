"""Exports of the default configuration: what small layers never reach is a limit here, such as that of `ops.dense`."""

import subprocess
import sys
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch.export import ExportedProgram
from torch.utils._sympy.numbers import int_oo

from dien import Ranker
from dien.build import build_network
from dien.config import CONF, register
from dien.export.archive import write_ids, write_manifest
from dien.export.check import trained_logits
from dien.export.programs import program_of, write_onnx, write_pt2
from dien.export.runtime import Scorer
from dien.export.write import write_export
from dien.ops.dense import FEWEST
from dien.raw_ids import IdRows
from dien.tables import Column
from dien.trained import Trained

# torch's own: its eager `scan` imports what is deprecated there.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")

ITEMS, USERS, LENGTH = 600, 50, 100
SIZES = [(1, 0, 1), (4, 20, 5), (7, 33, 50), (1, 100, 1000)]
"""Users, history steps, candidates a user."""


class Real(NamedTuple):
    trained: Trained
    program: ExportedProgram


@pytest.fixture(scope="module")
def real() -> Real:
    """A network as `conf/` describes it, its parameters far from the symmetric start, and its program."""
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        model = compose("train", overrides=["run_dir=run"]).model
    OmegaConf.resolve(model)
    torch.manual_seed(0)
    tables = tuple(
        tuple(Column(name, "categorical", rows + 2, torch.arange(rows + 2)) for name in names)
        for names, rows in ((("item_id", "category"), ITEMS), (("user_id",), USERS))
    )
    network = build_network(model, *tables).eval()
    for parameter in network.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.2)
    ids = IdRows([f"i{n}" for n in range(ITEMS)]), IdRows([f"u{n}" for n in range(USERS)])
    return Real(Trained(network, model, tables, *ids, LENGTH), program_of(network))


def inputs(users: int, steps: int, candidates: int) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(users)
    history_BT = torch.randint(1, ITEMS + 2, (users, steps), generator=generator)
    length_B = torch.randint(0, steps + 1, (users,), generator=generator)
    length_B[0] = steps
    user_B = torch.randint(1, USERS + 2, (users,), generator=generator)
    return user_B, history_BT, length_B, torch.randint(1, ITEMS + 2, (users, candidates), generator=generator)


RUN = """
import sys, torch
program = torch.export.load(sys.argv[1]).module()
for arguments, logits in torch.load(sys.argv[2], weights_only=True):
    torch.testing.assert_close(program(*arguments)[1], logits, rtol=1e-5, atol=1e-5)
assert not [name for name in sys.modules if name.split(".")[0] == "dien"]
"""


def test_a_program_has_no_upper_limit_on_its_sizes(real, tmp_path):
    first = real.trained.network.attention.first.weight
    assert max(users * candidates * (steps + 1) for users, steps, candidates in SIZES) * first.numel() > 4 * FEWEST
    limits = real.program.range_constraints.values()
    assert [limit.upper for limit in limits] == [int_oo] * 3  # batch, time, candidates
    assert [code for code in getattr(real.program, "_guards_code", []) if "<" in code or ">" in code] == []
    write_pt2(real.program, tmp_path / "model.pt2")
    cases = [inputs(*sizes) for sizes in SIZES]
    expected = [trained_logits(real.trained.network, case) for case in cases]
    assert all(logit_BC.numel() == 1 or logit_BC.std() > 0.01 for logit_BC in expected)
    torch.save(list(zip(cases, expected, strict=True)), tmp_path / "cases.pt")
    line = [sys.executable, "-c", RUN, tmp_path / "model.pt2", tmp_path / "cases.pt"]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_ranker_weights_and_onnx_give_the_scores_of_the_network(real, tmp_path):
    trained = real.trained
    write_export(trained, "weights", tmp_path / "weights", {"run": "x", "name": "x", **CARD})
    onnx = tmp_path / "onnx"
    onnx.mkdir()
    write_onnx(real.program, onnx / "model.onnx")
    write_ids(onnx, trained.items, trained.users)
    write_manifest(onnx, kind="onnx", history_length=LENGTH)
    ranker = Ranker(trained.network, items=trained.items, users=trained.users, history_length=LENGTH)
    moved, scorer = Ranker.load(tmp_path / "weights"), Scorer(onnx)
    for user_B, history_BT, length_B, candidate_BC in map(inputs, *zip(*SIZES, strict=True)):
        logit_BC = trained_logits(trained.network, (user_B, history_BT, length_B, candidate_BC))
        for user, history, length, candidates, logit_C in zip(
            user_B, history_BT, length_B, candidate_BC, logit_BC, strict=True
        ):
            clicks, wanted = ([name_of("i", row) for row in rows] for rows in (history[:length], candidates))
            whose, expected = name_of("u", user), logit_C.sigmoid().numpy()
            for got in (
                ranker.score(clicks, wanted, user=whose),
                moved.score(clicks, wanted, user=whose),
                scorer.scores(whose, clicks, wanted),
            ):
                np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)


def name_of(kind: str, row: torch.Tensor) -> str:
    return f"{kind}{int(row) - 2}" if row > 1 else "unknown"


CARD = {
    "network": "DIEN",
    "parameters": 0,
    "history_length": LENGTH,
    "data": dict.fromkeys(("name", "fingerprint", "split", "negatives"), "x")
    | dict.fromkeys(("users", "items", "events"), 0)
    | {"item_features": [], "user_features": []},
    "metrics": {},
    "environment": {},
    "config": {},
}
"""As little as a model card may say."""

"""The engines are one model: from the same start they follow the same training curve."""

import pytest
import torch
from hydra.utils import instantiate

from dien.build import build_module
from dien.ops import dense

STEPS = 60


def curve(monkeypatch: pytest.MonkeyPatch, sample_config, engine: str, evolution: str) -> torch.Tensor:
    """Click and auxiliary loss of the first steps on the bundled sample, [STEPS, 2]."""
    monkeypatch.setenv("DIEN_SCAN", engine)
    cfg = sample_config(f"model/evolution={evolution}", "data.batch_size=64", "model.features.std=0.5")
    data = instantiate(cfg.data, _convert_="all")
    data.prepare_data()
    data.setup()
    torch.manual_seed(0)
    module = build_module(cfg, data)
    optimizer = module.configure_optimizers()["optimizer"]
    losses = []
    batches = iter(data.train_dataloader())
    for _ in range(STEPS):
        batch = next(batches)
        output = module(batch)
        ctr = torch.nn.functional.binary_cross_entropy_with_logits(output.logit_B, batch.label_B)
        auxiliary = module.network.auxiliary_loss(output, batch)
        optimizer.zero_grad()
        (ctr + auxiliary).backward()
        optimizer.step()
        losses.append(torch.stack([ctr, auxiliary]).detach())
    return torch.stack(losses)


@pytest.mark.parametrize("evolution", ["gru", "aigru", "agru", "augru", "augru_code"])
def test_training_curves_of_the_engines_agree(evolution, monkeypatch, sample_config):
    kernel, reference = (curve(monkeypatch, sample_config, engine, evolution) for engine in ("cpu", "reference"))
    assert reference[-10:, 0].mean() < 0.685 < reference[0, 0]  # it learns: the log loss of a guess is 0.693
    torch.testing.assert_close(kernel, reference, rtol=0, atol=1e-5)


def test_the_kernels_take_part(monkeypatch, sample_config):
    calls = []
    monkeypatch.setattr(dense, "call", lambda *a, call=dense.call: (calls.append(a[0]), call(*a)))
    curve(monkeypatch, sample_config, "cpu", "augru")
    assert calls.count("linear_backward") >= STEPS

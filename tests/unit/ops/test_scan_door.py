"""The door: which engine is chosen and logged, what is refused, and what autograd, compile and export see."""

import io
import logging
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from dien.errors import ConfigError, DienError
from dien.ops import RULES, build, engine_for, engines, gated_scan, last_state, library, reference


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path):
    monkeypatch.setenv("DIEN_CACHE", str(tmp_path))
    monkeypatch.setenv("CXX", "no-such-compiler")
    build.library.cache_clear()
    yield
    build.library.cache_clear()


def test_choice_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="dien")
    assert [engine_for("cpu"), engine_for(torch.device("cpu"))] == ["cpu", "cpu"]
    assert [r.getMessage() for r in caplog.records if "gated scan" in r.getMessage()] == [
        "gated scan on cpu: engine cpu"
    ]


def test_without_a_compiler_the_reference_runs_and_says_why(no_compiler, caplog, make_problem, assert_close) -> None:
    problem = make_problem([3, 0, 2], 4, "augru")
    assert_close(problem.states_and_gradients(gated_scan), problem.states_and_gradients(reference.gated_scan), 1e-12)
    problem.states(gated_scan)
    warnings = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "reference" in warnings[0].getMessage()
    assert "no-such-compiler" in warnings[0].getMessage()


def test_a_device_without_a_kernel_uses_the_reference() -> None:
    assert engine_for("meta") == "reference"


def test_forced_reference(monkeypatch, make_problem, assert_close) -> None:
    monkeypatch.setenv("DIEN_SCAN", "reference")
    assert engine_for("cpu") == "reference"
    problem = make_problem([3, 1], 4, "agru", dtype=torch.float64)
    states = problem.states(gated_scan)
    (gradient,) = torch.autograd.grad(states.square().sum(), problem.weight, create_graph=True)
    gradient.square().sum().backward()  # only the reference is differentiable twice
    assert problem.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("forced", "message"),
    [("fast", "reference, cpu, triton"), ("triton", "DIEN_SCAN=triton cannot run .*cpu"), ("", None)],
)
def test_forced_engine_that_cannot_run(monkeypatch, forced: str, message: str | None) -> None:
    monkeypatch.setenv("DIEN_SCAN", forced)
    if message is None:  # set but empty is not set
        assert engine_for("cpu") == "cpu"
        return
    with pytest.raises(ConfigError, match=message):
        engine_for("cpu")


def test_forced_cpu_without_compiler(no_compiler, monkeypatch) -> None:
    monkeypatch.setenv("DIEN_SCAN", "cpu")
    with pytest.raises(ConfigError, match="no C\\+\\+ compiler"):
        engine_for("cpu")


def test_without_triton_cuda_falls_back(monkeypatch, caplog) -> None:
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda name: None)
    assert engine_for("cuda") == "reference"
    assert "triton is not installed" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rule": "lstm"}, "gru, agru, augru, augru_code"),
        ({"attention_N": None}, "needs an attention_N"),
        ({"rule": "gru"}, "takes no attention_N"),
        ({"attention_N": torch.rand(3)}, "attention_N must be .*\\[5\\]"),
        ({"offsets": torch.tensor([0, 3, 5], dtype=torch.int32)}, "offsets must be int64"),
        ({"offsets": torch.tensor([0, 3, 4])}, "offsets must rise from 0 to the number of steps \\(5\\)"),
        ({"offsets": torch.tensor([0, 6, 5])}, "offsets must rise"),
        ({"weight_hh": torch.randn(12, 5)}, "must be floating point"),
        ({"bias_hh": torch.randn(11)}, "bias_hh must be .*\\[12\\]"),
        ({"initial_BH": torch.randn(3, 4)}, "initial_BH must be .*\\[2, 4\\]"),
        ({"projected_N3H": torch.zeros(5, 12, dtype=torch.int64)}, "projected_N3H must be floating point"),
    ],
)
@pytest.mark.parametrize("engine", ["reference", "cpu"])
def test_wrong_inputs_are_named(engine: str, change: dict, message: str, monkeypatch) -> None:
    monkeypatch.setenv("DIEN_SCAN", engine)
    inputs = {
        "projected_N3H": torch.randn(5, 12),
        "attention_N": torch.rand(5),
        "offsets": torch.tensor([0, 3, 5]),
        "weight_hh": torch.randn(12, 4),
        "bias_hh": torch.randn(12),
        "rule": "augru",
    }
    with pytest.raises((ConfigError, ValueError), match=message):
        gated_scan(**(inputs | change))


INPUTS = {
    "projected_N3H": torch.randn(4, 12),
    "attention_N": torch.rand(4),
    "offsets": torch.tensor([0, 1, 4]),
    "weight_hh": torch.randn(12, 4),
    "bias_hh": torch.randn(12),
    "initial_BH": torch.randn(2, 4),
    "rule": "augru",
}
GRADIENTS = {
    "grad_states_NH": torch.randn(4, 4),
    **{name: INPUTS[name] for name in ("attention_N", "offsets", "weight_hh", "initial_BH")},
    "states_NH": torch.randn(4, 4),
    "saved_N4H": torch.rand(4, 16),
    "rule": "augru",
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attention_N": torch.rand(2)}, "attention_N must be .*\\[4\\]"),
        ({"attention_N": torch.rand(4, dtype=torch.float64)}, "one dtype.*float32, torch.float64"),
        ({"weight_hh": torch.randn(12, 4).bfloat16()}, "one dtype.*bfloat16, torch.float32"),
        ({"offsets": torch.tensor([0, 1, 4], dtype=torch.int32)}, "offsets must be int64"),
        ({"initial_BH": torch.randn(1, 4)}, "initial_BH must be .*\\[2, 4\\]"),
        ({"rule": "gru"}, "takes no attention_N"),
        ({"rule": "lstm"}, "gru, agru, augru, augru_code"),
    ],
)
@pytest.mark.parametrize("name", ["gated_scan", "gated_scan_backward"])
def test_the_operators_check_what_they_read(name: str, change: dict, message: str) -> None:
    """Called directly, as by a program that was exported or compiled."""
    inputs = INPUTS | {"save": False} if name == "gated_scan" else GRADIENTS
    with pytest.raises((ConfigError, ValueError), match=message):
        getattr(torch.ops.dien, name)(**(inputs | change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grad_states_NH": torch.randn(3, 4)}, "grad_states_NH must be .*\\[4, 4\\]"),
        ({"saved_N4H": torch.randn(0, 16)}, "saved_N4H must be .*\\[4, 16\\]"),
    ],
)
def test_the_backward_operator_checks_what_was_saved(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        torch.ops.dien.gated_scan_backward(**(GRADIENTS | change))


def test_a_compiled_scan_checks_its_inputs() -> None:
    torch.compiler.reset()
    compiled = torch.compile(Layer(), fullgraph=True, backend="aot_eager")
    x, _, lengths = example(3, 1)
    with pytest.raises(ValueError, match=r"attention_N must be .*\[4\], got torch.float32 \[2\]"):
        compiled(x, torch.rand(2), lengths)


@pytest.mark.parametrize("rule", RULES)
def test_operator_is_well_formed(rule: str, make_problem) -> None:
    problem = make_problem([2, 0, 3], 4, rule)
    inputs = (problem.projected, problem.attention, problem.offsets, problem.weight, problem.bias, problem.initial)
    torch.library.opcheck(torch.ops.dien.gated_scan.default, (*inputs, rule, True))


def test_double_backward_names_the_way_out(make_problem) -> None:
    problem = make_problem([3], 4, "augru")
    (gradient,) = torch.autograd.grad(problem.states(gated_scan).sum(), problem.weight, create_graph=True)
    with pytest.raises(DienError, match="DIEN_SCAN=reference"):
        gradient.sum().backward()


def test_gates_are_kept_only_for_a_backward(make_problem, monkeypatch) -> None:
    kept = []
    forward = engines.kernel("cpu").forward
    monkeypatch.setattr(engines.kernel("cpu"), "forward", lambda *inputs: kept.append(inputs[-1]) or forward(*inputs))
    problem = make_problem([3, 2], 4, "augru")
    expected = problem.states(gated_scan)
    with torch.no_grad():
        assert torch.equal(problem.states(gated_scan), expected)
    with torch.inference_mode():
        assert torch.equal(problem.states(gated_scan), expected)
    problem.projected.requires_grad_(False)
    assert problem.states(gated_scan).requires_grad  # the weights still do
    assert kept == [True, False, False, True]


def test_no_gradient_is_made_up(make_problem, drop, monkeypatch) -> None:
    """Neither for the saved gates, which would be zeros [N, 4H], nor for states that nobody asks about."""
    gradients, backward = [], library._backward
    monkeypatch.setattr(library, "_backward", lambda *a, **k: (gradients.append(a[1:]), backward(*a, **k))[1])
    problem = make_problem([3, 2], 4, "augru")
    states = problem.states(gated_scan)
    (states * 2).sum().backward(retain_graph=True)
    assert gradients.pop()[1] is None
    found = torch.autograd.grad(drop(states).sum(), problem.leaves, allow_unused=True)
    assert gradients == [(None, None)]
    assert found == (None,) * len(problem.leaves)


class Layer(nn.Module):
    """A projection, a scan and the last states: what a network does with the door."""

    def __init__(self, hidden: int = 8) -> None:
        super().__init__()
        self.project = nn.Linear(5, 3 * hidden)
        self.hidden = nn.Linear(hidden, 3 * hidden)

    def forward(self, x_N: Tensor, attention_N: Tensor, length_B: Tensor) -> Tensor:
        offsets = nn.functional.pad(length_B.cumsum(0), (1, 0))
        states = gated_scan(self.project(x_N), attention_N, offsets, self.hidden.weight, self.hidden.bias, rule="augru")
        return last_state(states, offsets)


def example(*lengths: int) -> tuple[Tensor, Tensor, Tensor]:
    return torch.randn(sum(lengths), 5), torch.rand(sum(lengths)), torch.tensor(lengths)


def gradients(function: Callable[..., Tensor], layer: Layer, *inputs: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(function(*inputs).square().sum(), list(layer.parameters())))


def test_autocast_keeps_the_dtype_of_the_projection_and_computes_in_float32(assert_close) -> None:
    layer, inputs = Layer(), example(3, 0, 12)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = layer(*inputs)
    assert out.dtype == torch.bfloat16
    assert_close([out.float()], [layer(*inputs)], 2e-2)
    mixed = torch.autograd.grad(out.float().square().sum(), list(layer.parameters()))
    assert_close(list(mixed), gradients(layer, layer, *inputs), 5e-2)


def test_compile_sees_one_operator(assert_close) -> None:
    layer, inputs, graphs = Layer(), example(3, 0, 4), []

    def backend(graph: torch.fx.GraphModule, _: object) -> Callable[..., object]:
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(layer, fullgraph=True, backend=backend)
    assert torch.equal(compiled(*inputs), layer(*inputs))
    scans = [node for node in graphs[0].graph.nodes if node.target is torch.ops.dien.gated_scan.default]
    assert len(graphs) == len(scans) == 1

    torch.compiler.reset()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    assert_close(gradients(compiled, layer, *inputs), gradients(layer, layer, *inputs))


def test_export_runs_on_other_sizes_after_a_round_trip() -> None:
    layer = Layer().eval()
    steps, rows = torch.export.Dim("steps"), torch.export.Dim("rows")
    with torch.no_grad():
        program = torch.export.export(
            layer,
            example(3, 2, 4),
            dynamic_shapes={"x_N": {0: steps}, "attention_N": {0: steps}, "length_B": {0: rows}},
        )
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file)
    assert sum(node.target is torch.ops.dien.gated_scan.default for node in loaded.graph.nodes) == 1
    with torch.no_grad():
        for lengths in ((1, 0, 0, 7), (0, 0)):
            inputs = example(*lengths)
            assert torch.equal(loaded.module()(*inputs), layer(*inputs))


def test_an_exported_program_runs_without_a_kernel(no_compiler, assert_close) -> None:
    inputs = [torch.randn(3, 12), None, torch.tensor([0, 3]), torch.randn(12, 4), torch.randn(12), None, "gru"]
    states, saved = torch.ops.dien.gated_scan(*inputs, False)
    assert_close([states], [reference.gated_scan(*inputs[:5], rule="gru")])
    assert saved.shape == (0, 16)
    with pytest.raises(DienError, match="DIEN_SCAN=reference"):
        torch.ops.dien.gated_scan(*inputs, True)

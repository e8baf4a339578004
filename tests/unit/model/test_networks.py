"""What every network must satisfy, whatever its variant: invariances, ordinary edge cases, equal starts."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dien.batch import Batch
from dien.errors import ConfigError
from dien.model.evolution import AGRU, AIGRU, AUGRU, GRU, AUGRUCode
from dien.model.extractor import GatedRecurrence
from dien.model.steps import Steps

EVOLUTIONS = ["gru", "aigru", "agru", "augru", "augru_code"]
NETWORKS = [*EVOLUTIONS, "base", "wide_deep", "pnn", "din"]
LENGTHS = [4, 0, 1, 7, 2]


def take(batch: Batch, rows) -> Batch:
    return Batch(*(field[rows] for field in batch))


def widen(batch: Batch, by: int) -> Batch:
    """More padding on the right, filled with a real item to catch anything that looks at it."""

    def pad(field):
        return torch.cat([field, torch.full((len(field), by, *field.shape[2:]), 5)], 1)

    return batch._replace(history_BT=pad(batch.history_BT), negative_BT=pad(batch.negative_BT))


@pytest.mark.parametrize("attention", ["mlp", "bilinear"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_score_depends_on_its_own_row_only(make_network, make_batch, name, attention):
    """Traps of the authors' code: padding is summed, and rows of a batch see each other."""
    network = make_network(name, attention=attention).eval()
    batch = make_batch(LENGTHS)
    logit_B = network(batch).logit_B
    torch.testing.assert_close(network(widen(batch, 3)).logit_B, logit_B, rtol=0, atol=1e-6)
    order = torch.tensor([3, 0, 4, 2, 1])
    torch.testing.assert_close(network(take(batch, order)).logit_B, logit_B[order], rtol=0, atol=1e-6)
    for row in range(len(LENGTHS)):
        torch.testing.assert_close(network(take(batch, [row])).logit_B, logit_B[row : row + 1], rtol=0, atol=1e-6)


@pytest.mark.parametrize("negatives", [1, 3])
@pytest.mark.parametrize("scorer", ["mlp", "dot"])
def test_auxiliary_loss_equals_a_loop(make_network, make_batch, scorer, negatives):
    network = make_network("augru", scorer=scorer)
    batch = make_batch(LENGTHS, negatives=negatives)
    output = network(batch)
    interest_BTH = output.steps.padded(output.interest_NH)
    negative_BTK = batch.negative_BT.view(len(LENGTHS), -1, negatives)
    score = network.extractor.scorer
    terms = []
    for b, length in enumerate(LENGTHS):
        for t in range(length - 1):
            h = interest_BTH[b, t][None]
            clicked = score(h, network.item(batch.history_BT[b, t + 1])[None, None]).squeeze()
            others = [score(h, network.item(n)[None, None]).squeeze() for n in negative_BTK[b, t + 1]]
            terms.append(
                -torch.log(clicked.sigmoid()) - sum(torch.log(1 - other.sigmoid()) for other in others) / negatives
            )
    torch.testing.assert_close(network.auxiliary_loss(output, batch), torch.stack(terms).mean())


@pytest.mark.parametrize("lengths", [[0], [1], [0, 0], [1, 1, 1], [0, 1]])
@pytest.mark.parametrize("name", NETWORKS)
def test_short_histories_and_single_rows_train_and_predict(make_network, make_batch, name, lengths):
    """Traps: RecBole's auxiliary loss is NaN, the authors' crashes and RecBole crashes on such batches."""
    network = make_network(name)
    batch = make_batch(lengths)
    output = network(batch)
    loss = F.binary_cross_entropy_with_logits(output.logit_B, batch.label_B)
    if name in EVOLUTIONS:
        aux = network.auxiliary_loss(output, batch)
        assert aux == 0  # nothing to predict: no step has a next one
        loss = loss + aux
    loss.backward()
    for parameter in network.parameters():
        assert parameter.grad is None or torch.isfinite(parameter.grad).all()
    assert torch.isfinite(network.eval()(batch).logit_B).all()


@pytest.mark.parametrize("name", NETWORKS)
def test_no_gradient_reaches_padding(make_network, make_batch, name):
    network = make_network(name)
    batch = Batch(*(torch.where(field == 5, 6, field) for field in make_batch(LENGTHS)))
    padding_BT = torch.arange(max(LENGTHS)) >= batch.length_B[:, None]
    batch.history_BT[padding_BT] = batch.negative_BT[padding_BT] = 5  # item 5 is nowhere but in the padding
    output = network(batch)
    loss = output.logit_B.sum()
    if name in EVOLUTIONS:
        loss = loss + network.auxiliary_loss(output, batch)
    loss.backward()
    assert network.item.weight.grad[5].abs().max() == 0  # row 5 of the item ids
    assert network.item.weight.grad[6].abs().max() > 0
    assert network.item.weight.grad[0].abs().max() == 0


def test_variants_start_from_the_same_weights(make_network):
    """Trap of RecBole: AGRU and AUGRU start at a standard deviation of 0.98, GRU at 0.10."""
    starts = []
    for name in EVOLUTIONS:
        torch.manual_seed(3)
        starts.append(make_network(name).state_dict())
    for start in starts[1:]:
        assert start.keys() == starts[0].keys()
        for key, value in start.items():
            torch.testing.assert_close(value, starts[0][key], rtol=0, atol=0)


def test_recurrence_starts_like_a_gru():
    ours, theirs = GatedRecurrence(36, 36), nn.GRU(36, 36)
    for key, value in ours.state_dict().items():
        expected = theirs.state_dict()[f"{key}_l0"]
        assert value.shape == expected.shape
        assert abs(value.std() - expected.std()) < (0.02 if value.ndim == 1 else 0.003)
        assert value.abs().max() <= 1 / 6


def test_recurrence_is_nn_gru_on_ragged_rows():
    lengths = [4, 1, 6]
    ours, theirs = GatedRecurrence(5, 7), nn.GRU(5, 7, batch_first=True)
    theirs.load_state_dict({f"{key}_l0": value for key, value in ours.state_dict().items()})
    steps = Steps.of(torch.tensor(lengths), 6)
    x_NI = torch.randn(sum(lengths), 5)
    expected_BTH, _ = theirs(steps.padded(x_NI))
    torch.testing.assert_close(ours(x_NI, steps), steps.flat(expected_BTH), rtol=1e-6, atol=1e-6)


def evolve(layer, interest_NH, attention_N, lengths):
    steps = Steps.of(torch.tensor(lengths), max(lengths))
    return layer(interest_NH, lambda states_NH: attention_N, steps)


def test_each_variant_by_hand():
    """One unit, all weights 1 and no biases, two steps: every number follows from the equations on paper."""
    h1, h2, a1, a2 = 0.5, -0.3, 0.7, 0.3
    sigmoid, tanh = (
        (lambda v: float(torch.sigmoid(torch.tensor(v)))),
        (lambda v: float(torch.tanh(torch.tensor(v)))),
    )

    def run(layer):
        for name, parameter in layer.named_parameters():
            parameter.data.fill_(0.0 if "bias" in name else 1.0)
        return evolve(layer, torch.tensor([[h1], [h2]]), torch.tensor([a1, a2]), [2])

    def step(state, x, write):
        r = u_keep = sigmoid(x + state)
        n = tanh(x + r * state)
        return state + write(1 - u_keep) * (n - state)

    def two(write1, write2, x1=h1, x2=h2):
        first = step(0.0, x1, write1)
        return first, step(first, x2, write2)

    def plain(u):
        return u

    s1, s2 = two(plain, plain)
    assert run(GRU(1)).final_BH.item() == pytest.approx(a1 * s1 + a2 * s2, abs=1e-6)
    assert run(AIGRU(1)).final_BH.item() == pytest.approx(two(plain, plain, a1 * h1, a2 * h2)[1], abs=1e-6)
    assert run(AGRU(1)).final_BH.item() == pytest.approx(two(lambda u: a1, lambda u: a2)[1], abs=1e-6)
    assert run(AUGRU(1)).final_BH.item() == pytest.approx(two(lambda u: a1 * u, lambda u: a2 * u)[1], abs=1e-6)
    assert run(AUGRUCode(1)).final_BH.item() == pytest.approx(
        two(lambda u: a1 + u - a1 * u, lambda u: a2 + u - a2 * u)[1], abs=1e-6
    )


def test_without_attention_the_papers_state_stands_still_and_the_codes_is_a_gru():
    interest_NH, nothing_N, lengths = torch.randn(9, 4), torch.zeros(9), [5, 4]
    for frozen in (AUGRU, AGRU):
        assert evolve(frozen(4), interest_NH, nothing_N, lengths).states_NH.abs().max() == 0
    code = AUGRUCode(4)
    steps = Steps.of(torch.tensor(lengths), 5)
    torch.testing.assert_close(
        evolve(code, interest_NH, nothing_N, lengths).states_NH, code.recurrence(interest_NH, steps)
    )


def test_full_attention_makes_the_papers_augru_a_gru_and_overwrites_in_the_codes():
    interest_NH, full_N, lengths = torch.randn(9, 4), torch.ones(9), [5, 4]
    steps = Steps.of(torch.tensor(lengths), 5)
    paper, code, agru = AUGRU(4), AUGRUCode(4), AGRU(4)
    torch.testing.assert_close(
        evolve(paper, interest_NH, full_N, lengths).states_NH, paper.recurrence(interest_NH, steps)
    )
    agru.load_state_dict(code.state_dict())  # a + u - a u = a = 1: both overwrite the state
    torch.testing.assert_close(
        evolve(code, interest_NH, full_N, lengths).states_NH,
        evolve(agru, interest_NH, full_N, lengths).states_NH,
    )


def test_the_variants_differ(make_network, make_batch):
    """Trap of FuxiCTR: one variant's name ran another variant."""
    batch, logits = make_batch([6, 5, 7]), []
    for name in EVOLUTIONS:
        torch.manual_seed(0)
        logits.append(make_network(name).eval()(batch).logit_B)
    for i, a in enumerate(logits):
        for b in logits[i + 1 :]:
            assert (a - b).abs().max() > 1e-6


def test_predicting_needs_no_negatives(make_network, make_batch):
    """Trap of RecBole: `predict` computes the auxiliary loss."""
    network, batch = make_network("augru").eval(), make_batch(LENGTHS)
    blind = batch._replace(negative_BT=torch.zeros_like(batch.negative_BT))
    torch.testing.assert_close(network(blind).logit_B, network(batch).logit_B, rtol=0, atol=0)


def test_hidden_size_is_free_and_checked(make_network, make_batch):
    network = make_network("augru", hidden_size=5)
    assert network(make_batch(LENGTHS)).interest_NH.shape == (sum(LENGTHS), 5)
    with pytest.raises(ConfigError, match="hidden_size=0 is out of range"):
        make_network("augru", hidden_size=0)


def test_head_widths_are_those_of_the_paper(make_network):
    item, user = 12, 3  # four item features and one user feature of 3 numbers each
    widths = {"base": user + 2 * item, "wide_deep": user + 2 * item, "pnn": user + 3 * item}
    widths |= {"din": user + 4 * item} | dict.fromkeys(EVOLUTIONS, user + 4 * item)
    for name, width in widths.items():
        assert make_network(name).head[0].in_features == width


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("activation", ["dice", "prelu", "relu"])
def test_every_parameter_learns(make_network, make_batch, name, activation):
    """No parameter is built and then left out of the graph."""
    network = make_network(name, activation=activation)
    batch = make_batch([6, 5, 7, 3])
    output = network(batch)
    loss = output.logit_B.square().sum()
    if name in EVOLUTIONS:
        loss = loss + network.auxiliary_loss(output, batch)
    loss.backward()
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None, key
        # Dice's slope starts at 0 behind layers that may be dead for these rows, and a softmax sees no constant.
        if not key.endswith("slope") and key != "attention.rest.1.2.bias":
            assert parameter.grad.abs().max() > 0, key

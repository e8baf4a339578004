"""Embeddings, Dice, perceptron, attention and scorers against their written-out formulas."""

import pytest
import torch
from torch import nn

from dien.errors import ConfigError
from dien.model.attention import BilinearAttention, MLPAttention
from dien.model.extractor import DotScorer, MLPScorer
from dien.model.features import FeatureEmbedding, check_ignored
from dien.model.layers import MLP, Dice, Head
from dien.model.steps import Steps
from dien.tables import Column


@pytest.mark.parametrize("pooling", ["mean", "max", "sum"])
def test_embedding_concatenates_looked_up_pooled_and_scaled_features(item_table, pooling):
    embed = FeatureEmbedding(item_table, embedding_size=3, pooling=pooling, std=1.0)
    item_id, category, tags, price = item_table
    for row in range(2, len(item_id.values)):
        entries = [embed.weight[item_id.size + category.size + tag] for tag in tags.values[row].tolist() if tag]
        if not entries:
            pooled = torch.zeros(3)
        elif pooling == "max":
            pooled = torch.stack(entries).amax(0)
        else:
            pooled = torch.stack(entries).sum(0) / (len(entries) if pooling == "mean" else 1)
        expected = [
            embed.weight[item_id.values[row]],
            embed.weight[item_id.size + category.values[row]],
            pooled,
            price.values[row] * embed.float_FE[0],
        ]
        torch.testing.assert_close(embed(torch.tensor(row)), torch.cat(expected))


def test_padding_and_unknown_start_without_information(item_table):
    embed = FeatureEmbedding(item_table, embedding_size=3)
    assert embed(torch.tensor([0, 1])).abs().max() == 0
    assert embed(torch.arange(2, 32)).abs().min(0).values[:3].max() > 0


def test_embedding_keeps_any_shape_and_ignores_named_features(item_table):
    embed = FeatureEmbedding(item_table, embedding_size=3, ignore=["tags", "price"])
    assert embed.width == 6
    assert embed(torch.zeros(4, 5, 2, dtype=torch.int64)).shape == (4, 5, 2, 6)


def test_a_table_can_be_ignored_as_a_whole(user_table):
    embed = FeatureEmbedding(user_table, ignore=["user_id"])
    assert embed(torch.tensor([2, 3])).shape == (2, 0)


def test_ids_far_above_float_precision_do_not_collide():
    """Trap of DeepCTR-Torch: ids travel as float32, in which 2**24 + 1 equals 2**24."""
    values = torch.tensor([0, 1, 2**24, 2**24 + 1])
    table = (Column("item_id", "categorical", 2**24 + 2, values),)
    embed = FeatureEmbedding(table, embedding_size=1)
    assert embed(torch.tensor(2)) != embed(torch.tensor(3))


def test_unknown_pooling_and_unknown_ignored_feature_are_named(item_table, user_table):
    with pytest.raises(ConfigError, match="pooling='median' is not one of mean, max, sum"):
        FeatureEmbedding(item_table, pooling="median")
    with pytest.raises(ConfigError, match="'brand', but the features are item_id, category, tags, price, user_id"):
        check_ignored(["brand"], item_table, user_table)
    with pytest.raises(ConfigError, match="embedding_size=0 is out of range"):
        FeatureEmbedding(item_table, embedding_size=0)


def test_dice_by_hand():
    dice = Dice(1)
    dice.slope.data.fill_(0.25)
    x = torch.tensor([[1.0], [3.0]])  # mean 2, variance 1: normalised to -1 and 1
    low, high = torch.sigmoid(torch.tensor(-1.0)), torch.sigmoid(torch.tensor(1.0))
    expected = torch.stack([low * 1 + (1 - low) * 0.25 * 1, high * 3 + (1 - high) * 0.25 * 3])
    torch.testing.assert_close(dice(x).squeeze(1), expected)
    torch.testing.assert_close(dice.running_mean, torch.tensor([0.2]))  # momentum 0.1


def test_dice_in_evaluation_does_not_look_at_the_batch():
    """Trap of the authors' code: Dice used the statistics of the test batch."""
    dice = Dice(3)
    dice(torch.randn(50, 3) * 2 + 1)
    dice.eval()
    x = torch.randn(4, 3)
    torch.testing.assert_close(dice(x)[:1], dice(x[:1]))


def test_dice_trains_on_one_row():
    """Trap of FuxiCTR: a batch of one row fails."""
    dice = Dice(3)
    x = torch.randn(1, 3, requires_grad=True)
    dice(x).sum().backward()
    assert torch.isfinite(x.grad).all()
    assert dice.running_mean.abs().max() == 0  # one row says nothing of the spread


def test_mlp_without_hidden_layers_is_linear():
    mlp = MLP(4, [], activation="relu")
    assert len(mlp) == 1
    assert isinstance(mlp[0], nn.Linear)
    assert Head(4, hidden=[])(torch.randn(3, 4)).shape == (3,)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"activation": "swish"}, "activation='swish' is not one of dice, prelu, relu, sigmoid"),
        ({"activation": "relu", "dropout": 1.0}, "dropout=1.0 is out of range"),
    ],
)
def test_mlp_names_a_wrong_option(options, message):
    with pytest.raises(ConfigError, match=message):
        MLP(4, [3], **options)
    with pytest.raises(ConfigError, match="a width of hidden=0 is out of range"):
        MLP(4, [3, 0], activation="relu")


def ragged(lengths, width):
    steps = Steps.of(torch.tensor(lengths), max(lengths))
    return steps, torch.randn(sum(lengths), width), torch.randn(len(lengths), width)


@pytest.mark.parametrize("project_target", [True, False])
def test_folded_attention_equals_the_concatenation(project_target):
    """The two products of the fast path are `[q, h, q - h, q * h] W`, in value and in gradient."""
    steps, h, target = ragged([3, 0, 1, 5], 6)
    attention = MLPAttention(6, 6, hidden=(7, 5), project_target=project_target)
    q = attention.query(target)[steps.row_N]
    joined = torch.cat([q, h, q - h, q * h], 1)
    plain = steps.softmax(attention.rest(attention.first(joined)).squeeze(1))
    fast = attention(h, target, steps)
    torch.testing.assert_close(fast, plain, rtol=1e-5, atol=1e-6)
    weights = torch.randn(len(h))
    for a, b in zip(
        torch.autograd.grad((fast * weights).sum(), attention.parameters()),
        torch.autograd.grad((plain * weights).sum(), attention.parameters()),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_bilinear_attention_is_the_softmax_of_h_w_e():
    steps, h, _ = ragged([2, 3], 4)
    target = torch.randn(2, 5)
    attention = BilinearAttention(4, 5)
    w = attention.project.weight  # [H, D]
    first = torch.stack([h[t] @ w @ target[0] for t in range(2)]).softmax(0)
    second = torch.stack([h[t] @ w @ target[1] for t in range(2, 5)]).softmax(0)
    torch.testing.assert_close(attention(h, target, steps), torch.cat([first, second]))


def test_attention_sums_to_one_over_real_steps_only():
    steps, h, target = ragged([3, 0, 1, 5], 6)
    weights = steps.padded(MLPAttention(6, 6)(h, target, steps))
    torch.testing.assert_close(weights.sum(1), torch.tensor([1.0, 0.0, 1.0, 1.0]))


def test_mlp_scorer_equals_the_concatenation():
    scorer = MLPScorer(4, 6, hidden=(7, 5))
    h, candidates = torch.randn(9, 4), torch.randn(9, 3, 6)
    joined = torch.cat([h[:, None].expand(-1, 3, -1), candidates], -1)
    torch.testing.assert_close(scorer(h, candidates), scorer.rest(scorer.first(joined)).squeeze(-1))


@pytest.mark.parametrize("activation", ["dice", "prelu", "relu"])
def test_the_scorer_takes_every_activation(activation):
    scorer = MLPScorer(4, 6, hidden=(7, 5), activation=activation)
    assert torch.isfinite(scorer(torch.randn(9, 4), torch.randn(9, 2, 6))).all()


@pytest.mark.parametrize("hidden", [[], 5, [0], [1.5], "80"])
def test_attention_and_scorer_name_wrong_layers(hidden):
    for layer in (MLPAttention, MLPScorer):
        with pytest.raises(ConfigError, match="hidden"):
            layer(4, 4, hidden=hidden)
        with pytest.raises(ConfigError, match="'swish' is not one of"):
            layer(4, 4, activation="swish")


def test_dot_scorer_is_the_inner_product_and_needs_equal_widths():
    h, candidates = torch.randn(2, 3), torch.randn(2, 1, 3)
    torch.testing.assert_close(DotScorer(3, 3)(h, candidates)[1, 0], h[1] @ candidates[1, 0])
    with pytest.raises(ConfigError, match=r"needs model\.hidden_size = 6"):
        DotScorer(3, 6)


def test_steps_move_between_the_layouts():
    steps = Steps.of(torch.tensor([2, 0, 3]), 4)
    assert steps.offsets.tolist() == [0, 2, 2, 5]
    assert steps.row_N.tolist() == [0, 0, 2, 2, 2]
    padded = torch.arange(12).view(3, 4)
    assert steps.flat(padded).tolist() == [0, 1, 8, 9, 10]
    assert steps.padded(steps.flat(padded), fill=-1).tolist() == [[0, 1, -1, -1], [-1] * 4, [8, 9, 10, -1]]
    assert steps.sum(torch.ones(5, 1)).tolist() == [[2], [0], [3]]


def test_steps_of_a_batch_without_any_history():
    steps = Steps.of(torch.zeros(3, dtype=torch.int64), 0)
    assert steps.flat(torch.zeros(3, 0, dtype=torch.int64)).shape == (0,)
    assert steps.padded(torch.zeros(0, 2)).shape == (3, 0, 2)
    assert steps.softmax(torch.zeros(0)).shape == (0,)

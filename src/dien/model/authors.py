"""The networks of the authors' TensorFlow code, as it computes them, artefacts included.

Source: `script/model.py`, `utils.py` and `Dice.py` of the public repository mouna99/dien, run under TensorFlow 1.4.
`tests/golden` holds the proof. What differs from the paper, and from the other networks of this project:

- the GRU candidate applies the reset gate BEFORE its matrix product, and both gate biases start at 1;
- the attention scales the KEEP gate of AUGRU, `h' = (1 - a) u h + (1 - (1 - a) u) c`;
- batch normalisation is never told to train: its moving mean stays 0 and its variance 1, so it is an affine map;
- Dice normalises with the statistics of the batch in evaluation too: a score depends on the rows beside it;
- the sum of the history counts padding, as the vector of id 0: a score depends on the longest history beside it;
- the click has two outputs (column 0 = click), `y_hat = softmax + 1e-8`, and the loss is the mean over both columns:
  half of the log loss;
- the auxiliary loss is divided by all B * (T - 1) cells, padding included, and uses the first of five negatives.

One module a TensorFlow layer, with its name: `state_dict` keys are the variable names with `.` for `/`, and kernels
are [in, out]. Nothing depends on `train()` or `eval()`.

Axes: B rows, T padded steps, E embedding, D = 2E item vector and GRU state, K negatives a step, R rows of a table.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self
from zipfile import BadZipFile

import numpy as np
import torch
import torch.nn.functional as F
from numpy.lib.npyio import NpzFile
from torch import Tensor, nn

from dien.batch import Batch
from dien.errors import ConfigError, DataError, check_at_least, check_choice
from dien.model.dien import Output
from dien.model.steps import Steps
from dien.tables import FIRST_ID, UNKNOWN, Table

MASKED = -(2.0**32) + 1
EPSILON = 1e-8
STEPWISE = ("alpha_outputs", "GRU_outputs", "GRU2_outputs")
"""Their names of the attention, the interests and the evolved interests, in the order of our `Output`."""

Tensors = dict[str, Tensor]
"""Their tensors by their names."""


class Sizes(NamedTuple):
    """Rows of the three embeddings and widths of the layers; the defaults are the authors'."""

    users: int
    items: int
    categories: int
    embedding: int = 18
    head: tuple[int, int] = (200, 80)
    attention: tuple[int, int] = (80, 40)
    auxiliary: tuple[int, int] = (100, 50)


class Inputs(NamedTuple):
    """What their graph is fed (`prepare_data` in their `train.py`), under their names."""

    uid: Tensor
    """int64 [B]; so are `mid` and `cat`, the target item and its category"""
    mid: Tensor
    cat: Tensor
    mid_his: Tensor
    """int64 [B, T], 0 on padding; so is `cat_his`"""
    cat_his: Tensor
    mask: Tensor
    """[B, T], 1 on real steps: for attention and auxiliary loss"""
    seq_len: Tensor
    """int64 [B]: for the recurrences"""
    target: Tensor | None = None
    """float32 [B, 2], (click, no click)"""
    noclk_mid: Tensor | None = None
    """int64 [B, T, K]; so is `noclk_cat`. Only K = 0 is read."""
    noclk_cat: Tensor | None = None

    @classmethod
    def of(cls, arrays: Mapping[str, Any], device: torch.device | None = None) -> Self:
        """From arrays by name, with or without the prefix `in/`: an open golden file will do.

        Raises:
            DataError: if a name is missing.
        """
        named = {name.removeprefix("in/"): name for name in arrays}
        missing = [name for name in cls._fields if name not in named and name not in cls._field_defaults]
        if missing:
            raise DataError(f"the batch lacks {', '.join(missing)}: it needs {', '.join(cls._fields[:7])}.")
        kinds = dict.fromkeys(("mask", "target"), torch.float32)
        return cls(
            **{
                name: torch.as_tensor(arrays[named[name]], dtype=kinds.get(name, torch.int64), device=device)
                for name in cls._fields
                if name in named
            }
        )


class Embedded(NamedTuple):
    """A batch as vectors."""

    user_BE: Tensor
    item_BD: Tensor
    history_BTD: Tensor
    sum_BD: Tensor
    """over ALL T cells"""


def _glorot(*shape: int) -> nn.Parameter:
    """The default of `tf.get_variable`: U(-l, l), l = sqrt(6 / (in + out)); embeddings get it too."""
    return nn.Parameter(nn.init.xavier_uniform_(torch.empty(*shape)))


class Dense(nn.Module):
    """`tf.layers.dense` without an activation, and the `_Linear` of `GRUCell`."""

    def __init__(self, inputs: int, outputs: int, *, bias: float = 0.0) -> None:
        super().__init__()
        self.kernel = _glorot(inputs, outputs)
        self.bias = nn.Parameter(torch.full((outputs,), bias))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.kernel + self.bias


class BatchNorm(nn.Module):
    """`tf.layers.batch_normalization` with its default `training=False`: the moving statistics never move."""

    moving_mean: Tensor
    moving_variance: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))
        self.beta = nn.Parameter(torch.zeros(width))
        self.register_buffer("moving_mean", torch.zeros(width))
        self.register_buffer("moving_variance", torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.moving_mean) * (self.moving_variance + 1e-3).rsqrt() * self.gamma + self.beta


def prelu(x: Tensor, alpha: Tensor) -> Tensor:
    """`max(0, x) + alpha min(0, x)`, whose slope at 0 is 0 as in TensorFlow."""
    return F.relu(x) - alpha * F.relu(-x)


class PReLU(nn.Module):
    """`prelu` of `utils.py`; the variable is named after its scope, as in `dice`."""

    def __init__(self, name: str, width: int) -> None:
        super().__init__()
        self.alpha_name = f"prelu_{name}"
        self.register_parameter(self.alpha_name, nn.Parameter(torch.full((width,), 0.1)))

    def forward(self, x: Tensor) -> Tensor:
        return prelu(x, self.get_parameter(self.alpha_name))


class Dice(nn.Module):
    """Always with the statistics of this batch, and with their epsilon inside and outside of the square root."""

    def __init__(self, name: str, width: int) -> None:
        super().__init__()
        self.alpha_name = f"alpha{name}"
        self.register_parameter(self.alpha_name, nn.Parameter(torch.zeros(width)))

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(0)
        std = ((x - mean).square() + 1e-9).mean(0).sqrt()
        gate = ((x - mean) / (std + 1e-9)).sigmoid()
        return self.get_parameter(self.alpha_name) * (1 - gate) * x + gate * x


class GRUCell(nn.Module):
    """TensorFlow's GRU step: gates `[r, u]`, u KEEPS the state; the reset comes before the matrix product."""

    def __init__(self, units: int) -> None:
        super().__init__()
        self.gates = Dense(2 * units, 2 * units, bias=1.0)
        self.candidate = Dense(2 * units, units)

    def forward(self, x_BD: Tensor, state_BD: Tensor, score_B1: Tensor) -> Tensor:
        reset_BD, keep_BD = self.gates(torch.cat([x_BD, state_BD], 1)).sigmoid().chunk(2, 1)
        candidate_BD = self.candidate(torch.cat([x_BD, reset_BD * state_BD], 1)).tanh()
        keep_BD = self.keep(keep_BD, score_B1)
        return keep_BD * state_BD + (1 - keep_BD) * candidate_BD

    def keep(self, keep_BD: Tensor, score_B1: Tensor) -> Tensor:
        return keep_BD


class QAAttGRUCell(GRUCell):
    """AGRU: the attention is the write gate."""

    def keep(self, keep_BD: Tensor, score_B1: Tensor) -> Tensor:
        return 1 - score_B1


class VecAttGRUCell(GRUCell):
    """AUGRU as coded: the attention scales the keep gate."""

    def keep(self, keep_BD: Tensor, score_B1: Tensor) -> Tensor:
        return (1 - score_B1) * keep_BD


def scoped(cell: GRUCell) -> nn.Module:
    """The variables of TensorFlow's own cell lie in a scope `gru_cell`, those of the authors' two cells do not."""
    return nn.ModuleDict({"gru_cell": cell}) if type(cell) is GRUCell else cell


def dynamic_rnn(
    layer: nn.Module, x_BTD: Tensor, seq_len_B: Tensor, score_BT: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Outputs [B, T, D], 0 beyond `seq_len`, and the state of each row's last real step [B, D].

    Only the cells of the authors read the attention scores.
    """
    if score_BT is None:
        score_BT = x_BTD.new_zeros(x_BTD.shape[:2])
    cell = layer["gru_cell"] if isinstance(layer, nn.ModuleDict) else layer
    state_BD = x_BTD.new_zeros(len(x_BTD), x_BTD.shape[2])
    outputs = []
    for t in range(x_BTD.shape[1]):
        real_B1 = (t < seq_len_B)[:, None]
        new_BD = cell(x_BTD[:, t], state_BD, score_BT[:, t, None])
        state_BD = torch.where(real_B1, new_BD, state_BD)
        outputs.append(torch.where(real_B1, new_BD, 0.0))
    return (torch.stack(outputs, 1) if outputs else torch.zeros_like(x_BTD)), state_BD


class AuthorsNetwork(nn.Module):
    """What their models share: embeddings, head and losses; a subclass is one model of theirs.

    `run` takes their inputs and answers with their tensors. `forward`, `ctr_loss` and `auxiliary_loss` (only where
    they have one) are for this project's trainer: there ids are looked up in feature tables, see `with_tables`.
    """

    model_type: ClassVar[str]
    """Its name on the command line of their `train.py`."""
    item_vectors: ClassVar[int] = 4
    """How many vectors of width D the head reads, beside the user."""
    activations: ClassVar[tuple[str, str]] = ("dice_1", "dice_2")
    epsilon: ClassVar[float] = EPSILON

    uid_R: Tensor | None
    mid_R: Tensor | None
    cat_R: Tensor | None

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.uid_embedding_var = _glorot(sizes.users, sizes.embedding)
        self.mid_embedding_var = _glorot(sizes.items, sizes.embedding)
        self.cat_embedding_var = _glorot(sizes.categories, sizes.embedding)
        width, (first, second) = (1 + 2 * self.item_vectors) * sizes.embedding, sizes.head
        activation = Dice if self.activations[0].startswith("dice") else PReLU
        self.bn1, self.f1 = BatchNorm(width), Dense(width, first)
        self.f2, self.f3 = Dense(first, second), Dense(second, 2)
        for name, units in zip(self.activations, sizes.head, strict=True):
            self.add_module(name, activation(name, units))
        for name in ("uid_R", "mid_R", "cat_R"):
            self.register_buffer(name, None, persistent=False)

    def with_tables(self, item_table: Table, user_table: Table, category: str | None = None) -> Self:
        """Look up ids and categories in these tables, so that `forward` can be called; see `build`.

        Raises:
            ConfigError: if the items have no such category.
            DataError: if the tables are of other sizes than the embeddings.
        """
        sizes, *rows = _their_ids(item_table, user_table, category)
        if sizes[:3] != self.sizes[:3]:
            raise DataError(
                f"the tables hold {sizes.users:,} users, {sizes.items:,} items and {sizes.categories:,} categories, "
                f"but the network embeds {self.sizes.users:,}, {self.sizes.items:,} and {self.sizes.categories:,}."
            )
        self.uid_R, self.mid_R, self.cat_R = (row_R.to(self.uid_embedding_var.device) for row_R in rows)
        return self

    # Their graph

    def run(self, inputs: Inputs | Mapping[str, Any]) -> Tensors:
        """Their tensors for their inputs, by their names, differentiable.

        Args:
            inputs: `Inputs`, or arrays by name (`in/` before the name or not), such as an open golden file.

        Returns:
            `y_hat` [B, 2] (column 0 = click), `loss` and `accuracy` (if there is a target), `aux_loss` (in DIEN, if
            there are negatives), `GRU_outputs`, `GRU2_outputs` [B, T, D], `alpha_outputs` [B, T] (attention),
            `GRU2_Final_State`, `att_fea` [B, D], as far as the model has them.
        """
        x = inputs if isinstance(inputs, Inputs) else Inputs.of(inputs, self.uid_embedding_var.device)
        tensors, logit_B = self._compute(x)
        tensors["y_hat"] = self._y_hat(logit_B)
        aux_loss = self._auxiliary(tensors, x)
        if aux_loss is not None:
            tensors["aux_loss"] = aux_loss
        if x.target is not None:
            tensors["loss"] = self._ctr_loss(logit_B, x.target) + tensors.get("aux_loss", 0.0)
            tensors["accuracy"] = (tensors["y_hat"].round() == x.target).float().mean()
        return tensors

    def variables(self) -> dict[str, nn.Parameter]:
        """The trained parameters under TensorFlow's names, such as `f1/kernel:0`."""
        return {f"{name.replace('.', '/')}:0": parameter for name, parameter in self.named_parameters()}

    def _compute(self, x: Inputs) -> tuple[Tensors, Tensor]:
        """Their intermediate tensors, and the logit [B] of a click."""
        history_BTD, item_BD = self._items(x.mid_his, x.cat_his), self._items(x.mid, x.cat)
        user_BE = F.embedding(x.uid, self.uid_embedding_var)
        embedded = Embedded(user_BE, item_BD, history_BTD, history_BTD.sum(1))
        tensors = self._interest(embedded, x)
        click_B, no_click_B = self._two_logits(embedded, tensors).unbind(1)
        return tensors, click_B - no_click_B  # all that a softmax over two depends on

    def _items(self, mid: Tensor, cat: Tensor) -> Tensor:
        """Ids of any shape [...] -> [..., D]"""
        return torch.cat([F.embedding(mid, self.mid_embedding_var), F.embedding(cat, self.cat_embedding_var)], -1)

    def _interest(self, e: Embedded, x: Inputs) -> Tensors:
        """What a model makes of the history beyond its sum."""
        return {}

    def _joined(self, e: Embedded, tensors: Tensors) -> list[Tensor]:
        """What the head reads."""
        return [e.user_BE, e.item_BD, e.sum_BD, e.item_BD * e.sum_BD]

    def _two_logits(self, e: Embedded, tensors: Tensors) -> Tensor:
        first, second = (self.get_submodule(name) for name in self.activations)
        x = first(self.f1(self.bn1(torch.cat(self._joined(e, tensors), 1))))
        return self.f3(second(self.f2(x)))

    def _y_hat(self, logit_B: Tensor) -> Tensor:
        return torch.stack([logit_B, -logit_B], 1).sigmoid() + self.epsilon

    def _ctr_loss(self, logit_B: Tensor, target_B2: Tensor) -> Tensor:
        return -(self._y_hat(logit_B).log() * target_B2).mean()

    def _auxiliary(self, tensors: Tensors, x: Inputs) -> Tensor | None:
        """The auxiliary loss, of a model that has one, if there are negatives."""
        return None

    # This project's trainer

    def forward(self, batch: Batch) -> Output:
        x = self.inputs(batch)
        tensors, logit_B = self._compute(x)
        steps = Steps.of(batch.length_B, batch.history_BT.shape[1])
        flat = {name: steps.flat(tensor) for name, tensor in tensors.items() if name in STEPWISE}
        history_ND = steps.flat(self._items(x.mid_his, x.cat_his))
        return Output(logit_B, steps, history_ND, *(flat.get(name) for name in STEPWISE))

    def ctr_loss(self, output: Output, batch: Batch) -> Tensor:
        """Their loss of the click: half of the log loss, with 1e-8 inside of the logarithm; a scalar."""
        return self._ctr_loss(output.logit_B, torch.stack([batch.label_B, 1 - batch.label_B], 1))

    def inputs(self, batch: Batch) -> Inputs:
        """Their inputs for a batch of ours.

        Raises:
            ConfigError: for a network without feature tables.
        """
        if self.uid_R is None or self.mid_R is None or self.cat_R is None:
            raise ConfigError("a Batch holds rows of feature tables: give the network its tables with `with_tables`.")
        negative_BTK = batch.negative_BT if batch.negative_BT.ndim == 3 else batch.negative_BT[..., None]
        width = torch.arange(batch.history_BT.shape[1], device=batch.length_B.device)
        return Inputs(
            uid=self.uid_R[batch.user_B],
            mid=self.mid_R[batch.target_B],
            cat=self.cat_R[batch.target_B],
            mid_his=self.mid_R[batch.history_BT],
            cat_his=self.cat_R[batch.history_BT],
            mask=(width < batch.length_B[:, None]).float(),
            seq_len=batch.length_B,
            noclk_mid=self.mid_R[negative_BTK],
            noclk_cat=self.cat_R[negative_BTK],
        )


class DNN(AuthorsNetwork):
    """BaseModel: `[user, item, sum]`, PReLU."""

    model_type = "DNN"
    item_vectors = 2
    activations = ("prelu1", "prelu2")

    def _joined(self, e: Embedded, tensors: Tensors) -> list[Tensor]:
        return [e.user_BE, e.item_BD, e.sum_BD]


class PNN(AuthorsNetwork):
    """`[user, item, sum, item * sum]`, PReLU."""

    model_type = "PNN"
    item_vectors = 3
    activations = ("prelu1", "prelu2")


class Wide(DNN):
    """DNN plus a linear layer on `[item, sum, item * sum]`; the only one without 1e-8 in its output."""

    model_type = "Wide"
    activations = ("p1", "p2")
    epsilon = 0.0

    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes)
        self.f_fm = Dense(6 * sizes.embedding, 2)

    def _two_logits(self, e: Embedded, tensors: Tensors) -> Tensor:
        return super()._two_logits(e, tensors) + self.f_fm(torch.cat([e.item_BD, e.sum_BD, e.item_BD * e.sum_BD], 1))


class AttentionNetwork(AuthorsNetwork):
    """What their models with attention share: its perceptron, and the interest `last` as last input of the head."""

    last: ClassVar[str]
    stag: ClassVar[str]
    """Their suffix of the attention's layers."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes)
        first, second = sizes.attention
        self.add_module(f"f1_att{self.stag}", Dense(8 * sizes.embedding, first))
        self.add_module(f"f2_att{self.stag}", Dense(first, second))
        self.add_module(f"f3_att{self.stag}", Dense(second, 1))

    def _attention(self, query_BD: Tensor, facts_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        """Weights [B, T]; a row without any real step spreads evenly over its padding."""
        f1, f2, f3 = (self.get_submodule(f"f{layer}_att{self.stag}") for layer in (1, 2, 3))
        query_BTD = query_BD[:, None].expand_as(facts_BTD)
        x = torch.cat([query_BTD, facts_BTD, query_BTD - facts_BTD, query_BTD * facts_BTD], -1)
        score_BT = f3(f2(f1(x).sigmoid()).sigmoid()).squeeze(-1)
        return torch.where(mask_BT == 1, score_BT, MASKED).softmax(1)

    def _joined(self, e: Embedded, tensors: Tensors) -> list[Tensor]:
        return [*super()._joined(e, tensors), tensors[self.last]]


class DIN(AttentionNetwork):
    """The history itself, pooled by its attention to the target item, which is not projected."""

    model_type = "DIN"
    last, stag = "att_fea", "null"

    def _interest(self, e: Embedded, x: Inputs) -> Tensors:
        weight_BT = self._attention(e.item_BD, e.history_BTD, x.mask)
        return {"alpha_outputs": weight_BT, "att_fea": (weight_BT[..., None] * e.history_BTD).sum(1)}


class RecurrentNetwork(AttentionNetwork):
    """What their models with two GRUs share; this is also AGRU and AUGRU, but for the cell of the second GRU."""

    last, stag = "GRU2_Final_State", "1_1"
    cell: ClassVar[type[GRUCell]] = GRUCell

    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes)
        width = 2 * sizes.embedding
        self.f11_1, self.prelu_ = Dense(width, width), nn.Parameter(torch.full((width,), 0.1))
        self.gru1, self.gru2 = scoped(GRUCell(width)), scoped(self.cell(width))

    def _attend(self, e: Embedded, facts_BTD: Tensor, x: Inputs) -> Tensor:
        """By the target item, projected."""
        return self._attention(prelu(self.f11_1(e.item_BD), self.prelu_), facts_BTD, x.mask)

    def _interest(self, e: Embedded, x: Inputs) -> Tensors:
        states_BTD, _ = dynamic_rnn(self.gru1, e.history_BTD, x.seq_len)
        return {"GRU_outputs": states_BTD} | self._evolve(e, states_BTD, x)

    def _evolve(self, e: Embedded, states_BTD: Tensor, x: Inputs) -> Tensors:
        weight_BT = self._attend(e, states_BTD, x)
        evolved_BTD, final_BD = dynamic_rnn(self.gru2, states_BTD, x.seq_len, weight_BT)
        return {"alpha_outputs": weight_BT, "GRU2_outputs": evolved_BTD, "GRU2_Final_State": final_BD}


class GRUGRUAtt(RecurrentNetwork):
    """Two-layer GRU, the second pooled by its own attention."""

    model_type = "DIN-V2-gru-gru-att"
    last = "att_fea"

    def _evolve(self, e: Embedded, states_BTD: Tensor, x: Inputs) -> Tensors:
        evolved_BTD, _ = dynamic_rnn(self.gru2, states_BTD, x.seq_len)
        weight_BT = self._attend(e, evolved_BTD, x)
        pooled_BD = (weight_BT[..., None] * evolved_BTD).sum(1)
        return {"alpha_outputs": weight_BT, "GRU2_outputs": evolved_BTD, "att_fea": pooled_BD}


class GRUAttGRU(RecurrentNetwork):
    """AIGRU: the second GRU reads `a_t h_t`."""

    model_type = "DIN-V2-gru-att-gru"

    def _evolve(self, e: Embedded, states_BTD: Tensor, x: Inputs) -> Tensors:
        weight_BT = self._attend(e, states_BTD, x)
        evolved_BTD, final_BD = dynamic_rnn(self.gru2, weight_BT[..., None] * states_BTD, x.seq_len)
        return {"alpha_outputs": weight_BT, "GRU2_outputs": evolved_BTD, "GRU2_Final_State": final_BD}


class GRUQAAttGRU(RecurrentNetwork):
    """AGRU."""

    model_type, cell = "DIN-V2-gru-qa-attGru", QAAttGRUCell


class GRUVecAttGRU(RecurrentNetwork):
    """AUGRU as coded, without the auxiliary loss."""

    model_type, cell = "DIN-V2-gru-vec-attGru", VecAttGRUCell


class DIEN(GRUVecAttGRU):
    """AUGRU as coded, with the auxiliary loss."""

    model_type = "DIEN"

    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes)
        width, (first, second) = 4 * sizes.embedding, sizes.auxiliary
        self.bn1gru = BatchNorm(width)
        self.f1gru, self.f2gru, self.f3gru = Dense(width, first), Dense(first, second), Dense(second, 2)

    def _auxiliary(self, tensors: Tensors, x: Inputs) -> Tensor | None:
        if x.noclk_mid is None or x.noclk_cat is None:
            return None
        states_BTD, click_BTD = tensors["GRU_outputs"][:, :-1], self._items(x.mid_his, x.cat_his)[:, 1:]
        no_click_BTD = self._items(x.noclk_mid[..., 0], x.noclk_cat[..., 0])[:, 1:]
        click_BT = self._probability(torch.cat([states_BTD, click_BTD], -1))
        no_click_BT = self._probability(torch.cat([states_BTD, no_click_BTD], -1))
        # As theirs, this is infinite where float32 cannot tell the probability of a no-click from 1.
        loss_BT = -(click_BT.log() + (1.0 - no_click_BT).log()) * x.mask[:, 1:]
        return loss_BT.sum() / max(loss_BT.numel(), 1)  # theirs dies if no history is longer than 1

    def _probability(self, x_BTD: Tensor) -> Tensor:
        x = self.f2gru(self.f1gru(self.bn1gru(x_BTD)).sigmoid()).sigmoid()
        return self.f3gru(x).softmax(-1)[..., 0] + EPSILON

    def auxiliary_loss(self, output: Output, batch: Batch) -> Tensor:
        """Their auxiliary loss, divided by all B * (T - 1) cells; a scalar, 0 if no history is longer than 1."""
        assert output.interest_NH is not None
        loss = self._auxiliary({"GRU_outputs": output.steps.padded(output.interest_NH)}, self.inputs(batch))
        assert loss is not None
        return loss


VARIANTS: dict[str, type[AuthorsNetwork]] = {
    "dnn": DNN,
    "pnn": PNN,
    "wide": Wide,
    "din": DIN,
    "gru_gru_att": GRUGRUAtt,
    "gru_att_gru": GRUAttGRU,
    "gru_qa_attgru": GRUQAAttGRU,
    "gru_vec_attgru": GRUVecAttGRU,
    "dien": DIEN,
}


def build(
    item_table: Table,
    user_table: Table,
    *,
    variant: str = "dien",
    embedding_size: int = 18,
    category: str | None = None,
) -> AuthorsNetwork:
    """A network to train from scratch, initialised as TensorFlow 1.4 would.

    Args:
        item_table, user_table: features of items and users; only the ids and one category are used.
        variant: a key of `VARIANTS`.
        embedding_size: E of users, items and categories; the GRUs have 2E units.
        category: the item feature that is the category; None takes the second column. Of a multi-valued feature
            it is the first entry.

    Raises:
        ConfigError: for an unknown variant, a size below 1, or items without such a category.
    """
    check_choice("model.variant", variant, tuple(VARIANTS))
    check_at_least("model.embedding_size", embedding_size, 1)
    sizes = _their_ids(item_table, user_table, category)[0]._replace(embedding=embedding_size)
    return VARIANTS[variant](sizes).with_tables(item_table, user_table, category)


def _their_ids(item_table: Table, user_table: Table, category: str | None) -> tuple[Sizes, Tensor, Tensor, Tensor]:
    """How many ids there are in their numbering, and `uid`, `mid` and `cat` of every row of the tables.

    Theirs has one id, 0, for padding, unknown items and unknown categories; it has no unknown user, and takes such
    a one for user 0, who is real.
    """
    columns = {column.name: column for column in item_table[1:] if column.kind != "float"}
    column = next(iter(columns.values()), None) if category is None else columns.get(category)
    if column is None:
        raise ConfigError(
            f"model.category={category} does not name the category of the items: "
            f"their categorical features are {', '.join(columns) or 'none, and model=authors needs one'}."
        )
    user, item = user_table[0], item_table[0]
    cat_R = column.values if column.kind == "categorical" else column.values[:, 0]
    return (
        Sizes(max(user.size - FIRST_ID, 1), item.size - UNKNOWN, column.size - UNKNOWN),
        (user.values - FIRST_ID).clamp(min=0),
        (item.values - UNKNOWN).clamp(min=0),
        (cat_R - UNKNOWN).clamp(min=0),
    )


def load(source: str | os.PathLike[str] | Mapping[str, Any], variant: str | None = None) -> AuthorsNetwork:
    """A network with the variables of a file in the format of the golden ones.

    Args:
        source: path of an `.npz` file, the opened file, or arrays by name. `var/NAME:0` holds the variable that
            TensorFlow calls `NAME:0`; other entries are not read. All sizes follow from the shapes.
        variant: a key of `VARIANTS`. None takes it from the file's name, if that is one of the authors' model types
            (`DIN-V2-gru-qa-attGru.npz`) or one of our keys, and else from the variables: they leave it open only
            between `gru_gru_att` and `gru_att_gru`, and between `gru_qa_attgru` and `gru_vec_attgru`.

    Raises:
        ConfigError: for an unknown variant, or if the file leaves it open.
        DataError: if this is no `.npz` file, or if its variables are not those of the variant.
        OSError: if the file cannot be read.
    """
    if variant is not None:
        check_choice("variant", variant, tuple(VARIANTS))
    # numpy keeps the name of an opened file with its archive.
    path = getattr(getattr(source, "zip", None), "filename", None) if isinstance(source, Mapping) else source
    where = "the file" if path is None else os.fspath(path)
    weights = _weights(source, where)
    shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
    if not {"uid_embedding_var", "mid_embedding_var", "cat_embedding_var"} <= shapes.keys():
        raise DataError(f"{where} lacks an embedding: it needs var/NAME:0 for every variable of a network.")
    sizes = _sizes(shapes)
    if variant is None:
        variant = _NAMES.get(Path(where).stem) or _only_variant(shapes, sizes, where)
    with torch.device("meta"):  # neither memory nor random numbers for what is replaced at once
        network = VARIANTS[variant](sizes)
    expected = _shapes(network)
    if wrong := sorted(name for name in shapes.keys() | expected.keys() if shapes.get(name) != expected.get(name)):
        raise DataError(f"{where} does not hold the variables of {variant}: {', '.join(wrong[:4])} differ.")
    network.load_state_dict(weights, assign=True)
    return network


_NAMES = {name: key for key, cls in VARIANTS.items() for name in (key, cls.model_type)}


def _weights(source: str | os.PathLike[str] | Mapping[str, Any], where: str) -> Tensors:
    """The variables under the names of our `state_dict`."""
    try:
        if not isinstance(source, Mapping):
            opened = np.load(source, allow_pickle=False)
            if not isinstance(opened, NpzFile):
                raise ValueError("it is one array without a name")
            with opened:
                return _weights(opened, where)
        return {
            name[4:].removesuffix(":0").replace("/", "."): torch.from_numpy(np.array(source[name], np.float32))
            for name in source
            if name.startswith("var/")
        }
    except (ValueError, EOFError, BadZipFile) as error:
        raise DataError(f"{where} is not an .npz file of named arrays: {error}.") from error


def _shapes(network: AuthorsNetwork) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def _sizes(shapes: Mapping[str, tuple[int, ...]]) -> Sizes:
    """Sizes of a network from the shapes of its variables; 1 for a layer that is not there."""

    def widths(*layers: str) -> int:
        return next((shapes[f"{layer}.bias"][0] for layer in layers if f"{layer}.bias" in shapes), 1)

    users, items, categories = (shapes[f"{name}_embedding_var"][0] for name in ("uid", "mid", "cat"))
    return Sizes(
        users,
        items,
        categories,
        embedding=shapes["uid_embedding_var"][-1],
        head=(widths("f1"), widths("f2")),
        attention=(widths("f1_att1_1", "f1_attnull"), widths("f2_att1_1", "f2_attnull")),
        auxiliary=(widths("f1gru"), widths("f2gru")),
    )


def _only_variant(shapes: Mapping[str, tuple[int, ...]], sizes: Sizes, where: str) -> str:
    with torch.device("meta"):
        fitting = [key for key, cls in VARIANTS.items() if _shapes(cls(sizes)) == shapes]
    if not fitting:
        raise DataError(f"{where} does not hold the variables of any of {', '.join(VARIANTS)}.")
    if len(fitting) > 1:
        raise ConfigError(f"{where} may be {' or '.join(fitting)}, which have the same variables: say which `variant`.")
    return fitting[0]

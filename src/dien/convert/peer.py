"""RecBole's and hopwise's DIEN, whose code is the same, as this project's: layer by layer.

| theirs | ours |
| --- | --- |
| AGRU and AUGRU write with u = sigmoid(.) | u = 1 - z: the rows of z change their sign |
| attention divided by the square root of D | its last layer is scaled by that |
| batch normalisation before each activation of the head | folded into the layer before it |
| "Dice" without a slope | `silu`, which it is |
| head reads [evolved, target, user] | [user, target, sum, target * sum, evolved], columns of the sums 0 |
| auxiliary network without activations | `none` |
| id 0 is padding and a missing value | row 0; their id i is row i + 1, for row 1 is the unknown one |

Axes: D item vector, U user vector, E embedding, V vocabulary ids, R rows of a table.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from dien.build import build_network
from dien.errors import ConfigError, DataError, check_at_least, check_choice, check_whole
from dien.tables import UNKNOWN, Column, Table

GRU_TYPES = {"GRU": "GRU", "AIGRU": "AIGRU", "AGRU": "AGRU", "AUGRU": "AUGRU"}
ATTENTIVE = ("AGRU", "AUGRU")
"""Those whose gates read the attention; their weights have names of their own."""
EPS = 1e-5  # of their batch normalisation
Weights = Mapping[str, Tensor]


class Field(NamedTuple):
    """One feature of their items or users."""

    name: str
    size: int
    """Number of ids, padding included."""
    values: Tensor
    """int64 [R, ...]: `token` [R], `token_seq` [R, M]; 0 is padding"""


class Options(NamedTuple):
    """What of their configuration decides the network."""

    embedding_size: int
    mlp_hidden_size: list[int]
    gru_type: str
    pooling_mode: str = "mean"
    dropout_prob: float = 0.0
    alpha: float = 1.0

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Options":
        """Raises: DataError: a key is missing. ConfigError: a value is none of theirs."""
        missing = [key for key in cls._fields if key not in config and key not in cls._field_defaults]
        if missing:
            raise DataError(f"the configuration lacks {', '.join(missing)}: give the peer's whole configuration.")
        found = cls(**{key: config[key] for key in cls._fields if key in config})
        check_choice("gru_type", found.gru_type, tuple(GRU_TYPES))
        check_choice("pooling_mode", found.pooling_mode, ("mean", "max", "sum"))
        check_whole("embedding_size", found.embedding_size, 1)
        if not isinstance(found.mlp_hidden_size, list | tuple) or not found.mlp_hidden_size:
            raise ConfigError(f"mlp_hidden_size={found.mlp_hidden_size!r} is not a list of widths, such as [256, 128].")
        for width in found.mlp_hidden_size:
            check_whole("mlp_hidden_size", width, 1)
        check_at_least("alpha", found.alpha, 0)
        check_at_least("dropout_prob", found.dropout_prob, 0)
        if found.dropout_prob >= 1:
            raise ConfigError(f"dropout_prob={found.dropout_prob!r} is out of range: it must be less than 1.")
        return found._replace(mlp_hidden_size=list(found.mlp_hidden_size))


def convert(weights: Weights, options: Options, items: list[Field], users: list[Field]) -> tuple[nn.Module, DictConfig]:
    """Our network with their weights, in evaluation mode, and the node `model` of its configuration.

    Args:
        weights: their state dict.
        options: see `Options`.
        items: features of the items, in the order of their embedding: single ones, then those of several values.
        users: features of the users.

    Raises:
        DataError: the weights do not fit the options, or hold what our network does not have (the message says what).
    """
    floats = sorted({name.split(".")[1] for name in weights if name.startswith("embedding_layer.float")})
    if floats:
        raise DataError(
            f"{' and '.join(floats)} cannot be converted: float features are embedded with learned ids there; "
            "train without numerical_features."
        )
    model = model_config(options)
    item_table, user_table = table_of(items), table_of(users)
    network = build_network(model, item_table, user_table)
    state = dict(network.state_dict())
    try:
        _check_fit(weights, options)
        state["item.weight"] = _embedding(weights, "item", items)
        state["user.weight"] = _embedding(weights, "user", users)
        _recurrence(state, "extractor.recurrence", weights, "interset_extractor.gru.{}_l0")
        attentive = options.gru_type in ATTENTIVE
        theirs = "interest_evolution.dynamic_rnn." + ("rnn.{}" if attentive else "{}_l0")
        _recurrence(state, "evolution.recurrence", weights, theirs, negate_update=attentive)
        _attention(state, weights, width=network.get_submodule("item").width)  # type: ignore[arg-type]
        _auxiliary(state, weights)
        _head(state, weights, user=network.user.width, item=network.item.width)  # type: ignore[arg-type,union-attr]
        network.load_state_dict(state)
    except KeyError as error:
        raise DataError(f"the weights lack {error.args[0]}, which a DIEN with these options has.") from error
    except (RuntimeError, ValueError, IndexError) as error:
        raise DataError("the shapes of the weights contradict each other: they are damaged or of no DIEN.") from error
    return network.eval(), model


def _check_fit(weights: Weights, options: Options) -> None:
    """Raise `DataError` for an option that the shapes of the weights contradict."""
    embedding = weights.get("embedding_layer.token_embedding_table.item.embedding.weight")
    if embedding is not None and embedding.shape[-1] != options.embedding_size:
        raise DataError(
            f"embedding_size={options.embedding_size} does not fit the weights: theirs is {embedding.shape[-1]}."
        )
    widths = [len(weight) for weight, _ in _linears(weights, "dnn_mlp_layers.mlp_layers")]
    if widths != options.mlp_hidden_size:
        raise DataError(f"mlp_hidden_size={options.mlp_hidden_size} does not fit the weights: theirs is {widths}.")
    attentive = any(name.startswith("interest_evolution.dynamic_rnn.rnn.") for name in weights)
    if attentive != (options.gru_type in ATTENTIVE):
        fitting = " or ".join(name for name in GRU_TYPES if attentive == (name in ATTENTIVE))
        raise DataError(f"gru_type={options.gru_type} does not fit the weights: theirs is {fitting}.")


def model_config(options: Options) -> DictConfig:
    """The node `model` of a configuration that builds their network."""
    hidden = options.mlp_hidden_size

    def part(target: str, **keys: Any) -> dict[str, Any]:
        return {"_target_": f"dien.model.{target}", "_partial_": True, **keys}

    return OmegaConf.create(
        {
            "name": f"dien-{options.gru_type.lower()}",
            "_target_": "dien.model.dien.DIEN",
            "alpha": float(options.alpha),
            "hidden_size": None,
            "features": part(
                "features.FeatureEmbedding",
                embedding_size=options.embedding_size,
                pooling=options.pooling_mode,
                ignore=[],
                std=0.01,
            ),
            "scorer": part("extractor.MLPScorer", hidden=hidden, activation="none"),
            "attention": part("attention.MLPAttention", hidden=hidden, activation="sigmoid", project_target=False),
            "evolution": part(f"evolution.{GRU_TYPES[options.gru_type]}"),
            "head": part("layers.Head", hidden=hidden, activation="silu", dropout=float(options.dropout_prob)),
        }
    )


def table_of(fields: list[Field]) -> Table:
    """Their features as a table of ours: row and id 1 are the unknown one, theirs from 1 on move up by one."""
    columns = []
    for field in fields:
        ids = torch.where(field.values > 0, field.values + 1, 0).long()
        unknown = torch.zeros_like(ids[:1])
        unknown.view(-1)[0] = UNKNOWN
        values = torch.cat([ids[:1], unknown, ids[1:]])
        columns.append(Column(field.name, "categorical" if values.ndim == 1 else "multi", field.size + 1, values))
    return tuple(columns)


def _embedding(weights: Weights, kind: str, fields: list[Field]) -> Tensor:
    """Ours is one matrix with a band a feature; theirs one for all single features and one for each other."""
    single = [field.size for field in fields if field.values.ndim == 1]
    prefix = f"embedding_layer.token_embedding_table.{kind}.embedding.weight"
    if prefix not in weights or len(weights[prefix]) != sum(single):
        found = tuple(weights[prefix].shape) if prefix in weights else None
        raise DataError(f"{prefix} has the shape {found}, but the {kind} features have {sum(single)} ids in all.")
    bands = list(weights[prefix].split(single))
    names = [
        name
        for name in weights
        if re.fullmatch(rf"embedding_layer\.token_seq_embedding_table\.{kind}\.\d+\.weight", name)
    ]
    bands += [weights[name] for name in sorted(names, key=lambda name: int(name.split(".")[-2]))]
    if len(bands) != len(fields):
        raise DataError(f"the weights have {len(bands)} {kind} features, not {len(fields)}: give all of them.")
    return torch.cat([torch.cat([band[:1], torch.zeros_like(band[:1]), band[1:]]) for band in bands])


def _recurrence(
    state: dict[str, Tensor], ours: str, weights: Weights, theirs: str, *, negate_update: bool = False
) -> None:
    for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
        reset, update, new = weights[theirs.format(name)].chunk(3)
        state[f"{ours}.{name}"] = torch.cat([reset, -update if negate_update else update, new])


def _linears(weights: Weights, prefix: str) -> list[tuple[Tensor, Tensor]]:
    """Weight and bias of the linear layers of one of their perceptrons, in order."""
    found = [
        (int(match[1]), name)
        for name in weights
        if (match := re.fullmatch(rf"{re.escape(prefix)}\.(\d+)\.weight", name)) and weights[name].ndim == 2
    ]
    return [(weights[name], weights[f"{prefix}.{index}.bias"]) for index, name in sorted(found)]


def _store(state: dict[str, Tensor], names: list[str], layers: list[tuple[Tensor, Tensor]]) -> None:
    if len(names) != len(layers):
        layer = names[0].partition(".")[0]
        raise DataError(
            f"the weights have {len(layers)} linear layers for {layer}, but these options make {len(names)}."
        )
    for name, (weight, bias) in zip(names, layers, strict=True):
        state[f"{name}.weight"], state[f"{name}.bias"] = weight, bias


def _layers_of(state: dict[str, Tensor], prefix: str) -> list[str]:
    """Names of our linear layers below a prefix, in order."""
    return [name.removesuffix(".weight") for name in state if name.startswith(prefix) and state[name].ndim == 2]


def _attention(state: dict[str, Tensor], weights: Weights, *, width: int) -> None:
    theirs = "interest_evolution.attention_layer"
    scale = width**-0.5
    last = (weights[f"{theirs}.dense.weight"] * scale, weights[f"{theirs}.dense.bias"] * scale)
    layers = [*_linears(weights, f"{theirs}.att_mlp_layers.mlp_layers"), last]
    _store(state, _layers_of(state, "attention."), layers)


def _auxiliary(state: dict[str, Tensor], weights: Weights) -> None:
    layers = _linears(weights, "interset_extractor.auxiliary_net.mlp_layers")
    _store(state, _layers_of(state, "extractor.scorer."), layers)


def _head(state: dict[str, Tensor], weights: Weights, *, user: int, item: int) -> None:
    prefix = "dnn_mlp_layers.mlp_layers"
    normal = sorted(int(name.split(".")[-2]) for name in weights if re.fullmatch(rf"{prefix}\.\d+\.running_mean", name))
    layers = []
    for (weight, bias), index in zip(_linears(weights, prefix), normal, strict=True):
        batch = {key: weights[f"{prefix}.{index}.{key}"] for key in ("weight", "bias", "running_mean", "running_var")}
        scale = batch["weight"] / (batch["running_var"].double() + EPS).sqrt()
        layers.append(
            ((weight * scale[:, None]).float(), ((bias - batch["running_mean"]) * scale + batch["bias"]).float())
        )
    if layers[0][0].shape[1] != 2 * item + user:
        raise DataError(
            f"the head reads {layers[0][0].shape[1]} numbers, but embedding_size and the features make "
            f"{2 * item + user}: give all features that it was trained with."
        )
    evolved, target, person = layers[0][0].split([item, item, user], 1)
    nothing = torch.zeros_like(target)
    layers[0] = (torch.cat([person, target, nothing, nothing, evolved], 1), layers[0][1])
    layers.append((weights["dnn_predict_layer.weight"], weights["dnn_predict_layer.bias"]))
    _store(state, _layers_of(state, "head."), layers)

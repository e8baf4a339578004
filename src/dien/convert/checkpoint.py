"""What a checkpoint of RecBole or hopwise says: the weights, and from the dataset inside it the features and ids."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dien.convert.peer import Field, Options
from dien.convert.pickles import Inert, read_foreign, strings, text
from dien.errors import DataError, check_whole

HISTORY_LENGTH = 50  # their default of MAX_ITEM_LIST_LENGTH
DECISIVE = (*Options._fields, "MAX_ITEM_LIST_LENGTH")

Ids = Sequence[str] | Sequence[int]


class Foreign(NamedTuple):
    """All that `convert` needs, and the raw ids in the order of their rows."""

    weights: dict[str, Tensor]
    options: Options
    items: list[Field]
    users: list[Field]
    item_ids: Ids
    user_ids: Ids
    history_length: int
    origin: str


def read_peer(path: Path, config: Mapping[str, Any] | None) -> Foreign:
    """Read a checkpoint of their trainer, or a file that holds a state dict alone, with their configuration.

    Args:
        path: the file.
        config: their configuration; it may add to that of a checkpoint, not contradict it.

    Raises:
        DataError: the file is neither, is damaged, lacks what only a checkpoint or a configuration can say, or both
            say something else.
    """
    content = read_foreign(path)
    if not isinstance(content, dict):
        raise DataError(f"{path} holds neither a checkpoint nor a state dict.")
    weights = content.get("state_dict", content)
    weights = {str(name): value for name, value in weights.items() if isinstance(value, Tensor)}
    if not any(name.startswith("interset_extractor.") for name in weights):
        raise DataError(f"{path} does not hold a DIEN of RecBole or hopwise.")
    stored = content.get("config")
    own = (stored.attribute("final_config_dict") if isinstance(stored, Inert) else None) or {}
    own, given = ({key: value for key, value in one.items() if value is not None} for one in (own, config or {}))
    for key in DECISIVE:
        if key in own and key in given and _plain(own[key]) != _plain(given[key]):
            raise DataError(f"{path} was trained with {key}={own[key]}, but --config says {given[key]}: leave it out.")
    chosen = given | own
    if not chosen:
        raise DataError(f"{path} says nothing of its configuration: give it with --config.")
    options, length = Options.of(chosen), chosen.get("MAX_ITEM_LIST_LENGTH")
    length = HISTORY_LENGTH if length is None else length
    check_whole("MAX_ITEM_LIST_LENGTH", length, 1)
    embedding = (content.get("other_parameter") or {}).get("embedding_layer")
    if not isinstance(embedding, Inert):
        items, users = (_ids_alone(weights, kind) for kind in ("item", "user"))
        _check_ids_alone(weights, options)
        item_ids, user_ids = (list(range(1, fields[0].size)) for fields in (items, users))
        return Foreign(weights, options, items, users, item_ids, user_ids, length, f"state dict {path.name}")
    items, users = (_fields(embedding, kind) for kind in ("item", "user"))
    item_tokens, user_tokens = (_tokens(embedding, fields[0]) for fields in (items, users))
    peer = stored.name.split(".")[0] if isinstance(stored, Inert) else "peer's"
    name = f"{peer} checkpoint {path.name}"
    return Foreign(weights, options, items, users, item_tokens, user_tokens, length, name)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _fields(embedding: Inert, kind: str) -> list[Field]:
    """Features in the order in which they are joined: those of one value, then those of several."""
    table = embedding.attribute(f"{kind}_feat")
    values = table.attribute("interaction") if isinstance(table, Inert) else None
    if not isinstance(values, dict):
        raise DataError(f"the checkpoint lacks the features of the {kind}s: save it with the peer's own trainer.")
    columns = {text(name): value for name, value in values.items()}
    fields = []
    for family in ("token", "token_seq"):
        names, sizes = (embedding.attribute(f"{family}_field_{part}") or {} for part in ("names", "dims"))
        fields += [
            Field(text(name), int(size), columns[text(name)])
            for name, size in zip(names.get(kind, []), sizes.get(kind, []), strict=True)
        ]
    if not fields or fields[0].values.ndim != 1 or not torch.equal(fields[0].values, torch.arange(fields[0].size)):
        raise DataError(f"the first feature of the {kind}s is not their id: its column must come first.")
    return fields


def _tokens(embedding: Inert, field: Field) -> Ids:
    """Raw ids of ids 1, 2, ..."""
    dataset = embedding.attribute("dataset")
    tables = dataset.attribute("field2id_token") if isinstance(dataset, Inert) else None
    found = {text(name): array for name, array in (tables or {}).items()}
    tokens = strings(found[field.name]) if field.name in found else []
    if len(tokens) != field.size:
        raise DataError(f"the checkpoint has {len(tokens)} names for the {field.size} ids of {field.name}.")
    return tokens[1:]


def _ids_alone(weights: Mapping[str, Tensor], kind: str) -> list[Field]:
    name = f"embedding_layer.token_embedding_table.{kind}.embedding.weight"
    if name not in weights:
        raise DataError(f"the weights lack {name}.")
    size = len(weights[name])
    return [Field(f"{kind}_id", size, torch.arange(size))]


def _check_ids_alone(weights: Mapping[str, Tensor], options: Options) -> None:
    """A state dict does not say which features an item has, so it can have none but its id."""
    width, first = options.embedding_size, weights.get("dnn_mlp_layers.mlp_layers.1.weight")
    if first is None or first.shape[1] != 3 * width or any("token_seq" in name for name in weights):
        raise DataError(
            "a state dict alone does not say which features items and users have: give the whole checkpoint, "
            "or one of a network of ids alone."
        )

"""The model card: what a model is, what it was trained on and how well it did, as JSON and as Markdown."""

import json
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf
from torch import nn

from dien.errors import DataError
from dien.runs.model import LoadedRun

CARD_JSON, CARD_MARKDOWN = "model_card.json", "README.md"

ROWS = """`ids.json` lists the raw ids in the order of their rows: the first one is row 2; row 0 is padding, row 1
anything unknown. Two ids are the same if they are spelled the same: 7, 7.0 and "7" are, "007" is another."""

USE = {
    "onnx": f"""```python
from dien.export.runtime import Scorer  # numpy and onnxruntime only

scorer = Scorer("this folder")
scorer.rank("a user id", history=["item clicked first", "item clicked last"], candidates=["item", "item"], top=10)
```
Without the package: `model.onnx` takes row numbers. {ROWS}""",
    "pt2": f"""```python
import torch  # nothing else

program = torch.export.load("model.pt2").module()
scores, logits = program(user, history, length, candidates)
```
It takes row numbers. {ROWS}""",
    "weights": f"""```python
from dien import Ranker
from dien.export.weights import load_weights

ranker = Ranker.load("this folder")  # raw ids
ranker.rank(["item clicked first", "item clicked last"], ["item", "item"], user="a user id", top=10)
network = load_weights("this folder")  # the network of dien-train, in evaluation mode
```
`model.safetensors` holds the weights, `tables.safetensors` the features of items and users, `config.json` the rest.
{ROWS}""",
}

INPUTS = """
| input | type | meaning |
| --- | --- | --- |
| `user` | int64 [batch] | rows of the users |
| `history` | int64 [batch, time] | rows of the clicked items, oldest first, padded on the right with 0 |
| `length` | int64 [batch] | real steps of each history, 0 allowed |
| `candidates` | int64 [batch, candidates] | rows of the items to score |
| **output** | | |
| `scores` | float32 [batch, candidates] | probability of a click |
| `logits` | float32 [batch, candidates] | its logit |

`batch` and `candidates` are at least 1, `time` may be 0; none has an upper limit.
"""


def card_of_run(run: LoadedRun, *, metrics: dict[str, Any], environment: dict[str, Any]) -> dict[str, Any]:
    """What is known of a trained run, as plain values; `write_card` wants `format` and `check` beside it.

    Args:
        run: the run.
        metrics: of its metrics.json.
        environment: of its environment.json.
    """
    config = cast(dict[str, Any], OmegaConf.to_container(run.config, resolve=True))
    data, dataset = config["data"], run.data.data.manifest
    return {
        "name": config["model"]["name"],
        **_size(run.network),
        "history_length": data["history_length"],
        "run": run.folder.name,
        "data": {
            "name": dataset["name"],
            "fingerprint": dataset["fingerprint"],
            **{key: dataset[key] for key in ("users", "items", "events")},
            "item_features": [column["name"] for column in dataset["item_columns"]],
            "user_features": [column["name"] for column in dataset["user_columns"]],
            "split": data["split"],
            "negatives": data["negatives"],
        },
        "metrics": metrics,
        "environment": environment,
        "config": config,
    }


def card_of_peer(network: nn.Module, *, name: str, origin: str, options: dict[str, Any], length: int) -> dict[str, Any]:
    """What is known of a network that moved in.

    Args:
        network: as it is here.
        name: what it is called here.
        origin: where it comes from.
        options: of its origin.
        length: the longest history.
    """
    return {"name": name, **_size(network), "history_length": length, "origin": origin, "options": options}


def _size(network: nn.Module) -> dict[str, Any]:
    return {"network": type(network).__name__, "parameters": sum(one.numel() for one in network.parameters())}


def write_card(folder: Path, card: dict[str, Any]) -> None:
    """Write model_card.json and README.md.

    Raises:
        DataError: the card, which may come from a folder that somebody else made, is none.
    """
    try:
        text = markdown(card)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(f"the model card ({CARD_JSON}) is none of dien-export or dien-convert.") from error
    (folder / CARD_JSON).write_text(json.dumps(card, indent=1, sort_keys=True, default=str) + "\n", encoding="utf-8")
    (folder / CARD_MARKDOWN).write_text(text, encoding="utf-8")


def markdown(card: dict[str, Any]) -> str:
    """The card for readers."""
    ours = "run" in card
    where = f"on {card['data']['name']}" if ours else f"moved in from a {card['origin']}"
    lines = [
        f"# {card['name']} {where}",
        "",
        f"Predicts the probability that a user clicks an item from the items clicked before. {card['network']}, "
        f"{card['parameters']:,} parameters, format `{card['format']}`"
        + (f", of run `{card['run']}`." if ours else ". Batch normalisation is folded into the layers."),
        "",
        "## Use",
        USE[card["format"]],
    ]
    if card["format"] != "weights":
        lines.append(INPUTS.rstrip())
    lines += [
        *(_measured(card) if ours else ()),
        "",
        "## Limits",
        "- An item or user that training did not know is scored as an unknown one.",
        f"- Histories are the latest clicks, up to {card['history_length']}: longer ones were never seen in training, "
        "and the runtime leaves their oldest clicks out.",
        f"- Checked when exported: {json.dumps(card['check'])} (largest difference from the trained network's logits).",
        *(_made(card) if ours else _section("Options of the origin", card["options"])),
        "",
    ]
    return "\n".join(lines)


def _measured(card: dict[str, Any]) -> list[str]:
    data = card["data"]
    return [
        "",
        "## Metrics",
        "| metric | value |",
        "| --- | --- |",
        *(f"| {name} | {_number(value)} |" for name, value in sorted(card["metrics"].items())),
        "",
        "At the epoch that validation chose. Scores are relative to how negatives were sampled (below): compare them "
        "with each other, and calibrate them before you read them as rates of real traffic.",
        "",
        "## Data",
        f"- `{data['name']}`: {data['users']:,} users, {data['items']:,} items, {data['events']:,} events",
        f"- fingerprint `{data['fingerprint']}`",
        f"- features of items: {', '.join(data['item_features'])}; of users: {', '.join(data['user_features'])}",
        f"- split `{data['split']}`",
        f"- negatives: `{json.dumps(data['negatives'], sort_keys=True, default=str)}`",
    ]


def _made(card: dict[str, Any]) -> list[str]:
    environment = card["environment"]
    return [
        "",
        "## Environment",
        f"commit `{environment.get('git_commit')}` (dirty: {environment.get('git_dirty')}), seed "
        f"{environment.get('seed')}, python {environment.get('python')}, {environment.get('platform')}",
        *_section("Configuration", card["config"]),
    ]


def _section(title: str, values: dict[str, Any]) -> list[str]:
    return ["", f"## {title}", "```json", json.dumps(values, indent=1, sort_keys=True, default=str), "```"]


def _number(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)

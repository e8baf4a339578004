"""The model card: what a model is, what it was trained on and how well it did, as JSON and as Markdown."""

import json
from pathlib import Path
from typing import Any

CARD_JSON, CARD_MARKDOWN = "model_card.json", "README.md"

USE = {
    "onnx": """```python
from dien.export.runtime import Scorer  # numpy and onnxruntime only

scorer = Scorer("this folder")
scorer.rank("a user id", history=["item clicked first", "item clicked last"], candidates=["item", "item"], top=10)
```
Without the package: `model.onnx` takes row numbers. `ids.json` lists the raw ids in the order of their rows: the first
one is row 2; row 0 is padding, row 1 anything unknown.""",
    "pt2": """```python
import torch  # nothing else

program = torch.export.load("model.pt2").module()
scores, logits = program(user, history, length, candidates)
```
It takes row numbers. `ids.json` lists the raw ids in the order of their rows: the first one is row 2; row 0 is padding,
row 1 anything unknown.""",
    "weights": """```python
from dien.export.weights import load_weights

network = load_weights("this folder")  # the network of dien-train, in evaluation mode
```
`model.safetensors` holds the weights, `tables.safetensors` the features of items and users, `config.json` the rest.
`ids.json` lists the raw ids in the order of their rows: the first one is row 2; row 0 is padding, row 1 anything
unknown.""",
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


def card_of(
    *,
    kind: str,
    run: str,
    config: dict[str, Any],
    metrics: dict[str, Any],
    environment: dict[str, Any],
    dataset: dict[str, Any],
    network: str,
    parameters: int,
    check: dict[str, Any],
) -> dict[str, Any]:
    """Everything that is known of a model, as plain values.

    Args:
        kind: the format of the export.
        run: name of the run folder.
        config: the run's configuration.
        metrics: of its metrics.json.
        environment: of its environment.json.
        dataset: the manifest of its prepared dataset.
        network: class of the network.
        parameters: how many numbers it learned.
        check: how far the exported program was from the network, on which inputs.
    """
    data = config["data"]
    return {
        "name": config["model"]["name"],
        "format": kind,
        "network": network,
        "parameters": parameters,
        "run": run,
        "data": {
            "name": dataset["name"],
            "fingerprint": dataset["fingerprint"],
            **{key: dataset[key] for key in ("users", "items", "events")},
            "item_features": [column["name"] for column in dataset["item_columns"]],
            "user_features": [column["name"] for column in dataset["user_columns"]],
            "split": data["split"],
            "history_length": data["history_length"],
            "negatives": data["negatives"],
        },
        "metrics": metrics,
        "check": check,
        "environment": environment,
        "config": config,
    }


def write_card(folder: Path, card: dict[str, Any]) -> None:
    """Write model_card.json and README.md."""
    (folder / CARD_JSON).write_text(json.dumps(card, indent=1, sort_keys=True, default=str) + "\n", encoding="utf-8")
    (folder / CARD_MARKDOWN).write_text(markdown(card), encoding="utf-8")


def markdown(card: dict[str, Any]) -> str:
    """The card for readers."""
    data, environment = card["data"], card["environment"]
    lines = [
        f"# {card['name']} on {data['name']}",
        "",
        f"Predicts the probability that a user clicks an item from the items clicked before. {card['network']}, "
        f"{card['parameters']:,} parameters, format `{card['format']}`, of run `{card['run']}`.",
        "",
        "## Use",
        USE[card["format"]],
    ]
    if card["format"] != "weights":
        lines.append(INPUTS.rstrip())
    lines += [
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
        f"- split `{data['split']}`; histories of up to {data['history_length']} clicks, the latest ones",
        f"- negatives: `{json.dumps(data['negatives'], sort_keys=True, default=str)}`",
        "",
        "## Limits",
        "- An item or user that the log did not have is scored as an unknown one.",
        "- Clicks beyond the history length above were never seen in training; the runtime leaves the oldest out.",
        f"- Checked when exported: {json.dumps(card['check'])} (largest difference from the trained network's logits).",
        "",
        "## Environment",
        f"commit `{environment.get('git_commit')}` (dirty: {environment.get('git_dirty')}), seed "
        f"{environment.get('seed')}, python {environment.get('python')}, {environment.get('platform')}",
        "",
        "## Configuration",
        "```json",
        json.dumps(card["config"], indent=1, sort_keys=True, default=str),
        "```",
        "",
    ]
    return "\n".join(lines)


def _number(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)

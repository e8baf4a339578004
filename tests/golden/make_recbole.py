"""Writes tests/golden/recbole/*.npz and *.pth: RecBole's or hopwise's own DIEN, its weights, inputs and scores.

Run it in an environment of the peer, such as one that scripts/benchmark.py makes:

    python tests/golden/make_recbole.py recbole tests/golden/recbole
    python tests/golden/make_recbole.py hopwise tests/golden/recbole

A file holds `weights/NAME` (the state dict), `config` (JSON), `items/I`, `users/I` (values of the features, in the
order of the embedding), `user`, `history`, `length`, `target` and `scores` (their `predict`). All weights are random,
batch statistics too: every part has to matter. One checkpoint, as their trainer saves it, is left beside them.
"""

import importlib
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch

for name, value in {"float_": np.float64, "complex_": np.complex128, "unicode_": np.str_, "bool8": np.bool_}.items():
    setattr(np, name, value)  # what NumPy 2 no longer has
_agg = pd.Series.agg
pd.Series.agg = lambda self, func, *a, **k: self.map(len) if func is len else _agg(self, func, *a, **k)  # nor pandas 3
GRU_TYPES = ["GRU", "AIGRU", "AGRU", "AUGRU"]
USERS, ITEMS, LENGTH = 6, 12, 7


def write_dataset(folder: Path, rich: bool) -> None:
    """Atomic files; `rich`: a category, tags of several values and a user feature."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    clicks = [f"u{n % USERS}\ti{n * 5 % ITEMS}\t{n}" for n in range(4 * ITEMS)]
    (folder / "golden.inter").write_text("\n".join(["user_id:token\titem_id:token\ttimestamp:float", *clicks]) + "\n")
    if rich:
        items = [
            f"i{i}\tc{i % 3}\t{' '.join(f't{t}' for t in rng.choice(5, 1 + i % 3, replace=False))}"
            for i in range(ITEMS)
        ]
        users = [f"u{u}\ta{u % 4}" for u in range(USERS)]
        (folder / "golden.item").write_text("\n".join(["item_id:token\tcategory:token\ttags:token_seq", *items]) + "\n")
        (folder / "golden.user").write_text("\n".join(["user_id:token\tage:token", *users]) + "\n")


def build(peer: str, gru_type: str, pooling: str, rich: bool):
    config_class = importlib.import_module(f"{peer}.config").Config
    create_dataset = importlib.import_module(f"{peer}.data").create_dataset
    model = importlib.import_module(f"{peer}.model.sequential_recommender").DIEN
    torch.autograd.set_detect_anomaly(False)  # importing their sequential models switches it on
    with tempfile.TemporaryDirectory() as root:
        write_dataset(Path(root) / "golden", rich)
        columns = {"inter": ["user_id", "item_id", "timestamp"]}
        if rich:
            columns |= {"item": ["item_id", "category", "tags"], "user": ["user_id", "age"]}
        config = config_class(
            model="DIEN",
            dataset="golden",
            config_dict={
                "data_path": root,
                "load_col": columns,
                "MAX_ITEM_LIST_LENGTH": LENGTH,
                "embedding_size": 3,
                "mlp_hidden_size": [6, 5],
                "gru_type": gru_type,
                "pooling_mode": pooling,
                "use_gpu": False,
                "state": "ERROR",
                "train_neg_sample_args": None,
                "checkpoint_dir": root,
            },
        )
        dataset = create_dataset(config).build()[0]
    if rich:
        dataset.get_item_feature()["category"][0] = 0  # pandas 3 leaves it unset
    torch.manual_seed(1)
    network = model(config, dataset)
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape) + 0.5 if "running_var" in name else torch.randn(tensor.shape))
    return config, dataset, network.eval()


def features(network, kind: str) -> list[np.ndarray]:
    """Values by id: single features, then those of several values, as their embedding joins them."""
    layer = network.embedding_layer
    names = [*layer.token_field_names[kind], *layer.token_seq_field_names[kind]]
    sizes = [*layer.token_field_dims[kind], *layer.token_seq_field_dims[kind]]
    table = layer.user_feat if kind == "user" else layer.item_feat
    return [(name, int(size), table[name].numpy()) for name, size in zip(names, sizes, strict=True)]


def main(peer: str, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    cases = [(gru_type, "mean", True) for gru_type in GRU_TYPES]
    cases += [("AUGRU", "sum", True), ("AUGRU", "max", True), ("AUGRU", "mean", False)]
    for gru_type, pooling, rich in cases:
        config, _, network = build(peer, gru_type, pooling, rich)
        interaction = importlib.import_module(f"{peer}.data.interaction").Interaction
        generator = torch.Generator().manual_seed(2)
        length = torch.tensor([LENGTH, 1, 3, 2])
        history = torch.randint(1, ITEMS + 1, (4, LENGTH), generator=generator)
        history[torch.arange(LENGTH) >= length[:, None]] = 0
        user = torch.randint(1, USERS + 1, (4,), generator=generator)
        target = torch.randint(1, ITEMS + 1, (4,), generator=generator)
        batch = interaction(
            {
                network.USER_ID: user,
                network.ITEM_SEQ: history,
                network.NEG_ITEM_SEQ: history.flip(0),
                network.ITEM_SEQ_LEN: length,
                network.POS_ITEM_ID: target,
            }
        )
        with torch.no_grad():
            network.dnn_predict_layer.bias -= network.predict(batch).double().logit().mean()  # away from 0 and 1
            scores = network.predict(batch)
        keys = ("embedding_size", "mlp_hidden_size", "gru_type", "pooling_mode", "dropout_prob", "alpha")
        name = f"{peer}-{gru_type}-{pooling}{'' if rich else '-ids'}"
        options = {key: config[key] for key in keys}
        item_fields, user_fields = features(network, "item"), features(network, "user")
        description = {
            "config": options,
            "items": [field[:2] for field in item_fields],
            "users": [field[:2] for field in user_fields],
        }
        np.savez_compressed(
            out / f"{name}.npz",
            description=np.array(json.dumps(description)),
            user=user.numpy(),
            history=history.numpy(),
            length=length.numpy(),
            target=target.numpy(),
            scores=scores.numpy(),
            **{f"items/{i}": field[2] for i, field in enumerate(item_fields)},
            **{f"users/{i}": field[2] for i, field in enumerate(user_fields)},
            **{f"weights/{key}": value.numpy() for key, value in network.state_dict().items()},
        )
        if (gru_type, pooling, rich) == ("AUGRU", "mean", True):  # as their trainer saves it
            state = {"config": config, "epoch": 0, "state_dict": network.state_dict(), "optimizer": {}}
            state["other_parameter"] = network.other_parameter()
            torch.save(state, out / f"{peer}.pth", pickle_protocol=4)
        print(name, scores.tolist())


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))

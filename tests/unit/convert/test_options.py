"""What a peer's configuration may say, and one sentence for what it may not."""

import pytest
import torch

from dien.convert.checkpoint import read_peer
from dien.convert.peer import Options
from dien.errors import ConfigError

GOOD = {"embedding_size": 8, "mlp_hidden_size": [16, 8], "gru_type": "AUGRU", "alpha": 1, "dropout_prob": 0.5}


def test_good_options():
    assert Options.of(GOOD) == Options(8, [16, 8], "AUGRU", "mean", 0.5, 1)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("mlp_hidden_size", value) for value in (8, ["a"], [0], [], "ab", [True])),
        *(("alpha", value) for value in ("x", -1, None)),
        *(("dropout_prob", value) for value in ("x", 1.0, -0.1)),
        ("embedding_size", "x"),
        ("gru_type", ["AUGRU"]),
    ],
)
def test_bad_options_are_one_sentence(key, value):
    with pytest.raises(ConfigError, match=rf"^{key}=.*\.$"):
        Options.of(GOOD | {key: value})


@pytest.mark.parametrize("value", ["x", -1, 0])
def test_a_bad_length_is_one_sentence(tmp_path, value):
    torch.save({"interset_extractor.x": torch.zeros(1)}, tmp_path / "x.pth")
    with pytest.raises(ConfigError, match=r"^MAX_ITEM_LIST_LENGTH="):
        read_peer(tmp_path / "x.pth", GOOD | {"MAX_ITEM_LIST_LENGTH": value})

"""The authors' networks on this project's batches, from scratch and from files; equality is shown in `tests/golden`."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dien.batch import Batch
from dien.errors import ConfigError, DataError
from dien.model.authors import VARIANTS, AuthorsNetwork, Sizes, build, load
from dien.module import ClickModule
from dien.tables import Column

RECURRENT = ["gru_gru_att", "gru_att_gru", "gru_qa_attgru", "gru_vec_attgru", "dien"]
LENGTHS = [4, 0, 1, 7, 2]


@pytest.fixture
def make(item_table, user_table):
    def network(variant: str, **options) -> AuthorsNetwork:
        return build(item_table, user_table, variant=variant, embedding_size=3, **options)

    return network


def saved(network: AuthorsNetwork, path: Path) -> Path:
    """A file in the format of the golden ones."""
    state = network.state_dict()
    np.savez(path, **{f"var/{name.replace('.', '/')}:0": tensor.numpy() for name, tensor in state.items()})
    return path


def test_an_unknown_variant_is_named_beside_the_allowed_ones(make, tmp_path):
    for build_it in (lambda: make("DIEN"), lambda: load(tmp_path / "none.npz", "DIEN")):
        with pytest.raises(ConfigError, match="variant='DIEN' is not one of dnn, pnn, wide, din, gru_gru_att, "):
            build_it()


def test_embedding_size_is_checked(item_table, user_table):
    with pytest.raises(ConfigError, match=r"model\.embedding_size=0 is out of range"):
        build(item_table, user_table, variant="dnn", embedding_size=0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_starts_as_tensorflow_does(variant):
    network = VARIANTS[variant](Sizes(50, 60, 70))
    for name, tensor in network.state_dict().items():
        last = name.rsplit(".", 1)[-1]
        if last == "kernel" or name.endswith("embedding_var"):
            bound = (6 / sum(tensor.shape)) ** 0.5
            assert tensor.abs().max() <= bound
            assert tensor.std() == pytest.approx(bound / 3**0.5, rel=0.2), name
            continue
        expected = {"gamma": 1.0, "moving_variance": 1.0}.get(last, 0.1 if last.startswith("prelu_") else 0.0)
        if name.endswith("gates.bias"):
            expected = 1.0
        assert torch.equal(tensor, torch.full_like(tensor, expected)), name


def test_heads_are_as_wide_as_the_authors():
    widths = {"dnn": 90, "wide": 90, "pnn": 126} | dict.fromkeys(["din", *RECURRENT], 162)
    for variant, cls in VARIANTS.items():
        assert len(cls(Sizes(1, 1, 1)).bn1.gamma) == widths[variant]


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_batch_becomes_what_their_graph_is_fed(make, make_batch, item_table, variant):
    """Ids by hand: theirs are ours less 1 (users: less 2), and the category comes from the item table."""
    network, batch = make(variant), make_batch(LENGTHS, negatives=2)
    category = item_table[1].values
    fed = {
        "uid": batch.user_B - 2,
        "mid": batch.target_B - 1,
        "cat": category[batch.target_B] - 1,
        "mid_his": (batch.history_BT - 1).clamp(min=0),
        "cat_his": (category[batch.history_BT] - 1).clamp(min=0),
        "mask": torch.arange(7) < batch.length_B[:, None],
        "seq_len": batch.length_B,
        "target": torch.stack([batch.label_B, 1 - batch.label_B], 1),
        "noclk_mid": (batch.negative_BT - 1).clamp(min=0),
        "noclk_cat": (category[batch.negative_BT] - 1).clamp(min=0),
    }
    theirs, output = network.run(fed), network(batch)
    torch.testing.assert_close(output.logit_B.sigmoid() + network.epsilon, theirs["y_hat"][:, 0])
    loss = network.ctr_loss(output, batch)
    if variant == "dien":
        loss = loss + network.auxiliary_loss(output, batch)
    torch.testing.assert_close(loss, theirs["loss"])
    if variant in RECURRENT:
        torch.testing.assert_close(output.steps.padded(output.interest_NH), theirs["GRU_outputs"])
    assert hasattr(network, "auxiliary_loss") == (variant == "dien")


def test_the_click_loss_is_half_of_the_log_loss(make, make_batch):
    network, batch = make("dien"), make_batch(LENGTHS)
    output = network(batch)
    usual = F.binary_cross_entropy_with_logits(output.logit_B, batch.label_B)
    torch.testing.assert_close(network.ctr_loss(output, batch), usual / 2)


def test_the_auxiliary_loss_is_divided_by_padded_cells_and_reads_one_negative(make, make_batch):
    network, batch = make("dien"), make_batch(LENGTHS, negatives=2)
    output = network(batch)
    loss = network.auxiliary_loss(output, batch)
    states = output.steps.padded(output.interest_NH)
    fed, total = network.inputs(batch), 0.0

    def probability(state, mid, cat):
        x = torch.cat([state, network.mid_embedding_var[mid], network.cat_embedding_var[cat]])
        x = network.f2gru(network.f1gru(network.bn1gru(x)).sigmoid()).sigmoid()
        return network.f3gru(x).softmax(0)[0]

    for b, length in enumerate(LENGTHS):
        for t in range(1, length):
            click = probability(states[b, t - 1], fed.mid_his[b, t], fed.cat_his[b, t])
            other = probability(states[b, t - 1], fed.noclk_mid[b, t, 0], fed.noclk_cat[b, t, 0])
            total = total - click.log() - (1 - other).log()
    torch.testing.assert_close(loss, total / (len(LENGTHS) * (max(LENGTHS) - 1)))
    batch.negative_BT[..., 1] = 7
    assert network.auxiliary_loss(output, batch) == loss


def rows(batch: Batch, chosen: list[int]) -> Batch:
    """Some rows, padded as before."""
    return Batch(*(field[chosen] for field in batch))


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_score_depends_on_padding(make, make_batch, variant):
    """Their artefact, which our own networks must not have: the sum of the history counts padding as item 0."""
    network, batch = make(variant).eval(), rows(make_batch(LENGTHS), [0, 4])
    narrow = batch._replace(history_BT=batch.history_BT[:, :4], negative_BT=batch.negative_BT[:, :4])
    assert (network(batch).logit_B - network(narrow).logit_B).abs().max() > 1e-4
    with torch.no_grad():  # once padding is a vector of zeros, it is not seen
        network.mid_embedding_var[0] = network.cat_embedding_var[0] = 0.0
    torch.testing.assert_close(network(batch).logit_B, network(narrow).logit_B)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_score_depends_on_the_other_rows_through_dice(make, make_batch, variant):
    """Their artefact in evaluation: Dice normalises with the batch at hand. PReLU, of the baselines, does not."""
    network, batch = make(variant).eval(), make_batch(LENGTHS)
    difference = (network(batch).logit_B[:2] - network(rows(batch, [0, 1])).logit_B).abs().max()
    assert (difference > 1e-4) == (variant not in ("dnn", "pnn", "wide"))


@pytest.mark.parametrize("lengths", [[0], [1], [0, 0], [1, 1, 1], [0, 1]])
@pytest.mark.parametrize("variant", VARIANTS)
def test_short_histories_and_single_rows_train(make, make_batch, variant, lengths):
    """Trap of the authors' code: it crashes when no history of a batch is longer than 1."""
    network, batch = make(variant), make_batch(lengths)
    output = network(batch)
    loss = network.ctr_loss(output, batch)
    if variant == "dien":
        aux_loss = network.auxiliary_loss(output, batch)
        assert aux_loss == 0
        loss = loss + aux_loss
    loss.backward()
    for parameter in network.parameters():
        assert parameter.grad is None or torch.isfinite(parameter.grad).all()


def test_a_row_without_history_attends_to_its_padding_evenly(make, make_batch):
    network, batch = make("din"), make_batch([4, 0])
    weights = network.run(network.inputs(batch))["alpha_outputs"]
    torch.testing.assert_close(weights[1], torch.full((4,), 0.25))


def test_padding_and_unknown_are_one_id_and_an_unknown_user_is_the_first(make, make_batch):
    network, batch = make("dnn"), make_batch(LENGTHS)
    batch.user_B[:] = torch.tensor([0, 1, 2, 3, 13])
    batch.target_B[:] = torch.tensor([0, 1, 2, 3, 31])
    fed = network.inputs(batch)
    assert fed.uid.tolist() == [0, 0, 0, 1, 11]
    assert fed.mid.tolist() == [0, 0, 1, 2, 30]
    assert (len(network.uid_embedding_var), len(network.mid_embedding_var)) == (12, 31)


def test_rows_unseen_in_training_share_the_unknown_id_but_keep_their_category(make_batch, item_table, user_table):
    unseen = item_table[0].values.clone()
    unseen[20:] = 1
    network = build((item_table[0]._replace(values=unseen), *item_table[1:]), user_table, variant="pnn")
    batch = make_batch([1])
    batch.target_B[:] = 25
    fed = network.inputs(batch)
    assert fed.mid.item() == 0
    assert fed.cat.item() == item_table[1].values[25] - 1


def test_the_category_is_the_second_column_or_the_one_that_is_named(make, item_table):
    assert torch.equal(make("dnn").cat_R, (item_table[1].values - 1).clamp(min=0))
    network = make("dnn", category="tags")  # multi-valued: its first entry
    assert torch.equal(network.cat_R, (item_table[2].values[:, 0] - 1).clamp(min=0))
    assert len(network.cat_embedding_var) == 8


@pytest.mark.parametrize("category", ["colour", "price", "item_id"])
def test_a_category_that_is_none_is_named_beside_the_features(make, category):
    with pytest.raises(ConfigError, match=rf"model\.category={category} .* are category, tags\."):
        make("dnn", category=category)


def test_items_without_a_category_are_an_error(item_table, user_table):
    price = Column("price", "float", 1, torch.zeros(32))
    with pytest.raises(ConfigError, match="categorical features are none, and model=authors needs one"):
        build((item_table[0], price), user_table, variant="dnn")


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_parameter_learns_with_the_lightning_module(make, make_batch, variant):
    network, batch = make(variant), make_batch([6, 5, 7, 3])
    alpha = 1.0 if variant == "dien" else 0.0
    module = ClickModule(network, optimizer=torch.optim.Adam, schedule=lambda optimizer: optimizer, alpha=alpha)
    output = module(batch)
    loss = network.ctr_loss(output, batch)
    if alpha:
        loss = loss + network.auxiliary_loss(output, batch)
    loss.backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        invariant = "f3_att" in name and name.endswith("bias")  # a softmax does not see it
        assert invariant or parameter.grad.abs().max() > 0, name


def test_alpha_without_an_auxiliary_loss_is_an_error(make):
    with pytest.raises(ConfigError, match=r"model\.alpha=1\.0 must be 0: DIN has no auxiliary loss"):
        ClickModule(make("din"), optimizer=torch.optim.Adam, schedule=lambda optimizer: optimizer, alpha=1.0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_file_gives_the_same_network(make, make_batch, item_table, user_table, tmp_path, variant):
    network, batch = make(variant), make_batch(LENGTHS)
    by_name = load(saved(network, tmp_path / f"{network.model_type}.npz"))
    by_our_name = load(str(saved(network, tmp_path / f"{variant}.npz")))
    by_argument = load(saved(network, tmp_path / "weights.npz"), variant)
    with np.load(tmp_path / f"{variant}.npz") as arrays:
        opened = load(arrays)
    for loaded in (by_name, by_our_name, by_argument, opened):
        assert type(loaded) is type(network)
        assert all(parameter.requires_grad for parameter in loaded.parameters())
        scores = loaded.with_tables(item_table, user_table)(batch).logit_B
        assert torch.equal(scores, network(batch).logit_B)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_variables_tell_the_variant_but_for_two_pairs(make, tmp_path, variant):
    path = saved(make(variant), tmp_path / "weights.npz")
    twins = {"gru_gru_att": "gru_gru_att or gru_att_gru", "gru_qa_attgru": "gru_qa_attgru or gru_vec_attgru"}
    twins |= {"gru_att_gru": twins["gru_gru_att"], "gru_vec_attgru": twins["gru_qa_attgru"]}
    if variant in twins:
        with pytest.raises(ConfigError, match=rf"weights\.npz may be {twins[variant]}, .* say which"):
            load(path)
    else:
        assert type(load(path)) is VARIANTS[variant]


def test_loading_draws_no_random_numbers(make, tmp_path):
    path = saved(make("dien"), tmp_path / "DIEN.npz")
    before = torch.get_rng_state()
    load(path)
    assert torch.equal(torch.get_rng_state(), before)


def test_files_that_do_not_fit_are_errors(make, tmp_path):
    path = saved(make("din"), tmp_path / "DIEN.npz")
    with pytest.raises(DataError, match=r"DIEN\.npz does not hold the variables of dien: bn1gru"):
        load(path)
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    with pytest.raises(DataError, match=r"other\.npz lacks an embedding"):
        load(tmp_path / "other.npz")
    arrays = dict(np.load(path)) | {"var/more/kernel:0": np.zeros((2, 2))}
    with pytest.raises(DataError, match="the file does not hold the variables of any of dnn, "):
        load(arrays)
    (tmp_path / "text.npz").write_text("nothing")
    with pytest.raises(DataError, match=r"text\.npz is not an \.npz file"):
        load(tmp_path / "text.npz")
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(DataError, match="one array without a name"):
        load(tmp_path / "one.npy")
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "absent.npz")


def test_a_file_with_pickled_objects_is_not_read(tmp_path):
    np.savez(tmp_path / "DNN.npz", **{"var/f1/kernel:0": np.array([{}], dtype=object)})
    with pytest.raises(DataError, match=r"DNN\.npz is not an \.npz file of named arrays: Object arrays"):
        load(tmp_path / "DNN.npz")


def test_a_network_from_a_file_needs_tables_for_a_batch(make, make_batch, item_table, user_table, tmp_path):
    network = load(saved(make("dnn"), tmp_path / "DNN.npz"))
    with pytest.raises(ConfigError, match="give the network its tables"):
        network(make_batch(LENGTHS))
    fewer = (user_table[0]._replace(size=10), *user_table[1:])
    with pytest.raises(
        DataError, match="the tables hold 8 users, 31 items and 6 categories, but the network embeds 12"
    ):
        network.with_tables(item_table, fewer)


def test_a_feed_that_lacks_something_is_an_error(make):
    with pytest.raises(DataError, match="the batch lacks cat, mid_his, cat_his, mask, seq_len: it needs uid, mid, cat"):
        make("dnn").run({"in/uid": np.zeros(1), "mid": np.zeros(1)})

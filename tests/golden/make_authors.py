"""Makes the golden files of `tests/golden/authors`: `python tests/golden/make_authors.py`.

The authors' nine TensorFlow graphs (`script/model.py`, `utils.py`, `Dice.py` of the public repository mouna99/dien),
restated in numpy in double precision and run on tiny random weights and one awkward batch. A graph is run on one row
after another, but for Dice, which sees the whole batch. Gradients are exact: the imaginary part of the loss at
`weight + 1e-30 i`, divided by 1e-30 (the complex step), which has no rounding error of differences and knows nothing
of backpropagation. Nothing of the package is imported.

A file holds `names` and `shapes` of the variables under TensorFlow's names, their values and gradients as one flat
vector each (a zip entry per variable would be larger than the variable), `in/*` and `out/*`.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

FOLDER = Path(__file__).parent / "authors"
USERS, ITEMS, CATEGORIES = 4, 8, 4
EMBEDDING, HEAD, ATTENTION, AUXILIARY = 2, (6, 5), (4, 3), (5, 4)
ITEM = 2 * EMBEDDING
LENGTHS = [6, 3, 1, 0, 4]
SPREAD = {"f1_att": 1.0, "_att": 3.0, "gru": 2.0, "f11": 1.0}
"""Standard deviation of weights by a part of their name, 0.5 elsewhere: every part of a model has to matter."""

Array = NDArray[np.complex128]
Variables = dict[str, Array]


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def softmax(x: Array) -> Array:
    e = np.exp(x - x.real.max())
    return e / e.sum()


def prelu(x: Array, alpha: Array) -> Array:
    return np.where(x.real > 0, x, alpha * x)


def dense(v: Variables, name: str, x: Array) -> Array:
    return x @ v[f"{name}/kernel"] + v[f"{name}/bias"]


def normalised(v: Variables, name: str, x: Array) -> Array:
    """Batch normalisation whose moving mean and variance are 0 and 1 for ever."""
    return v[f"{name}/gamma"] * x / np.sqrt(1.001) + v[f"{name}/beta"]


def dice(v: Variables, name: str, x_BD: Array) -> Array:
    centred = x_BD - x_BD.mean(0)
    p = sigmoid(centred / (np.sqrt((centred**2 + 1e-9).mean(0)) + 1e-9))
    return v[f"{name}/alpha{name}"] * (1 - p) * x_BD + p * x_BD


def attention(v: Variables, suffix: str, query: Array, facts: list[Array], mask: NDArray[np.float64]) -> Array:
    """The weight of every step of one row."""
    scores = []
    for fact, real in zip(facts, mask, strict=True):
        x = np.concatenate([query, fact, query - fact, query * fact])
        x = sigmoid(dense(v, f"f2_att{suffix}", sigmoid(dense(v, f"f1_att{suffix}", x))))
        scores.append(dense(v, f"f3_att{suffix}", x)[0] if real == 1 else -(2.0**32) + 1)
    return softmax(np.array(scores))


def plain(a: complex, u: Array) -> Array:
    return u


def qa(a: complex, u: Array) -> Array:
    return np.full_like(u, 1 - a)


def vec(a: complex, u: Array) -> Array:
    return (1 - a) * u


def gru(
    v: Variables, scope: str, xs: list[Array], length: int, keep: Callable[[complex, Array], Array], weights: Array
) -> tuple[list[Array], Array]:
    """The outputs of one row, 0 after its length, and its last state."""
    state, outputs = np.zeros(ITEM, complex), []
    for t, x in enumerate(xs):
        if t >= length:
            outputs.append(np.zeros(ITEM, complex))
            continue
        r, u = np.split(sigmoid(dense(v, f"{scope}/gates", np.concatenate([x, state]))), 2)
        c = np.tanh(dense(v, f"{scope}/candidate", np.concatenate([x, r * state])))
        kept = keep(weights[t], u)
        state = kept * state + (1 - kept) * c
        outputs.append(state)
    return outputs, state


def run(model: str, v: Variables, batch: dict[str, NDArray[np.float64]]) -> dict[str, Array]:
    """The named tensors of one model of theirs on a batch."""
    rows = [run_row(model, v, {name: values[b] for name, values in batch.items()}) for b in range(len(LENGTHS))]
    out = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    x = dense(v, "f1", normalised(v, "bn1", out.pop("head")))
    for layer, following in ((1, "f2"), (2, "f3")):
        if model in ("DNN", "PNN"):
            x = prelu(x, v[f"prelu{layer}/prelu_prelu{layer}"])
        elif model == "Wide":
            x = prelu(x, v[f"p{layer}/prelu_p{layer}"])
        else:
            x = dice(v, f"dice_{layer}", x)
        x = dense(v, following, x)
    if model == "Wide":
        x = x + dense(v, "f_fm", out.pop("wide"))
    out["y_hat"] = np.array([softmax(row) for row in x]) + (0 if model == "Wide" else 1e-8)
    out["loss"] = -(np.log(out["y_hat"]) * batch["target"]).sum() / batch["target"].size
    if model == "DIEN":
        cells = out.pop("aux")
        out["aux_loss"] = cells.sum() / cells.size
        out["loss"] = out["loss"] + out["aux_loss"]
    out["accuracy"] = (np.round(out["y_hat"].real) == batch["target"]).mean()
    return out


def run_row(model: str, v: Variables, row: dict[str, NDArray[np.float64]]) -> dict[str, Array]:
    def vectors(mid: str, cat: str) -> list[Array]:
        ids = zip(np.atleast_1d(row[mid]), np.atleast_1d(row[cat]), strict=True)
        return [np.concatenate([v["mid_embedding_var"][m], v["cat_embedding_var"][c]]) for m, c in ids]

    user, item, history = v["uid_embedding_var"][row["uid"]], vectors("mid", "cat")[0], vectors("mid_his", "cat_his")
    total, steps = sum(history), range(len(history))
    head, out = [user, item, total], {}
    if model == "Wide":
        out["wide"] = np.concatenate([item, total, item * total])
    elif model != "DNN":
        head.append(item * total)
    if model == "DIN":
        weights = attention(v, "null", item, history, row["mask"])
        out["att_fea"] = sum(weights[t] * history[t] for t in steps)
        head.append(out["att_fea"])
    if "gru1/gru_cell/gates/bias" in v:
        length, none, query = int(row["seq_len"]), np.zeros(len(history)), prelu(dense(v, "f11_1", item), v["prelu_"])
        first, _ = gru(v, "gru1/gru_cell", history, length, plain, none)
        if model == "DIN-V2-gru-gru-att":
            second, _ = gru(v, "gru2/gru_cell", first, length, plain, none)
            weights = attention(v, "1_1", query, second, row["mask"])
            out["GRU2_outputs"] = np.array(second)
            head.append(sum(weights[t] * second[t] for t in steps))
            out["att_fea"] = head[-1]
        else:
            weights = out["alpha_outputs"] = attention(v, "1_1", query, first, row["mask"])
            if model == "DIN-V2-gru-att-gru":
                weighted = [weights[t] * first[t] for t in steps]
                _, final = gru(v, "gru2/gru_cell", weighted, length, plain, none)
            else:
                _, final = gru(v, "gru2", first, length, qa if model == "DIN-V2-gru-qa-attGru" else vec, weights)
            head.append(final)
            out["GRU2_Final_State"] = final
        out["GRU_outputs"] = np.array(first)
    if model == "DIEN":

        def probability(state: Array, candidate: Array) -> complex:
            x = normalised(v, "bn1gru", np.concatenate([state, candidate]))
            x = sigmoid(dense(v, "f2gru", sigmoid(dense(v, "f1gru", x))))
            return softmax(dense(v, "f3gru", x))[0] + 1e-8

        row |= {"first_mid": row["noclk_mid"][:, 0], "first_cat": row["noclk_cat"][:, 0]}
        noclick = vectors("first_mid", "first_cat")
        out["aux"] = np.array(
            [
                -(np.log(probability(first[t - 1], history[t])) + np.log(1 - probability(first[t - 1], noclick[t])))
                * row["mask"][t]
                for t in steps[1:]
            ]
        )
    return out | {"head": np.concatenate(head)}


def shapes(model: str) -> dict[str, tuple[int, ...]]:
    """Every variable of a model, in a fixed order."""
    found: dict[str, tuple[int, ...]] = {
        "uid_embedding_var": (USERS, EMBEDDING),
        "mid_embedding_var": (ITEMS, EMBEDDING),
        "cat_embedding_var": (CATEGORIES, EMBEDDING),
    }

    def add_dense(name: str, inputs: int, outputs: int) -> None:
        found.update({f"{name}/kernel": (inputs, outputs), f"{name}/bias": (outputs,)})

    def add_norm(name: str, width: int) -> None:
        found.update({f"{name}/{part}": (width,) for part in ("gamma", "beta", "moving_mean", "moving_variance")})

    width = EMBEDDING + {"DNN": 2, "Wide": 2, "PNN": 3}.get(model, 4) * ITEM
    add_norm("bn1", width)
    for name, inputs, outputs in (("f1", width, HEAD[0]), ("f2", *HEAD), ("f3", HEAD[1], 2)):
        add_dense(name, inputs, outputs)
    for layer, units in enumerate(HEAD, 1):
        prelu_name = f"p{layer}/prelu_p{layer}" if model == "Wide" else f"prelu{layer}/prelu_prelu{layer}"
        found[prelu_name if model in ("DNN", "PNN", "Wide") else f"dice_{layer}/alphadice_{layer}"] = (units,)
    if model == "Wide":
        add_dense("f_fm", 3 * ITEM, 2)
    if model == "DIN" or "gru" in model or model == "DIEN":
        suffix = "null" if model == "DIN" else "1_1"
        for layer, inputs, outputs in ((1, 4 * ITEM, ATTENTION[0]), (2, *ATTENTION), (3, ATTENTION[1], 1)):
            add_dense(f"f{layer}_att{suffix}", inputs, outputs)
    if "gru" in model or model == "DIEN":
        add_dense("f11_1", ITEM, ITEM)
        found["prelu_"] = (ITEM,)
        attentive = model == "DIEN" or model.endswith("attGru")
        for scope in ("gru1/gru_cell", "gru2" if attentive else "gru2/gru_cell"):
            add_dense(f"{scope}/gates", 2 * ITEM, 2 * ITEM)
            add_dense(f"{scope}/candidate", 2 * ITEM, ITEM)
    if model == "DIEN":
        add_norm("bn1gru", 2 * ITEM)
        for layer, inputs, outputs in ((1, 2 * ITEM, AUXILIARY[0]), (2, *AUXILIARY), (3, AUXILIARY[1], 2)):
            add_dense(f"f{layer}gru", inputs, outputs)
    return found


def draw(model: str, rng: np.random.Generator) -> dict[str, NDArray[np.float32]]:
    """Random weights, and moving statistics as they are for ever."""
    values = {}
    for name, shape in shapes(model).items():
        if name.endswith(("moving_mean", "moving_variance")):
            values[name] = np.full(shape, float(name.endswith("variance")), np.float32)
        else:
            centre = 1.0 if name.endswith(("gamma", "gates/bias")) else 0.0
            spread = next((scale for part, scale in SPREAD.items() if part in name), 0.5)
            values[name] = (centre + spread * rng.standard_normal(shape)).astype(np.float32)
    return values


def make_batch(rng: np.random.Generator) -> dict[str, NDArray[np.int64] | NDArray[np.float32]]:
    """Rows of length 0, 1 and T; a mask that is one step longer than the length; ids in the padding."""
    steps = max(LENGTHS)
    real = np.arange(steps) < np.array(LENGTHS)[:, None]
    mask = real.astype(np.float32)
    mask[1, LENGTHS[1]] = 1.0  # an older `prepare_data` of theirs did this for every row
    padded = {name: rng.integers(1, high, real.shape) * real for name, high in (("mid", ITEMS), ("cat", CATEGORIES))}
    padded["mid"][4, -1] = 3  # the sum counts it, the recurrences do not
    click = np.array([1, 0, 1, 0, 0], np.float32)
    return {
        "uid": rng.integers(0, USERS, len(LENGTHS)),
        "mid": rng.integers(1, ITEMS, len(LENGTHS)),
        "cat": rng.integers(1, CATEGORIES, len(LENGTHS)),
        "mid_his": padded["mid"],
        "cat_his": padded["cat"],
        "mask": mask,
        "seq_len": np.array(LENGTHS),
        "target": np.stack([click, 1 - click], 1),
        "noclk_mid": rng.integers(1, ITEMS, (*real.shape, 2)),
        "noclk_cat": rng.integers(1, CATEGORIES, (*real.shape, 2)),
    }


def gradient(model: str, values: dict[str, NDArray[np.float32]], batch: dict[str, NDArray[np.float64]]) -> NDArray:
    """d loss / d every weight, in the order of `values`."""
    v = {name: value.astype(complex) for name, value in values.items()}
    slopes = []
    for name, value in v.items():
        flat = value.reshape(-1)
        for i in range(flat.size):
            if not name.endswith(("moving_mean", "moving_variance")):
                flat[i] += 1e-30j
                slopes.append(run(model, v, batch)["loss"].imag / 1e-30)
                flat[i] = flat[i].real
            else:
                slopes.append(0.0)
    return np.array(slopes)


MODELS = {
    "dnn": "DNN",
    "pnn": "PNN",
    "wide": "Wide",
    "din": "DIN",
    "gru_gru_att": "DIN-V2-gru-gru-att",
    "gru_att_gru": "DIN-V2-gru-att-gru",
    "gru_qa_attgru": "DIN-V2-gru-qa-attGru",
    "gru_vec_attgru": "DIN-V2-gru-vec-attGru",
    "dien": "DIEN",
}


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for seed, (variant, model) in enumerate(MODELS.items()):
        rng = np.random.default_rng(seed)
        batch, values = make_batch(rng), draw(model, rng)
        out = run(model, {name: value.astype(complex) for name, value in values.items()}, batch)
        np.savez_compressed(
            FOLDER / f"{variant}.npz",
            names=np.array(list(values)),
            shapes=np.array([[*value.shape, 0][:2] for value in values.values()]),
            var=np.concatenate([value.ravel() for value in values.values()]),
            grad=gradient(model, values, batch).astype(np.float32),
            **{f"in/{name}": value for name, value in batch.items()},
            **{f"out/{name}": np.real(value).astype(np.float32) for name, value in out.items()},
        )
        print(variant, (FOLDER / f"{variant}.npz").stat().st_size, "bytes")


if __name__ == "__main__":
    main()

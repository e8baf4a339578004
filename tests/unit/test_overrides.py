"""What a run folder may bring along as options, and that nothing else gets as far as Hydra."""

import pytest

from dien.errors import DienError
from dien.overrides import check_from_file, parse


@pytest.mark.parametrize(
    ("argument", "parts"),
    [
        ("seed=3", ("seed", "", "3")),
        ("++data.source.path=a=b", ("data.source.path", "", "a=b")),
        ("+model/evolution@model.other=gru", ("model/evolution", "model.other", "gru")),
        ("~callbacks.progress", ("callbacks.progress", "", "")),
        ("name=two\nlines", ("name", "", "two\nlines")),
        ("ckpt=", ("ckpt", "", "")),
    ],
)
def test_parts_of_an_override(argument, parts):
    assert parse(argument) == parts


@pytest.mark.parametrize("argument", ["-m", "--multirun", "--cfg=job", "job", "seed", "", "=3", "a..b=1", "/a=1"])
def test_anything_else_is_none(argument):
    assert parse(argument) is None


@pytest.mark.parametrize(
    "argument",
    [
        "seed=3",
        "data.source.events=../log.csv",
        "name=${model.name}_${seed}",
        "+schedule.gamma=0.5",
        "logger=[wandb,tensorboard]",
        "~callbacks.early_stopping",
        "model.hydration=1",
        "data=hydra_log",
    ],
)
def test_options_are_taken(argument):
    assert check_from_file(argument, "environment.json") == argument


@pytest.mark.parametrize(
    "argument",
    [
        "hydra.run.dir=/elsewhere",
        "+hydra.callbacks.e._target_=os.system",
        "++hydra.callbacks.e._target_=os.system",
        "~hydra.callbacks",
        "+hydra={callbacks: {e: {_target_: os.system}}}",
        "hydra/launcher=other",
        "+model@hydra.callbacks=dien",
        "+model@model:hydra.callbacks=dien",
        "--experimental-rerun=x.pickle",
        "-cd=/elsewhere",
        " hydra.run.dir=/elsewhere",
        "experiment=../../../../tmp/evil",
        "logger=[csv,../../evil]",
        "+model/evolution=../../evil",
        "experiment=${now:.}${now:.}/evil",
        "data=${seed}",
        "[hydra].run.dir=/elsewhere",
        "model",
        "",
        None,
        3,
        ["seed=3"],
        {"seed": 3},
    ],
)
def test_what_is_no_option_is_refused_by_name(argument):
    with pytest.raises(DienError, match=r"^run/environment.json: the override .* sets no option of dien") as error:
        check_from_file(argument, "run/environment.json")
    assert repr(str(argument))[:80] in str(error.value)

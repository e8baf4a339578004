"""What a configuration may name: classes of the project and of its trainers, and nothing that runs a command."""

import pytest
import torch
from omegaconf import OmegaConf

from dien.errors import ConfigError
from dien.model.layers import Head
from dien.targets import check_interpolation, instantiate

HOSTILE = [
    "os.system",
    "subprocess.Popen",
    "builtins.eval",
    "dien.data.storage.os.system",  # through a module of ours to what it imports
    "dien.data.storage.shutil.rmtree",
    "dien.runs.folder.subprocess.run",
    "dien.runs.folder.write_text",  # ours, but no class: it writes any file
    "dien.build.OmegaConf",
    "dien.data.storage.Path",
    "torch.optim.adam.torch.load",
    "torch.load",
    "lightning.pytorch.trainer.trainer.os.system",
    "lightning.pytorch.seed_everything",
    "dienX.Thing",
    "dien",
    "",
    3,
    None,
]


@pytest.mark.parametrize("target", HOSTILE)
def test_hostile_targets_are_refused_in_one_sentence(target, tmp_path):
    trace = tmp_path / "trace"
    for node in (
        {"_target_": target, "_args_": [f"touch {trace}"]},
        {"_target_": "dien.model.layers.Head", "input_size": {"deep": [{"_target_": target, "args": str(trace)}]}},
    ):
        with pytest.raises(ConfigError, match=r"_target_=.* is not allowed: a configuration may name classes of dien,"):
            instantiate(OmegaConf.create(node))
    assert not trace.exists()


def test_a_target_hidden_in_an_interpolation_is_seen():
    config = OmegaConf.create({"a": {"_target_": "${b}"}, "b": "os.system"})
    with pytest.raises(ConfigError, match=r"a\._target_='os\.system' is not allowed"):
        instantiate(config.a)


def test_a_misspelt_target_is_said_to_be_missing():
    with pytest.raises(ConfigError, match=r"_target_='dien\.model\.layers\.Haed' does not exist"):
        instantiate(OmegaConf.create({"_target_": "dien.model.layers.Haed"}))


def test_what_the_project_needs_is_built():
    node = OmegaConf.create({"_target_": "dien.model.layers.Head", "input_size": 3, "hidden": [2]})
    head = instantiate(node, _convert_="all")
    assert isinstance(head, Head)
    sgd = instantiate(OmegaConf.create({"_target_": "torch.optim.SGD", "_partial_": True, "lr": 0.5}))
    assert isinstance(sgd(head.parameters()), torch.optim.SGD)


def test_own_packages_are_allowed_by_the_environment_only(monkeypatch):
    node = OmegaConf.create({"_target_": "fractions.Fraction", "numerator": 3})
    with pytest.raises(ConfigError, match="set DIEN_TARGETS=PACKAGE"):
        instantiate(node)
    monkeypatch.setenv("DIEN_TARGETS", "mine,fractions")
    assert instantiate(node) == 3


@pytest.mark.parametrize(
    "text",
    [
        "name=${model.name}_${.seed}",
        "name=${hydra:job.num}_${now:%Y}",
        "alpha=${oc.select:.auxiliary.${.variant},0.0}",
        "a=[1,{b: {c: ${d}}}]",
        "a=}{$",
        "-m",
    ],
)
def test_interpolations_of_the_configuration_itself(text):
    check_interpolation(text)


@pytest.mark.parametrize(
    "text",
    [
        "a=${oc.env:X}",
        "a=${ oc.env : X}",
        "a=b${c}d${oc.env:X}e",
        "a={b: [${oc.env:{}}]}",
        'a=${oc.env:"}"}',
        'a=${oc.env:"{"}',
        "a=${oc.${b}:X}",  # the name is made when it is needed
        "a=${${b}:X}",
        "a=\\${oc.env:X}",  # resolved once it is an interpolation
        "a=${oc.decode:${b}}",
        "a=${oc.create:'x'}",
        "a=${run_dir:null,elsewhere,x}",
        "a=${oc.select:${oc.env:X}}",
        "a=${oc.env:X",
    ],
)
def test_interpolations_that_look_beyond(text):
    with pytest.raises(ConfigError, match="an interpolation with a colon may only be one of hydra, now,"):
        check_interpolation(text)


def test_two_parts_do_not_make_a_new_interpolation():
    config = OmegaConf.create({"a": "$", "b": "{oc.env:HOME}", "c": "${a}${b}"})
    with pytest.raises(ConfigError, match=r"c=\$\{oc.env:HOME\}.*may only be one of"):
        instantiate(config)

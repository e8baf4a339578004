"""A configuration that names a command runs nothing, and a run folder, even a stranger's, does no harm."""

import json
import pickle
from pathlib import Path

import pytest

from dien import runs
from dien.errors import ConfigError

SECRET = "f00ba4" * 7


def test_no_secret_of_the_environment_is_written_down(dien_train, small, monkeypatch, capfd):
    for name in ("WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "MY_PASSWORD"):
        monkeypatch.setenv(name, SECRET)
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert dien_train(*small, "trainer.max_epochs=1", "logger=wandb", "hydra.run.dir=run") == 0
    files = [path for path in Path("run").rglob("*") if path.is_file()]
    assert {"config.yaml", "environment.json", "metrics.json"} <= {path.name for path in files}
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == []
    out, err = capfd.readouterr()
    assert SECRET not in out + err


@pytest.mark.parametrize("multirun", [[], ["-m"]])
def test_an_option_cannot_ask_for_a_secret(dien_train, small, monkeypatch, capfd, multirun):
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    for option in ("name=${oc.env:WANDB_API_KEY}", "name=${oc.decode:'\\${oc.env:WANDB_API_KEY}'}"):
        assert dien_train(*multirun, *small, option) == 2
        out, err = capfd.readouterr()
        assert "an interpolation with a colon may only be one of hydra, now," in err
        assert err.count("\n") == 1
        assert SECRET not in out + err
    assert not Path("outputs").exists()
    assert not Path("multirun").exists()


def test_a_target_that_runs_a_command_is_one_sentence(dien_train, small, capfd):
    for key in ("model._target_", "callbacks.progress._target_", "data.source._target_", "optimizer._target_"):
        assert dien_train(*small, f"{key}=os.system", "hydra.run.dir=run") == 2
        message = capfd.readouterr().err.strip().splitlines()[-1]
        assert message.startswith(f"dien-train: {key}='os.system' is not allowed: ")
        assert not Path("run").exists()


class Touch:
    """Unpickling it makes the file `harm`."""

    def __reduce__(self):
        return Path.touch, (Path("harm").absolute(),)


@pytest.fixture
def hostile(tmp_path) -> list[list[str]]:
    """Overrides of which each would make the file or folder `harm`; nothing that they need is missing."""
    harm = tmp_path / "harm"
    (tmp_path / "x.pickle").write_bytes(pickle.dumps(Touch()))
    calls = f"_target_: distutils.spawn.spawn, cmd: [touch, {harm}]"
    (tmp_path / "evil.yaml").write_text(f"# @package _global_\nhydra: {{callbacks: {{e: {{{calls}}}}}}}\n")
    return [
        ["+hydra.callbacks.e._target_=distutils.spawn.spawn", f"+hydra.callbacks.e.cmd=[touch,{harm}]"],
        [f"+hydra={{callbacks: {{e: {{{calls}}}}}}}"],
        [f"--experimental-rerun={tmp_path}/x.pickle"],
        [f"hydra.run.dir={harm}"],
        [f"experiment={'../' * 30}{tmp_path}/evil"],
    ]


def brings(run: Path, overrides: list[str]) -> None:
    file = run / "environment.json"
    content = json.loads(file.read_text())
    content["overrides"] = content["overrides"] + overrides
    file.write_text(json.dumps(content))


@pytest.mark.parametrize("number", range(5))
def test_a_stranger_s_run_folder_runs_nothing(dien_train, finished_run, hostile, capfd, number):
    capfd.readouterr()
    brings(finished_run, hostile[number])
    for options in ([], ["train=false"], ["seed=0", "experiment=null"]):
        assert dien_train(f"ckpt={finished_run}", *options) == 2
        error = capfd.readouterr().err
        assert f"{finished_run}/environment.json: the override {hostile[number][0][:40]!r}"[:-1] in error
        assert error.count("\n") == 1
    assert not Path("harm").exists()


def test_nor_does_one_that_is_found(dien_train, small, hostile):
    assert dien_train(*small, "trainer.max_epochs=1") == 0
    (run,) = Path("outputs/default").iterdir()
    (run / "metrics.json").unlink()
    brings(run, [override for overrides in hostile for override in overrides])
    assert dien_train(*small, "ckpt=auto") == 0
    assert (run / "metrics.json").exists()
    assert not Path("harm").exists()


def test_a_resumed_run_stays_in_its_folder(dien_train, finished_run):
    brings(finished_run, ["run_dir=harm"])
    assert dien_train(f"ckpt={finished_run}", "trainer.max_epochs=3") == 0
    assert not Path("harm").exists()
    assert json.loads((finished_run / "metrics.json").read_text())["epochs"] == 3


@pytest.mark.parametrize("content", ["[]", "{", '{"overrides": "seed=3"}', '{"overrides": ' + "[" * 9999])
def test_a_damaged_environment_is_one_sentence(dien_train, finished_run, capfd, content):
    (finished_run / "environment.json").write_text(content)
    capfd.readouterr()
    assert dien_train(f"ckpt={finished_run}") == 2
    error = capfd.readouterr().err
    assert f"{finished_run}/environment.json is damaged" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("value", ["${oc.env:MY_PASSWORD}", "${oc.create:'a'}", "${run_dir:null,harm,x}"])
def test_the_configuration_of_a_run_looks_at_nothing_but_itself(finished_run, monkeypatch, value):
    monkeypatch.setenv("MY_PASSWORD", SECRET)
    config = finished_run / "config.yaml"
    config.write_text(config.read_text().replace("name: table", f'name: "{value}"'))
    with pytest.raises(ConfigError, match=r"data.name=.* an interpolation with a colon may only be one of"):
        runs.load_model(finished_run)
    assert not Path("harm").exists()

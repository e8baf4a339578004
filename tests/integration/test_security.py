"""A configuration that names a command runs nothing, and a run folder holds no secret."""

from pathlib import Path

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


def test_a_target_that_runs_a_command_is_one_sentence(dien_train, small, capfd):
    for key in ("model._target_", "callbacks.progress._target_", "data.source._target_", "optimizer._target_"):
        assert dien_train(*small, f"{key}=os.system", "hydra.run.dir=run") == 2
        message = capfd.readouterr().err.strip().splitlines()[-1]
        assert message.startswith(f"dien-train: {key}='os.system' is not allowed: ")
        assert not Path("run").exists()

"""Configurations of real trainings on the bundled sample."""

import pytest
from hydra import compose, initialize_config_dir

from dien.config import CONF, register


@pytest.fixture
def sample_config(tmp_path):
    """`sample_config("model=din", ...)`: the resolved options of dien-train, everything written below `tmp_path`."""

    def configure(*overrides: str):
        register()
        places = [f"run_dir={tmp_path}", f"data.cache={tmp_path}/cache"]
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return compose("train", overrides=[*places, "callbacks=quiet", *overrides])

    return configure

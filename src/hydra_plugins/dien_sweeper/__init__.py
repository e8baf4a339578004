"""The sweeper of `dien-train -m`; Hydra admits sweepers of this namespace only. The work is done in `dien.sweep`."""

from collections.abc import Sequence

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.utils import JobReturn


class DienSweeper(BasicSweeper):
    """Hydra's own sweep over all combinations, which can be continued and outlives a failed job.

    Raises:
        SweepError: a job failed; the others were run.
    """

    def sweep(self, arguments: list[str]) -> list[Sequence[JobReturn]]:
        from dien.sweep import compose, run  # not when Hydra looks for plugins, which it does in every application

        assert self.hydra_context is not None
        assert self.config is not None
        assert self.launcher is not None
        if not self.config.train:  # evaluating checkpoints leaves no run folders to keep books of
            return list(super().sweep(arguments))
        jobs = compose(self.hydra_context.config_loader, self.config, self.params, arguments)
        run(jobs, self.config, self.launcher)
        return []

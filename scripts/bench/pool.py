"""The parent's side of the workers: they are all started first, and only one of them works at any moment."""

import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Self

from bench.systems import System

SCRIPTS = Path(__file__).parents[1]


class WorkerError(Exception):
    """A system that failed, with the end of what it said."""


class Worker:
    """A process that holds one system. Use it as a context manager.

    Args:
        system: what to build.
        python: the interpreter to run it with.
        sets: archives of rows, by name.
        threads: the most threads it will be asked to use.

    Raises:
        WorkerError: if the system cannot be built.
    """

    def __init__(self, system: System, python: str, sets: dict[str, Path], threads: int) -> None:
        specification = {
            "adapter": system.adapter,
            "options": system.options,
            "sets": {name: str(path.absolute()) for name, path in sets.items()},
        }
        path = os.pathsep.join(filter(None, [str(SCRIPTS), os.environ.get("PYTHONPATH")]))
        environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": str(threads)}
        self._folder = tempfile.TemporaryDirectory()  # peers leave logs in the folder they run in
        self._log = Path(self._folder.name) / "stderr"
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [python, "-m", "bench.worker", json.dumps(specification)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=self._folder.name,
                env=environment,
                text=True,
            )
        try:
            self.described = self._reply()
        except WorkerError:
            self.__exit__()
            raise

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Send one request to `bench.worker.Session` and wait for the reply.

        Raises:
            WorkerError: if it failed.
        """
        assert self._process.stdin is not None
        print(json.dumps({"do": do, **arguments}), file=self._process.stdin, flush=True)
        return self._reply()

    def _reply(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise WorkerError(self._log.read_text()[-2000:])
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise WorkerError(reply["error"])
        return reply

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.communicate()  # the end of its input ends the worker
        self._folder.cleanup()

"""A stand-in for SLURM's commands, for jobs on this machine; installed under their names by test_cluster.py.

`sbatch` runs every element of the array as `srun` processes, side by side and in the background; `scontrol requeue`
marks an element to be run again when it ends; `sacct` reports. The first element is preempted once, with the signal
that the script asks for, when it has written a checkpoint. State lies in $FAKE_SLURM.
"""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

STATE = Path(os.environ["FAKE_SLURM"])
JOB = "4711"


def sbatch(script: str) -> None:
    text = Path(script).read_text()
    (STATE / "script.sh").write_text(text)
    array = re.search(r"--array=0-(\d+)", text)
    elements = range(int(array[1]) + 1) if array else [None]
    number = signal.Signals["SIG" + re.search(r"--signal=(\w+)@", text)[1]]
    subprocess.Popen(
        [sys.executable, __file__, "elements", script, str(number.value), *map(str, elements)],
        stdout=subprocess.DEVNULL,
        stderr=(STATE / "errors").open("w"),
        start_new_session=True,
    )
    print(f"Submitted batch job {JOB}")


def elements(script: str, number: str, *names: str) -> None:
    running = {name: _start(script, name, 0) for name in names}
    preempted = False
    while running:
        time.sleep(0.02)
        if not preempted and names[0] in running and list(Path().glob("multirun/**/*seed-0/checkpoints/last.ckpt")):
            preempted = True
            os.kill(int((STATE / f"pid{names[0]}").read_text()), int(number))
        for name, process in list(running.items()):
            if process.poll() is None:
                continue
            del running[name]
            if (STATE / f"requeue{name}").exists():
                (STATE / f"requeue{name}").unlink()
                running[name] = _start(script, name, 1)
            else:
                (STATE / f"state{name}").write_text("FAILED" if process.returncode else "COMPLETED")


def _start(script: str, name: str, restarts: int) -> "subprocess.Popen[bytes]":
    number = 0 if name == "None" else int(name)
    array = {} if name == "None" else {"SLURM_ARRAY_JOB_ID": JOB, "SLURM_ARRAY_TASK_ID": name}
    task = {"SLURM_JOB_ID": str(int(JOB) + number), "SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
    nodes = {"SLURM_NODEID": "0", "SLURM_JOB_NUM_NODES": "1", "SLURM_RESTART_COUNT": str(restarts)}
    environment = os.environ | array | task | nodes | {"FAKE_ELEMENT": name}
    return subprocess.Popen(["bash", script], env=environment)


def srun(*arguments: str) -> None:
    values = {"--output": "", "--error": ""}
    rest = list(arguments)
    while rest[0].startswith("--"):
        option = rest.pop(0)
        if option in values:
            values[option] = rest.pop(0)
    name = os.environ["FAKE_ELEMENT"]
    (STATE / f"pid{name}").write_text(str(os.getpid()))
    path = values["--output"].replace("%A", JOB).replace("%a", name).replace("%j", JOB).replace("%t", "0")
    output = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.execvp(rest[0], rest)


def scontrol(command: str, job: str) -> None:
    assert command == "requeue"
    name = job.partition("_")[2] or "None"
    (STATE / f"requeue{name}").write_text("")
    with (STATE / "requeued").open("a") as file:
        file.write(f"{job}\n")


def sacct(*_: str) -> None:
    print("JobID|State|NodeList")
    for path in STATE.glob("state*"):
        name = path.name.removeprefix("state")
        print(f"{JOB if name == 'None' else f'{JOB}_{name}'}|{path.read_text()}|here")


if __name__ == "__main__":
    name = Path(sys.argv[0]).name
    arguments = sys.argv[1:]
    if name == Path(__file__).resolve().name:
        name, *arguments = arguments
    {"sbatch": sbatch, "srun": srun, "scontrol": scontrol, "sacct": sacct, "elements": elements}[name](*arguments)

"""Kill the server under load and while it starts, again and again: nobody may get a wrong score.

Clients of different users click and ask without a pause, and compare every score with a ranker of their own. In turn
the server is killed (SIGKILL) at a random moment of its work, and at a random moment of its start; each time a new one
starts on the same port. At last it is stopped (SIGTERM) under load. Ends with status 1 if a score was wrong, a request
failed otherwise than by a refusal, or the last stop did not end with status 0.

    python scripts/kill_server.py RUN --rounds 20 [--redis redis://localhost:6379/0]
"""

import argparse
import asyncio
import random
import signal
import socket
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table
from serving_client import OUTCOMES, CheckingClient, ServerProcess

from dien import Ranker


class Round(NamedTuple):
    """What clients saw from one start of the server to its end."""

    event: str
    outcomes: "Counter[str]"
    status: int


async def trial(
    run: Path | str,
    *,
    rounds: int,
    clients: int = 4,
    work: float = 2.0,
    seed: int = 0,
    options: tuple[str, ...] = (),
    at_last: Callable[[ServerProcess], Awaitable[None]] | None = None,
) -> list[Round]:
    """Kill a server `rounds` times, alternately under load and during its start; the last round is a stop.

    Args:
        work: seconds within which a server at work is killed.
        options: of serve.py.
        at_last: what the last server is used for before it is stopped, once the clients are done.
    """
    rng = random.Random(seed)
    ranker = Ranker.load(run)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    outcomes: Counter[str] = Counter()
    done = asyncio.Event()
    users = [CheckingClient(ranker, seed=n, outcomes=outcomes) for n in range(clients)]
    tasks = [asyncio.create_task(user.run(f"http://127.0.0.1:{port}", done)) for user in users]
    results: list[Round] = []
    took = 0.0
    server = None
    try:
        for number in range(rounds + 1):
            before = Counter(outcomes)
            server = ServerProcess(run, *options, port=port)
            during_start = number % 2 == 1 and number < rounds
            if during_start:
                moment = rng.uniform(0, took)
                await asyncio.sleep(moment)
                event = f"killed {moment:.2f} s after its start"
            else:
                await asyncio.to_thread(server.listen)
                took = await server.ready()
                answered = outcomes["right"] + outcomes["wrong"]
                while outcomes["right"] + outcomes["wrong"] == answered and not any(task.done() for task in tasks):
                    await asyncio.sleep(0.01)
                moment = rng.uniform(0, work)
                await asyncio.sleep(moment)
                if number == rounds and at_last is not None:
                    done.set()
                    await asyncio.gather(*tasks)
                    await at_last(server)
                event = f"{'stopped' if number == rounds else 'killed'} after {moment:.2f} s of work"
            number_of_signal = signal.SIGTERM if number == rounds else signal.SIGKILL
            status = await asyncio.to_thread(server.end, number_of_signal)
            await asyncio.sleep(0.1)  # what was on its way is counted with this round
            results.append(Round(event, Counter(outcomes) - before, status))
    finally:
        done.set()
        with suppress(ProcessLookupError):
            if server is not None:
                server.end()
        await asyncio.gather(*tasks)
    return results


def failures(results: list[Round]) -> "Counter[str]":
    """What became of requests that must not become of any: wrong scores, statuses that are no refusal."""
    total = sum((result.outcomes for result in results), Counter())
    return Counter({name: count for name, count in total.items() if name not in OUTCOMES})


def table_of(results: list[Round]) -> Table:
    columns = ("right", "wrong", "no answer", "not reached", "409", "429", "503")
    others = sorted({name for result in results for name in result.outcomes} - set(columns))
    table = Table(title="What clients saw", title_justify="left")
    table.add_column("server")
    for name in (*columns, *others):
        table.add_column(name, justify="right")
    table.add_column("exit", justify="right")
    for result in results:
        table.add_row(result.event, *(str(result.outcomes[name]) for name in (*columns, *others)), str(result.status))
    total = sum((result.outcomes for result in results), Counter())
    table.add_row("all", *(str(total[name]) for name in (*columns, *others)), "", style="bold")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="a run folder")
    parser.add_argument("--rounds", type=int, default=10, help="kills (default: 10)")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--work", type=float, default=2.0, help="seconds within which a server at work is killed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--redis", metavar="URL", help="keep states there, where they survive the server")
    options = parser.parse_args()
    serve = ("--redis", options.redis) if options.redis else ()
    results = asyncio.run(
        trial(
            options.run,
            rounds=options.rounds,
            clients=options.clients,
            work=options.work,
            seed=options.seed,
            options=serve,
        )
    )
    Console(width=None if sys.stdout.isatty() else 140).print(table_of(results))
    failed = failures(results)
    print(f"{failed['wrong']} wrong scores, {failed.total() - failed['wrong']} other failures")
    print(f"the last stop ended with status {results[-1].status}")
    sys.exit(bool(failed or results[-1].status))


if __name__ == "__main__":
    main()

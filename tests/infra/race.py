"""Two processes promote at the same instant, again and again: ``python -m tests.infra.race ROUNDS``.

Prints how often both, one or neither became champion, and the median of the seconds until both had their answers. For
the first line of the table in docs/guides/infra.md, the processes ran flows/ as it was before moves were announced.
"""

import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from statistics import median

from tests.infra.servers import Machine, postgres_programs, services


def main(rounds: int) -> None:
    programs = postgres_programs()
    assert programs is not None, "PostgreSQL is not installed: apt install postgresql"
    folder = Path(tempfile.mkdtemp())
    with services(programs, folder) as place:
        machines = [Machine(place, folder / name) for name in ("first", "second")]
        machines[0].ask("register", "a model, so that there is a registry")
        against, won, seconds = None, Counter[int](), []
        for number in range(rounds):
            keys = [f"{number}{name}".rjust(32, "0") for name in "ab"]
            versions = [machine.ask("add", key) for machine, key in zip(machines, keys, strict=True)]
            begun = time.perf_counter()
            for machine, (version, _) in zip(machines, versions, strict=True):
                machine.tell("promote", version, against, "racer")
            answers = [machine.answer() for machine in machines]
            seconds.append(time.perf_counter() - begun)
            won[sum("result" in answer for answer in answers)] += 1
            champion = machines[0].ask("champion")
            against = next(key for version, key in versions if version == champion)
        for machine in machines:
            machine.stop()
    print(f"{rounds} rounds: both {won[2]}, one {won[1]}, neither {won[0]}; median {median(seconds):.2f} s")


if __name__ == "__main__":
    main(int(sys.argv[1]))

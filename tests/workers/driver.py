"""A process that scores candidates on a Ray of its own until something ends it: python -m tests.workers.driver."""

import os
import sys

import psutil

from evoprune.cli.main import EXIT_INTERRUPTED
from evoprune.config.schema import WorkersConfig
from evoprune.errors import UserError
from evoprune.record.interrupts import stoppable
from evoprune.scoring.conditions import Conditions
from evoprune.workers.protocol import score
from evoprune.workers.workers import open_worker_pool
from tests.scoring.problems import CPU, genomes, problem


def main() -> None:
    """Prints a line with the processes of its Ray once it scores."""
    whole = problem("without norm", images=20)
    asked = genomes(whole.space, 4)
    with stoppable(), open_worker_pool(WorkersConfig(count=1), CPU) as pool:
        workers = pool.workers(whole)
        first = True
        while True:
            conditions = Conditions(whole.first_conditions().order)  # a new value, which is put into the object store
            score(workers, asked, conditions)
            if first:
                children = psutil.Process().children(recursive=True)
                print(*(f"{child.pid}:{child.name()}" for child in children), flush=True)
                first = False


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        os._exit(EXIT_INTERRUPTED)

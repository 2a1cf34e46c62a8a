"""A process that keeps an actor busy on a Ray of its own until something ends it: python -m tests.workers.driver."""

import os
import sys

import psutil
import ray

from evoprune.errors import UserError
from evoprune.record.interrupts import stoppable
from evoprune.workers.actor_pool import ActorPool, Job
from evoprune.workers.local_ray import local_ray

LARGE = bytes(2**20)  # goes through the object store


class Echo:
    """An actor that needs no library, and so starts fast."""

    def echo(self, value: bytes) -> bytes:
        return value


def main() -> None:
    """Prints a line with the processes of its Ray once the actor works."""
    with stoppable(), local_ray(ray) as connection:
        remote = ray.remote(Echo)
        pool = ActorPool(connection, lambda: connection.call(remote.remote), lambda: 1)
        pool.prepare_with(lambda actor: actor.echo.remote(LARGE))
        first = True
        while True:
            pool.submit(Job(lambda actor: actor.echo.remote(LARGE), None, timeout_s=None, tries=3))
            pool.next_result()
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
        os._exit(130)

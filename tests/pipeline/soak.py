"""A run that is killed, interrupted, starved and damaged at random for as long as is asked for, and what comes of it.

    python -m tests.pipeline.soak --seconds 3600 --seed 0

Ends with exit status 0 where the tables are those of a run that nothing happened to.
"""

import argparse
import contextlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import evoprune as ep
from evoprune.record.folder import RunFolder
from tests import tiny_runs

MORE_GENERATIONS = 40
"""A run that is done before the time is over is carried on by so many."""

TIMEOUT_S = 10
OPTIONS: dict[str, object] = {
    "search.population": 16,
    "search.generations": MORE_GENERATIONS,
    "search.steady_state": True,
    "retrain.survivors": 2,
    "retrain.epochs": 2,
    "workers.backend": "ray",
    "workers.timeout_s": TIMEOUT_S,
    "workers.epoch_timeout_s": 6 * TIMEOUT_S,
}
BETWEEN_S = (2.0, 25.0)
"""How long it is left alone after a fault."""

ENDED_S = 180
"""How long a process has to end after it was asked to."""


class Soak:
    """One run folder and the process that works on it, if there is one; every fault is a method."""

    def __init__(self, place: Path, seed: int, report: Callable[[str], None]):
        self.folder = RunFolder(place / "disturbed")
        self.rng = np.random.default_rng(seed)
        self.done: Counter[str] = Counter()
        self.generations = MORE_GENERATIONS
        self._place = place
        self._report = report
        self._process: subprocess.Popen[str] | None = None
        self._stopped: set[int] = set()

    def disturb(self, seconds: float) -> None:
        """Faults at random until the time is over."""
        faults: list[Callable[[], None]] = [self.kill, self.interrupt, self.interrupt_twice, self.terminate]
        faults += [self.kill_worker, self.stop_worker, self.starve, self.fill_disk]
        faults += [self.damage_snapshot, self.damage_candidates]
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.run_on()
            time.sleep(min(self.rng.uniform(*BETWEEN_S), max(deadline - time.monotonic(), 0.1)))
            fault = faults[int(self.rng.integers(len(faults)))]
            fault()
            self.done[fault.__name__] += 1
            reached = self.folder.snapshot_generations()
            self._report(f"{fault.__name__}: generation {reached[-1] if reached else '-'} of {self.generations}")

    def run_on(self) -> None:
        """Sees to it that a process works on the run: begins it, goes on with it, or carries a finished one on."""
        if self._process is not None and self._process.poll() is None:
            return
        if self._process is not None:
            self._check_ended()
        if not self.folder.holds_run():
            config = tiny_runs.config_file(self._place, OPTIONS)
            self._process = tiny_runs.evoprune("run", config, "--out", self.folder.root, "--quiet")
            return
        if self.folder.survivors_table.is_file():
            self.generations += MORE_GENERATIONS
        more = f"search.generations={self.generations}"
        self._process = tiny_runs.evoprune("resume", self.folder.root, "--quiet", "--set", more)

    def finish(self) -> None:
        """Lets the run come to its end."""
        self.end_process(signal.SIGINT)
        more = f"search.generations={self.generations}"
        while not (self.folder.holds_run() and self.folder.survivors_table.is_file()):
            arguments: tuple[object, ...] = ("resume", self.folder.root, "--quiet", "--set", more)
            if not self.folder.holds_run():
                config = tiny_runs.config_file(self._place, OPTIONS | {"search.generations": self.generations})
                arguments = ("run", config, "--out", self.folder.root, "--quiet")
            self._process = tiny_runs.evoprune(*arguments)
            self._process.wait()
            self._check_ended()

    def end_process(self, *signals: signal.Signals) -> None:
        if self._process is None or self._process.poll() is not None:
            return
        for number in signals:
            self._process.send_signal(number)
        self._process.wait(ENDED_S)
        for pid in self._stopped & set(actors()):  # nobody else ends what is stopped once its driver is gone
            os.kill(pid, signal.SIGKILL)
        self._stopped.clear()

    def kill(self) -> None:
        self.end_process(signal.SIGKILL)

    def interrupt(self) -> None:
        self.end_process(signal.SIGINT)

    def interrupt_twice(self) -> None:
        self.end_process(signal.SIGINT, signal.SIGINT)

    def terminate(self) -> None:
        self.end_process(signal.SIGTERM)

    def kill_worker(self) -> None:
        self._signal_worker(signal.SIGKILL)

    def stop_worker(self) -> None:
        """It hangs, until its time is over and it is ended."""
        self._signal_worker(signal.SIGSTOP)

    def damage_snapshot(self) -> None:
        self.kill()
        self._damage("checkpoints/gen-*.json")

    def damage_candidates(self) -> None:
        self.kill()
        self._damage("candidates/gen-*.parquet")

    def starve(self) -> None:
        """Others take the processor for some seconds."""
        busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 * (os.cpu_count() or 1))]
        time.sleep(5)
        for process in busy:
            process.kill()
            process.wait()

    def fill_disk(self) -> None:
        """No file may grow beyond a page for a while, as if there were no space; the process ends with that, or not."""
        if self._process is None or self._process.poll() is not None:
            return
        limit_files(self._process.pid, 4096)
        time.sleep(3)
        for process in (self._process.pid, *descendants(self._process.pid)):  # they inherited it
            limit_files(process, resource.RLIM_INFINITY)

    def _signal_worker(self, number: signal.Signals) -> None:
        workers = [] if self._process is None else actors(below=self._process.pid)
        if workers:
            chosen = workers[int(self.rng.integers(len(workers)))]
            os.kill(chosen, number)
            if number == signal.SIGSTOP:
                self._stopped.add(chosen)

    def _damage(self, pattern: str) -> None:
        """The newest of some files is cut off, or a byte of it is another one."""
        paths = sorted(self.folder.root.glob(pattern))
        if len(paths) < 2:
            return
        data = bytearray(paths[-1].read_bytes())
        if not data:
            return
        if self.rng.random() < 0.5:
            paths[-1].write_bytes(data[: int(self.rng.integers(len(data)))])
        else:
            data[int(self.rng.integers(len(data)))] ^= 0xFF
            paths[-1].write_bytes(data)

    def _check_ended(self) -> None:
        """How a process ended is one of the ways that it may."""
        assert self._process is not None
        _, error = self._process.communicate()
        status = self._process.returncode
        expected = (0, -signal.SIGKILL, 128 + signal.SIGINT, 128 + signal.SIGTERM, -signal.SIGINT, -signal.SIGTERM)
        full = "File too large" in error or "Ray does not start on this machine" in error
        if status in expected or (status == 2 and full):
            return
        raise AssertionError(f"a process ended with {status}: {error[-2000:]}")


def limit_files(process: int, size: int) -> None:
    """How large files may grow in a process, if there is one still, from now on."""
    with contextlib.suppress(ProcessLookupError):
        resource.prlimit(process, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def actors(below: int = 1) -> list[int]:
    """Processes of workers among the descendants of a process, of all by default."""
    names = {process: _line_of(process) for process in descendants(below)}
    return sorted(process for process, name in names.items() if name.startswith("ray::Actor"))


def descendants(process: int) -> list[int]:
    """All processes that are below one, as /proc has them."""
    parents: dict[int, int] = {}
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended
            parents[int(place.name)] = int((place / "stat").read_text().rpartition(")")[2].split()[1])

    def is_below(other: int) -> bool:
        while other in parents:
            other = parents[other]
            if other == process:
                return True
        return process == 1

    return [other for other in parents if is_below(other)]


def _line_of(process: int) -> str:
    try:
        return Path(f"/proc/{process}/cmdline").read_text()
    except OSError:
        return ""


def soak(place: Path, seconds: float, seed: int, report: Callable[[str], None]) -> Counter[str]:
    """Disturbs a run for so long, lets it end, and compares it with an undisturbed one. Returns the faults."""
    disturbed = Soak(place, seed, report)
    try:
        disturbed.disturb(seconds)
        disturbed.finish()
    finally:
        disturbed.kill()
    report(f"{sum(disturbed.done.values())} faults over {disturbed.generations} generations: {dict(disturbed.done)}")
    serial: dict[str, Any] = {"workers.backend": "serial", "search.generations": disturbed.generations}
    whole = tiny_runs.run(place / "undisturbed", OPTIONS | serial)
    tiny_runs.check_equal(ep.load_run(disturbed.folder.root), whole)
    report("the tables are those of an undisturbed run")
    return disturbed.done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3600, help="how long the run is disturbed")
    parser.add_argument("--seed", type=int, default=0, help="of the faults and their times")
    arguments = parser.parse_args()
    place = Path(tempfile.mkdtemp(prefix="evoprune-soak-"))
    soak(place, arguments.seconds, arguments.seed, lambda line: print(time.strftime("%H:%M:%S"), line, flush=True))
    shutil.rmtree(place)


if __name__ == "__main__":
    main()

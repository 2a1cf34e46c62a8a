"""The Ray that evoprune starts: private, and gone at the end, however the end comes about."""

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace

import psutil
import pytest
import ray

from evoprune.workers import local_ray, ray_guard
from tests.shared_ray import SharedRay

TIMEOUT = 90  # seconds until a test that waits for ever has failed


@dataclass
class Driver:
    """A process with a Ray of its own, and the processes of that Ray, its guard included."""

    process: subprocess.Popen[str]
    names: dict[psutil.Process, str]

    def send(self, name: str, number: signal.Signals) -> None:
        next(process for process, found in self.names.items() if found == name).send_signal(number)

    def ending(self) -> tuple[int, str]:
        """Exit status and stderr, once the process and its guard have ended."""
        _, error = self.process.communicate(timeout=TIMEOUT)
        return self.process.returncode, error

    def left(self) -> list[str]:
        """The names of those processes that do not end."""
        _, alive = psutil.wait_procs(list(self.names), timeout=TIMEOUT)
        return [self.names[process] for process in alive]


def start(preexec: Callable[[], None] | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.workers.driver"],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=preexec,
    )


@pytest.fixture
def driver() -> Iterator[Driver]:
    """A driver whose actor works."""
    process = start()
    assert process.stdout is not None
    pairs = [pair.split(":", 1) for pair in process.stdout.readline().split()]
    names = {psutil.Process(int(pid)): name for pid, name in pairs}
    try:
        yield Driver(process, names)
    finally:
        for one in [psutil.Process(process.pid), *names] if process.poll() is None else list(names):
            if one.is_running():
                one.kill()


def test_only_this_machine_reaches_it_and_with_a_token_only(shared_ray: SharedRay) -> None:
    """Each process that listens does so on the loopback interface; a stranger without the token is refused."""
    shared_ray.start()
    processes = [process for process in psutil.Process().children(recursive=True) if process.is_running()]
    addresses = {process.name(): listening_at(process) for process in [psutil.Process(), *processes]}
    assert addresses["gcs_server"]
    assert addresses["raylet"]
    assert {ip for found in addresses.values() for ip, _ in found} <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    ((_, port),) = addresses["gcs_server"]
    ask = f"from ray._raylet import GcsClient; GcsClient('127.0.0.1:{port}')"
    for token, refused in ((os.environ["RAY_AUTH_TOKEN"], False), ("another", True)):
        strange = os.environ | {"RAY_AUTH_TOKEN": token, "RAY_gcs_rpc_server_connect_timeout_s": "1"}
        asked = subprocess.run([sys.executable, "-c", ask], env=strange, capture_output=True, text=True, check=False)
        assert ("InvalidAuthToken" in asked.stderr, asked.returncode != 0) == (refused, refused), asked.stderr


def listening_at(process: psutil.Process) -> set[tuple[str, int]]:
    sockets = process.net_connections("inet")
    return {(socket.laddr.ip, socket.laddr.port) for socket in sockets if socket.status == psutil.CONN_LISTEN}


def test_settings_of_the_environment_are_put_back(no_ray: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's settings hold within the context; after it, the environment is as before."""
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with local_ray._environment(ray):
        assert os.environ["RAY_AUTH_MODE"] == "disabled"
        assert os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0"
        assert len(os.environ["RAY_AUTH_TOKEN"]) == 64
    assert os.environ["RAY_AUTH_MODE"] == "disabled"
    assert not {"RAY_AUTH_TOKEN", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"} & set(os.environ)


def test_an_older_ray_without_these_settings_is_left_alone() -> None:
    local_ray._read_environment_again(SimpleNamespace())


@pytest.mark.parametrize("name", ["raylet", "gcs_server"])
def test_a_core_process_that_is_killed_ends_the_run_in_one_line(name: str, driver: Driver) -> None:
    driver.send(name, signal.SIGKILL)
    status, error = driver.ending()
    assert status in (1, 2)
    assert error.count("\n") == 1
    assert "evoprune resume" in error
    assert driver.left() == []


def test_a_raylet_that_is_stopped_ends_the_run_in_one_line(driver: Driver) -> None:
    driver.send("raylet", signal.SIGSTOP)
    status, error = driver.ending()
    assert (status, error) == (
        2,
        "Ray's raylet has been stopped for 5 seconds (SIGSTOP): go on with `evoprune resume` and the run's folder\n",
    )
    assert driver.left() == []


def test_ctrl_c_ends_a_run_whose_raylet_is_stopped(driver: Driver) -> None:
    driver.send("raylet", signal.SIGSTOP)
    driver.process.send_signal(signal.SIGINT)
    assert driver.ending() == (130, "")
    assert driver.left() == []


def test_a_driver_that_is_killed_leaves_no_process(driver: Driver) -> None:
    driver.process.kill()
    assert driver.ending() == (-signal.SIGKILL, f"{ray_guard.MESSAGE}\n")
    assert driver.left() == []


@pytest.mark.slow
def test_too_little_address_space_is_one_line() -> None:
    """With so much, Python and torch start, and Ray, whose store for objects takes 0.3 of the memory, does not."""
    limit = 3 * 2**30 + int(0.3 * psutil.virtual_memory().available)
    process = start(lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY)))
    output, error = process.communicate(timeout=local_ray.TRIAL_SECONDS + TIMEOUT)
    assert (process.returncode, output) == (2, "")
    assert error.startswith("workers.backend: Ray does not start on this machine (`ulimit -v` leaves it ")
    assert error.count("\n") == 1

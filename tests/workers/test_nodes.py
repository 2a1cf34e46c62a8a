"""A cluster whose machines leave and join: several nodes on this one, and the tables of a run without a cluster."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

import evoprune as ep
from evoprune.progress import SilentProgress
from tests import tiny_runs


@pytest.fixture
def cluster(no_ray: None) -> Iterator[Any]:
    """A head that has no core to work with, and one node of one core."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    try:
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


class ComingAndGoing(SilentProgress):
    """Nodes leave and join in the middle of generations, and of retraining."""

    def __init__(self, cluster: Any) -> None:
        self._cluster = cluster
        self._done: set[str] = set()

    def scored(self, generation: int, generations: int, done: int, total: int) -> None:
        if done == 1:
            if generation == 0:  # another one joins
                self._once("join 0", self._join)
            if generation == 1:  # the first one goes, in the middle of what it does
                self._once("leave 1", self._leave)
            if generation == 2:  # now nobody is left, until another one joins
                self._once("leave 2", self._leave)
                self._once("join 2", self._join)

    def epoch(self, what: str, epoch: int, epochs: int, loss: float) -> None:
        if what != "baseline":
            self._once("join 3", self._join)
            self._once("leave 3", self._leave)

    def _once(self, what: str, deed: Any) -> None:
        if what not in self._done:
            self._done.add(what)
            deed()

    def _join(self) -> None:
        self._cluster.add_node(num_cpus=1)

    def _leave(self) -> None:
        first = next(node for node in self._cluster.list_all_nodes() if node is not self._cluster.head_node)
        self._cluster.remove_node(first, allow_graceful=False)

    @property
    def happened(self) -> set[str]:
        return self._done


@pytest.mark.slow
def test_nodes_that_leave_and_join_make_no_difference(cluster: Any, tiny_run: ep.Run, tmp_path: Path) -> None:
    progress = ComingAndGoing(cluster)
    on_cluster = {"workers.backend": "ray", "workers.address": cluster.address, "retrain.epochs": 1}
    run = tiny_runs.run(tmp_path / "run", on_cluster, progress)
    assert progress.happened == {"join 0", "leave 1", "leave 2", "join 2", "join 3", "leave 3"}
    tiny_runs.check_equal(run, tiny_run)

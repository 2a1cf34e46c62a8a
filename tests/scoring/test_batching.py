"""The choice of batch sizes, and what memory leaves room for. Nothing here measures a time that is asserted on."""

import dataclasses

import pytest

from evoprune.config.schema import WorkersConfig
from evoprune.errors import WorkerError
from evoprune.scoring import batching
from evoprune.scoring import scorer as scoring
from evoprune.scoring.batching import GIB, fastest, gram_bytes, machine_bytes, measured_execution, memory_bytes
from evoprune.scoring.scorer import Scorer
from tests.scoring.problems import CPU, genomes, problem


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [
        ({8: 1.0, 16: 1.0, 32: 1.0}, 8),
        ({8: 1.0, 16: 0.98, 32: 0.96}, 8),  # 504, 508 * 0.98, 516 * 0.96
        ({8: 1.0, 16: 0.5, 32: 0.49}, 16),
        ({8: 1.0, 16: 2.0, 32: 0.9}, 32),
        ({4: 3.0}, 4),
        ({32: 1.0, 128: 0.95}, 32),  # 516 against 564 * 0.95 = 536
        ({32: 1.0, 128: 0.85}, 128),  # 564 * 0.85 = 479
    ],
)
def test_the_smallest_that_no_larger_one_beats_by_much(seconds: dict[int, float], chosen: int) -> None:
    assert fastest(seconds, 500) == chosen


def test_memory_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "machine_bytes", lambda: 100 * GIB)
    monkeypatch.setattr(batching.os, "cpu_count", lambda: 10)
    assert memory_bytes(WorkersConfig()) == 6 * GIB
    assert memory_bytes(WorkersConfig(threads=2)) == 12 * GIB
    assert memory_bytes(WorkersConfig(memory=1.5)) == 1.5 * GIB
    assert (gram_bytes(WorkersConfig()), gram_bytes(WorkersConfig(gram_memory=0.5))) == (20 * GIB, GIB / 2)


def test_a_machine_has_memory() -> None:
    assert machine_bytes() > GIB / 4


def test_batches_fit_into_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest tensor of an image is 8 maps of 14 x 14 doubles, 12,544 bytes: three of them an image."""
    posed = problem("plain")
    held = 3 * sum(tensor.nbytes for tensor in posed.model.state_dict().values())
    held += 2 * (posed.images.nbytes + posed.calibration.nbytes)
    monkeypatch.setattr(batching, "MEASURED_SECONDS", 0.01)

    def execution(images: float) -> tuple[int, int]:
        memory = (held + images * 3 * 8 * 14 * 14 * 8) / GIB
        found = measured_execution(posed, CPU, WorkersConfig(memory=memory))
        return found.batch_size, found.calibration_batch_size

    assert execution(2.5) == (2, 2)
    assert execution(9.5) == (9, 9)
    assert execution(40.5)[0] in (16, 32)
    assert execution(40.5)[1] == 40
    assert execution(1000.5)[0] in (16, 32)
    assert execution(1000.5)[1] == 256
    with pytest.raises(WorkerError, match=r"workers.memory must be at least \d+\.\d\d GiB for two images .* not 0\.0"):
        execution(1.5)


def test_what_does_not_fit_is_scored_in_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    posed = problem("plain")
    genome = genomes(posed.space)[2]
    expected = Scorer(posed, CPU).score(genome)
    scorer, sizes = Scorer(posed, CPU), []
    counted = scoring.errors_of

    def full_memory(task: scoring.Task, logits: scoring.Tensor, labels: scoring.Tensor) -> scoring.Tensor:
        sizes.append(len(logits))
        if len(logits) > 4:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory")
        return counted(task, logits, labels)

    monkeypatch.setattr(scoring, "errors_of", full_memory)
    found = scorer.score(genome)
    assert dataclasses.replace(found.score, eval_seconds=0) == dataclasses.replace(expected.score, eval_seconds=0)
    assert sizes[:3] == [16, 8, 4]


def test_other_faults_are_not_taken_for_a_lack_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    posed = problem("plain")

    def broken(*_: object) -> None:
        raise RuntimeError("a bug")

    scorer = Scorer(posed, CPU)
    monkeypatch.setattr(scoring, "errors_of", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        scorer.score(posed.space.full())

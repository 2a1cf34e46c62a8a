"""What the tests of studies share."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from evoprune.networks.zoo import build_network
from tests.bench.study.small_study import NETWORK


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of a network that was never trained, because no test here depends on its accuracy."""
    path = tmp_path_factory.mktemp("weights") / "baseline.safetensors"
    save_file(build_network(NETWORK, (1, 14, 14), 10, torch.Generator().manual_seed(0)).state_dict(), path)
    return path

"""What all comparisons with recorded numbers share."""

import sys

import pytest
import torch

from support.parity import Loaders
from support.recorded import relative_error, tolerance


@pytest.fixture
def agree(record_property):
    """Notes the relative error of `ours` (`pytest -s` shows it); fails above the tolerance of the recording."""

    def compare(name: str, case: str | None, what: str, ours: torch.Tensor, theirs: torch.Tensor) -> None:
        error = relative_error(ours, theirs)
        label = " ".join(filter(None, (name, case, what)))
        record_property(label, error)
        sys.stdout.write(f"{label}: {error:.1e}\n")
        assert error <= tolerance(name, case), label

    return compare


@pytest.fixture(scope="session")
def load(tmp_path_factory) -> Loaders:
    """Recorded models through the real loaders."""
    return Loaders(lambda: tmp_path_factory.mktemp("component"))

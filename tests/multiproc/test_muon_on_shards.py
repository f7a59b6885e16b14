"""Muon needs whole matrices, FSDP2 holds rows of them."""

from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.multiproc


def test_muon_on_shards_is_muon_on_whole_matrices_bit_by_bit(forked: Any) -> None:
    forked(4, str(Path(__file__).parent / "muon_on_shards.py"))

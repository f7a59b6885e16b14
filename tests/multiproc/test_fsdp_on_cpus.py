"""Accelerate would train DDP where FSDP2 is asked for on CPUs; if an upgrade changes how we prevent it, this fails."""

from pathlib import Path
from typing import Any

import pytest
from engines import FSDP2

pytestmark = pytest.mark.multiproc


SCRIPT = str(Path(__file__).parent / "fsdp_on_cpus.py")


def test_fsdp2_is_fsdp2_or_nothing(launch: Any) -> None:
    launch(2, SCRIPT, **FSDP2)
    left_alone = launch(2, SCRIPT, "--no-shim", check=False, **FSDP2)
    assert left_alone.returncode != 0
    assert "MULTI_CPU" in left_alone.stderr

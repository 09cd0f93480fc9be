"""hardware.precision=auto: bfloat16 only where the processor computes in it."""

from __future__ import annotations

import pytest

from adbench.config.schema import HardwareKeys
from adbench.training import fit


@pytest.mark.parametrize(("fast", "precision"), [(True, "bf16-mixed"), (False, "32-true")])
def test_auto_follows_the_processor(monkeypatch, fast, precision):
    monkeypatch.setattr(fit, "bfloat16_is_fast", lambda device: fast)
    keys = HardwareKeys(accelerator="cpu", precision="auto")
    assert fit.settled_precision(keys) == precision


@pytest.mark.parametrize("asked", ["32-true", "bf16-mixed", "16-mixed"])
def test_what_is_asked_for_stays(monkeypatch, asked):
    monkeypatch.setattr(fit, "bfloat16_is_fast", lambda device: asked == "32-true")
    assert fit.settled_precision(HardwareKeys(accelerator="cpu", precision=asked)) == asked

"""The public interface of Python, frozen: changing it is a decision."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys

import numpy as np
import torch

import adbench
from adbench.errors import UserError
from tests.e2e.verbs import REPOSITORY

SIGNATURES = {
    "load_detector": "(folder: 'str | Path', device: 'str | torch.device' = 'cpu') -> 'Detector'",
    "train": "(*words: 'str', config_dir: 'str | Path | None' = None, say: 'Say | None' = None)"
    " -> 'list[Path]'",
    "evaluate": "(run: 'str | Path', *words: 'str', say: 'Say | None' = None) -> 'dict[str, Any]'",
    "synthesizer": "(name: 'str', **keys: 'Any') -> 'Synthesizer'",
}
CONTRACTS = {
    "AnomalyModule": "requirements prepare refresh finish stages artefacts generator forward",
    "Detector": "forward predict named_maps sheet",
    "Prediction": "score anomaly_map",
    "Requirements": "size_multiple min_size min_batch needs_masks needs_defects uses_synthesis "
    "uses_held_out one_pass multiclass ddp export memory_bytes",
    "Synthesizer": "prepare foreground_masks record",
    "Synthetic": "image mask strength applied",
}
METRICS = ["Channel", "PixelMetrics", "SproMetrics", "image_metrics", "pixel_metrics"]


def test_the_names_are_these():
    own = {*SIGNATURES, *CONTRACTS, "metrics", "UserError", "__version__"}
    assert set(adbench.__all__) == own
    assert set(adbench.__all__) <= set(dir(adbench))
    assert adbench.metrics.__all__ == METRICS
    assert adbench.UserError is UserError


def test_functions_take_and_return_what_they_did():
    for name, wanted in SIGNATURES.items():
        assert str(inspect.signature(getattr(adbench, name))) == wanted, name


def test_contracts_have_the_members_that_a_third_party_relies_on():
    for name, members in CONTRACTS.items():
        kind = getattr(adbench, name)
        assert kind.__doc__
        known = {*dir(kind), *getattr(kind, "__annotations__", {})}
        assert set(members.split()) <= known, name


def test_everything_public_says_what_it_takes():
    for name in [*SIGNATURES, *METRICS]:
        found = getattr(adbench, name, None) or getattr(adbench.metrics, name)
        assert len(inspect.getdoc(found)) > 60, name


def test_importing_adbench_imports_no_torch():
    code = "import sys, adbench; print(adbench.__version__, 'torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == f"{adbench.__version__} False\n"


def test_a_synthesizer_of_the_group_works_on_tensors():
    made = adbench.synthesizer("cutpaste", jitter=0.0)(
        torch.rand(2, 3, 32, 32), generator=torch.Generator().manual_seed(0)
    )
    assert made.image.shape == (2, 3, 32, 32)
    assert adbench.metrics.image_metrics(np.array([0.0, 1.0]), np.array([0, 1]))["auroc"] == 1


def test_the_version_is_one():
    version = adbench.__version__
    assert version == "0.1.0"
    assert f"\n## {version}" in (REPOSITORY / "CHANGELOG.md").read_text()
    cited = (REPOSITORY / "CITATION.cff").read_text()
    assert re.search(rf"^version: {re.escape(version)}$", cited, re.MULTILINE)

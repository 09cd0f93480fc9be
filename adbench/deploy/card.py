"""What an exported file says about itself: decided, versioned, hashed; read without torch."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adbench.deploy.decision import Rule
from adbench.deploy.reading import Reading
from adbench.errors import UserError
from adbench.training.threshold import StoredThreshold, Threshold, read_threshold

KEY = "adbench"  # of the metadata of ONNX and OpenVINO files
_MOST_SCORES = 2000  # held-out scores that a file carries, evenly spaced over their order
_LONGEST = 1 << 20  # characters of a card


@dataclass(frozen=True, slots=True)
class Card:
    """A file's card.

    Attributes:
        model: name and hash of the detector, as records give it.
        detector: sha256 of the detector's file.
        kind: ``uint8`` [B, H, W, 3] RGB or ``float`` [B, 3, H, W] in 0..1 goes in.
        precision: fp32, fp16 (weights) or int8.
        versions: of what made it.
    """

    model: str
    detector: str
    kind: str
    precision: str
    reading: Reading
    rule: Rule
    versions: dict[str, str]

    def text(self) -> str:
        """Return it as JSON."""
        stored = self.rule.stored
        scores = np.sort(stored.scores)
        if len(scores) > _MOST_SCORES:
            places = np.linspace(0, len(scores) - 1, _MOST_SCORES).round().astype(int)
            scores = scores[places]
        return json.dumps(
            {
                "schema": 1,
                "model": self.model,
                "detector": self.detector,
                "input": self.kind,
                "colour": "RGB",
                "outputs": ["score", "map"],
                "classes": ["ok", "ng"],
                "precision": self.precision,
                "pictures": self.reading.record(),
                "threshold": {
                    "value": stored.threshold.value,
                    "source": stored.threshold.source,
                    "expected_false_alarm_rate": stored.threshold.expected_false_alarm_rate,
                    "pixel": stored.pixel_threshold,
                    "held_out_scores": scores.tolist(),
                },
                "versions": self.versions,
            },
            allow_nan=False,
        )


def read_card(text: str | None, path: Path) -> Card:
    """Return the card of a file.

    Raises:
        UserError: there is none, or it is damaged.
    """
    if not text:
        raise UserError(f"{path} was not exported by adbench: it holds no card")
    if len(text) > _LONGEST:
        raise UserError(f"{path}: its card is damaged (longer than {_LONGEST} characters)")
    try:
        found = json.loads(text)
        threshold = _threshold(found["threshold"])
        kind, precision = str(found["input"]), str(found["precision"])
        if kind not in ("uint8", "float") or precision not in ("fp32", "fp16", "int8"):
            raise ValueError(f"input {kind[:20]}, precision {precision[:20]}")
        versions = {str(k)[:40]: str(v)[:40] for k, v in dict(found["versions"]).items()}
        reading = Reading.of(found["pictures"], str(path))
        named = str(found["model"])[:100], str(found["detector"])[:64]
        return Card(*named, kind, precision, reading, Rule.of(threshold), versions)
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        told = " ".join(str(error).split())[:100]
        raise UserError(f"{path}: its card is damaged ({told}); export it again") from error


def _threshold(section: Mapping[str, Any]) -> StoredThreshold:
    scores = np.array([_finite(score) for score in section["held_out_scores"]], dtype=np.float64)
    value, rate, pixel = (
        None if section[key] is None else _finite(section[key])
        for key in ("value", "expected_false_alarm_rate", "pixel")
    )
    return StoredThreshold(Threshold(value, str(section["source"])[:500], rate), scores, pixel)


def _finite(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{value} is no number")
    return number


def rule_beside(path: Path, rule: Rule) -> Rule:
    """Return the rule that was written back beside a file, else ``rule`` of its card."""
    from adbench.deploy.calibration import stored_threshold_path

    own = stored_threshold_path(path)
    return Rule.of(read_threshold(own.parent, own.name)) if own.exists() else rule

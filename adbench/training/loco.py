"""MVTec LOCO's annotated defects, as the saturated overlap needs them."""

from __future__ import annotations

from pathlib import Path

from adbench.data.layouts.mvtec_loco import CONFIG, DefectRule, loco_channels, read_defect_rules
from adbench.data.sample import ANOMALOUS, Sample
from adbench.metrics import Channel


class LocoChannels:
    """Finds the channels of LOCO images; says nothing about other data sets.

    Attributes:
        found: whether any defect channel was read.
        why: the reason where an image looks like LOCO but its category has no rules.
    """

    def __init__(self) -> None:
        self.found = False
        self.why: dict[str, str] = {}
        self._rules: dict[Path, dict[int, DefectRule] | None] = {}

    def of(self, sample: Sample) -> list[Channel] | None:
        """Return the image's channels; None where the data set has no rules for them."""
        if sample.root is None:
            return None
        config = sample.root / sample.category / CONFIG
        if config not in self._rules:
            self._rules[config] = read_defect_rules(config) if config.is_file() else None
        rules = self._rules[config]
        if rules is None:
            if sample.kind is not None and sample.defect.endswith("_anomalies"):
                self.why["spro"] = f"{config} is missing: without it there is no sPRO"
            return None
        if sample.label != ANOMALOUS:
            return []
        self.found = True
        return [
            Channel(c.mask, c.rule.saturation, c.rule.relative, c.rule.defect)
            for c in loco_channels(sample, rules)
        ]

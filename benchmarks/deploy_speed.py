"""GLASS on ResNet-18 beside its bare backbone, other engines and anomalib's GLASS."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from adbench.config.plain import plain_keys
from adbench.deploy.settings import BenchmarkKeys


def say(line):
    print(line, file=sys.stderr, flush=True)


WIDTHS = {
    "glass_cpu: a column a channel, H=512": {"aggregation": "paper", "hidden": 512},
    "published: 1536 columns, H=1024": {"aggregation": "code", "embed": 1536, "hidden": 1024},
}


def speed(options):
    """GLASS on ResNet-18, 256 px, batch 8, untrained head: its arithmetic is a trained one's.

    Bare backbone and engines in turns, round by round. The bare backbone is the detector's own:
    where weights lie channels last, they do for both.
    """
    import torch

    from adbench.backbones import build_backbone
    from adbench.deploy.benchmark import bare_backbone, engines_of
    from adbench.deploy.decision import Rule
    from adbench.deploy.measuring import measured
    from adbench.deploy.parity import machine
    from adbench.deploy.peers import anomalib_beside
    from adbench.deploy.reading import Reading
    from adbench.methods.glass.detector import GlassDetector
    from adbench.training.threshold import StoredThreshold, Threshold

    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    made = {"layers": ["layer2", "layer3"], "weights": options.weights}
    backbone = build_backbone("resnet18.tv_in1k", **made)
    reading, cpu = Reading((256, 256)), torch.device("cpu")
    rule = Rule.of(StoredThreshold(Threshold(0.5, "untrained", None), np.zeros(0), None))
    words = ["run=x", "batches=[8]", "rounds=7", f"threads={options.threads}"]
    words += [f"seconds={options.seconds}", f"engines=[{options.engines}]"]
    keys = plain_keys(BenchmarkKeys, words, "benchmark")
    found = {"machine": machine(), "threads": options.threads, "torch": torch.__version__}
    clock = time.process_time if options.cpu_time else time.perf_counter
    found["clock"] = clock.__name__
    for name in [list(WIDTHS)[number] for number in options.widths]:
        detector = GlassDetector(backbone.config, (256, 256), extractor=backbone, **WIDTHS[name])
        detector.eval()
        for buffer in (detector.weight, detector.bias, detector.output):
            buffer.normal_(std=0.05)
        say(name)
        with tempfile.TemporaryDirectory() as folder:
            absent: dict[str, str] = {}
            subjects = {"bare backbone": bare_backbone(detector.backbone, cpu)}
            given = (detector, reading, rule, keys, cpu, Path(folder), absent, say)
            subjects |= engines_of(*given)
            found[name] = {
                "network": measured(subjects, (256, 256), 8, keys, clock),
                "absent": absent,
            }
        if options.peers:
            found[name]["peers"] = anomalib_beside("glass", detector, reading, keys, say, clock)
        if options.channels_last:
            found[name]["channels_last"] = channels_last(detector, keys, clock)
    return found


def channels_last(detector, keys, clock):
    """Return the figures of bare backbone and eager detector with weights laid channels last."""
    import copy

    import torch

    from adbench.deploy.benchmark import bare_backbone
    from adbench.deploy.measuring import measured
    from adbench.deploy.torch_engine import TorchEngine

    cpu = torch.device("cpu")
    turned = copy.deepcopy(detector).eval().to(memory_format=torch.channels_last)
    subjects = {"eager": TorchEngine(turned, cpu)}
    subjects["bare backbone"] = bare_backbone(turned.backbone, cpu)
    return measured(subjects, (256, 256), 8, keys, clock)

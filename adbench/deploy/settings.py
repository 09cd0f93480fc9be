"""The keys of predict, export, benchmark and serve, as records; conf/VERB.yaml explains each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from adbench.config.typed import Count, NonNegative, Positive, Share, Within
from adbench.errors import UserError

Drawn = Literal["none", "ng", "all"]
Format = Literal["onnx", "openvino", "torch"]
Precision = Literal["fp32", "fp16", "int8"]
_Batch = Annotated[int, Within(1, 4096)]
_Threads = Annotated[int, Within(1, 1024)]
_Rate = Annotated[float, Within(0, 1, above=True, below=True)]
_Value = Annotated[float, Within(-1e12, 1e12)]


def _one_of(run: str | None, model: str | None, verb: str) -> None:
    if (run is None) == (model is None):
        both = "run= and model= exclude each other" if run is not None else "what is to be used?"
        raise UserError(f"{both}: adbench {verb} run=FOLDER, or model=FILE of an export")


@dataclass(frozen=True, slots=True)
class PredictKeys:
    """conf/predict.yaml."""

    run: str | None = None
    model: str | None = None
    source: str | None = None
    out: str | None = None
    watch: bool = False
    settle: NonNegative = 1.0
    poll: Annotated[float, Within(0.01, 3600)] = 0.25
    idle: Positive | None = None
    limit: Count | None = None
    every: Count = 1
    stdout: bool = False
    overlays: Drawn = "none"
    maps: Drawn = "none"
    threshold: _Value | None = None
    false_alarm_rate: _Rate | None = None
    calibrate: str | None = None
    write_back: bool = False
    batch_size: _Batch = 8
    max_pixels: Count = 100_000_000
    device: Literal["auto", "cpu", "gpu"] = "auto"
    threads: _Threads = 2
    force: bool = False
    plain: bool = False

    def __post_init__(self) -> None:
        _one_of(self.run, self.model, "predict")
        if not self.source and self.calibrate is None:
            raise UserError("source= is missing: a picture, folder, glob, video or camera number")
        if self.threshold is not None and (self.calibrate or self.false_alarm_rate):
            raise UserError("threshold= does not go with calibrate= or false_alarm_rate=")
        if self.write_back and self.calibrate is None and self.false_alarm_rate is None:
            raise UserError("write_back=true stores what calibrate= or false_alarm_rate= finds")
        if not self.watch and self.idle is not None:
            raise UserError("idle= ends a watch: it goes with watch=true")


@dataclass(frozen=True, slots=True)
class ExportKeys:
    """conf/export.yaml."""

    run: str | None = None
    check: str | None = None
    format: Format = "onnx"
    precision: Precision = "fp32"
    input: Literal["uint8", "float"] = "uint8"
    out: str | None = None
    images: Annotated[int, Within(2, 10**5)] = 64
    threads: _Threads = 2
    force: bool = False

    def __post_init__(self) -> None:
        if (self.run is None) == (self.check is None):
            raise UserError("what is to be exported? adbench export run=FOLDER, or check=FILE")
        if self.format == "torch" and self.precision != "fp32":
            raise UserError(f"precision={self.precision} is for format=onnx or openvino")


@dataclass(frozen=True, slots=True)
class BenchmarkKeys:
    """conf/benchmark.yaml."""

    run: str | None = None
    model: str | None = None
    engines: tuple[Literal["eager", "compile", "onnx", "openvino"], ...] = (
        "eager",
        "compile",
        "onnx",
        "openvino",
    )
    batches: tuple[_Batch, ...] = (1, 4, 8, 16)
    rounds: Annotated[int, Within(3, 1000)] = 7
    seconds: Annotated[float, Within(0.01, 3600)] = 1.0
    threads: _Threads = 2
    device: Literal["cpu", "gpu"] = "cpu"
    peers: Literal["anomalib"] | None = None
    out: str | None = None
    compare: str | None = None
    against: str | None = None
    tolerance: Share = 0.1
    plain: bool = False

    def __post_init__(self) -> None:
        if self.compare is not None:
            if self.against is None:
                raise UserError("compare=NEW.json against=OLD.json: two files are needed")
            return
        if self.against is not None:
            raise UserError("against= goes with compare=NEW.json")
        _one_of(self.run, self.model, "benchmark")


@dataclass(frozen=True, slots=True)
class ServeKeys:
    """conf/serve.yaml."""

    run: tuple[str, ...] | str | None = None
    model: tuple[str, ...] | str | None = None
    host: str = "127.0.0.1"
    port: Annotated[int, Within(0, 65535)] = 8080
    token_file: str | None = None
    workers: Annotated[int, Within(1, 64)] = 1
    threads: _Threads = 1
    batch_size: _Batch = 8
    queue: Annotated[int, Within(1, 100_000)] = 32
    max_bytes: Annotated[int, Within(1024, 1 << 31)] = 32 << 20
    max_pixels: Count = 50_000_000
    max_images: Annotated[int, Within(1, 1024)] = 16
    head_seconds: Annotated[float, Within(0.1, 3600)] = 10.0
    body_seconds: Annotated[float, Within(0.1, 3600)] = 10.0
    drain_seconds: Annotated[float, Within(0, 3600)] = 30.0
    device: Literal["auto", "cpu", "gpu"] = "auto"

    def __post_init__(self) -> None:
        if not self.run and not self.model:
            raise UserError("what is to be served? adbench serve run=FOLDER, or model=FILE")

    @property
    def places(self) -> list[str]:
        """Run folders and files of exports, in the order given."""
        found: list[str] = []
        for given in (self.run, self.model):
            found += [given] if isinstance(given, str) else list(given or ())
        return found

"""The keys of conf/model/gaa.yaml, their types, ranges and defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from adbench.config.typed import (
    Count,
    NonNegative,
    Number,
    Positive,
    Rate,
    Share,
    Side,
    Within,
    from_mapping,
)
from adbench.errors import UserError

Place = Literal["inside", "edge", "centre", "own", "logical"]
_DOWNSTREAM = 32  # sides of the localisation network's pictures are multiples of this


@dataclass(frozen=True, slots=True)
class ClusterKeys:
    """Adaptive multi-round clustering of defect regions (Eq. 2).

    Attributes:
        rounds: ``multi`` (dense clusters are split again), ``single``, or ``none``: a cluster for
            each type (T5).
        score: ``ours`` (both indices to the scale and in the sense that is right) or
            ``paper_literal``, the printed Eq. 2.
        w1, w2: weights of the Calinski-Harabasz and of the Davies-Bouldin index.
        gate: a node is split only where a Gaussian of its covariance looks as divided with at
            most this probability; 1: always.
        deep, lab, lbp, shape: weights of the blocks of features.
        adaptive: weigh each block by how well it alone divides.
        smallest: components of a cluster at least; fewer join the nearest.
        depth: rounds at most.
        min_area: pixels of a component at least, where another of the picture has them.
    """

    rounds: Literal["multi", "single", "none"] = "multi"
    score: Literal["ours", "paper_literal"] = "ours"
    w1: NonNegative = 0.5
    w2: NonNegative = 0.5
    gate: Annotated[float, Within(0, 1, above=True)] = 0.1
    deep: NonNegative = 0.5
    lab: NonNegative = 0.2
    lbp: NonNegative = 0.2
    shape: NonNegative = 0.1
    adaptive: bool = False
    smallest: Annotated[int, Within(1, 1000)] = 3
    depth: Annotated[int, Within(1, 8)] = 3
    min_area: Annotated[int, Within(1, 10**6)] = 16

    def __post_init__(self) -> None:
        if self.deep + self.lab + self.lbp + self.shape == 0:
            raise UserError("model.cluster.deep, lab, lbp and shape are all 0: nothing is compared")
        if self.w1 + self.w2 == 0:
            raise UserError("model.cluster.w1 and w2 are both 0: nothing chooses a number")


@dataclass(frozen=True, slots=True)
class RegionKeys:
    """Semantic regions of the canvases.

    Attributes:
        kind: ``foreground`` (the object, found in each picture), ``full``, ``features`` (patch
            features in ``parts`` groups, common to all pictures), ``template`` (one picture of
            labels for all), ``files`` (ROOT/CATEGORY/STEM.png for each), ``propagate`` (those
            of a few, carried over by patch features), ``seggpt`` (those of a few, carried over
            by SegGPT) or ``sam`` (what SAM finds in the first canvas, carried over by patch
            features).
        root: folder, or the template's file; levels of grey are labels, 0 is no region.
        weights: folder of SAM or SegGPT in transformers' layout.
        parts: groups of ``features``.
    """

    kind: Literal[
        "foreground", "full", "features", "template", "files", "propagate", "sam", "seggpt"
    ] = "foreground"
    root: str | None = None
    weights: str | None = None
    parts: Annotated[int, Within(2, 12)] = 4

    def __post_init__(self) -> None:
        needs = self.kind in ("template", "files", "propagate", "seggpt")
        if needs and not self.root:
            raise UserError(f"model.regions.root is missing: kind={self.kind} reads label pictures")
        if self.root is not None and not needs:
            raise UserError(f"model.regions.root={self.root} does not go with kind={self.kind}")
        if self.weights is not None and self.kind not in ("sam", "seggpt"):
            raise UserError(
                f"model.regions.weights={self.weights} does not go with kind={self.kind}"
            )


@dataclass(frozen=True, slots=True)
class RuleKeys:
    """Where one type of defect may lie; what is null is inferred from its real masks.

    Attributes:
        place: ``inside`` a region, along its ``edge``, at its ``centre``, at its ``own`` place
            (where it was seen, give or take), or ``logical``: the whole region.
        region: label; null: the one that its masks lie in most.
        turn: largest turn in degrees.
    """

    place: Place | None = None
    region: Annotated[int, Within(1, 255)] | None = None
    turn: Annotated[float, Within(0, 180)] | None = None


@dataclass(frozen=True, slots=True)
class MaskKeys:
    """Masks of the pairs: form (Eq. 5), size (Eq. 6) and place.

    Attributes:
        enhance: vary the outline (Eq. 5); with ``diffusion=none`` a real component keeps its own.
        alpha: of Eq. 6; 1 brings every mask to the cluster's mean area.
        scale: least and largest factor of Eq. 6.
        diversity: a further factor from 1 - this to 1 + this.
        place: ``rules``, or ``random_foreground`` (T5).
        combined: share of the pairs that carry two or three defects.
        jitter: of place ``own``, in shares of the picture's side.
        rules: type -> rule; a type that is not named is inferred.
    """

    enhance: bool = True
    alpha: Share = 0.5
    scale: tuple[Annotated[float, Within(0.05, 1)], Annotated[float, Within(1, 20)]] = (0.5, 2.0)
    diversity: Annotated[float, Within(0, 1, below=True)] = 0.2
    place: Literal["rules", "random_foreground"] = "rules"
    combined: Share = 0.1
    jitter: Share = 0.04
    rules: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, section in self.rules.items():
            self.rule(name, section)

    def rule(self, name: str, section: Any = None) -> RuleKeys:
        """Return the rule that is given for a type; all null where none is."""
        found = self.rules.get(name, {}) if section is None else section
        if not isinstance(found, Mapping):
            raise UserError(f"model.masks.rules.{name}={found}: place, region, turn are expected")
        return from_mapping(RuleKeys, found, f"model.masks.rules.{name}")


@dataclass(frozen=True, slots=True)
class ConceptKeys:
    """Localised concept decomposition: tokens, mask encoder, masked loss (Eq. 3).

    Attributes:
        feature_tokens, position_tokens: of a cluster, and of a mask.
        width: of a token, for ``diffusion=scratch``.
        steps, batch_size, learning_rate: of AdamW, the rate falling as a cosine.
        mask_resize: mask at latent size in the loss: ``area`` (never empty), ``any``, or
            ``bilinear05`` (code of AnomalyDiffusion: small masks vanish).
        norm: ``masked`` (mean over the mask) or ``full`` (over all cells, as printed).
        background: weight of the loss outside the mask.
        drop: share of the samples whose tokens are the null token, for guidance.
        decay: of the moving average of weights.
        windows: real and normal windows that are encoded once.
        save_every: steps between checkpoints.
    """

    feature_tokens: Annotated[int, Within(1, 64)] = 8
    position_tokens: Annotated[int, Within(1, 64)] = 4
    width: Annotated[int, Within(8, 1024)] = 128
    steps: Count = 5000
    batch_size: Annotated[int, Within(2, 1024)] = 16
    learning_rate: Rate = 1e-3
    mask_resize: Literal["area", "any", "bilinear05"] = "area"
    norm: Literal["masked", "full"] = "masked"
    background: NonNegative = 0.0
    drop: Annotated[float, Within(0, 1, below=True)] = 0.1
    decay: Annotated[float, Within(0, 1, below=True)] = 0.999
    windows: Annotated[int, Within(16, 10**6)] = 1024
    save_every: Count = 250


@dataclass(frozen=True, slots=True)
class GenerateKeys:
    """How pairs are made.

    Attributes:
        per_type: pairs of each type.
        batch_size: windows inpainted at once.
        window: smallest side in pixels of the window around a mask that is inpainted.
        net: side in pixels at which windows are inpainted.
        steps, eta, guidance: of the sampler (DDIM).
        strength: share of the noise levels that painting descends; below 1 it begins from the
            pasted real component under that much noise, at 1 from noise alone (paper).
        composite: ``pixel`` (the canvas is untouched outside the mask but for a feather),
            ``latent`` (blended at latent size only) or ``none`` (the network's picture).
        blend: of real components: ``feather`` or ``poisson``.
        feather: pixels outside the mask over which it fades.
    """

    per_type: Count = 1000
    batch_size: Annotated[int, Within(1, 1024)] = 32
    window: Annotated[int, Within(16, 4096)] = 64
    net: Annotated[int, Within(16, 1024)] = 128
    steps: Annotated[int, Within(1, 1000)] = 50
    eta: Share = 1.0
    guidance: Annotated[float, Within(0, 100)] = 2.0
    strength: Annotated[float, Within(0, 1, above=True)] = 1.0
    composite: Literal["pixel", "latent", "none"] = "pixel"
    blend: Literal["feather", "poisson"] = "feather"
    feather: Annotated[int, Within(0, 64)] = 2


@dataclass(frozen=True, slots=True)
class FilterKeys:
    """Scorer, anomaly-region score (Eq. 7) and choice.

    Attributes:
        score: ``contrast`` (score inside less change outside), ``ars`` (Eq. 7), or ``none``:
            every pair is kept (T5).
        keep: share of each cluster's pairs that is kept.
        fill: share of the mask that must be changed at least.
        steps, batch_size: of the scorer's training.
        noise: deviation added to normal features; null: 0.3 of their own deviation.
        margin: th of the hinge loss.
    """

    score: Literal["contrast", "ars", "none"] = "contrast"
    keep: Annotated[float, Within(0, 1, above=True)] = 0.5
    fill: Share = 0.3
    steps: Count = 600
    batch_size: Annotated[int, Within(1, 512)] = 8
    noise: Positive | None = None
    margin: Positive = 0.5


@dataclass(frozen=True, slots=True)
class UseKeys:
    """The localisation network that is trained in the end.

    Attributes:
        data: what its anomalies are: ``pairs``, the ``real`` ones that were seen, ``real_pairs``
            (both), ``synthesis`` (the group's, no real defect) or ``canvases`` (pairs' masks on
            untouched pictures: chance).
        width: channels of its first level.
        gamma: of the focal loss.
        defective: share of a batch that is anomalous.
        learning_rate: of AdamW.
        jitter: of brightness and contrast.
        window: side of the mean filter whose maximum is the image's score.
        augment: ``flips`` or ``none`` (as published).
        select: which state counts: the best on ``synthetic`` pairs whose canvases were held out
            (a tenth; where pairs are trained on), or the ``last``.
    """

    data: Literal["pairs", "real", "real_pairs", "synthesis", "canvases"] = "pairs"
    width: Annotated[int, Within(4, 256)] = 64
    gamma: NonNegative = 2.0
    defective: Annotated[float, Within(0, 1, above=True)] = 0.5
    learning_rate: Rate = 1e-4
    jitter: Annotated[float, Within(0, 1, below=True)] = 0.1
    window: Side = 21
    augment: Literal["flips", "none"] = "flips"
    select: Literal["synthetic", "last"] = "synthetic"

    def __post_init__(self) -> None:
        if self.window % 2 == 0:
            raise UserError(f"model.use.window={self.window}: an odd number is expected")


@dataclass(frozen=True, slots=True)
class ClassifierKeys:
    """The network that names a defect's type.

    Attributes:
        network: ``resnet34`` (timm), ``bundled`` (the bundled network's features, frozen, with a
            trained head) or ``none``.
        weights: of resnet34: a file, or ``random``.
        steps, batch_size, learning_rate: of AdamW.
    """

    network: Literal["resnet34", "bundled", "none"] = "resnet34"
    weights: str | None = None
    steps: Number = 2000
    batch_size: Annotated[int, Within(1, 512)] = 8
    learning_rate: Rate = 1e-4


@dataclass(frozen=True, slots=True)
class GaaKeys:
    """conf/model/gaa.yaml, section ``model``.

    Attributes:
        draw: tiles on a contact sheet.
    """

    cluster: ClusterKeys = ClusterKeys()
    regions: RegionKeys = RegionKeys()
    masks: MaskKeys = field(default_factory=MaskKeys)
    concept: ConceptKeys = ConceptKeys()
    generate: GenerateKeys = GenerateKeys()
    filter: FilterKeys = FilterKeys()
    use: UseKeys = UseKeys()
    classifier: ClassifierKeys = ClassifierKeys()
    draw: Annotated[int, Within(1, 1000)] = 32

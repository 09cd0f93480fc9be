"""The keys of conf/synthesis/*.yaml: one record a synthesizer, defaults and ranges in one place.

Nothing here imports torch, so that a wrong request is refused at once. ``adbench.config.targets``
finds the record of a class by its name: ``Las`` has ``LasKeys``.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

from adbench.config.schema import check_synthesis
from adbench.config.targets import check_target
from adbench.config.typed import Bytes, Share, Side, Within
from adbench.diffusion import settings as sdas
from adbench.errors import UserError, nearest

PRESETS = ("mvtec", "visa", "mpdd", "btad")
UNIFORM_CATEGORIES = ("carpet", "grid", "leather", "tile", "wood", "weave")
Op = Literal["single", "intersection", "union"]
OPS: tuple[Op, ...] = get_args(Op)

Tries = Annotated[int, Within(1, 1000)]
Shares = tuple[Share, Share]
Exponent = Annotated[int, Within(0, 8)]
Pixels = Annotated[float, Within(0, 16384, above=True)]
_Grey = Annotated[float, Within(0, 255)]
_Half = Annotated[float, Within(0, 1, above=True)]
_Factor = Annotated[float, Within(0, 10, above=True)]
_Area = Annotated[float, Within(0, 1, above=True, below=True)]
_Cells = Annotated[int, Within(1, 256)]


def _ordered(name: str, bounds: tuple[float, float]) -> None:
    low, high = bounds
    if low > high:
        raise UserError(f"synthesis.{name}=[{low:g},{high:g}]: low exceeds high")


def _given(root: str | None) -> bool:
    return root is not None and root != "???"


@dataclass(frozen=True)
class TexturesKeys:
    """Where foreign pixels come from.

    Attributes:
        source: formulas, a folder, or other training images.
        root: the folder, for ``source=folder``.
        count: textures generated, for ``source=procedural``.
        colour: ``keep`` (as published) or ``auto``: grey where all training images are grey.
        max_memory: bytes of textures kept; others are made or decoded at each draw.
    """

    source: Literal["procedural", "folder", "training"] = "procedural"
    root: str | None = None
    count: Annotated[int, Within(1, 100_000)] = 512
    colour: Literal["keep", "auto"] = "keep"
    max_memory: Bytes = 1 << 30

    def __post_init__(self) -> None:
        if self.source == "folder" and not _given(self.root):
            raise UserError(
                "synthesis.textures.source=folder needs synthesis.textures.root=FOLDER; "
                f"{where_textures_are()}"
            )


def where_textures_are() -> str:
    """Return in words where DTD can be had and what does without."""
    from adbench.data.catalogue import CATALOGUE

    page = CATALOGUE["dtd"].page
    return f"DTD can be had at {page}; synthesis.textures.source=procedural needs no folder"


@dataclass(frozen=True)
class ForegroundKeys:
    """Where defects may lie.

    Attributes:
        method: ``otsu`` (computed per image), ``preset`` (RealNet's rule of the category),
            ``rules`` (that rule where there is one, else as ``otsu``), ``files`` (masks beside
            the data set) or ``none``.
        root: for ``files``: the folder that holds ``CATEGORY/STEM.png``.
        preset: for ``preset`` and ``rules``: one of ``PRESETS``; with ``rules`` any other name
            means no rules.
        everywhere: categories that are foreground all over where no rule speaks of them.
    """

    method: Literal["otsu", "preset", "rules", "files", "none"] = "otsu"
    root: str | None = None
    preset: str | None = None
    everywhere: tuple[str, ...] = UNIFORM_CATEGORIES

    def __post_init__(self) -> None:
        if self.method == "files" and not _given(self.root):
            raise UserError(
                "synthesis.foreground.method=files needs synthesis.foreground.root=FOLDER"
            )
        if self.method == "preset" and self.preset not in PRESETS:
            raise UserError(
                f"synthesis.foreground.preset={self.preset or 'null'}: choose one of "
                f"{', '.join(PRESETS)}{nearest(str(self.preset), PRESETS)}"
            )


_ANYWHERE = ForegroundKeys(method="none")
_RULES = ForegroundKeys(method="rules")
_PAPER = sdas.NetworkKeys(preset="paper")
_FIT = sdas.FitKeys(_PAPER, size=256, steps=14600, batch_size=60, learning_rate=1e-4, decay=0.9999)


@dataclass(frozen=True)
class ForegroundSynthesizerKeys:
    """What all synthesizers that draw defects themselves have.

    Attributes:
        foreground: where defects may lie.
        probability: share of images that get an anomaly at all.
    """

    foreground: ForegroundKeys = _ANYWHERE
    probability: Share = 1.0


@dataclass(frozen=True)
class PerlinKeys(ForegroundSynthesizerKeys):
    """Noise and blending of the Perlin family.

    Attributes:
        threshold: on the Perlin noise, -1..1.
        exponents: lowest and highest power of two of the noise's frequencies.
        opacity: bounds of the uniform opacity of the source.
        tries: masks drawn at most until one is not empty.
        truncate: composites keep to 256 levels, like the images they are made of.
    """

    threshold: Annotated[float, Within(-1, 1)] = 0.5
    exponents: tuple[Exponent, Exponent] = (0, 5)
    opacity: Shares = (0.2, 1.0)
    tries: Tries = 10
    truncate: bool = True

    def __post_init__(self) -> None:
        _ordered("exponents", self.exponents)
        _ordered("opacity", self.opacity)


@dataclass(frozen=True)
class DraemKeys(PerlinKeys):
    """conf/synthesis/draem.yaml and dtd.yaml.

    Attributes:
        augmentations: how many of the ten each texture gets.
    """

    textures: TexturesKeys = TexturesKeys()
    augmentations: Annotated[int, Within(0, 10)] = 3


@dataclass(frozen=True)
class MemSegKeys(PerlinKeys):
    """conf/synthesis/memseg.yaml.

    Attributes:
        texture_share: probability of a texture; else the image itself, augmented and shuffled.
        grid: rows and columns of cells that change places.
        augmentations: operations (mirror, rotation, brightness, saturation with hue) before the
            cells change places.
    """

    foreground: ForegroundKeys = ForegroundKeys()
    textures: TexturesKeys = TexturesKeys()
    texture_share: Share = 0.5
    grid: tuple[_Cells, _Cells] = (4, 8)
    augmentations: Annotated[int, Within(0, 4)] = 3
    opacity: Shares = (0.15, 1.0)


@dataclass(frozen=True)
class LasKeys(ForegroundSynthesizerKeys):
    """conf/synthesis/las.yaml.

    Attributes:
        ops: which of single, intersection, union are drawn, with equal probability.
        threshold: on the Perlin noise.
        exponents: lowest and highest power of two of the noise's frequencies.
        beta_mean, beta_std, beta_low, beta_high: normal distribution of the transparency and the
            interval it is cut to; a deviation of 0 makes it constant.
        augmentations: how many of the nine each texture gets.
        grid: pixels; the mask must not be empty after max-pooling by so many.
    """

    foreground: ForegroundKeys = ForegroundKeys()
    textures: TexturesKeys = TexturesKeys()
    ops: tuple[Op, ...] = OPS
    threshold: Annotated[float, Within(-1, 1)] = 0.5
    exponents: tuple[Exponent, Exponent] = (0, 5)
    beta_mean: Share = 0.5
    beta_std: Annotated[float, Within(0, 1000)] = 0.1
    beta_low: Share = 0.2
    beta_high: Share = 0.8
    augmentations: Annotated[int, Within(0, 9)] = 3
    grid: Side = 8

    def __post_init__(self) -> None:
        if not self.ops:
            raise UserError(f"synthesis.ops=[]: one or more of {', '.join(OPS)} are expected")
        _ordered("exponents", self.exponents)
        if self.beta_low > self.beta_high:
            raise UserError(
                f"synthesis.beta_low={self.beta_low:g} exceeds "
                f"synthesis.beta_high={self.beta_high:g}"
            )


@dataclass(frozen=True)
class PastingKeys(ForegroundSynthesizerKeys):
    """What both forms of CutPaste have.

    Attributes:
        jitter: of brightness, contrast, saturation (factors 1 +- jitter) and hue (circles).
        tries: pieces drawn at most until one falls on the foreground.
    """

    jitter: Share = 0.1
    tries: Tries = 10


@dataclass(frozen=True)
class CutPasteKeys(PastingKeys):
    """conf/synthesis/cutpaste.yaml.

    Attributes:
        area: bounds of the rectangle's share of the image.
        aspect: height over width is uniform in aspect..1 or in 1..1/aspect, evenly.
    """

    area: tuple[_Area, _Area] = (0.02, 0.15)
    aspect: Annotated[float, Within(0.001, 1)] = 0.3

    def __post_init__(self) -> None:
        _ordered("area", self.area)


@dataclass(frozen=True)
class CutPasteScarKeys(PastingKeys):
    """conf/synthesis/cutpaste_scar.yaml.

    Attributes:
        thickness, length: bounds in pixels of an image whose shorter side is ``at_size``.
        at_size: pixels.
        degrees: largest turn either way.
    """

    thickness: tuple[Pixels, Pixels] = (2.0, 16.0)
    length: tuple[Pixels, Pixels] = (10.0, 25.0)
    at_size: Side = 256
    degrees: Annotated[float, Within(0, 180)] = 45.0

    def __post_init__(self) -> None:
        _ordered("thickness", self.thickness)
        _ordered("length", self.length)


@dataclass(frozen=True)
class PatchKeys:
    """How NSA's patches are drawn.

    Attributes:
        height, width: bounds of the half sides, relative to the image's.
        patches: most patches an image.
        scale: bounds of the factor that a patch is resized by.
        background: gray level and tolerance of the background; None: all is object.
        min_object: share of a patch that must be object where it is taken from.
        min_overlap: share of the patch's object that must fall on the object it is pasted on.
    """

    height: tuple[_Half, _Half] = (0.03, 0.4)
    width: tuple[_Half, _Half] = (0.03, 0.4)
    patches: Annotated[int, Within(1, 100)] = 3
    scale: tuple[_Factor, _Factor] = (0.7, 1.3)
    background: tuple[_Grey, _Grey] | None = None
    min_object: Share = 0.7
    min_overlap: Share = 0.25

    def __post_init__(self) -> None:
        for name in ("height", "width", "scale"):
            _ordered(name, getattr(self, name))


@dataclass(frozen=True)
class NsaKeys(ForegroundSynthesizerKeys, PatchKeys):
    """conf/synthesis/nsa.yaml.

    Attributes:
        mode: ``normal`` takes the patch's gradients, ``mixed`` the stronger of both.
        by_category: take sizes and background from the published table where the run's only
            category stands in it.
        tries: attempts at most until one shows.
    """

    mode: Literal["normal", "mixed"] = "normal"
    by_category: bool = True
    tries: Annotated[int, Within(1, 100)] = 3


@dataclass(frozen=True)
class PoolKeys(PerlinKeys):
    """conf/synthesis/pool.yaml.

    Attributes:
        root: folder of the pool; None: the artefact of the run's stage ``pool``.
        masks: ``perlin`` (drawn), ``files`` (each image's own), or ``auto``: files where the
            folder is a run or a set of model=gaa, whose pictures are pairs with masks.
        max_memory: bytes of decoded images kept; others are decoded at each draw.
    """

    foreground: ForegroundKeys = ForegroundKeys()
    root: str | None = None
    masks: Literal["auto", "perlin", "files"] = "auto"
    opacity: Shares = (0.5, 1.0)
    max_memory: Bytes = 1 << 30

    def __post_init__(self) -> None:
        PerlinKeys.__post_init__(self)
        if self.root == "???":  # how a yaml marks what must be given
            raise UserError(
                "synthesis.root is missing: the folder of the pool, which `adbench synthesize` "
                "can fill"
            )


@dataclass(frozen=True)
class SdasPoolKeys(PoolKeys, sdas.PoolKeys):
    """conf/synthesis/sdas.yaml: keys of the blending, of the pool's drawing and of its model.

    Attributes:
        fit: how the model is trained, where the run trains it.
    """

    n: Annotated[int, Within(1, 10**6)] = 10_000
    tries: Tries = 1
    foreground: ForegroundKeys = _RULES
    masks: Literal["auto", "perlin", "files"] = "perlin"
    fit: sdas.FitKeys = _FIT

    def __post_init__(self) -> None:
        PoolKeys.__post_init__(self)
        sdas.PoolKeys.__post_init__(self)


@dataclass(frozen=True)
class MixtureKeys:
    """conf/synthesis/mixture.yaml.

    Attributes:
        components: name -> section of the ``synthesis`` group, checked by its own record before
            anything is imported; one without ``_target_`` (``none``) stays normal. In Python a
            built synthesizer serves as well.
        weights: name -> weight, positive; any scale.
    """

    components: dict[str, Any]
    weights: dict[str, Annotated[float, Within(0, 1e6, above=True)]]

    def __post_init__(self) -> None:
        if not self.components:
            raise UserError("synthesis.components={}: at least one component is expected")
        for name in self.weights:
            if name not in self.components:
                raise UserError(
                    f"synthesis.weights: no component '{name}'{nearest(name, self.components)}"
                )
        for name, section in self.components.items():
            if name not in self.weights:
                raise UserError(f"synthesis.weights.{name} is missing: a positive weight")
            _check_component(section, f"synthesis.components.{name}")


def _check_component(section: Any, where: str) -> None:
    if not isinstance(section, Mapping):
        if callable(section):
            return  # built already
        raise UserError(f"{where}: a section of the group synthesis is expected, e.g. las")
    target = section.get("_target_")
    if target is not None and check_target(target, f"{where}._target_").endswith(".Mixture"):
        raise UserError(f"{where}: a mixture within a mixture; name its components beside it")
    with keys_below(where):
        check_synthesis(section, where)


@contextlib.contextmanager
def keys_below(where: str) -> Iterator[None]:
    """Name keys in errors as they are typed: ``synthesis.root`` lies below ``where``."""
    try:
        yield
    except UserError as error:
        inner = re.escape(where.partition(".")[2])
        own = rf"(?<![\w.])synthesis\.(?!{inner}\b)|^(?=_target_)"
        raise UserError(re.sub(own, f"{where}.", str(error))) from error

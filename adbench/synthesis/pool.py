"""Anomalies out of a folder: pictures to blend in, as SDAS draws them, or pairs with masks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Generator, Tensor

from adbench.config.typed import from_mapping
from adbench.data.cache import resized_image
from adbench.data.defects import RECORD
from adbench.errors import UserError
from adbench.synthesis.base import Synthetic
from adbench.synthesis.blending import PerlinBlend, composed
from adbench.synthesis.perlin import uniform
from adbench.synthesis.settings import PoolKeys
from adbench.synthesis.textures import PictureCache, images_below

if TYPE_CHECKING:
    from adbench.data.datamodule import DataModule

_CONTACT = "contact"  # sheets that pool writers leave beside the images
_OF_A_RUN = Path("stages") / "filter"  # where a run of model=gaa keeps the pairs worth using


def mask_path(image: Path) -> Path:
    """Return where the mask of ``CATEGORY/test/DEFECT/STEM.png`` lies in MVTec's layout."""
    category = image.parent.parent.parent
    return category / "ground_truth" / image.parent.name / f"{image.stem}_mask.png"


def pool_images(folder: Path, *, pairs: bool) -> list[Path]:
    """Return the pool's images by path: all but masks and contact sheets.

    Args:
        pairs: only those that have a mask.
    """
    found = [path for path in images_below(folder) if not path.stem.startswith(_CONTACT)]
    found = [path for path in found if "ground_truth" not in path.relative_to(folder).parts]
    return [path for path in found if mask_path(path).is_file()] if pairs else found


def holds_pairs(root: Path) -> bool:
    """Whether a folder is a run or a set of model=gaa: pairs, made from real defects."""
    return (root / RECORD).is_file() and bool(
        (root / _OF_A_RUN).is_dir() or (root / "manifest.jsonl").is_file()
    )


class Pool(PerlinBlend):
    """Blends pool images into normal ones (papers/002, Sec. 3.1).

    With ``masks=perlin`` any folder of images serves, such as the one ``adbench synthesize``
    fills from an SDAS run: pixels show inside a drawn mask. With ``masks=files`` the folder is
    in MVTec's layout and each image shows inside its own mask. Where the folder has one
    subfolder a category, those of the run's categories count.

    Args:
        keys: those of PoolKeys; without ``root`` it is the artefact of the run's stage ``pool``.

    Attributes:
        stage_folder: where the run's stages lie; set by whoever runs them.
    """

    stage_folder: Path | None = None

    kind: ClassVar[type[PoolKeys]] = PoolKeys

    def __init__(self, **keys: Any) -> None:
        self.keys = made = from_mapping(self.kind, keys, "synthesis")
        super().__init__(made)
        self.root, self.from_files = made.root, made.masks == "files"
        if made.masks == "auto" and made.root is not None:
            self.from_files = holds_pairs(Path(made.root).expanduser())
        if made.root is not None and not Path(made.root).expanduser().is_dir():
            raise UserError(
                f"synthesis.root={made.root} is no folder; "
                "`adbench synthesize` fills one from a run"
            )
        self._paths: list[Path] = []
        self._pictures = PictureCache(resized_image, made.max_memory)

    @property
    def record(self) -> dict[str, Any]:
        place = "stage pool" if self.root is None else f"folder {self.root}"
        return {"pool": f"{place} ({len(self._paths)} images)" if self._paths else place}

    def prepare(self, datamodule: DataModule) -> None:
        super().prepare(datamodule)
        self._paths = self._found({sample.category for sample in datamodule.train_samples})

    def _found(self, categories: set[str]) -> list[Path]:
        folder = self._folder()
        own = [folder / name for name in sorted(categories) if (folder / name).is_dir()]
        paths = [
            path for each in own or [folder] for path in pool_images(each, pairs=self.from_files)
        ]
        if not paths:
            kind = "image with a mask under ground_truth/" if self.from_files else "image"
            raise UserError(f"synthesis.root={folder} holds no {kind}")
        return paths

    def _folder(self) -> Path:
        if self.root is not None:
            root = Path(self.root).expanduser()
            return root / _OF_A_RUN if (root / _OF_A_RUN).is_dir() else root
        if self.stage_folder is None or not (self.stage_folder / "pool").is_dir():
            raise UserError("the pool is empty: set synthesis.root=FOLDER to one that is filled")
        return self.stage_folder / "pool"

    def _picked(self, count: int, generator: Generator) -> list[Path]:
        self._paths = self._paths or self._found(set())
        drawn = torch.randint(
            len(self._paths), (count,), generator=generator, device=generator.device
        )
        return [self._paths[number] for number in drawn.tolist()]

    def drawn_source(self, image: Tensor, generator: Generator) -> Tensor:
        size = (image.shape[-2], image.shape[-1])
        return self._pictures.stacked(self._picked(len(image), generator), size, image.device)

    def __call__(
        self,
        image: Tensor,
        *,
        foreground: Tensor | None = None,
        source: Tensor | None = None,
        generator: Generator,
    ) -> Synthetic:
        if not self.from_files:
            return super().__call__(
                image, foreground=foreground, source=source, generator=generator
            )
        count, size = len(image), (image.shape[-2], image.shape[-1])
        paths = self._picked(count, generator)
        mask = (
            self._pictures.stacked([mask_path(path) for path in paths], size, image.device)[:, :1]
            > 0
        )
        mask &= self.applied(count, generator).view(-1, 1, 1, 1)
        if foreground is not None:
            mask &= foreground.to(mask.device)
        if source is None:
            source = self._pictures.stacked(paths, size, image.device)
        low, high = self.opacity
        opacity = low + (high - low) * uniform(generator, count)
        made = composed(image, source, mask, opacity, truncate=self.truncate)
        return Synthetic(made, mask, opacity, mask.flatten(1).any(1))

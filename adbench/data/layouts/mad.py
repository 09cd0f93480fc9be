"""MAD-man and MAD-sys: test sets in layout M per subset, for models trained on MVTec AD."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from adbench.data.layouts.base import check_category, ordered, subfolders
from adbench.data.layouts.mvtec import MVTecLayout, is_category, read_category
from adbench.data.sample import Sample
from adbench.errors import UserError, nearest


class _MADLayout:
    """Subsets (``Person_1``, ``Beta_0.3``) of one test set; the subset is each sample's group."""

    inner = ""

    def __init__(self, subset: str | tuple[str, ...], train_root: str | None) -> None:
        self.subset = subset
        self.train_root = train_root

    def categories(self, root: Path) -> list[str]:
        found = {name for folder in self._subsets(root) for name in _categories(folder)}
        if not found:
            raise UserError(f"no CATEGORY/test folder in the subsets below {root}")
        return sorted(found)

    def read(self, root: Path, category: str) -> list[Sample]:
        check_category(category, self.categories(root), root)
        tests = [
            replace(sample, group=folder.name)
            for folder in self._subsets(root)
            if is_category(folder / category)
            for sample in read_category(folder / category, category, root)
            if sample.split == "test"
        ]
        return ordered([*self._training(root, category), *tests])

    def _training(self, root: Path, category: str) -> list[Sample]:
        """Return MVTec AD's training images; ``train_root`` or the folder mvtec beside ours."""
        folder = Path(self.train_root).expanduser() if self.train_root else root.parent / "mvtec"
        if not folder.is_dir():
            raise UserError(
                f"{folder} does not exist: this test set is for models trained on MVTec AD; "
                "set dataset.options.train_root=FOLDER"
            )
        samples = MVTecLayout().read(folder, category)
        return [sample for sample in samples if sample.split == "train"]

    def _subsets(self, root: Path) -> list[Path]:
        base = root / self.inner if (root / self.inner).is_dir() else root
        found = [name for name in subfolders(base) if _categories(base / name)]
        if not found:
            raise UserError(f"no SUBSET/CATEGORY/test folder below {base}")
        if self.subset == "all":
            return [base / name for name in found]
        wanted = [self.subset] if isinstance(self.subset, str) else list(self.subset)
        for name in wanted:
            if name not in found:
                raise UserError(
                    f"no subset '{name}' in {base}{nearest(name, found)} "
                    f"(found: {', '.join(found)})"
                )
        return [base / name for name in wanted]


class MADManLayout(_MADLayout):
    """``MAD-man/Person_{1..5}/CAT/test``: defects picked by five people.

    Args:
        subset: one subset, a list of them, or ``all``; they are tested together.
        train_root: MVTec AD's folder; None for ``mvtec`` beside this data set's.
    """

    inner = "MAD-man"

    def __init__(
        self, subset: str | tuple[str, ...] = "all", train_root: str | None = None
    ) -> None:
        super().__init__(subset, train_root)


class MADSysLayout(_MADLayout):
    """``MAD-sys/Beta_*/CAT/test``: textures with synthetic defects of five transparencies.

    Args:
        subset: one subset, a list of them, or ``all``; by default the paper's four.
        train_root: MVTec AD's folder; None for ``mvtec`` beside this data set's.
    """

    inner = "MAD-sys"

    def __init__(
        self,
        subset: str | tuple[str, ...] = ("Beta_0.1", "Beta_0.3", "Beta_0.5", "Beta_0.7"),
        train_root: str | None = None,
    ) -> None:
        super().__init__(subset, train_root)


def _categories(folder: Path) -> list[str]:
    return [name for name in subfolders(folder) if is_category(folder / name)]

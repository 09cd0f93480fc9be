"""A data set's layout: CATEGORY/ok_*.png for training, CATEGORY/check/{ok,ng}_*.png for testing."""

from adbench import UserError
from adbench.data.sample import ANOMALOUS, NORMAL, Sample


class FlatLayout:
    """Constructor arguments are the keys of ``dataset.options``."""

    def __init__(self, suffix: str = ".png") -> None:
        self.suffix = suffix

    def categories(self, root):
        return sorted(folder.name for folder in root.iterdir() if (folder / "check").is_dir())

    def read(self, root, category):
        found = [
            Sample(
                image=path,
                label=NORMAL if path.name.startswith("ok_") else ANOMALOUS,
                category=category,
                defect="good" if path.name.startswith("ok_") else "defect",
                split="test" if path.parent.name == "check" else "train",
                root=root,
            )
            for path in sorted((root / category).rglob(f"*{self.suffix}"))
        ]
        if not found:
            raise UserError(f"no {self.suffix} in {root / category} (dataset.root)")
        return found

"""``adbench export``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adbench.cli.arguments import parsed_arguments
from adbench.cli.console import print_table, say
from adbench.config.plain import plain_keys
from adbench.deploy.settings import ExportKeys
from adbench.errors import UserError

HELP = """usage: adbench export run=FOLDER [format=onnx|openvino|torch] [precision=fp32|fp16|int8]
       adbench export check=FILE                 repeat the comparison, on the line's own PC

Writes the run's detector with its pre- and post-processing as one file that takes pictures of any
size, and compares it with the detector: parity.json. The last line is the file.

  input=uint8|float          [B, H, W, 3] RGB of bytes, or [B, 3, H, W] in 0..1
  precision=fp16             weights in half precision, computed in float32
  precision=int8             the backbone's convolutions; threshold taken anew from held-out normals
  out=FOLDER                 where; else export/FORMAT-PRECISION below the run
  images=64 threads=2 force=true

Exit code 1: the file differs from the detector by more than its tolerance (fp32 1e-4 of the maps'
range, fp16 1e-2). conf/export.yaml has every key."""

_FILES = {"onnx": "detector.onnx", "openvino": "detector.xml", "torch": ""}


def run(words: Sequence[str]) -> int:
    """Export, or check an export; the last line on stdout is the file."""
    keys = plain_keys(ExportKeys, parsed_arguments(words).overrides, "export")
    if keys.check is not None:
        return _checked(Path(keys.check).expanduser(), keys.threads)
    from adbench.runs.folder import open_run

    folder, config = open_run(str(keys.run))
    if not folder.finished:
        raise UserError(f"{folder.path} is not a finished run; train it first")
    below = f"{keys.format}-{keys.precision}" + ("" if keys.input == "uint8" else "-float")
    out = Path(keys.out).expanduser() if keys.out else folder.path / "export" / below
    made = out / _FILES[keys.format]
    from adbench.runs.alone import holds_nothing, written_alone
    from adbench.runs.files import read_record

    with written_alone(out.parent, "out"):
        if not keys.force and (out / "parity.json").is_file():
            found = read_record(out / "parity.json")
            say(f"{out} holds this export already: force=true repeats it")
        elif not holds_nothing(out) and not (out / "parity.json").is_file():
            raise UserError(f"out={out} is not empty and no export: choose another folder")
        else:
            from adbench.deploy.export import export

            found = export(folder.path, config, keys, out, say)
    _show(found)
    print(made)
    return 1 if found.get("met") is False else 0


def _checked(path: Path, threads: int) -> int:
    """Repeat the comparison with the reference that lies beside a file."""
    from adbench.deploy.parity import REFERENCE, parity, read_reference
    from adbench.deploy.runtime import checked_sha256, opened_export

    if path.is_dir():
        raise UserError(f"check={path}: name the file in it, detector.onnx or detector.xml")
    checked_sha256(path)
    engine = opened_export(path, threads)
    reference = read_reference(path.with_name(REFERENCE))
    found = parity(engine, reference, engine.card.rule, engine.card.precision)
    _show(found)
    print(path)
    return 1 if found["met"] is False else 0


def _show(found: Mapping[str, Any]) -> None:
    rows = [
        [name, *[f"{case[key]:.2g}" for key in ("score_max", "score_p99", "map_max", "map_p99")]]
        for name, case in found["cases"].items()
    ]
    header = ["pictures", "score, largest", "score, p99", "map, largest", "map, p99"]
    print_table(
        "differences to the detector (maps: share of their range)", header, rows, plain=True
    )
    decisions = found.get("decisions")
    if decisions:
        say(f"{decisions['flips']} of {decisions['pictures']} decisions differ")
    auroc = found.get("auroc")
    if auroc and None not in auroc.values():
        say(f"image AUROC {auroc['detector']:.4f}, of the export {auroc['export']:.4f}")
    met = {None: "no tolerance is promised", True: "within tolerance", False: "BEYOND TOLERANCE"}
    say(f"worst {found['worst']:.2g} of the maps' range: {met[found['met']]}")

"""``adbench report``: what was run, on one page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from adbench.cli.arguments import parsed_arguments
from adbench.cli.console import say
from adbench.errors import UserError
from adbench.reports.settings import ReportKeys

HELP = """usage: adbench report [runs=outputs] [out=FILE] [format=html|md|csv|latex|all] [KEY=...]

One self-contained page of run folders: leaderboards with means, spreads and intervals, the paper
beside ours, speed, kinds of defect, what differs; for single runs curves, a threshold to move,
costs, pictures sorted by error, training, configuration. It asks for nothing from elsewhere.

  runs=FOLDER|PATTERN     a run, a folder above several, or a pattern like 'outputs/glass/**/seed0*'
  out=FILE                null: report.html beside the runs
  details=12 gallery=24   runs shown one by one; pictures of each
  megabytes=28            the page stays below; what is left out is said
  bootstrap=500           resamplings behind an interval

The last line on stdout is the file written."""


def run(words: Sequence[str]) -> int:
    """Write a report; the last line on stdout is its path."""
    arguments = parsed_arguments(words)
    from adbench.config.compose import compose_config
    from adbench.config.typed import from_mapping
    from adbench.reports.facts import RunFacts, label_runs, read_facts
    from adbench.reports.page import found_folders, rendered
    from adbench.runs.files import write_text

    composed = compose_config("report", arguments.overrides, arguments.config_dir, (ReportKeys,))
    keys = from_mapping(ReportKeys, composed, "")
    folders = found_folders(keys.runs)
    runs: list[RunFacts] = []
    skipped: list[str] = []
    for folder in folders:
        try:
            runs.append(read_facts(folder, len(runs), keys.bootstrap))
        except (UserError, OSError) as error:
            skipped.append(str(error))
    if not runs:
        raise UserError(f"nothing to report: {skipped[0]}")
    label_runs(runs)
    target = _target(keys, folders)
    written = target
    for suffix, text in rendered(runs, skipped, keys).items():
        written = (
            target
            if keys.out is not None and keys.format != "all"
            else target.with_suffix(f".{suffix}")
        )
        write_text(written, text)
    say(f"{len(runs)} runs reported" + (f", {len(skipped)} not" if skipped else ""))
    print(written if keys.format != "all" else target.with_suffix(".html"))
    return 0


def _target(keys: ReportKeys, folders: Sequence[Path]) -> Path:
    if keys.out is not None:
        return Path(keys.out).expanduser()
    base = Path(keys.runs).expanduser()
    place = base if base.is_dir() else folders[0].parent
    return place / "report.html"

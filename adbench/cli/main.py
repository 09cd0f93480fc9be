"""The command line: finds the verb, hands over, turns errors into one line and an exit code."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from adbench.cli.process import terminations_as_interrupts, unread_output_allowed
from adbench.errors import UserError, nearest

# verb -> (module with run(arguments) -> exit code, what it does). Nothing is imported before it
# is needed: `adbench --help` must answer at once.
VERBS = {
    "train": ("adbench.cli.train", "compose, train, test, write a run folder"),
    "test": ("adbench.cli.test", "test a finished run again: run=FOLDER"),
    "sweep": ("adbench.cli.sweep", "many cells in one table: key=a,b,c ..."),
    "predict": ("adbench.cli.predict", "judge pictures with a run or an export: source=PATH"),
    "export": ("adbench.cli.export", "write a run as ONNX or OpenVINO, parity measured"),
    "benchmark": ("adbench.cli.benchmark", "images/s and latency beside the bare backbone"),
    "serve": ("adbench.cli.serve", "an HTTP service that judges pictures"),
    "synthesize": ("adbench.cli.synthesize", "write synthetic anomalies and their masks"),
    "data": ("adbench.cli.data", "check | list: what is on disk, what is known"),
    "runs": ("adbench.cli.runs", "list | compare | clean: what has been run"),
    "reproduce": (
        "adbench.cli.reproduce",
        "a paper's table beside ours: paper=NAME table=N | list",
    ),
    "report": ("adbench.cli.report", "one page, Markdown, CSV or LaTeX of what was run"),
    "test-method": ("adbench.cli.test_method", "does a method of your own keep the contract?"),
    "distill": ("adbench.cli.distill", "train the network behind backbone=bundled"),
    "info": ("adbench.cli.info", "versions, devices, where things are looked for"),
    "completion": ("adbench.cli.completion", "shell completion: bash | zsh | fish"),
}

DONE, UNMET, REFUSED, UNFORESEEN, INTERRUPTED = 0, 1, 2, 70, 130


def usage() -> str:
    """Return the text of ``adbench --help``."""
    lines = [
        "adbench: industrial anomaly detection from the command line",
        "",
        "usage: adbench VERB key=value ... [--multirun] [--config-dir FOLDER]",
        "",
    ]
    lines += [f"  {verb:<11} {what}" for verb, (_, what) in VERBS.items()]
    lines += [
        "",
        "  adbench train experiment=quickstart      a first run, nothing to download, minutes",
        "  adbench VERB --help                      groups, keys worth changing",
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb.

    Returns:
        0 done; 1 something asked for was not met; 2 refused; 70 a fault of ours; 130 interrupted.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    with unread_output_allowed(), terminations_as_interrupts():
        return _answered(words)


def _answered(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(usage())
        return DONE
    if words[0] in ("-V", "--version"):
        from adbench import __version__

        print(f"adbench {__version__}")
        return DONE
    try:
        return _run(words[0], words[1:])
    except UserError as error:
        return _refused(str(error))
    except KeyboardInterrupt:
        print("adbench: interrupted; the same command goes on from here", file=sys.stderr)
        return INTERRUPTED
    except OSError as error:
        place = f" ({error.filename})" if error.filename else ""
        return _refused(f"{error.strerror or error}{place}")
    except Exception as error:  # the last resort: every line it prints is a fault to be mended
        return _unforeseen(words[0], error)


def _unforeseen(verb: str, error: Exception) -> int:
    """Write the traceback to a file and say in one line where."""
    import tempfile
    import traceback

    with tempfile.NamedTemporaryFile(
        "w", prefix="adbench-", suffix=".txt", delete=False, encoding="utf-8"
    ) as report:
        report.write(" ".join(map(repr, sys.argv)) + "\n")
        traceback.print_exception(error, file=report)
    told = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    print(
        f"adbench: a fault of adbench while it did '{verb}' ({told}); "
        f"please report it with {report.name}",
        file=sys.stderr,
    )
    return UNFORESEEN


def _run(verb: str, rest: list[str]) -> int:
    if verb not in VERBS:
        raise UserError(f"no verb '{verb}'{nearest(verb, VERBS)} (known: {', '.join(VERBS)})")
    module = importlib.import_module(VERBS[verb][0])
    if "-h" in rest or "--help" in rest:
        print(module.HELP if hasattr(module, "HELP") else module.usage())
        return DONE
    return int(module.run(rest))


def _refused(message: str) -> int:
    print(f"adbench: {message}", file=sys.stderr)
    return REFUSED


if __name__ == "__main__":
    sys.exit(main())

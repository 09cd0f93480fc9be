"""``adbench data check | list``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from adbench.cli.arguments import parsed_arguments
from adbench.cli.console import print_table
from adbench.errors import UserError, nearest

HELP = """usage: adbench data check dataset=NAME [dataset.root=FOLDER] [full=false] [all=true]
       adbench data list

check: whole files, pairs of images and masks, sizes, depth, duplicates between train and test,
       counts beside the published ones; every file is decoded: empty and soft masks, pictures
       that show nothing, near-duplicates of good and defective. full=false leaves out what needs
       decoding; all=true prints a line for each file instead of one for each kind.
       Exit code 2 where an error is found.
list:  known data sets: counts, licences, pages, hashes."""


def run(words: Sequence[str]) -> int:
    """Check a data set on disk, or list the known ones."""
    actions = {"check": _check, "list": _list}
    if not words or words[0] not in actions:
        given = words[0] if words else ""
        raise UserError(f"data what? check or list{nearest(given, actions)}")
    return actions[words[0]](words[1:])


def _list(words: Sequence[str]) -> int:
    if words:
        raise UserError(f"data list takes no arguments, found '{words[0]}'")
    from adbench.data.catalogue import CATALOGUE

    header = ["name", "categories", "train", "val", "test good", "test bad", "licence"]
    rows = [
        [
            entry.name,
            str(len(entry.categories) or "-"),
            *(
                "-" if n is None else str(n)
                for n in (entry.train, entry.val, entry.test_good, entry.test_bad)
            ),
            entry.licence,
        ]
        for entry in CATALOGUE.values()
    ]
    print_table("known data sets", header, rows, plain=False)
    for entry in CATALOGUE.values():
        print(f"{entry.name}: {entry.page}")
        for name in ("archive", "sha256", "md5", "note"):
            if getattr(entry, name):
                print(f"  {name} {getattr(entry, name)}")
    return 0


def _check(words: Sequence[str]) -> int:
    from adbench.config.compose import compose_config
    from adbench.config.schema import DatasetKeys
    from adbench.config.typed import from_mapping
    from adbench.data.check import check_samples, count_table, told
    from adbench.data.opening import chosen_categories, read_samples

    options, rest = _options(words)
    arguments = parsed_arguments(rest)
    config = compose_config("train", arguments.overrides, arguments.config_dir)
    dataset = from_mapping(DatasetKeys, config["dataset"], "dataset")
    samples = read_samples(dataset, chosen_categories(dataset))
    print_table(dataset.name, *count_table(dataset.name, samples), plain=False)
    findings = check_samples(
        samples, full=options["full"], fit=dataset.fit, size=dataset.size, bits=dataset.bits
    )
    for level, line in told(findings, every=options["all"]):
        print(f"{level}: {line}")
    levels = Counter(finding.level for finding in findings)
    found = ", ".join(_counted(levels[level], level) for level in ("error", "warning", "note"))
    print(f"{len(samples)} images, {found}")
    return 2 if levels["error"] else 0


def _counted(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def _options(words: Sequence[str]) -> tuple[dict[str, bool], list[str]]:
    """Return full and all as given, and the other words."""
    options, rest = {"full": True, "all": False}, []
    for word in words:
        key, equals, value = word.partition("=")
        if key not in options or not equals:
            rest.append(word)
        elif value.lower() in ("true", "false"):
            options[key] = value.lower() == "true"
        else:
            raise UserError(f"{word[:80]}: true or false is expected")
    return options, rest

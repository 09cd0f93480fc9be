"""``adbench completion bash|zsh|fish``: a script that completes verbs, groups and options."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from adbench.errors import UserError

HELP = """usage: adbench completion bash|zsh|fish

Prints a completion script:  eval "$(adbench completion bash)"   (or zsh)
                             adbench completion fish | source"""

_BASH = """_adbench() {
  local line="${COMP_LINE:0:$COMP_POINT}"
  local word="${line##* }"
  local IFS=$'\\n'
  COMPREPLY=($(adbench completion -- "$line" 2>/dev/null))
  if [[ "$word" == *=* && "$COMP_WORDBREAKS" == *=* ]]; then
    COMPREPLY=("${COMPREPLY[@]#${word%%=*}=}")
  fi
  [[ ${#COMPREPLY[@]} -eq 1 && "${COMPREPLY[0]}" == *= ]] && compopt -o nospace
}
complete -F _adbench adbench
"""
_ZSH = """_adbench() { compadd -S '' -- ${(f)"$(adbench completion -- "$BUFFER" 2>/dev/null)"}; }
compdef _adbench adbench
"""
_FISH = """complete -c adbench -f -a '(adbench completion -- (commandline -cp) 2>/dev/null)'
"""
_SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}
_KEYS = (
    "dataset.root=",
    "dataset.category=",
    "dataset.image_size=",
    "train.steps=",
    "train.epochs=",
    "backbone.weights=",
    "seed=",
    "protocol=",
    "run.name=",
    "run.root=",
)


def run(words: Sequence[str]) -> int:
    """Print a script, or with ``-- LINE`` what completes the line."""
    if len(words) == 2 and words[0] == "--":
        sys.stdout.writelines(f"{word}\n" for word in completions(words[1]))
        return 0
    if len(words) != 1 or words[0] not in _SCRIPTS:
        raise UserError("which shell? adbench completion bash, zsh or fish")
    print(_SCRIPTS[words[0]], end="")
    return 0


def completions(line: str) -> list[str]:
    """Return what can stand at the end of a command line that begins with ``adbench``.

    >>> completions("adbench tr")
    ['train']
    """
    from adbench.cli.main import VERBS
    from adbench.config.locate import GROUPS, options

    words = line.split(" ")[1:] or [""]
    last = words[-1]
    if len(words) == 1:
        known = list(VERBS)
    elif words[0] == "data" and len(words) == 2:
        known = ["check", "list"]
    elif "=" in last and last.split("=")[0] in GROUPS:
        group = last.split("=")[0]
        known = [f"{group}={name}" for name in options(group)]
    else:
        known = [*[f"{group}=" for group in GROUPS], *_KEYS]
    return [word for word in known if word.startswith(last)]

"""Writes a run folder whose figures follow from the seed, as slowly as asked.

`stub.seconds=` sleeps, `stub.crash=` fails, `stub.once=FILE` kills itself the first time.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path


def main(words):
    keys = dict(word.split("=", 1) for word in words if "=" in word)
    root = Path(keys.get("run.root", "outputs").strip("'"))
    folder = root / "toy" / "set" / "nut" / f"seed{keys['seed']}"
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "taken", "a") as taken:
        taken.write(f"{os.getpid()}\n")
    once = Path(keys["stub.once"]) if "stub.once" in keys else None
    if once is not None and not once.exists():
        once.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    signal.signal(signal.SIGINT, lambda *_: sys.exit(130))
    end = time.monotonic() + float(keys.get("stub.seconds", 0))
    while time.monotonic() < end:
        time.sleep(0.02)
    if "stub.crash" in keys:
        print("adbench: no such thing", file=sys.stderr)
        return 2
    figures = {"auroc": 0.5 + int(keys["seed"]) / 1000, "ap": 0.5}
    (folder / "metrics.json").write_text(json.dumps({"image": figures, "pixel": figures}))
    (folder / "run.json").write_text(json.dumps({"status": "finished"}))
    print(folder)
    return 0


sys.exit(main(sys.argv[2:]))

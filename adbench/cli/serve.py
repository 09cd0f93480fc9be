"""``adbench serve``."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from adbench.cli.arguments import parsed_arguments
from adbench.cli.console import say
from adbench.config.plain import plain_keys
from adbench.deploy.settings import ServeKeys
from adbench.errors import UserError

HELP = """usage: adbench serve run=FOLDER [model=FILE.onnx] [host=127.0.0.1] [port=8080]
       adbench serve run=[left:FOLDER,right:FOLDER]       several, by name

An HTTP service that judges pictures: POST /v1/score (a file, or several as multipart) answers with
JSON, POST /v1/overlay with a PNG; /docs tells the rest, / is a page to drop a picture on. The
first line on stdout is the address. Ctrl-C answers what was taken, then ends.

  port=0                     any that is free
  token_file=FILE            bearer token; else ADBENCH_SERVE_TOKEN; else none
  workers=1 threads=1        processes for each run, and their threads
  batch_size=8 queue=32      scored together; waiting before 429
  max_bytes=33554432 max_pixels=50000000 max_images=16
  head_seconds=10 body_seconds=10 drain_seconds=30

conf/serve.yaml has every key."""


def run(words: Sequence[str]) -> int:
    """Serve until interrupted."""
    keys = plain_keys(ServeKeys, parsed_arguments(words).overrides, "serve")
    try:
        from adbench.deploy.serving import named_places, read_token, serve
    except ImportError as error:
        raise UserError(f"{error.name} is not installed: pip install 'adbench[serve]'") from error
    places, token = named_places(keys), read_token(keys.token_file)
    with contextlib.suppress(KeyboardInterrupt):  # how a service is meant to end
        serve(places, keys, token, say, lambda line: print(line, flush=True))
    return 0

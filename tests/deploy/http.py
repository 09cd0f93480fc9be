"""A running service for tests and measurements, and calls to it by the standard library."""

from __future__ import annotations

import contextlib
import http.client
import json
import subprocess
import sys
import threading
from urllib.parse import urlsplit

from tests.e2e.verbs import environment


class Served:
    """``adbench serve`` as a process of its own; ``url`` once it takes pictures."""

    def __init__(self, *words, cwd=None, **variables):
        command = [sys.executable, "-m", "adbench", "serve", "port=0", *words]
        self.process = subprocess.Popen(
            command,
            cwd=cwd,
            env=environment(**variables),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.told = []
        threading.Thread(target=self._listen, daemon=True).start()
        self.url = self.process.stdout.readline().strip()
        assert self.url.startswith("http"), self.told

    def _listen(self):
        for line in self.process.stderr:
            self.told.append(line)

    @property
    def place(self):
        return urlsplit(self.url).netloc

    def call(self, method, path, body=None, kind="image/png", **headers):
        """Return (status, headers, body); a JSON body is parsed."""
        connection = http.client.HTTPConnection(self.place, timeout=60)
        with contextlib.closing(connection):
            given = {name.replace("_", "-"): value for name, value in headers.items()}
            if body is not None:
                given["Content-Type"] = kind
            connection.request(method, path, body, given)
            answer = connection.getresponse()
            data = answer.read()
            if answer.headers.get("content-type", "").startswith("application/json"):
                data = json.loads(data)
            return answer.status, answer.headers, data

    def end(self):
        self.process.terminate()
        return self.process.wait(30)


def multipart(*files):
    """Return (body, content type) of files (name, bytes)."""
    edge = "edge7d1f"
    parts = []
    for name, data in files:
        head = f'--{edge}\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n'
        parts.append(head.encode() + b"Content-Type: image/png\r\n\r\n" + data + b"\r\n")
    return b"".join(parts) + f"--{edge}--\r\n".encode(), f"multipart/form-data; boundary={edge}"

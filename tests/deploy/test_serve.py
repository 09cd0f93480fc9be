"""serve: right answers, reasons for wrong requests, no lost request."""

from __future__ import annotations

import concurrent.futures
import csv
import io
import shutil
import socket
import subprocess
import time
import urllib.request

import pytest
from PIL import Image

from tests.deploy.http import Served, multipart

TOKEN = "a-token-of-this-test-alone"


@pytest.fixture(scope="module")
def served(trained, tmp_path_factory):
    folder = shutil.copytree(trained[0], tmp_path_factory.mktemp("serve") / "nut")
    service = Served(
        f"run=[nut:{folder},other:{folder}]",
        *("max_bytes=200000", "max_pixels=1000000", "head_seconds=1", "body_seconds=1", "queue=8"),
        ADBENCH_SERVE_TOKEN=TOKEN,
    )
    yield service, folder, trained[1]
    assert service.end() == 0
    assert not [line for line in service.told if "Traceback" in line]


def call(service, method, path, body=None, kind="image/png", **headers):
    headers.setdefault("Authorization", f"Bearer {TOKEN}")
    return service.call(method, path, body, kind, **headers)


def test_scores_are_those_of_the_run_one_by_one_and_together(served):
    service, folder, data = served
    with open(folder / "predictions.csv") as lines:
        stored = {row["path"]: row for row in csv.DictReader(lines)}
    files = [(name, (data / name).read_bytes()) for name in stored]
    body, kind = multipart(*files)
    status, _, told = call(service, "POST", "/v1/score?run=nut", body, kind)
    assert status == 200
    for (name, picture), together in zip(files, told["results"], strict=True):
        status, _, alone = call(service, "POST", "/v1/score?run=nut", picture)
        assert status == 200
        for record in (alone, together):
            assert record["score"] == pytest.approx(float(stored[name]["score"]), abs=1e-5)
            assert record["verdict"] == ("ng" if stored[name]["decision"] == "anomalous" else "ok")


def bomb():
    made = io.BytesIO()
    Image.new("1", (60_000, 4_000)).save(made, "PNG")
    return made.getvalue()


def test_what_is_wrong_is_answered_with_its_reason(served):
    service, _, data = served
    picture = (data / "nut/test/good/000.png").read_bytes()
    score = "/v1/score?run=nut"
    wrong = [
        (score, picture[:200], "image/png", 422, "cannot read"),
        (score, bomb(), "image/png", 413, "max_pixels"),
        (score, b"x" * 300_000, "image/png", 413, "bytes"),
        (score, b"%!PS-Adobe-3.0 EPSF-3.0", "image/png", 422, "no PNG"),
        (score, picture, "text/plain", 415, "content type"),
        (score, b"", "image/png", 400, "empty"),
        (score, b"--x\r\n", "multipart/form-data; boundary=x", 400, "multipart"),
        ("/v1/score?run=bolt", picture, "image/png", 400, "choose one of nut, other"),
        ("/v1/score", picture, "image/png", 400, "choose one"),
    ]
    for path, body, kind, expected, told in wrong:
        status, _, answer = call(service, "POST", path, body, kind)
        assert (status, answer["verdict"]) == (expected, "error"), (path, kind, answer)
        assert told in answer["error"]


def raw(service, data, wait=None):
    with socket.create_connection(service.place.split(":"), timeout=20) as line:
        line.sendall(data)
        if wait:
            time.sleep(wait)
        return line.recv(4096)


def slow_head(service, head):
    """Send a byte now and then, as slowloris does, for as long as somebody listens."""
    with socket.create_connection(service.place.split(":"), timeout=20) as line:
        line.settimeout(0.2)
        for byte in head.encode():
            try:
                line.sendall(bytes([byte]))
                answer = line.recv(4096)
            except TimeoutError:
                continue
            return answer
    return b""


def test_slow_heads_slow_bodies_and_huge_heads_are_ended(served):
    service, _, _ = served
    head = f"POST /v1/score?run=nut HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
    slow = head + "Content-Type: image/png\r\nContent-Length: 5000\r\n\r\nabc"
    assert b" 408 " in raw(service, slow.encode())
    assert b"the head took longer" in slow_head(service, head)
    assert b" 431 " in raw(service, (head + "X-A: " + "a" * 50_000 + "\r\n\r\n").encode())
    assert b" 400 " in raw(service, b"no HTTP at all\r\n\r\n")


def test_tokens_and_origins(served):
    service, _, data = served
    picture = (data / "nut/test/good/000.png").read_bytes()
    path = "/v1/score?run=nut"
    assert call(service, "POST", path, picture, Authorization="Bearer no")[0] == 401
    assert service.call("GET", "/metrics")[0] == 401
    assert call(service, "POST", "/v1/pause", b"", Origin="http://evil.example")[0] == 403
    assert service.call("GET", "/health/live")[0] == 200
    answer = call(service, "POST", path, picture, X_Request_Id="line-4")
    assert answer[1]["X-Request-Id"] == "line-4"


def test_overlay_metrics_interface_and_pause(served):
    service, _, data = served
    picture = (data / "nut/test/spot/000.png").read_bytes()
    status, headers, drawn = call(service, "POST", "/v1/overlay?run=other", picture)
    assert (status, headers["X-Verdict"]) == (200, "ng")
    assert Image.open(io.BytesIO(drawn)).size == (24 + 12, 24 + 12)
    told = call(service, "GET", "/metrics")[2].decode()
    assert 'adbench_pictures_total{run="other",verdict="ng"}' in told
    paths = service.call("GET", "/openapi.json")[2]["paths"]
    for path, methods in paths.items():
        for method in methods:
            body = b"" if method == "post" else None
            assert service.call(method.upper(), path, body)[0] != 404
    call(service, "POST", "/v1/pause", b"")
    assert call(service, "POST", "/v1/score?run=nut", picture)[0] == 503
    assert service.call("GET", "/health/ready")[0] == 503
    call(service, "POST", "/v1/resume", b"")
    assert service.call("GET", "/health/ready")[0] == 200


def test_overload_and_reload(served):
    """A burst gets 200 or 429; a reload loses nothing."""
    service, _, data = served
    picture = (data / "nut/test/good/000.png").read_bytes()

    def one(_):
        return call(service, "POST", "/v1/score?run=nut", picture)[0]

    with concurrent.futures.ThreadPoolExecutor(40) as pool:
        assert set(pool.map(one, range(200))) <= {200, 429}
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(one, number) for number in range(40)]
        assert call(service, "POST", "/v1/reload?run=nut", b"")[0] == 200
        assert {each.result() for each in asked} == {200}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["run=nowhere"], "does not exist"),
        (["port=99999", "run=x"], "port=99999"),
        ([], "what is to be served"),
    ],
)
def test_bad_requests_are_one_line(here, words, told):
    assert told in here("serve", *words, check=2).told


@pytest.fixture
def browser(tmp_path):
    """A WebDriver session of headless Chromium: a function that sends commands."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    driver = shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("chromium and chromium-driver are not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([driver, f"--port={port}"], stdout=subprocess.DEVNULL)

    def send(method, path, **values):
        import json

        request = urllib.request.Request(
            f"http://127.0.0.1:{port}{path}",
            method=method,
            data=json.dumps(values).encode() if method == "POST" else None,
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["value"]

    arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/c"]
    options = {"binary": chromium, "args": arguments}
    for _ in range(100):
        try:
            capabilities = {"alwaysMatch": {"goog:chromeOptions": options}}
            session = "/session/" + send("POST", "/session", capabilities=capabilities)["sessionId"]
            break
        except OSError:
            time.sleep(0.1)
    yield lambda method, path, **values: send(method, session + path, **values)
    send("DELETE", session)
    process.terminate()


def test_a_picture_dropped_on_the_page_is_judged(served, browser):
    service, _, data = served
    browser("POST", "/url", url=service.url)
    script = f"""
        document.getElementById('token').value = '{TOKEN}';
        document.getElementById('token').onchange();
        const answer = arguments[0];
        setTimeout(() => answer(document.getElementById('run').options.length), 1500);
    """
    assert browser("POST", "/execute/async", script=script, args=[]) == 2
    drop = """
        const bytes = Uint8Array.from(atob(arguments[0]), (c) => c.charCodeAt(0));
        const files = new DataTransfer();
        files.items.add(new File([bytes], 'spot.png', {type: 'image/png'}));
        document.getElementById('drop').dispatchEvent(
            new DragEvent('drop', {dataTransfer: files, bubbles: true, cancelable: true}));
        const answer = arguments[1];
        const look = () => {
            const image = document.getElementById('overlay');
            if (!image.hidden && image.naturalWidth) {
                answer([document.getElementById('verdict').className, image.naturalWidth]);
            } else setTimeout(look, 50);
        };
        look();
    """
    import base64

    picture = base64.b64encode((data / "nut/test/spot/000.png").read_bytes()).decode()
    found = browser("POST", "/execute/async", script=drop, args=[picture])
    assert found == ["ng", 36]

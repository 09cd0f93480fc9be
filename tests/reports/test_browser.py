"""The page in a browser: the slider counts, pictures sort and open, nothing is asked for."""

import shutil

import pytest

from adbench.cli.main import main
from tests.reports.folders import HOSTILE, made_up

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (BROWSER and DRIVER), reason="no headless browser here (apt: chromium, chromium-driver)"
)
By = "css selector"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    root = tmp_path_factory.mktemp("outputs")
    made_up(root, auroc=0.9)
    made_up(root, "seed1-00000001", seed=1, auroc=0.94)
    made_up(root, model="realnet", category="pill", gallery=False, overrides=("experiment=x",))
    assert main(["report", f"runs={root}"]) == 0
    return root / "report.html"


@pytest.fixture(scope="module")
def browser():
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1280,1600"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    driver.set_script_timeout(20)
    yield driver
    driver.quit()


@pytest.fixture
def run(browser, page):
    """The first run's section of a freshly loaded page."""
    browser.get(page.as_uri())
    return browser.find_element(By, "section.run")


def _counts(run):
    names = ("hits", "misses", "alarms", "passes")
    return tuple(int(run.find_element(By, f".{name}").text) for name in names)


def _move(browser, run, value):
    slider = run.find_element(By, "input.threshold")
    browser.execute_script(
        "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input'))",
        slider,
        value,
    )


def _names(run):
    shown = [item for item in run.find_elements(By, ".gallery li") if item.is_displayed()]
    return [item.find_element(By, ".name").text for item in shown]


def test_counts_at_the_runs_own_threshold_are_those_of_its_scores(run):
    assert _counts(run) == (10, 3, 2, 8)
    assert "misses 3 of 13" in run.find_element(By, ".told").text


def test_the_slider_moves_the_counts_and_the_line(browser, run):
    line = run.find_element(By, "line.threshold")
    before = float(line.get_attribute("x1"))
    _move(browser, run, 0)
    assert _counts(run) == (13, 0, 10, 0)
    assert float(line.get_attribute("x1")) < before
    _move(browser, run, 1000)
    assert _counts(run) == (0, 13, 0, 10)
    run.find_element(By, ".reset").click()
    assert _counts(run) == (10, 3, 2, 8)


def test_costs_choose_a_threshold(browser, run):
    for name, value in ((".cost-miss", "1000"), (".cost-alarm", "1"), (".prior", "50")):
        field = run.find_element(By, name)
        field.clear()
        field.send_keys(value)
    run.find_element(By, ".cheapest").click()
    assert _counts(run)[1] == 0  # no miss where a miss is dear
    field = run.find_element(By, ".cost-miss")
    field.clear()
    field.send_keys("0.001")
    run.find_element(By, ".cheapest").click()
    assert _counts(run)[2] == 0  # no false alarm where a miss is cheap


def test_worst_misses_come_first_then_worst_false_alarms(run):
    names = _names(run)
    assert names[0].endswith(HOSTILE)  # shown as text, score 0.10
    assert names[1:5] == ["crack/011.png", "crack/012.png", "good/009.png", "good/008.png"]


def test_the_gallery_sorts_filters_and_follows_the_threshold(browser, run):
    browser.execute_script(
        "const s = arguments[0]; s.value = 'high'; s.dispatchEvent(new Event('change'))",
        run.find_element(By, ".sort"),
    )
    assert _names(run)[0] == "crack/022.png"
    browser.execute_script(
        "const s = arguments[0]; s.value = 'alarm'; s.dispatchEvent(new Event('change'))",
        run.find_element(By, ".show"),
    )
    assert _names(run) == ["good/009.png", "good/008.png"]
    _move(browser, run, 1000)
    assert _names(run) == []


def test_a_picture_opens_and_keys_walk_through(browser, run):
    from selenium.webdriver.common.keys import Keys

    first = run.find_element(By, ".gallery .open")
    browser.execute_script("arguments[0].scrollIntoView()", first)
    first.click()
    dialog = browser.find_element(By, "dialog")
    assert dialog.get_attribute("open") is not None
    assert "score 0.10" in dialog.find_element(By, "p").text
    body = browser.find_element(By, "body")
    body.send_keys(Keys.ARROW_RIGHT)
    assert "crack/011.png" in dialog.find_element(By, "p").text
    dialog.find_element(By, ".close").click()
    assert dialog.get_attribute("open") is None


def test_maps_are_painted_with_the_threshold_in_the_middle_of_the_ramp(browser, run):
    canvas = run.find_element(By, ".gallery canvas.map")
    browser.execute_script("arguments[0].scrollIntoView()", canvas)
    painted = browser.execute_async_script(
        """const [canvas, done] = [arguments[0], arguments[1]];
        const wait = () => {
          if (!canvas.dataset.painted) return setTimeout(wait, 50);
          const row = canvas.getContext("2d").getImageData(0, 5, canvas.width, 1).data;
          done([[...row.slice(0, 3)], [...row.slice(-4, -1)]]);
        };
        wait();""",
        canvas,
    )
    assert painted == [[0, 34, 78], [254, 232, 56]]  # cividis from end to end


def test_two_runs_are_compared(browser, run):
    browser.execute_script(
        "const s = arguments[0]; s.value = '2'; s.dispatchEvent(new Event('change'))",
        browser.find_element(By, "#right"),
    )
    rows = [row.text for row in browser.find_elements(By, "#compared tbody tr")]
    assert rows == ["train.steps 600 601"]


def test_it_asks_for_nothing_and_complains_of_nothing(browser, page):
    import json

    browser.get_log("performance")
    browser.get_log("browser")
    browser.get(page.as_uri())
    sent = [
        json.loads(entry["message"])["message"]["params"]["request"]["url"]
        for entry in browser.get_log("performance")
        if '"Network.requestWillBeSent"' in entry["message"]
    ]
    assert {url for url in sent if not url.startswith("data:")} == {page.as_uri()}
    assert browser.get_log("browser") == []
    assert browser.execute_script("return document.querySelectorAll('img[src=x]').length") == 0


def test_it_fits_a_phone(browser, page):
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True},
    )
    browser.get(page.as_uri())
    wide = browser.execute_script("return document.documentElement.scrollWidth")
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert wide <= 390

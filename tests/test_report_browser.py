"""The report in a browser: nothing fetched, no complaints, nothing wider than the screen."""

import importlib.util
import json
import os
import shutil

import numpy as np
import pytest
from conftest import tiny_config

from keras_featx.evaluation import Evaluation, measure
from keras_featx.evaluation_data import load_eval_samples
from keras_featx.report.run_page import write_report

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WIDTHS = {"phone": 390, "desktop": 1280}


def missing():
    """Why there is no browser to look with, if there is none."""
    if importlib.util.find_spec("selenium") is None:
        return "selenium is not installed"
    if not any(map(shutil.which, BROWSERS)):
        return f"none of {', '.join(BROWSERS)} is installed"
    return "" if shutil.which("chromedriver") else "chromedriver is not installed"


pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())


@pytest.fixture(scope="module")
def browser():
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = next(filter(None, map(shutil.which, BROWSERS)))
    for argument in (
        "headless=new", "hide-scrollbars", "disable-gpu", "disable-quic", "no-first-run",
        "disable-sync",
        "disable-background-networking", "disable-component-update", "disable-dev-shm-usage",
    ):  # fmt: skip
        options.add_argument(f"--{argument}")
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")  # as root there is none
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    yield driver
    driver.quit()


def look(browser, file, width, scheme="light"):
    """Open a page as a screen of this width does: its overflow, requests and complaints."""
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600},
    )
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia",
        {"features": [{"name": "prefers-color-scheme", "value": scheme}]},
    )
    for kind in ("browser", "performance"):
        browser.get_log(kind)  # of pages before
    browser.get(file.as_uri())
    wide = browser.execute_script(
        "return [...document.querySelectorAll('body *')].filter(e => !e.closest('svg *') && "
        f"e.getBoundingClientRect().right > {width} + 0.5).map(e => e.outerHTML.slice(0, 80))"
    )
    overflow = browser.execute_script("return document.documentElement.scrollWidth") - width
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    requests = [
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    ]
    elsewhere = [url for url in requests if url != file.as_uri() and not url.startswith("data:")]
    assert file.as_uri() in requests  # the log sees what is asked for
    return overflow, wide, elsewhere, browser.get_log("browser")


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Two sets, one with a name without a gap, and a history of several losses."""
    folder = tmp_path_factory.mktemp("browser")
    config = tiny_config(folder, "Metric.Eval=[Recallk, mAP, MRR, mINP, ROCAUC, TARFAR]")
    query, gallery = load_eval_samples(config)
    rng = np.random.default_rng(0)
    middle = rng.normal(size=(40, 16))
    vectors = []
    for samples in (query, gallery):
        rows = middle[samples.labels] + rng.normal(size=(len(samples), 16))
        vectors.append((rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype("float32"))
    parts = query, gallery, *vectors
    found = Evaluation(measure(config.Metric, *parts), *parts, 1.0)
    history = [
        {"epoch": e, "step": e, "lr": 1e-5 / e, "loss": 1 / e, "CELoss": 0.4, "TripletLoss": 0.3,
         "accuracy": 0.5, "images_per_second": 1234.5, "recall@1": 0.5}
        for e in range(1, 90)
    ]  # fmt: skip
    files = []
    for name, sets in (("one", {"": found}), ("two", {"products": found, "x" * 90: found})):
        files.append(folder / f"{name}.html")
        write_report(files[-1], config=config, sets=sets, history=history, train=query)
    return files


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_the_report_fits_and_is_quiet(browser, report, width, scheme):
    for file in report:
        overflow, wide, elsewhere, complaints = look(browser, file, width, scheme)
        assert (overflow, wide, elsewhere, complaints) == (0, [], [], [])
        broken = browser.execute_script(
            "return [...document.images].filter(i => !i.complete || !i.naturalWidth).length"
        )
        assert broken == 0 and browser.execute_script("return document.images.length") > 50


def test_the_report_follows_the_screen_at_night(browser, report):
    def ground(scheme):
        look(browser, report[0], 1280, scheme)
        colour = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        return sum(int(x) for x in colour.removeprefix("rgb(").removesuffix(")").split(","))

    assert ground("light") > 600 and ground("dark") < 150


def test_letters_of_charts_can_be_read_on_a_phone(browser, report):
    look(browser, report[0], 390)
    heights = browser.execute_script(
        "return [...document.querySelectorAll('.chart')].map(s => "
        "s.getBoundingClientRect().width / 360 * parseFloat(getComputedStyle(s).fontSize))"
    )
    assert len(heights) > 5 and min(heights) > 9


def test_a_page_that_errs_is_found_out(browser, tmp_path):
    """The checks above see what they look for."""
    file = tmp_path / "bad.html"
    file.write_text(
        "<!DOCTYPE html><html><head><meta name='viewport' content='width=device-width'/></head>"
        "<body><div style='width: 900px'>wide</div>"
        "<img src='http://127.0.0.1:9/x.png'/></body></html>"
    )
    overflow, wide, elsewhere, complaints = look(browser, file, 390)
    assert overflow > 100 and len(wide) > 0
    assert elsewhere == ["http://127.0.0.1:9/x.png"] and len(complaints) == 1

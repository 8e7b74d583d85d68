"""A browser for the tests of a grid's page, as the fixture ``browser``.

A test module gets it with ``pytest_plugins = ["browser_tools"]``.
"""

import io
import json
import shutil
import time

import pytest
from PIL import Image
from selenium import webdriver
from selenium.webdriver import ActionChains
from selenium.webdriver.common.by import By

PATIENCE = 60  # seconds that a busy machine may take


class Browser:
    """A window of Chromium: does what a user does, and tells what it shows."""

    def __init__(self, driver):
        self.driver = driver

    def open(self, path):
        """Opens a page that remembers nothing of an earlier visit."""
        self.driver.get(path.as_uri())
        self.script("window.localStorage.clear()")
        self.driver.get(path.as_uri())
        self.settle()
        return self

    def size(self, pixels):
        """Gives the tiles a size, which at first depends on the window."""
        self.script("setSize(arguments[0])", pixels)

    def script(self, code, *arguments):
        return self.driver.execute_script(code, *arguments)

    def settle(self):
        """Waits until the page has drawn the next frames, after a scroll or a change of size."""
        self.driver.execute_async_script(
            "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done)));"
        )

    def wait(self, condition):
        end = time.monotonic() + PATIENCE
        while not (result := condition()):
            assert time.monotonic() < end, "the condition did not become true in time"
            time.sleep(0.05)
        return result

    def find(self, selector):
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector):
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def click(self, selector):
        self.find(selector).click()
        self.settle()

    def keys(self, *keys):
        ActionChains(self.driver).send_keys(*keys).perform()
        self.settle()

    def chord(self, modifier, key):
        ActionChains(self.driver).key_down(modifier).send_keys(key).key_up(modifier).perform()
        self.settle()

    def texts(self, selector):
        """The texts of elements, in or out of view, in the order of the document."""
        return self.script("return [...document.querySelectorAll(arguments[0])].map(n => n.textContent)", selector)

    def tiles(self):
        """The names of all tiles that show a picture or a failure, in the order of the document."""
        return self.script(
            "return [...document.querySelectorAll('[role=gridcell]:not(.missing)')].map(n => n.ariaLabel)"
        )

    def current(self):
        """The name of the tile that the keys act upon."""
        return self.script(
            "return document.getElementById(document.getElementById('grid').getAttribute('aria-activedescendant'))"
            "?.ariaLabel"
        )

    def count(self):
        return self.find("#count").text

    def axis(self, name):
        """Opens the panel of an axis."""
        self.find(f'#axes button[data-axis="{name}"]').click()
        self.wait(lambda: self.find("#axis").is_displayed() and self.find("#axis-name").text == name.replace("_", " "))

    def choose(self, name, value):
        """Chooses a place or an order in the open panel."""
        self.click(f'#axis input[name="{name}"][value="{value}"] + span')

    def press(self, text, within="#axis"):
        """Clicks a button by its text or its accessible name."""
        button = next(b for b in self.all(f"{within} button") if text in (b.text, b.get_attribute("aria-label")))
        button.click()
        self.settle()

    def pairs(self, selector):
        """The names and values in description lists."""
        return dict(zip(self.texts(f"{selector} dt"), self.texts(f"{selector} dd"), strict=True))

    def colour(self, element):
        """The colour in the middle of an element on the screen."""
        picture = Image.open(io.BytesIO(element.screenshot_as_png)).convert("RGB")
        return picture.getpixel((picture.width // 2, picture.height // 2))

    def is_coloured(self, element, wanted, tolerance=3):
        return self.wait(
            lambda: max(abs(a - b) for a, b in zip(self.colour(element), wanted, strict=True)) <= tolerance
        )

    def traffic(self, method):
        """The parameters of the browser's messages of one kind about requests, since the last call."""
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        return [message["params"] for message in messages if message["method"] == method]

    def requests(self):
        """The addresses that the page has requested since the last call."""
        return [entry["request"]["url"] for entry in self.traffic("Network.requestWillBeSent")]

    def complaints(self):
        """The messages in the console since the last call."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def resize(self, width, height, ratio=1):
        size = {"width": width, "height": height, "deviceScaleFactor": ratio, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.settle()

    def scheme(self, name):
        feature = {"name": "prefers-color-scheme", "value": name}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})


@pytest.fixture(scope="session")
def driver(tmp_path_factory):
    """Chromium without a window, started once for all tests."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    helper = shutil.which("chromedriver")
    assert browser and helper, "these tests need chromium and chromedriver; apt-get install chromium chromium-driver"
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for argument in (
        "headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking",
        "disable-component-update", "disable-sync", "disable-dev-shm-usage", "lang=en-GB",
        f"user-data-dir={tmp_path_factory.mktemp('chromium')}",
    ):  # fmt: skip
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    options.set_capability("unhandledPromptBehavior", "ignore")
    started = webdriver.Chrome(options=options, service=webdriver.ChromeService(helper))
    started.set_script_timeout(PATIENCE)
    yield started
    started.quit()


@pytest.fixture
def browser(driver):
    """A window of 1200 x 800. At the end the page has requested nothing from the network, and the console is empty."""
    browser = Browser(driver)
    driver.get("about:blank")
    browser.resize(1200, 800)
    browser.scheme("light")
    browser.requests(), browser.complaints()
    yield browser
    schemes = {url.partition(":")[0] for url in browser.requests()}
    assert schemes <= {"file", "data", "about"}, schemes
    assert browser.complaints() == []

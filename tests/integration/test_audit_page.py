"""The page of an audit in a real browser, driven by key events alone, and its file read back."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from itertools import count

import numpy as np
import pytest
from PIL import Image

from unimedvl.data.curation.audit.dimensions import DIMENSIONS
from unimedvl.data.curation.audit.page import read_sheet, write_page
from unimedvl.data.curation.audit.ratings import read_ratings
from unimedvl.data.curation.audit.summary import summarize
from unimedvl.data.curation.pairs import Pair, pair_id

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = """--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
    --disable-component-update --disable-sync --disable-dev-shm-usage --remote-debugging-pipe"""
SECONDS = 60  # for anything that the browser is asked; it takes milliseconds on an idle machine
SHIFT, CTRL = 8, 2
NAMED = {"Tab": 9, "Escape": 27, "ArrowLeft": 37, "ArrowRight": 39, "ArrowDown": 40, "Backspace": 8}
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome is installed to drive the page with")


class Browser:
    """A tab, over the pipe of the DevTools protocol: JSON messages that end in a null character."""

    def __init__(self, folder):
        self._from_us, self._to_browser = os.pipe()
        self._from_browser, self._to_us = os.pipe()
        command = f'exec "$0" {" ".join(FLAGS.split())} "--user-data-dir=$1" about:blank 3<&$2 4>&$3'
        self._process = subprocess.Popen(
            ["bash", "-c", command, BROWSER, str(folder / "profile"), str(self._from_us), str(self._to_us)],
            pass_fds=(self._from_us, self._to_us),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(self._from_us)
        os.close(self._to_us)
        os.set_blocking(self._from_browser, False)
        self._numbers, self._rest, self._session, self.asked = count(1), b"", None, []
        self._loaded = self._dialog = False
        target = self.do("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.do("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime"):
            self.do(f"{domain}.enable")
        self.downloads = folder / "downloads"
        self.downloads.mkdir(exist_ok=True)
        self.do("Page.setDownloadBehavior", behavior="allow", downloadPath=str(self.downloads))

    def do(self, method, **params):
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params}
        message |= {"sessionId": self._session} if self._session else {}
        os.write(self._to_browser, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            self._note(answer)
            if answer.get("id") == number:
                assert "error" not in answer, (method, answer)
                return answer["result"]

    def _note(self, message):
        if message.get("method") == "Network.requestWillBeSent":
            self.asked.append(message["params"]["request"]["url"])
        self._loaded |= message.get("method") == "Page.loadEventFired"
        self._dialog |= message.get("method") == "Page.javascriptDialogOpening"

    def _next(self):
        """The next message."""
        end = time.monotonic() + SECONDS
        while b"\0" not in self._rest:
            assert time.monotonic() < end, "the browser does not answer"
            try:
                self._rest += os.read(self._from_browser, 1 << 20)
            except BlockingIOError:
                time.sleep(0.005)
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def open(self, path, width=1280, height=900):
        self.do("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self._loaded = False
        self.do("Page.navigate", url=path.as_uri())
        while not self._loaded:
            self.get("1")

    def get(self, expression):
        answer = self.do("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def key(self, name, modifiers=0):
        text = {"text": name} if len(name) == 1 and not modifiers & CTRL else {}
        code = NAMED.get(name) or (ord(name.upper()) if name.isalnum() else 0)
        about = {"key": name, "windowsVirtualKeyCode": code, "modifiers": modifiers}
        self.do("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", **about, **text)
        self.do("Input.dispatchKeyEvent", type="keyUp", **about)

    def keys(self, *names):
        for name in names:
            self.key(name)

    def saved(self, number):
        """The files of ratings in the order of their saving, when there are so many."""
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            found = sorted(self.downloads.glob("audit-*.json"), key=lambda file: file.stat().st_mtime_ns)
            if len(found) >= number:
                return found
            time.sleep(0.02)
        raise AssertionError(f"{number} files were not saved")

    def picture(self, path):
        path.write_bytes(base64.b64decode(self.do("Page.captureScreenshot", format="png")["data"]))

    def close(self):
        os.close(self._to_browser)
        os.close(self._from_browser)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@pytest.fixture
def browser(tmp_path):
    browser = Browser(tmp_path)
    yield browser
    browser.close()


MODALITIES = ("CT", "MRI", "CXR", "HIS", "CFP")


def sample_in(folder, size=10):
    generator = np.random.default_rng(0)
    pairs = []
    for number in range(size):
        names = [f"{number}-{end}.png" for end in ("in", "out")]
        rows, columns = np.mgrid[0:96, 0:128]
        for end, name in enumerate(names):
            smooth = 120 + 90 * np.sin(rows / (7 + number)) * np.cos(columns / (9 + end))
            pixels = np.clip(smooth + generator.normal(0, 8, smooth.shape), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name)
        edit = number % 2 == 1
        pairs.append(
            Pair(
                pair_id("made", str(number)), "made", "edit" if edit else "understanding",
                modality=MODALITIES[number % 5], question=f"What is on slice {number}? </script><b>&amp;",
                text=f"Slice {number} of the upper abdomen. The liver is smooth, without a focal lesion.",
                images=(names[0],), target=names[1] if edit else "", steps=("window center 40, width 400",),
            )
        )  # fmt: skip
    return pairs


def planned(number):
    """Ratings of a sample in the order of the dimensions; None for not applicable."""
    return [int(number != 3), *((number + index) % 6 for index in range(4)), None if number % 2 else 4, 2]


def test_ten_samples_rated_by_keyboard_and_read_back(tmp_path, browser):
    pairs = sample_in(tmp_path)
    sheet = write_page(pairs, tmp_path / "audit.html", title="UniMed <Mini>", root=tmp_path)
    assert read_sheet(tmp_path / "audit.json") == sheet
    browser.open(tmp_path / "audit.html")
    assert browser.get("document.querySelector('h1').textContent") == "UniMed <Mini>"
    assert browser.get("document.getElementById('question').textContent") == pairs[0].question
    browser.key("s", CTRL)
    assert "type your name first" in browser.get("document.getElementById('message').textContent")
    browser.keys(*"Dr A. 1nj")  # letters that are keys elsewhere
    browser.key("Escape")
    for number in range(10):
        assert browser.get("document.getElementById('place').textContent") == f"{number + 1} of 10"
        for index, rating in enumerate(planned(number)):
            browser.key("n" if rating is None else str(rating))
            if index < 6:
                browser.key("Tab")
        if number == 4:
            browser.keys("c", *"left, not right", "Escape")
        browser.key("j" if number % 2 else "ArrowRight")
    assert browser.get("document.getElementById('rated').textContent") == "10 of 10 rated"
    browser.key("s", CTRL)
    [file] = browser.saved(1)
    assert browser.asked[0].startswith("file:")
    assert all(url.startswith(("data:", "blob:")) for url in browser.asked[1:])

    [one] = read_ratings(sheet, [file])
    assert one.rater == "Dr A. 1nj"
    expected = {
        pair.id: dict(zip((dimension.key for dimension in DIMENSIONS), planned(number), strict=True))
        for number, pair in enumerate(pairs)
    }
    assert {key: dict(scores) for key, scores in one.scores.items()} == expected
    assert one.comments == {pairs[4].id: "left, not right"}
    summary = summarize(sheet, [one], threshold=2.0)
    by_hand = [np.mean([v for v in (5 * p[0], *p[1:]) if v is not None]) for p in map(planned, range(10))]
    overall = next(score for score in summary.scores if score.dimension == "mean" and score.modality is None)
    assert overall.value == pytest.approx(np.mean(by_hand))
    assert pairs[3].id in {row.id for row in summary.failing}


def test_keys_one_by_one(tmp_path, browser):
    pairs = sample_in(tmp_path, 3)
    write_page(pairs, tmp_path / "audit.html", root=tmp_path)
    browser.open(tmp_path / "audit.html")
    scores = f"JSON.stringify(state.ratings['{pairs[0].id}']?.scores ?? {{}})"
    browser.key("5")  # over the highest of the first dimension
    assert "takes 0 to 1" in browser.get("document.getElementById('message').textContent")
    browser.keys("1", "Tab", "Tab", "3")
    browser.key("Tab", SHIFT)
    browser.keys("2", "4")
    assert json.loads(browser.get(scores)) == {"modality": 1, "accuracy": 4, "completeness": 3}
    browser.key("ArrowDown")  # the browser's own key within a group
    assert json.loads(browser.get(scores))["accuracy"] == 5
    browser.key("Backspace")
    assert "accuracy" not in json.loads(browser.get(scores))
    browser.keys("j", "k", "k", "j", "ArrowRight", "ArrowRight", "ArrowRight")
    assert browser.get("document.getElementById('place').textContent") == "3 of 3"
    browser.key("u")
    assert browser.get("document.getElementById('place').textContent") == "1 of 3"
    assert browser.get("document.activeElement.name") == "accuracy"
    assert browser.get("getComputedStyle(document.activeElement.nextSibling).outlineStyle") == "solid"
    browser.key("z")
    assert browser.get("document.getElementById('zoom').open")
    browser.keys("5", "Escape")
    assert not browser.get("document.getElementById('zoom').open")
    assert "accuracy" not in json.loads(browser.get(scores))
    browser.get("document.getElementById('step').checked = true; focusOn(1)")
    browser.keys(*"432")
    assert [json.loads(browser.get(scores))[key] for key in ("accuracy", "completeness", "position")] == [4, 3, 2]


def test_ratings_are_kept_and_loaded_again(tmp_path, browser):
    pairs = sample_in(tmp_path, 3)
    sheet = write_page(pairs, tmp_path / "audit.html", root=tmp_path)
    browser.open(tmp_path / "audit.html")
    browser.keys("1", "Tab", "4")
    browser.get("$('rater').focus()")
    browser.keys("B")
    browser.open(tmp_path / "audit.html")
    assert (
        browser.get("[$('rater').value, radios(1)[4].checked, document.activeElement.name].join()")
        == "B,true,completeness"
    )
    browser.key("s", CTRL)
    [file] = browser.saved(1)
    browser.get("localStorage.clear()")
    browser.open(tmp_path / "audit.html")
    assert browser.get("[$('rater').value, Object.keys(state.ratings).length].join()") == ",0"
    load_file(browser, file)
    assert "Loaded 1 samples of B" in browser.get("$('message').textContent")
    assert browser.get("[$('rater').value, radios(0)[1].checked, radios(1)[4].checked].join()") == "B,true,true"

    other = tmp_path / "other.json"
    other.write_text(json.dumps({**json.loads(file.read_text()), "audit": "0" * 16}))
    load_file(browser, other)
    assert "belongs to another corpus" in browser.get("$('message').textContent")
    bad = json.loads(file.read_text())
    bad["ratings"][pairs[0].id]["scores"]["accuracy"] = 9
    other.write_text(json.dumps(bad))
    load_file(browser, other)
    assert f"accuracy of {pairs[0].id} cannot be 9" in browser.get("$('message').textContent")
    assert browser.get("radios(1)[4].checked")
    assert read_ratings(sheet, [file])[0].scores[pairs[0].id] == {"modality": 1, "accuracy": 4}


def load_file(browser, path):
    browser.get("$('message').textContent = ''")
    found = browser.do("Runtime.evaluate", expression="document.getElementById('file')")["result"]["objectId"]
    browser.do("DOM.setFileInputFiles", files=[str(path)], objectId=found)
    end = time.monotonic() + SECONDS
    while not browser.get("$('message').textContent") and time.monotonic() < end:
        time.sleep(0.02)


@pytest.mark.parametrize("width", [1280, 420, 320])
def test_the_page_fits(tmp_path, browser, width):
    write_page(sample_in(tmp_path, 2), tmp_path / "audit.html", root=tmp_path)
    browser.open(tmp_path / "audit.html", width=width)
    assert browser.get("document.documentElement.scrollWidth") <= width
    assert browser.get("getComputedStyle(document.body).backgroundColor") == "rgb(26, 26, 26)"
    # Every control has a name that a screen reader can say.
    nodes = browser.do("Accessibility.getFullAXTree")["nodes"]
    spoken = [
        node for node in nodes if node.get("role", {}).get("value") in ("radio", "button", "textbox", "radiogroup")
    ]
    assert len(spoken) > 50
    assert all(node["name"]["value"] for node in spoken)
    groups = [node for node in spoken if node["role"]["value"] == "radiogroup"]
    assert [node["name"]["value"] for node in groups] == [dimension.label for dimension in DIMENSIONS]
    assert [node["description"]["value"] for node in groups] == [f"{one.hint} {one.ends}" for one in DIMENSIONS]


def test_flagged_samples_are_marked(tmp_path, browser):
    pairs = sample_in(tmp_path, 2)
    flags = {pairs[1].id: ["name in text", "burned-in text"]}
    write_page(pairs, tmp_path / "audit.html", root=tmp_path, flags=flags)
    browser.open(tmp_path / "audit.html")
    shown = "document.querySelector('.flags').checkVisibility() && document.querySelector('.flags').textContent"
    assert not browser.get(shown)
    browser.key("j")
    assert browser.get(shown) == "Flagged for privacy name in text; burned-in text"
    browser.picture(tmp_path / "flagged.png")
    browser.key("k")
    assert not browser.get(shown)

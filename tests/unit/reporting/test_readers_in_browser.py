"""The page of a reader study in a real browser: marked by mouse, thumb and keys, remembered, saved, and without a request."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from matplotlib.image import imread

from volgen.commands.readers.answers import StudyKey, read_answers
from volgen.commands.readers.make import study_of
from volgen.core.files import write_json
from volgen.evaluation.readings import Readings, score
from volgen.reporting import readers_page, readings_page

if TYPE_CHECKING:
    from typing import Any as Browser  # the class is in conftest.py, which tests do not import

pytestmark = pytest.mark.e2e
STRUCTURES = ["cortex", "white matter", "lateral ventricles", "hippocampus", "cerebellum"]
SLICES, ROWS, COLUMNS = 5, 30, 24
ORDER = [2, 0, 1, 2]


def level(volume: int, plane: int, slice_: int) -> int:
    """Grey of the whole slice: another one for every slice of every volume."""
    return 40 + 60 * volume + 12 * slice_ + plane


def write_study(path: Path, **changes: Any) -> dict[str, Any]:
    planes = [np.stack([np.full((ROWS, COLUMNS), 0, dtype=np.uint8)] * SLICES) for _ in range(3)]
    stacks = []
    for volume in range(3):
        for plane, stack in enumerate(planes):
            for slice_ in range(SLICES):
                stack[slice_] = level(volume, plane, slice_)
                stack[slice_, :, : COLUMNS // 2] = 0  # dark where the person's left is
        stacks.append(readers_page.encoded_planes(planes))
    content: dict[str, Any] = {
        "marks": 5, "structures": STRUCTURES, "slices": SLICES, "readers": {"A": ORDER, "B": ORDER[::-1]}, "asks": None,
        "planes": [{"name": name, "columns": COLUMNS, "rows": ROWS, "aspect": 0.8} for name in ("axial", "coronal", "sagittal")],
    } | changes  # fmt: skip
    content["study"] = study_of(content, stacks)
    readers_page.write_study(path, content, stacks)
    return content


@pytest.fixture
def page(tmp_path: Path) -> Path:
    write_study(tmp_path / readers_page.NAME)
    return tmp_path / readers_page.NAME


@pytest.fixture
def window(browser: Browser) -> Iterator[Browser]:
    """The browser; after the test it must have neither complained nor asked for anything but the page itself."""
    yield browser
    assert [entry["message"] for entry in browser.logs("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
    asked = browser.requests()
    assert all(url.startswith("file:") for url in asked) and len(set(asked)) == 1, asked


def press(browser: Browser, keys: str | list[str]) -> None:
    for key in keys:
        code = 0 if len(key) > 1 else ord(key.upper())
        code = {"Enter": 13, "Backspace": 8, "ArrowUp": 38, "ArrowDown": 40, "ArrowLeft": 37, "ArrowRight": 39}.get(key, code)
        for kind in ("rawKeyDown", "keyUp"):
            browser.devtools("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code)


def shown(browser: Browser) -> list[list[int]]:
    """Grey levels of the middle of the right and of the left half of each plane, in the bytes of the canvases."""
    script = """return [0, 1, 2].map((index) => {
        const shown = document.getElementById(`plane${index}`), canvas = document.createElement("canvas");
        [canvas.width, canvas.height] = [shown.width, shown.height];
        const context = canvas.getContext("2d", { willReadFrequently: true });
        context.drawImage(shown, 0, 0);
        return [0.75, 0.25].map((x) => context.getImageData(Math.floor(x * canvas.width), canvas.height / 2, 1, 1).data[0]); })"""
    return browser.run(script)


def begin(browser: Browser, page: Path, reader: str = "A", **size: Any) -> None:
    browser.open(page, **size)
    browser.run("localStorage.clear()")
    browser.open(page, **size)
    browser.run("document.querySelector(`#who button[value=${arguments[0]}]`).click()", reader)


def saved(browser: Browser, folder: Path, page: Path, reader: str) -> Path:
    """The file that the browser puts down when the button is pressed."""
    folder.mkdir(exist_ok=True)
    browser.devtools("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder))
    visible = "[...document.querySelectorAll('#save, #export')].find((one) => one.offsetParent)"
    browser.run(f"{visible}.click()")
    study = readers_page.read_study(page)[0]["study"]
    path = folder / f"readings-{study}-{reader}.json"
    for _ in range(200):
        if path.exists() and path.stat().st_size:
            return path
        browser.run("return new Promise((done) => setTimeout(done, 50))")
    raise AssertionError("nothing was saved")


def test_a_study_is_done_with_keys_alone_and_its_file_is_read_by_score(window: Browser, page: Path, tmp_path: Path) -> None:
    begin(window, page)
    for number in range(len(ORDER)):
        assert window.run("return document.getElementById('where').textContent") == f"Volume {number + 1} of 4, reader A"
        assert shown(window) == [[level(ORDER[number], plane, SLICES // 2), 0] for plane in range(3)]
        press(window, "12345" if number != 1 else "54321")
        press(window, ["g" if number % 2 else "R", "4"])
        press(window, ["Enter"])
    assert "All volumes are answered" in window.run("return document.getElementById('missing').textContent")
    path = saved(window, tmp_path / "files", page, "A")
    content = json.loads(path.read_text())
    assert content["complete"] is True and [one["volume"] for one in content["answers"]] == ORDER
    assert all(0 <= one["seconds"] < 100 for one in content["answers"])
    key = StudyKey(content["study"], STRUCTURES, ["a", "b", "c"], [True, False, True], {"A": ORDER, "B": ORDER[::-1]})
    readings = read_answers(key, [path])
    assert [float(readings.marks[name][0, 2]) for name in STRUCTURES] == [1, 2, 3, 4, 5]
    assert [float(readings.marks[name][0, 0]) for name in STRUCTURES] == [5, 4, 3, 2, 1]
    assert [float(readings.again[name][0, 2]) for name in STRUCTURES] == [1, 2, 3, 4, 5]
    assert readings.confidence_RU.tolist() == [[4.0, -4.0, -4.0]] and readings.confidence_again_RU[0, 2] == 4.0


def test_slices_are_leafed_through_and_the_side_of_the_persons_left_is_switched(window: Browser, page: Path) -> None:
    begin(window, page)
    press(window, ["ArrowRight", "ArrowRight"])
    assert shown(window)[0][0] == level(2, 0, 4)
    press(window, ["ArrowRight", "ArrowLeft", "ArrowLeft", "ArrowLeft", "ArrowLeft", "ArrowLeft"])
    assert shown(window)[1][0] == level(2, 1, 0) and window.run("return document.getElementById('place').textContent") == "1 of 5"
    window.run("document.getElementById('planes').dispatchEvent(new WheelEvent('wheel', {deltaY: 1, cancelable: true}))")
    assert shown(window)[2][0] == level(2, 2, 1)
    press(window, ["-", "-"])
    assert shown(window)[0][0] == pytest.approx(0.8 * level(2, 0, 1), abs=1)

    def halves() -> tuple[float, float]:
        picture = imread(io.BytesIO(window.picture("#planes .turns")))[..., :3].mean(axis=(0, 2))
        return float(picture[: len(picture) // 3].mean()), float(picture[-len(picture) // 3 :].mean())

    left, right = halves()
    assert left < right
    window.run("document.querySelector('input[name=side][value=radiological]').click()")
    assert halves()[0] > halves()[1]


def test_answers_are_remembered_for_each_reader_and_can_be_changed(window: Browser, page: Path) -> None:
    begin(window, page)
    press(window, ["2", "Enter", "3"])
    window.wait("[...document.querySelectorAll('#questions input:checked')].some((one) => one.value === '3')")  # keys come when they come
    window.open(page)
    window.run("document.querySelector('#who button[value=B]').click()")
    assert window.run("return document.querySelectorAll('#questions input:checked').length") == 0
    window.open(page)
    window.run("document.querySelector('#who button[value=A]').click()")
    assert window.run("return document.getElementById('where').textContent").startswith("Volume 2 of 4")
    checked = "return [...document.querySelectorAll('#questions input:checked')].map((one) => one.value)"
    assert window.run(checked) == ["3"]
    press(window, ["Backspace"])
    assert window.run(checked) == ["2"]
    press(window, ["5", "Enter"])
    press(window, ["Backspace"])
    assert window.run(checked) == ["5"]
    window.run("localStorage.setItem('volgen.readers.' + content.study + '.A', '{')")
    window.open(page)
    window.run("document.querySelector('#who button[value=A]').click()")
    assert window.run("return document.getElementById('where').textContent").startswith("Volume 1 of 4")


@pytest.mark.parametrize("dark", [False, True])
def test_a_phone_shows_pictures_and_questions_of_a_thumbs_size(window: Browser, page: Path, dark: bool) -> None:
    begin(window, page, width=390, height=800, dark=dark)
    assert window.run("return document.documentElement.scrollWidth") <= 390
    sizes = window.run("""return [...document.querySelectorAll('.choices span, .buttons button')].filter((one) => one.offsetParent)
        .map((one) => one.getBoundingClientRect()).map((box) => [box.width, box.height])""")
    assert len(sizes) == 5 * 5 + 2 + 5 + 3 and all(width >= 40 and height >= 42 for width, height in sizes)
    window.run("document.querySelectorAll('#questions fieldset')[4].querySelectorAll('input')[1].click()")
    window.run("document.querySelector('#questions fieldset:last-child').scrollIntoView()")
    top = window.run("return document.getElementById('planes').getBoundingClientRect().top")
    assert 0 <= top < 100, "pictures stay in sight while the questions are answered"
    assert window.run("return answers[0].marks") == {"cerebellum": 2}
    back = window.run("return getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, back.removeprefix("rgb(").removesuffix(")").split(","))) < 200) is dark


def test_on_a_desktop_everything_is_in_sight(window: Browser, page: Path) -> None:
    begin(window, page, width=1400, height=900)
    assert window.run("return document.documentElement.scrollWidth") <= 1400
    boxes = window.run(
        "return ['planes', 'questions'].map((id) => document.getElementById(id).getBoundingClientRect()).map((b) => [b.left, b.right])"
    )
    assert boxes[0][1] <= boxes[1][0]


def test_without_storage_the_page_says_so_and_works(window: Browser, page: Path, tmp_path: Path) -> None:
    window.open(page)
    window.run("return 1")
    source = {"source": "Object.defineProperty(window, 'localStorage', { get() { throw new Error('denied'); } })"}
    added = window.devtools("Page.addScriptToEvaluateOnNewDocument", **source)
    try:
        window.open(page)
        assert window.run("return !document.getElementById('forgetful').hidden")
        window.run("document.querySelector('#who button[value=B]').click()")
        press(window, ["4", "Enter"])
        content = json.loads(saved(window, tmp_path / "files", page, "B").read_text())
        assert content["complete"] is False and content["answers"][0]["marks"] == {"cortex": 4}
    finally:
        window.devtools("Page.removeScriptToEvaluateOnNewDocument", **added)


def test_the_page_of_an_adjudication_shows_what_was_said_and_asks_for_that_alone(window: Browser, tmp_path: Path) -> None:
    asks = {"1": {"hippocampus": {"A": 1, "B": 4}, "cortex": {"A": 5, "B": 3}}}
    write_study(tmp_path / "adjudication.html", asks=asks, readers={"consensus": [1]})
    begin(window, tmp_path / "adjudication.html", "consensus")
    lines = window.run("return [...document.querySelectorAll('#questions legend')].map((one) => one.textContent)")
    assert lines == ["hippocampusA: 1, B: 4", "cortexA: 5, B: 3"]
    press(window, ["g", "3", "4", "Enter"])
    assert "All volumes" in window.run("return document.getElementById('missing').textContent")
    content = json.loads(saved(window, tmp_path / "files", tmp_path / "adjudication.html", "consensus").read_text())
    assert content["answers"][0]["marks"] == {"hippocampus": 3, "cortex": 4} and content["answers"][0]["generated"] is None


@pytest.mark.parametrize("dark", [False, True])
def test_scores_open_from_a_file_and_fit_a_phone(window: Browser, tmp_path: Path, dark: bool) -> None:
    random = np.random.default_rng(0)
    nothing = np.full((2, 12), np.nan)
    marks = {name: random.integers(1, 6, (2, 12)).astype(float) for name in STRUCTURES}
    sure = random.integers(1, 6, (2, 12)) * random.choice([-1.0, 1.0], (2, 12))
    given = Readings(["A", "B"], np.arange(12) < 6, marks, dict.fromkeys(marks, nothing), sure, nothing, {})
    content = {"study": "s", "settings": {"margin": 0.5, "gap": 2, "draws": 40, "seed": 0}, **score(given, draws=40)}
    content["adjudicate"] = [{**one, "name": "volume"} for one in content["adjudicate"]]
    write_json(tmp_path / readings_page.SCORES, content)
    window.open(readings_page.write_page(tmp_path), width=390, height=800, dark=dark)
    assert window.run("return document.documentElement.scrollWidth") <= 390
    assert all(name in window.run("return document.body.innerText") for name in STRUCTURES)


def test_a_structure_may_be_called_as_one_likes(window: Browser, tmp_path: Path) -> None:
    name = "</script><b>&amp;\"'"
    write_study(tmp_path / readers_page.NAME, structures=[name])
    begin(window, tmp_path / readers_page.NAME)
    assert window.run("return document.querySelector('#questions legend span').firstChild.textContent") == name

"""The page as a reader meets it, in headless Chromium."""

from __future__ import annotations

import base64
import dataclasses
import json
import re
import zlib

import numpy as np
import pytest

from monai_vmat.files import read_json, write_json
from monai_vmat.reports.evaluation import find_cases, read_evaluation, read_volumes
from monai_vmat.reports.evaluation_page import embed_case, evaluation_html

PIXELS = "const c = document.getElementById(arguments[0]); return c.toDataURL()"
ORDER = "return [...document.querySelectorAll('#cases tbody tr')].map((row) => row.cells[0].innerText)"


@pytest.fixture(scope="module")
def page(evaluated, page_of, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(page_of(evaluated, figures=True))
    return path


@pytest.fixture(scope="module")
def session(open_browser):
    return open_browser()


@pytest.fixture
def browser(session, page):
    """The page, freshly opened; afterwards, that it complained of nothing and asked for nothing."""
    session.resize(1280, 1000)
    session.log("browser")
    session.requests(page)
    session.open(page)
    session.until("document.getElementById('images').getAttribute('aria-busy') === 'false'")
    yield session
    assert session.log("browser") == []
    asked = session.requests(page)
    assert asked[0] == page.as_uri() and all(address.startswith("data:") for address in asked[1:]), asked


def pixels(browser) -> list[str]:
    return [browser.run(PIXELS, name) for name in ("axial", "coronal", "sagittal")]


def test_it_opens_with_the_worst_case(browser):
    assert browser.run("return document.title") == "ours, test split"
    assert browser.run(ORDER) == ["worst", "medium", "mild"]
    assert browser.run("return document.getElementById('case-name').innerText") == "worst"
    assert browser.run("return document.querySelector('#cases tr.chosen').cells[0].innerText") == "worst"
    assert len(set(pixels(browser))) == 3
    assert browser.run("return document.querySelectorAll('.case-detail:not([hidden])').length") == 1
    widths = browser.run("return ['axial', 'sagittal'].map((id) => document.getElementById(id).getBoundingClientRect().width)")
    assert widths[0] / widths[1] == pytest.approx(24 / 20, rel=0.02)  # voxels of 3 mm: the planes share one scale
    assert browser.run("return document.documentElement.scrollWidth <= innerWidth")


def test_the_browser_reads_the_very_bytes_that_were_packed(browser, page):
    data = json.loads(re.search(r'id="data">(.*?)</script>', page.read_text(), re.S)[1])
    scan = data["cases"][0]["scan"]
    for name, packed in scan["volumes"].items():
        codes = np.frombuffer(zlib.decompress(base64.b64decode(packed["data"])), np.uint8).reshape(scan["shape"][::-1])
        if packed["delta"]:
            codes = codes.cumsum(1, dtype=np.uint8).cumsum(2, dtype=np.uint8)
        assert browser.run("return [...view.scan.codes[arguments[0]]]", name) == codes.ravel().tolist(), name


def test_sliders_wheel_and_keys_change_the_slice(browser):
    number = "return document.getElementById('axial-number').innerText"
    before, told = pixels(browser), browser.run(number)
    browser.press("#axial-slice", "\ue014")  # arrow right
    moved = pixels(browser)
    assert moved[0] != before[0] and browser.run(number) != told
    browser.press("#axial", "\ue015")  # arrow down, on the image itself
    assert browser.run(number) == told and pixels(browser) == before
    browser.press("#axial", "\ue010")  # end
    assert browser.run("return view.at[2] === view.scan.shape[2] - 1")
    browser.press("#axial", "\ue011")  # home
    assert browser.run("return view.at[2]") == 0
    browser.press("#axial", "\ue015")
    assert browser.run("return view.at[2]") == 0  # no further than the first
    start = browser.run("return view.at[1]")
    browser.point("#coronal", wheel=-100)
    browser.until(f"view.at[1] === {start + 1}")
    for place, name in ((1, "coronal"), (2, "sagittal")):
        drawn = pixels(browser)
        browser.press(f"#{name}-slice", "\ue012")  # arrow left
        assert pixels(browser)[place] != drawn[place]


def test_layers_change_image_scale_and_unit(browser):
    seen, scales = set(), {}
    for layer in ("ct", "reference", "prediction", "difference", "gamma"):
        browser.click(f"input[value={layer}]")
        seen.add(browser.run(PIXELS, "axial"))
        scales[layer] = browser.run(
            "return ['scale-label', 'scale-low', 'scale-high'].map((id) => document.getElementById(id).innerText)"
        )
    assert len(seen) == 5
    assert scales["ct"] == ["CT number [HU]", "\N{MINUS SIGN}200", "300"] and scales["gamma"][1:] == ["0", "2"]
    assert scales["difference"] == ["Predicted \N{MINUS SIGN} reference [Gy]", "\N{MINUS SIGN}4.0", "4.0"]
    assert scales["reference"][1:] == scales["prediction"][1:]


def test_the_patients_left_is_on_the_right_and_anterior_and_superior_on_top(browser):
    browser.click("input[value=ct]")

    def contour_middle(plane: str, structure: str, at: list[int]) -> list[float]:
        """Where on the image a structure's contour is, as parts of its width and height."""
        script = """
            const [id, name, at] = arguments, canvas = document.getElementById(id);
            const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d", { willReadFrequently: true });
            const read = () => {
              copy.drawImage(canvas, 0, 0);
              return copy.getImageData(0, 0, canvas.width, canvas.height).data;
            };
            const show = (wanted) => {
              data.structures.forEach((s, k) => { document.getElementById(`show-${k}`).checked = s.name === wanted; });
              structuresChanged();
            };
            view.at = at;
            show(null);
            const without = read();
            show(name);
            const now = read(), changed = [...now.keys()].filter((i) => now[i] !== without[i]).map((i) => i >> 2);
            const mean = (numbers) => numbers.reduce((a, b) => a + b, 0) / numbers.length;
            return [mean(changed.map((i) => i % canvas.width)) / canvas.width,
                    mean(changed.map((i) => Math.floor(i / canvas.width))) / canvas.height];
        """
        return browser.run(script, plane, structure, at)

    right, top = contour_middle("axial", "Femur_L", [12, 10, 5])
    assert right > 0.6
    assert contour_middle("axial", "Bladder", [12, 10, 10])[1] < 0.45  # in front
    right, top = contour_middle("coronal", "Femur_L", [19, 10, 5])
    assert right > 0.6 and top > 0.5
    assert contour_middle("sagittal", "Rectum", [12, 10, 8])[0] > 0.55  # behind
    assert contour_middle("sagittal", "Bowel", [12, 10, 8])[1] < 0.4  # towards the head
    assert browser.run("return Object.values(PLANES).map((plane) => plane.letters)") == ["RLAP", "RLSI", "APSI"]


def test_a_click_moves_the_other_planes(browser):
    browser.run("view.at = [3, 4, 8]; showSlices(); drawAll();")
    before = pixels(browser)
    browser.click("#axial")  # in its middle
    x, y, _ = browser.run("return view.scan.shape")
    assert browser.run("return view.at") == pytest.approx([x // 2, y // 2, 8], abs=1)
    after = pixels(browser)
    assert after[1] != before[1] and after[2] != before[2]
    assert browser.run("return Number(document.getElementById('coronal-slice').value) === view.at[1]")


def test_a_structure_toggle_hides_contour_and_curves(browser):
    visible = (
        "return [...document.querySelectorAll('#dvh g')].filter((g) => getComputedStyle(g).display !== 'none')"
        ".map((g) => g.dataset.structure)"
    )
    before, curves = pixels(browser), browser.run(visible)
    assert "PTV70" in curves and len(curves) == 8
    assert browser.run("return document.querySelectorAll('#dvh g[data-structure=PTV70] .curve').length") == 2
    browser.click("#show-0")
    assert browser.run(visible) == [name for name in curves if name != "PTV70"]
    assert pixels(browser)[0] != before[0]
    browser.click("#show-0")
    assert pixels(browser) == before and browser.run(visible) == curves
    browser.click("#structures button[data-all='']")
    assert browser.run(visible) == []
    browser.click("#structures button[data-all='1']")
    assert browser.run(visible) == curves


def test_predicted_is_solid_and_reference_dashed_and_both_are_read_on_hover(browser):
    dashes = (
        "return ['reference', 'predicted'].map("
        "(k) => getComputedStyle(document.querySelector(`#dvh .curve.${k}`)).strokeDasharray)"
    )
    assert browser.run(dashes) == ["6px, 4px", "none"]
    browser.point("#dvh svg")
    told = browser.run("return document.getElementById('dvh-readout').innerText")
    assert re.match(r"At least \d+\.\d Gy, predicted \(reference\): PTV70 \d+\.\d \(\d+\.\d\) %", told)
    browser.point("#axial")
    told = browser.run("return document.getElementById('readout').innerText")
    assert re.search(r"CT .* HU . reference [\d.]+ Gy . predicted [\d.]+ Gy . difference 4\.0 Gy . gamma", told)


def test_headers_sort_and_say_so(browser):
    sorting = "return [...document.querySelectorAll('#cases th')].map((th) => th.ariaSort)"
    assert browser.run(sorting)[:3] == [None, "descending", None]
    browser.click("#cases th:nth-child(2) button")
    assert browser.run(ORDER) == ["mild", "medium", "worst"] and browser.run(sorting)[1] == "ascending"
    browser.click("#cases th:nth-child(1) button")
    assert browser.run(ORDER) == ["medium", "mild", "worst"] and browser.run(sorting)[:2] == ["ascending", None]
    browser.press("#cases th:nth-child(1) button", "\ue007")  # enter
    assert browser.run(ORDER) == ["worst", "mild", "medium"]
    browser.run("document.querySelector('#cases tbody tr:nth-child(1)').cells[2].dataset.value = ''")
    for _ in range(2):  # what is not known is last in both directions
        browser.click("#cases th:nth-child(3) button")
        assert browser.run(ORDER)[2] == "worst"


def test_another_case_is_shown_with_or_without_images(browser):
    before = pixels(browser)
    browser.click("#cases button[data-case='2']")
    browser.until("document.getElementById('images').getAttribute('aria-busy') === 'false'")
    assert browser.run("return document.getElementById('case-name').innerText") == "mild"
    assert pixels(browser)[0] != before[0]
    browser.click("#cases th:nth-child(2) button")  # numbers stay with their cases when rows move
    browser.click("#cases button[data-case='1']")
    hidden = "return ['images', 'not-embedded'].map((id) => document.getElementById(id).hidden)"
    assert browser.run("return document.getElementById('case-name').innerText") == "medium" and browser.run(hidden) == [
        True,
        False,
    ]
    browser.run("const s = document.getElementById('case'); s.value = 0; s.dispatchEvent(new Event('change'))")
    browser.until("!document.getElementById('images').hidden")
    assert browser.run(hidden) == [False, True] and pixels(browser) == before


def test_an_old_browser_is_told_that_it_is(browser):
    browser.run("delete window.DecompressionStream; choose(0)")
    assert "too old" in browser.run("return document.getElementById('not-embedded').innerText")


def test_narrow_screens_need_no_scrolling_sideways(browser):
    browser.resize(500, 900)
    assert browser.run("return document.documentElement.scrollWidth <= innerWidth")


def test_it_prints(browser, tmp_path):
    browser.pdf(tmp_path / "page.pdf")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF-")


def test_hostile_names_do_nothing(open_browser, page_of, project):
    folder = project / "predictions" / "ours_test"
    results = read_json(folder / "evaluation_results.json")
    name = "<img src=x onerror=document.title=1>"
    results["experiment"] = f"{name}</script><script>document.title=2</script>"
    write_json(folder / "evaluation_results.json", results)
    evaluation = read_evaluation(folder, project / "runs")
    mild = evaluation.cases[2]
    items = find_cases(evaluation, project / "data")
    embedded = {name: embed_case(read_volumes(evaluation, mild, items[mild["case_id"]]), "PTV70")}
    # No datalist takes such a case id; the page does not rely on it.
    cases = [*evaluation.cases[:2], {**mild, "case_id": name}]
    page = project / "report.html"
    page.write_text(evaluation_html(dataclasses.replace(evaluation, cases=cases), embedded, {}, None))
    browser = open_browser()
    browser.open(page)
    browser.click("#cases button[data-case='2']")
    browser.until("document.getElementById('images').getAttribute('aria-busy') === 'false'")
    browser.until(f"document.getElementById('case-name').innerText === {json.dumps(name)}")
    assert browser.run("return document.title").startswith("<img") and browser.log("browser") == []

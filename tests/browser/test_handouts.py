"""The sheets to print, in a Chromium without a network: one sheet is one page of A4."""

import re

import pytest

from qlesson.authoring import handouts

from .page import PATIENCE, ROOT

MM = 96 / 25.4  # pixels
INSIDE = {"width": int(178 * MM), "height": int(265 * MM)}  # of A4, within the margins

# The height of each sheet, of the tallest vote, and what is wider than the page.
MEASURE = """() => ({
  sheets: [...document.querySelectorAll('section')].map(s => s.getBoundingClientRect().height),
  parts: [...document.querySelectorAll('.votes div')].map(d => d.getBoundingClientRect().height),
  wide: [...document.querySelectorAll('body *')].filter(e => !e.closest('math'))
    .filter(e => e.getBoundingClientRect().right > innerWidth).map(e => e.outerHTML.slice(0, 80)),
})"""


@pytest.fixture(scope="module")
def printed(browser, tmp_path_factory):
    page = browser.new_page(viewport=INSIDE, offline=True)
    page.set_default_timeout(PATIENCE)
    page.emulate_media(media="print")
    file = tmp_path_factory.mktemp("handouts") / "handouts.html"
    handouts.main(ROOT / "notebooks", file)
    page.asked = []
    page.on("request", lambda request: page.asked.append(request.url))
    page.goto(file.as_uri())
    yield page
    assert page.asked == [file.as_uri()]
    page.close()


def test_a_sheet_is_a_page_and_no_vote_is_torn(printed):
    found = printed.evaluate(MEASURE)
    assert found["wide"] == []
    assert max(found["sheets"][:4]) <= INSIDE["height"] < found["sheets"][4]
    assert len(found["parts"]) > 20 and max(found["parts"]) < INSIDE["height"] / 4


def test_it_prints_on_a4(printed):
    pdf = printed.pdf(prefer_css_page_size=True)
    boxes = re.findall(rb"/MediaBox \[0 0 ([\d.]+) ([\d.]+)\]", pdf)
    assert {(round(float(w)), round(float(h))) for w, h in boxes} == {(595, 842)}
    assert len(re.findall(rb"/Type /Page\b", pdf)) >= 8

"""The slides in a Chromium without a network: nothing overflows, nothing is lost, keys move on.

Screenshots of every slide land in build/screenshots/slides.
"""

import base64
import io
import re

import nbformat
import pytest
from PIL import Image

from qlesson.authoring import slides

from .page import NOTEBOOKS, PATIENCE, ROOT

ROOM = {"width": 1280, "height": 720}

# What does not fit: boxes and letters beyond the slide or into its last line, letters too small.
BAD = """slide => {
  const bad = [], frame = slide.getBoundingClientRect()
  const fits = r => r.left >= 0 && r.right <= frame.width - 30 && r.bottom <= frame.height - 36
  for (const block of slide.children) {
    if (block.tagName == 'SMALL') continue
    const r = block.getBoundingClientRect()
    if (!fits(r) || !r.width || block.scrollWidth > block.clientWidth + 1)
      bad.push(`box ${block.tagName} ${r.right} ${r.bottom}: ${block.textContent.slice(0, 40)}`)
  }
  const texts = document.createTreeWalker(slide, NodeFilter.SHOW_TEXT)
  while (texts.nextNode()) {
    const text = texts.currentNode, range = document.createRange()
    if (!text.textContent.trim()) continue
    range.selectNodeContents(text)
    const size = parseFloat(getComputedStyle(text.parentNode).fontSize)
    const footer = text.parentNode.tagName == 'SMALL'
    const least = text.parentNode.closest('math') ? 15 : 20  // the second of two exponents is 15
    if (size < least || [...range.getClientRects()].some(r => !footer && !fits(r)))
      bad.push(`text of ${size} px: ${text.textContent.slice(0, 40)}`)
  }
  return bad
}"""

# All that the blocks say, before and after they are shared out; a divided table repeats its head.
SAID = """([text, blocks]) => {
  const doc = text ? new DOMParser().parseFromString(text, 'text/html') : document.cloneNode(true)
  doc.querySelectorAll('thead').forEach(head => head.remove())
  const found = [...doc.querySelectorAll(blocks)].filter(b => !b.matches('h1, h2, h3, small'))
  return found.map(b => (b.textContent + (b.src || '')).replace(/\\s/g, '')).join('')
}"""


@pytest.fixture(scope="module")
def page(browser):
    """A page without a network; what it asks for and complains of is noted in it."""
    page = browser.new_page(viewport=ROOM, offline=True)
    page.set_default_timeout(PATIENCE)
    page.asked, page.complaints = [], []
    page.on("request", lambda request: page.asked.append(request.url))
    page.on("console", lambda message: page.complaints.append(message.text))
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    yield page
    page.close()


def show(page, path, text):
    """Open the deck; the number of its slides."""
    path.write_text(text, encoding="utf-8")
    page.asked.clear()
    page.complaints.clear()
    page.goto(path.as_uri())
    page.wait_for_function("document.querySelector('section.now')")
    return page.locator("section").count()


def here(page):
    return page.locator("section.now > small").last.inner_text()


def problems(page, path, text, screenshots=None):
    """What is wrong with a deck; `screenshots` is where each slide is to be kept."""
    found = []
    for number in range(1, show(page, path, text) + 1):
        bad = page.locator("section.now").evaluate(BAD)
        found += [f"slide {number}: {what}" for what in bad]
        page.locator(".waiting.now").evaluate_all("s => s.map(e => e.classList.remove('waiting'))")
        if screenshots:
            page.screenshot(path=screenshots / f"{path.stem}-{number:02d}.png")
        page.keyboard.press("ArrowRight")
    before = page.evaluate(SAID, [text, "main > :not(.answer), .answer > *"])
    if before != page.evaluate(SAID, ["", "section > *"]):
        found.append("something was lost")
    asked = [url for url in page.asked if not url.startswith(("data:", path.as_uri()))]
    return found + asked + page.complaints


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_every_slide_fits_and_fetches_nothing(page, path, tmp_path):
    text = slides.deck(nbformat.read(path, as_version=4))
    screenshots = ROOT / "build" / "screenshots" / "slides"
    screenshots.mkdir(parents=True, exist_ok=True)
    assert problems(page, tmp_path / f"{path.stem}.html", text, screenshots) == []
    assert page.locator("section").count() >= 10


def deck(*cells):
    first = nbformat.v4.new_markdown_cell("# 09 A title")
    return slides.deck(nbformat.v4.new_notebook(cells=[first, *cells]))


def markdown(text):
    return nbformat.v4.new_markdown_cell(text)


def code(source, text, **metadata):
    outputs = [nbformat.v4.new_output("stream", text=text)]
    return nbformat.v4.new_code_cell(source, outputs=outputs, metadata=metadata)


def picture(width, height):
    image = io.BytesIO()
    Image.new("RGB", (width, height)).save(image, "PNG")
    data = {"image/png": base64.b64encode(image.getvalue()).decode()}
    output = nbformat.v4.new_output("display_data", data=data)
    return nbformat.v4.new_code_cell("show(figure)", outputs=[output])


def test_what_no_slide_can_hold_is_divided(page, tmp_path):
    text = deck(
        code("print(x)", "\n".join(f"line {n} " + 30 * "long " for n in range(100))),
        picture(700, 1000),
        markdown("## Rows\n\n| a | b |\n| --- | --- |\n" + "| some | words |\n" * 60),
        markdown("## Points\n\n" + "- some point\n" * 60),
        markdown("## Words\n\n" + 12 * ("A sentence of seven words stands here. " * 9 + "\n\n")),
        markdown(f"## Width\n\n| a |\n| --- |\n| `{200 * 'w'}` |\n\n{200 * 'w'}"),
    )
    assert problems(page, tmp_path / "long.html", text) == []
    assert page.locator("thead").count() >= 3  # each part of the table has its head


def test_the_test_finds_what_does_not_fit(page, tmp_path):
    wide = deck(markdown('<p style="width: 1500px">wide</p>'))
    high = deck(markdown('<p style="height: 900px">high</p>'))
    small = deck(markdown('<p style="font-size: 12px">small</p>'))
    fetches = deck(markdown('<img src="https://example.org/x.png">'))
    raises = deck(markdown("<script>oops()</script>"))
    for text, word in [(high, "box"), (small, "12 px"), (fetches, "example"), (raises, "oops")]:
        assert word in str(problems(page, tmp_path / "bad.html", text))
    assert problems(page, tmp_path / "bad.html", wide) == []  # no block is wider than the slide


def test_the_keys_and_the_answer_that_waits(page, tmp_path):
    text = deck(
        markdown("## Predict\n\nWhat is it?"),
        code("print('answer:')", "answer:\n42", jupyter={"outputs_hidden": True}),
        markdown("It is 42."),
        markdown("## Then"),
        markdown("Go on."),
    )
    assert show(page, tmp_path / "keys.html", text) == 3
    answer, after = page.get_by_text("42", exact=True), page.get_by_text("It is 42.")
    press = page.keyboard.press
    press("PageDown")
    assert here(page) == "2 / 3" and page.get_by_text("What is it?").is_visible()
    assert page.locator(".now pre.code").is_visible()
    assert not answer.is_visible() and not after.is_visible()
    press("Space")
    assert here(page) == "2 / 3" and answer.is_visible() and after.is_visible()
    for key, where in [("ArrowDown", 3), ("ArrowRight", 3), ("ArrowLeft", 2), ("PageUp", 1)]:
        press(key)
        assert here(page) == f"{where} / 3"
    for key, where in [("End", 3), ("Home", 1), ("ArrowUp", 1)]:
        press(key)
        assert here(page) == f"{where} / 3"
    page.get_by_role("button", name="forward").click()
    assert here(page) == "2 / 3" and page.url.endswith("#2")
    page.reload()
    page.wait_for_function("document.querySelector('section.now')")
    assert here(page) == "2 / 3"


def test_it_fits_the_window_and_prints_a_page_for_each_slide(page, tmp_path):
    count = show(page, tmp_path / "deck.html", slides.deck(nbformat.read(NOTEBOOKS[0], 4)))
    page.set_viewport_size({"width": 1000, "height": 900})
    width = "Math.round(document.querySelector('section.now').getBoundingClientRect().width)"
    page.wait_for_function(f"{width} == 1000")  # the slide follows the window a little later
    box = page.locator("section.now").bounding_box()
    assert (box["x"], round(box["width"]), round(box["height"])) == (0, 1000, 562)
    page.set_viewport_size(ROOM)
    pdf = page.pdf(prefer_css_page_size=True)
    assert len(re.findall(rb"/Type\s*/Page\b", pdf)) == count

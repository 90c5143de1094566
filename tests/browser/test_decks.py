"""The slides in a Chromium without a network: nothing overflows, nothing is lost, keys move on.

With QLESSON_SCREENSHOTS=1 each slide is kept in build/screenshots.
"""

import base64
import io
import re

import nbformat
import pytest
from PIL import Image

from qlesson.authoring import slides

from .page import NOTEBOOKS, PATIENCE, ROOT, screenshot

ROOM = {"width": 1280, "height": 720}
NAMES = "teaching.md", "teaching_minutes.md"
TEACHING = [(ROOT / "notebooks" / name).read_text(encoding="utf-8") for name in NAMES]

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

# All that the blocks say, before and after they are shared out; a divided table repeats its head,
# and the answer of a bet its question.
SAID = """([text, blocks]) => {
  const doc = text ? new DOMParser().parseFromString(text, 'text/html') : document.cloneNode(true)
  doc.querySelectorAll('thead').forEach(head => head.remove())
  const found = [...doc.querySelectorAll(blocks)].filter(
    b => !b.matches('h1, h2, h3, small, .again'))
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


def problems(page, path, text):
    """What is wrong with a deck."""
    found = []
    for number in range(1, show(page, path, text) + 1):
        bad = page.locator("section.now").evaluate(BAD)
        found += [f"slide {number}: {what}" for what in bad]
        screenshot(page, f"slides-{path.stem}-{number:02d}")
        page.keyboard.press("ArrowRight")
    before = page.evaluate(SAID, [text, "main > :not(.answer), .answer > *"])
    if before != page.evaluate(SAID, ["", "section > *"]):
        found.append("something was lost")
    asked = [url for url in page.asked if not url.startswith(("data:", path.as_uri()))]
    return found + asked + page.complaints


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_every_slide_fits_and_fetches_nothing(page, path, tmp_path):
    text = slides.deck(nbformat.read(path, as_version=4), *TEACHING)
    assert problems(page, tmp_path / f"{path.stem}.html", text) == []
    assert page.locator("section").count() >= 10
    assert "You will be able to" in page.locator("section").first.text_content()


def deck(*cells):
    first = nbformat.v4.new_markdown_cell("# 09 A title")
    return slides.deck(nbformat.v4.new_notebook(cells=[first, *cells]))


def markdown(text):
    return nbformat.v4.new_markdown_cell(text)


def code(source, text, **metadata):
    outputs = [nbformat.v4.new_output("stream", text=text)]
    return nbformat.v4.new_code_cell(source, outputs=outputs, metadata=metadata)


def picture(width, height, alt=""):
    image = io.BytesIO()
    Image.new("RGB", (width, height)).save(image, "PNG")
    data = {"image/png": base64.b64encode(image.getvalue()).decode()}
    output = nbformat.v4.new_output("display_data", data=data, metadata={"image/png": {"alt": alt}})
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


def said(page):
    """What each slide says, without its foot."""
    slides = page.locator("section").evaluate_all("s => s.map(e => e.innerHTML)")
    return [re.sub(r"<small>.*|<[^>]+>", " ", slide, flags=re.S) for slide in slides]


def test_a_picture_keeps_its_sentences_and_names_its_slide(page, tmp_path):
    text = deck(
        markdown("## Part\n\n" + "A long beginning. " * 40),
        code("print(1)", "1"),
        markdown("The figure shows it. " * 3),
        picture(700, 400, "All fall to the left. None rises."),
        markdown("Notice the last. " * 6),
    )
    assert problems(page, tmp_path / "picture.html", text) == []
    (slide,) = [s for s in said(page) if "The figure shows it" in s]
    assert slide.split()[:5] == "All fall to the left".split() and "Notice the last" in slide
    (image,) = page.locator("img").all()
    page.keyboard.press("End")
    width, height = image.evaluate("i => [i.offsetWidth, i.offsetHeight]")
    assert 0.62 * 582 - 1 <= height < 582 and width > 700


def test_few_words_do_not_stand_alone(page, tmp_path):
    """Smaller letters make room for them."""
    lines = "\n".join(f"print({n})" for n in range(16))
    text = deck(markdown("## Part"), code(lines, "one\ntwo"), markdown("So it is. " * 7))
    assert show(page, tmp_path / "alone.html", text) == 2
    assert page.locator("section").last.get_attribute("class") == "tight"


def test_the_question_stands_above_its_answer(page, tmp_path):
    question = "## Predict\n\nWhat is it?\n\n- **A** one\n- **B** two\n\nBet, run, then read on."
    for length in (3, 17):  # short code stands below the question, and long code with it
        lines = "\n".join(f"print({n})" for n in range(length))
        bet = code(lines, "it is:\n1", jupyter={"outputs_hidden": True})
        text = deck(markdown(question), bet, markdown("It is one. " * 12), markdown("## B\n\nX."))
        assert problems(page, tmp_path / "bet.html", text) == []
        _, asked, answered, _ = said(page)
        assert "What is it?" in asked and "it is:" not in asked and "It is one." not in asked
        for words in ("What is it?", "two", "it is:", "It is one."):
            assert words in answered
        assert ("print" in answered) is (length == 3) and "read on" not in asked + answered


def test_the_speaker_has_notes(page, tmp_path):
    cells = [markdown("# 02 A title")]
    text = slides.deck(nbformat.v4.new_notebook(cells=cells), *TEACHING)
    assert show(page, tmp_path / "notes.html", text) == 3
    with page.expect_popup() as opened:
        page.keyboard.press("s")
    notes = opened.value
    assert any("two bars" in line for line in notes.locator("p").all_inner_texts())
    assert notes.locator("p").last.inner_text().startswith("Next: Vote: ")
    notes.keyboard.press("ArrowRight")  # a remote moves on, whichever window it speaks to
    page.wait_for_function("location.hash == '#2'")
    assert "Everybody votes" in notes.locator("p").nth(1).inner_text()
    notes.close()


def test_the_keys(page, tmp_path):
    text = deck(
        markdown("## Predict\n\nWhat is it?"),
        markdown("## Then\n\nGo on."),
    )
    assert show(page, tmp_path / "keys.html", text) == 3
    press = page.keyboard.press
    for key, where in [("PageDown", 2), ("Space", 3), ("ArrowRight", 3), ("ArrowLeft", 2)]:
        press(key)
        assert here(page) == f"{where} / 3"
        assert page.evaluate("document.activeElement.matches('.now h1, .now h2')")
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

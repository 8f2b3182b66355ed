"""The page in a real browser: key, upload, question, source, map, reload, errors, keyboard, phone and dark."""

import shutil

import pytest
from helpers import byte_tokenizer
from pydantic import TypeAdapter
from served import clients_of, listening, small_model

from sharedllm.explain import Facts, render
from sharedllm.serving.replies import Reply
from sharedllm.serving.service import Service

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
OPTIONS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
           "--disable-component-update", "--disable-sync"]  # fmt: skip
OWLS = "Nothing here.\n" * 60 + "The night owl is called Mina.\n" + "Nothing there.\n" * 60
KEY = {"Authorization": "Bearer hush"}
FACTS = TypeAdapter(Facts)
PHONE = {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def browser():
    if BROWSER is None:
        pytest.skip("no browser: install chromium (Debian: apt-get install chromium)")
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install 'sharedllm[dev]'")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=BROWSER, args=OPTIONS)
        yield opened
        opened.close()


@pytest.fixture
def served(tmp_path):
    with clients_of(small_model(), byte_tokenizer(), tmp_path) as start:
        client = start(key="hush", most_upload=10_000, makes=True)
        with listening(client.app, lifespan="off") as port:
            client.url = f"http://127.0.0.1:{port}/"
            yield client


@pytest.fixture
def opened(browser, served):
    """Opens the page with the key given; every error that the browser reports fails the test."""
    contexts, wrong = [], []

    def start(**options):
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda said: wrong.append(said.text) if "Content Security" in said.text else None)
        page.on(
            "request",
            lambda request: wrong.append(request.url) if not request.url.startswith((served.url, "data:")) else None,
        )
        page.goto(served.url)
        page.fill("#key-value", "hush")
        page.keyboard.press("Enter")
        page.wait_for_selector(".welcome")
        return page

    yield start
    for context in contexts:
        context.close()
    assert wrong == []


def until(page, expression: str) -> None:
    """Wait for an expression to be true. Playwright's own way of waiting needs eval, which the page's policy forbids."""
    for _ in range(400):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(50)
    raise AssertionError(expression)


def ask(page, question: str) -> None:
    page.fill("#question", question)
    page.keyboard.press("Enter")
    page.wait_for_selector("#stop", state="visible")
    page.wait_for_selector("#send", state="visible")


def test_the_key_is_asked_for_once(browser, served):
    context = browser.new_context()
    page = context.new_page()
    page.goto(served.url)
    page.fill("#key-value", "wrong")
    page.keyboard.press("Enter")
    until(page, "document.getElementById('key-note').textContent.includes('not the server')")
    page.fill("#key-value", "hush")
    page.keyboard.press("Enter")
    page.wait_for_selector(".welcome")
    page.reload()
    page.wait_for_selector(".welcome")
    assert not page.locator("#key").is_visible()
    assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]
    context.close()


def test_upload_ask_open_the_source_and_reload(opened, served, tmp_path):
    file = tmp_path / "owls.txt"
    file.write_text(OWLS)
    page = opened(viewport={"width": 1440, "height": 900})
    page.set_input_files("#files", file)
    page.wait_for_selector("#list li:nth-child(2)")
    assert (
        page.locator("#list").inner_text().count("owls.txt") == 1
        and "2 documents" in page.locator("#about").inner_text()
    )
    ask(page, "Who is the night owl Mina?")
    answer = page.locator(".turn .answer").inner_text()
    assert answer and "owls.txt" in page.locator(".sources").inner_text()

    page.locator(".source").first.click()
    marked = page.locator("#panel mark")
    marked.wait_for()
    text = page.locator("#panel .text").text_content()
    assert "Mina" in marked.text_content() and "Nothing here." in text and text in OWLS
    assert page.evaluate(
        "(() => { const m = document.querySelector('#panel mark').getBoundingClientRect(); return m.top > 0 && m.top < innerHeight; })()"
    )
    page.keyboard.press("Escape")
    assert page.locator("#panel").is_hidden()
    assert page.evaluate("document.activeElement.classList.contains('source')")

    page.locator(".map").click()
    frame = page.frame_locator("#panel iframe")
    frame.locator("canvas").first.wait_for()
    assert "tokens read" in page.locator(".turn").inner_text() and frame.locator("#figures div").count() >= 5
    assert frame.locator(".swatch").first.evaluate("one => getComputedStyle(one).backgroundColor") != "rgba(0, 0, 0, 0)"
    page.keyboard.press("Escape")

    page.reload()
    page.wait_for_selector(".turn .answer")
    assert page.locator(".turn .answer").inner_text() == answer and page.locator(".source").count() >= 1
    page.locator("#new").click()
    page.wait_for_selector(".welcome")
    assert page.locator(".turn").count() == 0


def test_a_text_from_right_to_left_is_laid_out_so(opened, served):
    for name, text in {"owls": OWLS, "letters": "النسر يسكن الجبل\n" * 9}.items():
        served.post("/v1/memories/notes/documents", json={"name": name, "text": text}, headers=KEY)
    page = opened()
    # Whether an element's first letter stands at its right border, and the second one to the left of it.
    turned = """one => {
      const text = one.firstChild, range = document.createRange();
      const at = place => { range.setStart(text, place); range.setEnd(text, place + 1); return range.getBoundingClientRect(); };
      return one.getBoundingClientRect().right - at(0).right < 30 && at(1).right < at(0).right;
    }"""
    ask(page, "هل Who is the night owl Mina?")
    assert page.locator(".turn .asked").evaluate(turned)
    assert page.locator(".source .words").first.get_attribute("dir") == "auto"
    page.locator("#question").fill("النسر")
    assert page.locator("#question").evaluate("one => getComputedStyle(one).direction") == "rtl"
    page.get_by_title("letters").click()
    page.wait_for_selector("#panel .text")
    assert page.locator("#panel .text").evaluate(turned)
    page.keyboard.press("Escape")
    page.locator(".map").click()
    frame = page.frame_locator("#panel iframe")
    frame.locator("canvas").first.wait_for()
    assert frame.locator("#sources .words").first.evaluate("one => getComputedStyle(one).unicodeBidi") == "plaintext"


def test_an_explanation_tells_documents_of_one_name_apart(opened, browser, served, tmp_path):
    """In the page beside the conversation, and in one that is opened from disk, where no script can be loaded."""
    for name in ("a/notes.txt", "b/notes.txt"):
        served.post("/v1/memories/notes/documents", json={"name": name, "text": OWLS}, headers=KEY)
    page = opened()
    ask(page, "Who is the night owl Mina?")
    page.locator(".map").click()
    frame = page.frame_locator("#panel iframe")
    frame.locator("canvas").first.wait_for()
    shown = frame.locator("#bands").inner_text()
    assert [name in shown for name in ("a/notes.txt", "b/notes.txt", "foxes")] == [True] * 3

    facts = frame.locator("#facts").evaluate("element => JSON.parse(element.textContent)")
    (tmp_path / "explain.html").write_text(render(FACTS.validate_python(facts)), encoding="utf-8")
    page, wrong = browser.new_page(), []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto((tmp_path / "explain.html").as_uri())
    page.locator("canvas").first.wait_for()
    shown = page.locator("#bands").inner_text()
    assert wrong == [] and [name in shown for name in ("a/notes.txt", "b/notes.txt", "foxes")] == [True] * 3
    page.close()


def test_what_goes_wrong_is_said(opened, served, tmp_path, monkeypatch):
    for name, content in (("a.pdf", b"%PDF-1.7"), ("foxes", b"Another text."), ("large.txt", b"x" * 10_001)):
        (tmp_path / name).write_bytes(content)
    odd = {"name": "../a b/#owls?.txt", "text": OWLS}
    served.post("/v1/memories/notes/documents", json=odd, headers=KEY)
    page = opened()
    page.get_by_title("../a b/#owls?.txt").click()
    page.wait_for_selector("#panel .text")
    assert page.locator("#panel .text").text_content() == OWLS
    page.keyboard.press("Escape")
    page.set_input_files("#files", [tmp_path / name for name in ("a.pdf", "foxes", "large.txt")])
    until(page, "document.querySelectorAll('#uploads [role=alert]').length === 3")
    said = page.locator("#uploads").inner_text()
    assert "a.pdf is" in said and "is in memory='notes' already" in said and "--max-upload" in said
    page.get_by_role("button", name="Replace it").click()
    until(page, "document.querySelectorAll('#uploads li').length === 2")  # it has been read
    page.locator("#list .name").first.click()
    page.wait_for_selector("#panel .text")
    assert page.locator("#panel .text").text_content() == "Another text."
    page.keyboard.press("Escape")

    own = Service.answer

    def fails(service, request, job):
        raise RuntimeError("secret")

    monkeypatch.setattr(Service, "answer", fails)
    # What fails at once shows no button to stop it for long enough to be seen.
    page.fill("#question", "What jumps?")
    page.keyboard.press("Enter")
    page.wait_for_selector(".turn .error")
    assert "the server failed" in page.locator(".turn .error").inner_text() and "secret" not in page.content()
    monkeypatch.setattr(Service, "answer", own)
    page.get_by_role("button", name="Ask again").click()
    page.wait_for_selector(".sources")
    assert page.locator(".turn").count() == 1 and page.locator(".turn .error").count() == 0
    page.on("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Remove foxes").click()
    until(page, "document.querySelectorAll('#list li').length === 1")


@pytest.mark.parametrize("viewport", [{"width": 1440, "height": 900}, PHONE], ids=["desktop", "phone"])
def test_a_new_memory_is_made_and_filled(opened, served, tmp_path, viewport):
    (tmp_path / "owls.txt").write_text(OWLS)
    page = opened(viewport=viewport)
    page.get_by_role("button", name="New memory…").click()
    assert page.evaluate("document.activeElement.id") == "make-name"
    for name, said in (("notes", "is taken"), ("a/b", "leave out /"), ("a" * 201, "use 1 to 200 bytes")):
        page.fill("#make-name", name)
        page.keyboard.press("Enter")
        until(page, f"document.getElementById('make-note').textContent.includes({said!r})")
    assert page.locator("#make").is_visible()
    page.fill("#make-name", "Meine Eulen")
    page.get_by_role("button", name="Make it").click()
    until(page, "document.getElementById('memory').value === 'Meine Eulen'")
    assert page.locator("#make").is_hidden() and "Meine Eulen is empty" in page.locator("#turns").text_content()
    assert page.locator("#choose").is_visible() and page.locator("#list").inner_text() == "No documents yet."
    page.set_input_files("#files", tmp_path / "owls.txt")
    until(page, "document.querySelectorAll('#list .name').length === 1")
    assert "Ask Meine Eulen" in page.locator("#turns").text_content()
    if viewport == PHONE:
        page.locator("#close-documents").click()
    ask(page, "Who is the night owl Mina?")
    assert "owls.txt" in page.locator(".sources").inner_text()
    page.reload()
    page.wait_for_selector(".turn .answer")
    assert page.input_value("#memory") == "Meine Eulen"
    page.get_by_role("button", name="New memory…").click()
    page.keyboard.press("Escape")
    assert page.locator("#make").is_hidden() and page.evaluate("document.activeElement.id") == "new-memory"


def test_a_memory_is_deleted_once_that_is_confirmed(opened, served):
    assert served.post("/v1/memories", json={"name": "letters"}, headers=KEY).status_code == 201
    page, asked = opened(), []
    page.select_option("#memory", "letters")

    def answer(yes):
        page.once("dialog", lambda dialog: (asked.append(dialog.message), dialog.accept() if yes else dialog.dismiss()))

    answer(False)
    page.get_by_role("button", name="Delete this memory…").click()
    assert asked == ["Delete letters with 0 documents?"] and page.input_value("#memory") == "letters"
    answer(True)
    page.get_by_role("button", name="Delete this memory…").click()
    until(page, "document.getElementById('memory').value === 'notes'")
    assert page.locator("#memory option").all_inner_texts() == ["notes", "no memory"]
    assert [m["id"] for m in served.get("/v1/memories", headers=KEY).json()["data"]] == ["notes"]
    page.select_option("#memory", "")
    assert page.locator("#remove-memory").is_hidden()


def test_without_a_folder_there_is_no_button_for_a_new_memory(browser, tmp_path):
    with clients_of(small_model(), byte_tokenizer(), tmp_path) as start, listening(start().app, lifespan="off") as port:
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{port}/")
        page.wait_for_selector(".welcome")
        assert page.locator("#new-memory").is_hidden() and page.locator("#remove-memory").is_hidden()
        page.close()


@pytest.fixture
def lengths(monkeypatch):
    """How many tokens each answer has, in the order of the questions; the last one is that of all further answers."""
    own, left = Service.answer, [100_000]

    def answer(service, request, job):
        tokens = left.pop(0) if len(left) > 1 else left[0]
        return own(service, request.model_copy(update={"max_tokens": tokens}), job)

    monkeypatch.setattr(Service, "answer", answer)
    return left


WRITTEN = "(document.querySelector('.turn:last-child .answer')?.textContent ?? '').length > 20"


def test_while_an_answer_is_written_a_failed_question_is_not_asked_again(opened, lengths):
    lengths[:] = [400, 5]
    page = opened()
    page.context.set_offline(True)
    page.fill("#question", "What jumps?")
    page.keyboard.press("Enter")
    again = page.get_by_role("button", name="Ask again")
    again.wait_for()
    page.context.set_offline(False)
    page.fill("#question", "How does it jump?")
    page.keyboard.press("Enter")
    until(page, WRITTEN)
    assert again.is_disabled()
    again.evaluate("one => one.click()")
    page.wait_for_selector("#send", state="visible")
    turns = page.locator(".turn")
    assert turns.count() == 2 and turns.last.locator(".source").count() and again.is_enabled()
    again.click()
    page.wait_for_selector(".turn:last-child .sources")
    until(page, "document.querySelectorAll('.turn .error').length === 0")
    assert turns.locator(".asked").all_inner_texts() == ["How does it jump?", "What jumps?"]
    assert page.locator(".sources").count() == 2 and "The answer is cut after" in turns.last.inner_text()


@pytest.mark.parametrize("end", ["reload", "choose", "broken"])
def test_an_answer_that_ends_too_early_says_so(opened, lengths, monkeypatch, end):
    last = Reply.last
    if end == "broken":
        lengths[:] = [40]
        monkeypatch.setattr(Reply, "last", lambda *_: 1 / 0)
    page = opened()
    page.fill("#question", "What jumps?")
    page.keyboard.press("Enter")
    until(page, WRITTEN)
    if end == "reload":
        page.reload()
    elif end == "choose":
        for memory in ("", "notes"):
            page.select_option("#memory", memory)
    page.wait_for_selector(".turn .error")
    said = "The connection ended before" if end == "broken" else "The page was left before"
    assert said in page.locator(".turn .error").inner_text()
    assert len(page.locator(".turn .answer").inner_text()) > 20
    lengths[:] = [5]
    monkeypatch.setattr(Reply, "last", last)
    page.get_by_role("button", name="Ask again").click()
    page.wait_for_selector(".sources")
    page.reload()
    page.wait_for_selector(".sources")
    assert page.locator(".turn").count() == 1 and page.locator(".turn .error").count() == 0


def test_documents_of_one_name_in_several_folders_are_told_apart(opened, served):
    def add(name, text):
        said = served.post("/v1/memories/notes/documents", json={"name": name, "text": text}, headers=KEY)
        assert said.status_code == 200

    for name, text in (("x/a/README.md", OWLS), ("y/b/README.md", "The stork sleeps.\n"), ("z/other.md", "A heron.\n")):
        add(name, text)
    page = opened()
    listed = page.locator("#list .name")
    assert listed.all_inner_texts() == ["foxes", "a/README.md", "b/README.md", "other.md"]
    ask(page, "Who is the night owl Mina?")
    place = page.locator(".source .place").first
    assert place.inner_text().startswith("a/README.md,")
    page.locator(".source").first.click()
    assert page.locator("#panel-title").inner_text() == "a/README.md"
    page.keyboard.press("Escape")
    asked = []
    page.on("dialog", lambda dialog: (asked.append(dialog.message), dialog.accept()))
    page.get_by_role("button", name="Remove b/README.md").click()
    until(page, "document.querySelectorAll('#list li').length === 3")
    assert asked == ["Remove y/b/README.md from notes?"]
    # What is alone needs no folder; in sources neither.
    assert listed.all_inner_texts() == ["foxes", "README.md", "other.md"]
    assert place.inner_text().startswith("README.md,")
    for name in ("README.md", "w/x/a/README.md"):
        add(name, "An ibis.\n")
    page.reload()
    listed.nth(4).wait_for()
    assert listed.all_inner_texts() == ["foxes", "x/a/README.md", "other.md", "README.md", "w/x/a/README.md"]


def test_by_keyboard_an_answer_is_stopped(opened, lengths):
    page = opened()
    page.keyboard.press("Tab")
    page.locator("body").press("/")
    assert page.evaluate("document.activeElement.id") == "question"
    page.keyboard.type("What jumps?")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("And how?")
    assert page.input_value("#question") == "What jumps?\nAnd how?"
    page.keyboard.press("Enter")
    until(page, "(document.querySelector('.answer')?.textContent ?? '').length > 20")
    page.keyboard.press("Escape")
    page.wait_for_selector("#send", state="visible")
    assert "Stopped." in page.locator(".turn").inner_text()
    page.keyboard.press("Escape")
    assert page.locator("#panel").is_hidden()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone(opened, scheme):
    page = opened(viewport=PHONE, color_scheme=scheme, has_touch=True)
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    assert dark == (scheme == "dark")
    assert page.locator("#documents").is_hidden()
    page.locator("#show-documents").tap()
    assert page.locator("#drop").is_visible()
    page.locator("#close-documents").tap()
    ask(page, "What jumps?")
    page.locator(".source").first.tap()
    page.wait_for_selector("#panel mark")
    box = page.locator("#panel").bounding_box()
    assert (box["x"], box["width"]) == (0, PHONE["width"])
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    page.locator("#close-panel").tap()
    assert page.locator("#panel").is_hidden()

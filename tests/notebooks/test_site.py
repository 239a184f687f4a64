"""The site: built strictly and offline; links, search, mathematics, maps and quizzes work in Chromium."""

from __future__ import annotations

import functools
import http.server
import json
import re
import subprocess
import sys
import threading
from html.parser import HTMLParser
from urllib.parse import unquote, urldefrag

import pytest
import yaml
from helpers import ROOT
from helpers.browser import chromium, watched

QUIZ = yaml.safe_load((ROOT / "docs" / "site" / "quiz.yaml").read_text(encoding="utf-8"))
CHAPTERS = sorted(path.name[:2] for path in (ROOT / "notebooks").glob("0*.ipynb"))

# formulas with a command that was not understood, and those that are torn out of their sentence
FORMULAS_IN_DISORDER = r"""[...document.querySelectorAll('article math')]
    .filter(formula => /[\\$]/.test(formula.textContent)
        || !formula.closest(formula.getAttribute('display') === 'block' ? '.math' : 'p, li, td, h2, h3'))
    .map(formula => formula.textContent)"""


def test_every_chapter_has_two_questions_each_with_one_right_answer_and_reasons():
    assert sorted(QUIZ) == CHAPTERS
    for questions in QUIZ.values():
        assert len(questions) == 2
        for question in questions:
            assert question["ask"] and len(question["options"]) == 3
            assert sum(bool(option.get("right")) for option in question["options"]) == 1
            assert all(isinstance(option["say"], str) and len(option["why"]) > 20 for option in question["options"])
    places = [[bool(o.get("right")) for o in q["options"]].index(True) for part in QUIZ.values() for q in part]
    assert len(set(places)) > 1, "the right answer would be guessed by its place"


class Page(HTMLParser):
    """What a page links to, loads and can be linked to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links, self.loads, self.names = [], [], set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.names |= {values[name] for name in ("id", "name") if values.get(name)}
        if tag == "a" and values.get("href"):
            self.links.append(values["href"])
        elif tag in ("img", "script", "link", "iframe") and values.get("rel") not in ("canonical", "edit"):
            self.loads += [values[name] for name in ("src", "href") if values.get(name)]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    for module in ("mkdocs", "material", "latex2mathml", "plotly"):
        pytest.importorskip(module, reason="needs mkdocs-material: pip install -e '.[site]'")
    folder = tmp_path_factory.mktemp("site") / "site"
    subprocess.run([sys.executable, "docs/site/build.py", str(folder)], cwd=ROOT, check=True)
    return folder


@pytest.fixture(scope="module")
def address(site):
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(site))
    handler.log_message = lambda *_: None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.slow
def test_every_link_leads_somewhere_and_nothing_is_loaded_from_elsewhere(site):
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html") if path.name != "404.html"}
    assert len(pages) > 40
    assert sorted(path.name[:2] for path in (site / "notebooks" / "chinese").glob("*.html")) == CHAPTERS
    for path, page in pages.items():
        assert not [url for url in page.loads if re.match(r"(https?:)?//", url)], path
        for link in page.links:
            if re.match(r"[a-z]+:", link):
                continue
            target, anchor = urldefrag(unquote(link))
            there = (path.parent / target).resolve() if target else path
            there = there / "index.html" if there.is_dir() else there
            assert there.is_file(), (path, link)
            if anchor and there in pages and not anchor.startswith("__"):
                assert anchor in pages[there].names, (path, link)


@pytest.mark.slow
def test_mathematics_maps_quizzes_and_search_in_a_browser(site, address):
    with chromium() as browser:
        page, outside, errors = watched(browser, viewport={"width": 1000, "height": 900})
        page.goto(f"{address}/docs/sheet.html")
        formulas = page.locator("math")
        assert formulas.count() > 20 and not set("$\\") & set(page.inner_text("article"))
        assert formulas.first.evaluate("part => part.getBoundingClientRect().width") > 5

        page.goto(f"{address}/notebooks/05_mmr.html")
        page.locator(".map .scatterlayer path.point").first.wait_for()
        assert page.locator(".map .scatterlayer path.point").count() > 100
        assert page.locator("details.quiz").count() == 6
        wrong = page.locator('details.quiz[data-right="no"]').first
        assert not wrong.locator("p").is_visible()
        wrong.locator("summary").click()
        assert wrong.locator("p").inner_text() == f"No: {_first_wrong('05')}"

        page.get_by_text("Type to start searching").wait_for(state="attached")  # the index is read
        page.get_by_role("textbox", name="Search").first.press_sequentially("bisection")  # it listens to keys
        page.locator(".md-search-result__link").first.wait_for()
        assert "bisection" in page.inner_text(".md-search-result__list").lower()
        for path in sorted(site.rglob("*.html")):
            page.goto(f"{address}/{path.relative_to(site).as_posix()}")
            assert page.evaluate(FORMULAS_IN_DISORDER) == [], path
        page.set_viewport_size({"width": 390, "height": 844})
        for name in ("index", "notebooks/04_adbscan", "docs/sheet"):
            page.goto(f"{address}/{name}.html")
            assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), name
        assert not outside and not errors, json.dumps([outside, errors])


def _first_wrong(chapter: str) -> str:
    return next(option["why"] for option in QUIZ[chapter][0]["options"] if not option.get("right"))

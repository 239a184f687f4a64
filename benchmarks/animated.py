"""The README's moving picture, filmed in Chromium: three questions to the page of a run, then the map of its space.

python -m benchmarks.animated [RUN] [OUT]    after assl run; default runs/tiny, benchmarks/results/chat.webp

Needs the extras app, browser and notebooks, and Chromium with a font that has Chinese.
"""

from __future__ import annotations

import io
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from assl_kit.app.chat import Chat
from assl_kit.app.chat_page import open_page
from assl_kit.artifacts.steps import read
from assl_kit.artifacts.workspace import Workspace
from assl_kit.common.files import atomic_path
from assl_kit.data.splits import training_pool
from assl_kit.space.embeddings import rows_of
from assl_kit.teaching.explorer import explore_space, write_explorer
from assl_kit.teaching.plots import project
from benchmarks.machine import RESULTS

OUT = RESULTS / "chat.webp"
#: What is asked, the line below it, the answer without which there is no film, and the answer's line.
QUESTIONS = {
    "公司净利润增长三成，情绪如何？": ("Profit is up by 30 %: what is the mood?", "积极", "Positive."),
    "公司净利润下降三成，情绪如何？": ("Profit is down by 30 %: what is the mood?", "消极", "Negative."),
    "Could you recommend a good novel for the weekend?": (
        "None has learnt this.",
        "I don't know",
        "They don't know, and say so.",
    ),
}
MAP = "The records in the semantic space, by task", "… by cluster: an expert for each", "… the chosen tenth"
SIZE = {"width": 920, "height": 900}
SHOWN, BELOW = (736, 720), 40  #: pixels of the page in the picture, and of the line below it
TYPED, PIECE, HOLD, HOVER = 120, 200, 2600, 1500  #: milliseconds a frame stands
_CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


class Film:
    """Frames and how long each stands."""

    def __init__(self) -> None:
        self.frames: list[Image.Image] = []
        self.times: list[int] = []
        self.caption = ""

    def take(self, page: Any, milliseconds: int) -> None:
        """A frame with its caption; one that looks like the last only lets that stand longer."""
        shot = Image.open(io.BytesIO(page.screenshot())).convert("RGB").resize(SHOWN, Image.Resampling.LANCZOS)
        frame = Image.new("RGB", (SHOWN[0], SHOWN[1] + BELOW), "#263238")
        frame.paste(shot)
        place = SHOWN[0] // 2, SHOWN[1] + BELOW // 2
        ImageDraw.Draw(frame).text(place, self.caption, "white", ImageFont.load_default(20), "mm")
        if self.frames and frame.tobytes() == self.frames[-1].tobytes():
            self.times[-1] += milliseconds
            return
        self.frames.append(frame)
        self.times.append(milliseconds)

    def write(self, out: Path) -> Path:
        out.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(out) as temporary:
            self.frames[0].save(
                temporary,
                format="WEBP",
                save_all=True,
                append_images=self.frames[1:],
                duration=self.times,
                loop=0,
                quality=60,
                method=4,
            )
        return out


def film_chat(film: Film, page: Any, address: str) -> None:
    page.goto(address)
    box = page.get_by_role("textbox")
    box.wait_for()
    film.caption = "make chat: ask the experts of a run"
    film.take(page, HOLD // 2)
    for question, (film.caption, right, english) in QUESTIONS.items():
        for k in range(4, len(question) + 4, 4):
            box.fill(question[:k])
            film.take(page, TYPED)
        page.keyboard.press("Enter")
        page.wait_for_selector('[data-done="no"]')  # what is answered before it stands there until then
        while page.locator('[data-done="no"]').count() or not page.locator('#base [data-done="yes"]').count():
            film.take(page, PIECE)
        page.wait_for_timeout(300)
        if right not in (answer := page.inner_text("#answer")):
            raise SystemExit(f"{question} is answered {answer!r}, not {right!r}: nothing is filmed")
        film.caption += f"  {english}"
        film.take(page, HOLD)


def film_map(film: Film, page: Any, file: Path) -> None:
    page.goto(file.as_uri())
    page.wait_for_selector(".scatterlayer path.point")
    film.caption = MAP[0]
    film.take(page, HOVER)
    for button, film.caption in enumerate(MAP[1:], start=1):
        page.locator(".updatemenu-button").nth(button).click()
        page.mouse.move(5, 5)
        page.wait_for_timeout(500)
        film.take(page, HOVER)
    for part in (0.35, 0.5, 0.65):
        points = page.locator(".scatterlayer path.point")
        place = points.nth(int(part * points.count())).bounding_box()
        page.mouse.move(place["x"] + place["width"] / 2, place["y"] + place["height"] / 2)
        page.wait_for_timeout(300)
        film.take(page, HOVER)


def map_of(ws: Workspace, folder: Path) -> Path:
    """The map of a run's training records, as notebook 05 draws it."""
    train, chosen = training_pool(read(ws, "records")), read(ws, "selection")
    table = train.merge(read(ws, "clusters")[["id", "cluster"]], on="id")
    table["kept"] = table["id"].isin(chosen["id"])
    figure = explore_space(project(rows_of(read(ws, "embeddings"), table["id"])), table)
    figure.update_layout(height=SIZE["height"] - 20)
    write_explorer(folder / "map.html", figure)
    return folder / "map.html"


def main(run: str = "runs/tiny", out: str = str(OUT)) -> Path:
    from playwright.sync_api import sync_playwright

    ws, film = Workspace.open(run), Film()
    program = next(filter(None, map(shutil.which, _CHROMIUM)), None)
    served = open_page(Chat.of_run(ws))
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport=SIZE)
        page.set_default_timeout(240_000)
        film_chat(film, page, str(served.local_url))
        film_map(film, page, map_of(ws, Path(folder)))
        browser.close()
    served.close()
    path = film.write(Path(out))
    print(f"{path}: {path.stat().st_size / 2**20:.2f} MB, {len(film.frames)} frames, {sum(film.times) / 1000:.0f} s")
    return path


if __name__ == "__main__":
    main(*sys.argv[1:])

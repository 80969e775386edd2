"""`conceptloom demo` writes a page that stands alone and is the same every time."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from conceptloom.cli import demo
from conceptloom.cli.cancelling import Cancelled
from conceptloom.cli.chapters import Chapter, Picture, Stage, Table
from conceptloom.cli.presets import Preset, settings_of
from conceptloom.cli.story import Plot
from conceptloom.training.adapters import Scope

from .quick import Command

TINY = {
    "token_steps": 1, "weight_steps": 1, "batch_size": 1, "class_draw": 1, "class_steps": 1,
    "preview_steps": 1, "scope": Scope.CROSS_ATTENTION_KV,
}  # fmt: skip
ALONE = {"area", "base", "br", "col", "hr", "img", "input", "link", "meta", "source", "wbr"}


class Reader(HTMLParser):
    """Collects pictures and what the page would fetch; checks that tags close in order."""

    def __init__(self) -> None:
        super().__init__()
        self.images: list[str] = []
        self.links: list[str] = []
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ALONE:
            self.open.append(tag)
        given = dict(attrs)
        if tag == "img":
            self.images.append(given["src"] or "")
            assert given["alt"]
        elif "src" in given or "href" in given:
            self.links.append(str(given))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(autouse=True)
def short_story(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def small(*, settings: object) -> Plot:
        quick = settings_of(Preset.TINYWORLD, TINY)
        return Plot(settings=quick, steps=1, seeds=(1,), alone_on=("black",), together_on=("sky",))

    monkeypatch.setattr(demo, "Plot", small)
    monkeypatch.setattr(demo, "tellers", tuple)  # the first story alone, unless a test adds some
    monkeypatch.chdir(tmp_path)


def a_chapter(stage: Stage) -> Chapter:
    stage.progress(1, 1, "telling")
    return Chapter(
        title="A second story",
        text="Of <my-mark> & others.",
        pictures=[
            Picture(torch.zeros(8, 8, 3), "small <my-mark>", is_right=False),
            Picture(torch.ones(8, 32, 3), "a strip", is_wide=True),
        ],
        table=Table(("word", "IoU"), [("<my-mark>", "0.50")]),
        meaning="Higher is better.",
        command="conceptloom transfer -c <my-mark>",
    )


def test_the_page_stands_alone_and_is_the_same_every_time(command: Command, tmp_path: Path) -> None:
    pages, mine = [], tmp_path / "demo" / "state" / "000001.safetensors"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"of a training that has its results here")
    for _ in range(2):
        result = command("demo", "--short", "--out", "demo")
        assert result.exit_code == 0, result.output
        assert "index.html" in result.output
        pages.append((tmp_path / "demo" / "index.html").read_text(encoding="utf-8"))
    assert pages[0] == pages[1]
    reader = Reader()
    reader.feed(pages[0])
    assert not reader.open
    assert not reader.links
    assert "$" not in reader.text.replace("$ ", "")
    assert len(reader.images) >= 10
    assert all(src.startswith("data:image/png;base64,") for src in reader.images)
    assert "<my-split>" in reader.text
    names = {path.name for path in (tmp_path / "demo").iterdir()}
    assert names == {"concept.safetensors", "index.html", "preview.png", "state"}
    assert mine.is_file(), "what the demo clears away is its own"


def test_further_stories_follow_the_first(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "tellers", lambda: (a_chapter,))
    assert command("demo", "--out", "demo").exit_code == 0
    reader = Reader()
    reader.feed((tmp_path / "demo" / "index.html").read_text(encoding="utf-8"))
    assert not reader.open
    for told in ("8. A second story", "Of <my-mark> & others.", "small <my-mark>", "0.50"):
        assert told in reader.text


def test_a_later_story_that_is_stopped_leaves_those_before(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(stage: Stage) -> Chapter:
        raise Cancelled(3, 9, learning=True)

    monkeypatch.setattr(demo, "tellers", lambda: (a_chapter, stopped, a_chapter))
    result = command("demo", "--out", "demo")
    assert result.exit_code != 0
    assert "step 3 of 9" in result.output
    assert "index.html" in result.output.replace("\n", "")
    page = (tmp_path / "demo" / "index.html").read_text(encoding="utf-8")
    assert page.count("A second story") == 1

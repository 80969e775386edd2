"""`conceptloom demo` writes a page that stands alone and is the same every time."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from conceptloom.cli.cancelling import Cancelled
from conceptloom.cli.demo import run
from conceptloom.cli.demo.break_a_scene_run import DemoConfig, demo_settings
from conceptloom.cli.demo.figures import write_figures
from conceptloom.cli.demo.page import page_of
from conceptloom.cli.demo.story import DemoContext, DemoSample, Figure, Section, Story, Table
from conceptloom.training.adapters import Scope

from .quick import Command

TINY = {
    "token_steps": 1, "weight_steps": 1, "batch_size": 1, "prior_pictures": 1,
    "prior_sampling_steps": 1, "preview_steps": 1, "scope": Scope.CROSS_ATTENTION_KV,
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
        elif "src" in given or not (given.get("href") or "#").startswith("#"):
            self.links.append(str(given))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(autouse=True)
def short_story(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def small(*, settings: object) -> DemoConfig:
        quick = demo_settings(TINY)
        return DemoConfig(
            settings=quick, steps=1, seeds=(1,), alone_on=("black",), together_on=("sky",)
        )

    monkeypatch.setattr(run, "DemoConfig", small)
    monkeypatch.setattr(run, "LATER_STORIES", ())  # unless a test adds some
    monkeypatch.chdir(tmp_path)


def a_story(context: DemoContext) -> Story:
    context.progress(1, 1, "telling")
    sample = DemoSample(torch.zeros(8, 8, 3), is_as_asked=False, seen='a "dot" & a line')
    section = Section(
        "Its only part",
        "Of <my-mark> & <others>.",
        [
            Figure("small <my-mark>", [sample, DemoSample(torch.ones(8, 8, 3), True, "it")]),
            Figure.of(torch.ones(8, 32, 3), "a strip", is_wide=True),
        ],
        Table(("word", "IoU"), [("<my-mark>", "0.50")]),
        "Higher is better.",
        "conceptloom transfer -c <my-mark>",
    )
    return Story("second", "A second story", ["my-mark"], [section], [section.figures[0]])


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
    assert "{{" not in reader.text
    assert "{%" not in reader.text
    assert len(reader.images) >= 10
    assert all(src.startswith("data:image/png;base64,") for src in reader.images)
    assert "<my-mug>" in reader.text
    names = {path.name for path in (tmp_path / "demo").iterdir()}
    assert names == {"concept.safetensors", "figures.json", "index.html", "preview.png", "state"}
    assert mine.is_file(), "what the demo clears away is its own"


def test_further_stories_follow_the_first(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "LATER_STORIES", (a_story,))
    assert command("demo", "--out", "demo").exit_code == 0
    page = (tmp_path / "demo" / "index.html").read_text(encoding="utf-8")
    reader = Reader()
    reader.feed(page)
    assert not reader.open
    texts = ("2. A second story", "Of <my-mark> & <others>.", "small <my-mark>", "0.50", "1 of 2")
    for text in texts:
        assert text in reader.text
    assert '<span class="handle h0">&lt;my-mark&gt;</span>' in page
    assert 'title="a &#34;dot&#34; &amp; a line"' in page
    figures = json.loads((tmp_path / "demo" / "figures.json").read_text(encoding="utf-8"))
    first, second = figures["stories"]
    assert second["samples"] == [
        {"asked": "small <my-mark>", "seen": 'a "dot" & a line', "as_asked": False},
        {"asked": "small <my-mark>", "seen": "it", "as_asked": True},
    ]
    assert second["as_asked"] == [1, 2]
    assert second["tables"] == [{"heads": ["word", "IoU"], "rows": [["<my-mark>", "0.50"]]}]
    assert figures["as_asked"] == [first["as_asked"][0] + 1, first["as_asked"][1] + 2]
    assert first["as_asked"][1] == len(first["samples"]) == 3
    assert figures["seconds"] >= second["seconds"] >= 0


def test_a_story_without_pictures_makes_a_page(tmp_path: Path) -> None:
    empty = Story("none", "Nothing <yet>", [], [], [])
    assert "Nothing &lt;yet&gt;" in page_of([empty])
    written = write_figures([empty], [0.25], tmp_path / "figures.json")
    assert json.loads(written.read_text(encoding="utf-8"))["as_asked"] == [0, 0]


def test_a_later_story_that_is_stopped_leaves_those_before(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(context: DemoContext) -> Story:
        raise Cancelled(3, 9, learning=True)

    monkeypatch.setattr(run, "LATER_STORIES", (a_story, stopped, a_story))
    result = command("demo", "--out", "demo")
    assert result.exit_code != 0
    assert "step 3 of 9" in result.output
    assert "index.html" in result.output.replace("\n", "")
    page = (tmp_path / "demo" / "index.html").read_text(encoding="utf-8")
    assert page.count('<h2 id="second">') == 1

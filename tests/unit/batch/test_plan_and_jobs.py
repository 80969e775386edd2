"""What a batch file may say, and which jobs come of it."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import pytest
import torch

from conceptloom.batch.jobs import Job, JobKind, jobs_of
from conceptloom.batch.plan import Plan, read_plan
from conceptloom.cli.picture_files import write_picture
from conceptloom.errors import ConfigError, InputError


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    folder = tmp_path / "scene"
    folder.mkdir()
    write_picture(torch.rand(16, 16, 3), folder / "a.png")
    write_picture(torch.ones(16, 16, 3), folder / "mask.png")
    pictures = [{"image": "a.png", "masks": {"my-mug": "mask.png"}}]
    (folder / "scene.json").write_text(json.dumps({"pictures": pictures}))
    return tmp_path


def plan_of(**parts: object) -> Plan:
    return Plan.model_validate(parts)


MUG = {"mug": {"scene": "scene"}}
PICTURES = [
    {
        "prompts": ["a <my-mug>", "two <my-mug>"],
        "concepts": ["mug:0.5"],
        "seeds": [1, 2, 3],
        "settings": [{"steps": 2}, {"steps": 4}],
    }
]


def test_the_plan_that_the_help_shows_is_one(tmp_path: Path) -> None:
    testing = pytest.importorskip("typer.testing", reason="pip install 'conceptloom[cli]'")
    from conceptloom.cli.app import app

    shown = testing.CliRunner().invoke(app, ["batch", "--help"], terminal_width=200)
    lines = shown.output.splitlines()
    first = next(n for n, line in enumerate(lines) if line.strip() == "model: tinyworld")
    last = next(n for n, line in enumerate(lines) if line.strip().startswith("- {file:"))
    (tmp_path / "plan.yaml").write_text(textwrap.dedent("\n".join(lines[first : last + 1])))
    plan = read_plan(tmp_path / "plan.yaml")
    assert plan.pictures[0].concepts == ["mug"]
    assert plan.concepts["mug"].settings == {"token_steps": 60}


def test_every_combination_is_a_job_and_needs_its_concept(scene: Path) -> None:
    jobs = jobs_of(plan_of(concepts=MUG, pictures=PICTURES), scene)
    assert [job.kind for job in jobs] == [JobKind.LEARN] + [JobKind.DRAW] * 12
    assert len({job.key for job in jobs}) == len({job.folder for job in jobs}) == 13
    assert all(job.needs["mug.safetensors"] is jobs[0] for job in jobs[1:])
    assert jobs[1].spec["concepts"] == [["mug.safetensors", 0.5]]
    assert len({job.title for job in jobs}) == 13  # a table of results is read by them


def test_a_concept_may_be_applied_under_a_new_name(scene: Path) -> None:
    pictures = [{**PICTURES[0], "concepts": ["mug", "mug:0.5:blue"]}]
    jobs = jobs_of(plan_of(concepts=MUG, pictures=pictures), scene)
    assert jobs[1].spec["concepts"] == [
        ["mug.safetensors", 1.0],
        ["mug.safetensors", 0.5, "blue"],
    ]


def test_a_key_changes_with_all_that_a_result_depends_on(scene: Path) -> None:
    def keys(**changed: object) -> list[str]:
        return [
            j.key
            for j in jobs_of(plan_of(**{"concepts": MUG, "pictures": PICTURES, **changed}), scene)
        ]

    before = keys()
    assert keys() == before
    assert not set(keys(concepts={"mug": {"scene": "scene", "settings": {"seed": 1}}})) & set(
        before
    )
    assert keys(pictures=[{**PICTURES[0], "seeds": [3, 2, 1]}]) != before
    assert set(keys(pictures=[{**PICTURES[0], "seeds": [3, 2, 1]}])) == set(before)
    write_picture(torch.zeros(16, 16, 3), scene / "scene" / "a.png")
    assert not set(keys()) & set(before)


def test_what_else_lies_beside_a_scene_changes_nothing(scene: Path) -> None:
    before = jobs_of(plan_of(concepts=MUG), scene)[0]
    (scene / "scene" / ".DS_Store").write_text("x")
    (scene / "scene" / "runs").mkdir()
    (scene / "scene" / "runs" / "job.json").write_text("a batch's own results")
    after = jobs_of(plan_of(concepts=MUG), scene)[0]
    assert after.key == before.key
    assert sorted(after.files) == ["a.png", "mask.png", "scene.json"]


def test_another_model_of_the_same_name_is_another_job(tmp_path: Path) -> None:
    pictures = [{"prompts": ["a"]}]
    folder = tmp_path / "model"
    folder.mkdir()
    weights, large = folder / "weights.safetensors", bytearray(8 * 2**20)

    def key() -> str:
        return jobs_of(plan_of(model=str(folder), pictures=pictures), tmp_path)[0].key

    weights.write_bytes(large)
    before = key()
    assert key() == before
    large[4 * 2**20 :] = bytes([1]) * 4 * 2**20  # of one half a network is another one
    weights.write_bytes(large)
    assert key() != before
    assert jobs_of(plan_of(pictures=pictures), tmp_path)[0].key != before


def test_a_workflow_runs_once_for_every_combination_of_values(tmp_path: Path) -> None:
    (tmp_path / "draw.json").write_text("{}")
    rows = [{"file": "draw.json", "values": {"7.seed": [1, 2], "6.text": ["a", "b", "c"]}}]
    jobs = jobs_of(plan_of(workflows=rows), tmp_path)
    assert len(jobs) == 6
    assert jobs[0].spec["values"] == {"7.seed": 1, "6.text": "a"}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{}", "plan is empty"),
        ("concepts: {mug: {}}", "concepts.mug: .*either a scene"),
        ("concepts: {mug: {scene: a, file: b}}", "either a scene"),
        ("concepts: {'../mug': {scene: a}}", "concepts.*pattern"),
        ("pictures: [{prompts: [a], concepts: [mug]}]", "concept 'mug'; known: none"),
        ("pictures: [{prompts: []}]", "pictures.0.prompts"),
        ("pictures: [{prompts: [a], settings: [{steps: 0}]}]", "steps"),
        ("pictures: [{promts: [a]}]", "promts"),
        ("pictures: [{prompts: [a], settings: [{size: large}]}]", "size.*512x768"),
        (
            "concepts: {mug: {file: a}}\npictures: [{prompts: [a], concepts: ['mug:x']}]",
            r"NAME\[:STR",
        ),
        ("model: [", "YAML"),
        ("- 1", "is not a valid batch plan"),
    ],
)
def test_a_wrong_file_is_reported_where(text: str, told: str, tmp_path: Path) -> None:
    file = tmp_path / "plan.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match=told):
        read_plan(file)


@pytest.mark.parametrize("settings", [{"scope": "all"}, {"token_stps": 1}, {"token_steps": -1}])
def test_wrong_settings_are_reported_before_anything_starts(
    settings: dict[str, object], scene: Path
) -> None:
    concepts = {"mug": {"scene": "scene", "settings": settings}}
    with pytest.raises(ConfigError, match=next(iter(settings))):
        jobs_of(plan_of(concepts=concepts), scene)


def test_missing_files_are_reported_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere.*scene\.json"):
        jobs_of(plan_of(concepts={"mug": {"scene": "nowhere"}}), tmp_path)
    job = Job(JobKind.WORKFLOW, "x", {}, {"workflow.json": tmp_path / "gone.json"})
    with pytest.raises(InputError, match=r"gone\.json"):
        _ = job.key

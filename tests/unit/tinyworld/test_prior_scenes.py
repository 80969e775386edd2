"""Scenes and labels that ConceptLab's prior is trained on."""

from __future__ import annotations

import numpy as np

from conceptloom.tinyworld.captions import caption_words
from conceptloom.tinyworld.members import CATEGORIES, KINDS, is_kept_away
from conceptloom.tinyworld.recipe.prior_scenes import LABELS, labels_of, prior_scene


def test_captions_use_the_worlds_words_and_labels_are_true() -> None:
    known, rng = set(caption_words()), np.random.default_rng(3)
    scenes = [prior_scene(rng, 32) for _ in range(120)]
    by_category = 0
    for scene in scenes:
        assert scene.image.shape == (32, 32, 3)
        words = scene.caption.replace(",", "").split()
        assert set(words) <= known, set(words) - known
        labels = labels_of(scene)
        if not labels:
            continue
        one = scene.things[0].member
        assert one is not None
        assert not is_kept_away(one)
        assert labels["class"] == one.kind
        assert all(word in LABELS[group] for group, word in labels.items())
        assert labels.get("emblem", "").endswith(one.emblem if "emblem" in labels else "")
        by_category += len(set(words) & set(CATEGORIES)) > 0 and one.kind not in words
    assert by_category > 10
    assert len({labels_of(s).get("class") for s in scenes} - {None}) == len(KINDS)


def test_pictures_of_several_things_have_no_label() -> None:
    rng = np.random.default_rng(4)
    several = [s for s in (prior_scene(rng, 32) for _ in range(60)) if len(s.things) != 1]
    assert several
    assert not any(labels_of(scene) for scene in several)

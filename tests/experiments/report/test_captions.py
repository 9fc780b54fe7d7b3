"""Captions and titles."""

from __future__ import annotations

from typing import Any

import pytest

from experiments.report.captions import caption, data_of, short_titles, task, teacher, titles
from experiments.report.groups import split
from tests.helpers.report_runs import AFFINE, COLOR, GROUP, record


def test_the_caption_describes_data_networks_and_cost() -> None:
    group = {**GROUP, "data": {"name": "mnist5k", "fraction": 0.05}, "budget": "nfe"}
    one = split([record(group=group), record(seed=2, group=group, note="A note.")])[0]
    assert caption(one) == (
        "mnist5k (5 % of the training images), 28 x 28 pixels; task shift; teacher trained on shifts of up to 3 px; "
        "student MLPStudent; batch size 64; as many network evaluations as 100 steps on two views; seeds 0, 2; CPU. "
        "Accuracy in %, mean ± standard deviation over seeds. A note."
    )


def test_the_caption_says_how_trials_are_selected() -> None:
    runs = [record(settings=[s], validation=(0.5, 0.5)) for s in ("t=1", "t=2")]
    assert "validation accuracy on images like those of shifted (select_on=main), mean over" in caption(split(runs)[0])
    assert "Trials" not in caption(split([record()])[0])


def test_equal_titles_are_followed_by_what_differs() -> None:
    configs = [GROUP, {**GROUP, "batch_size": 32}, {**GROUP, "steps": 200}]
    assert titles(split([record(group=config) for config in configs])) == [
        "mnist5k, shift, MLPStudent, 100 steps, batch_size=64",
        "mnist5k, shift, MLPStudent, 100 steps, batch_size=32",
        "mnist5k, shift, MLPStudent, 200 steps",
    ]


def test_short_titles_name_the_main_set_and_data_that_are_not_the_usual_ones() -> None:
    configs = [{**GROUP, "data": {"name": name}} for name in ("fashion_mnist", "mnist5k", "mnist5k")]
    configs[2]["steps"] = 200
    assert [data_of(config) for config in configs] == ["fashion_mnist", "mnist5k", "mnist5k"]
    groups = split([record(group=config) for config in configs])
    assert short_titles(groups) == ["fashion shifted", "shifted, steps=100", "shifted, steps=200"]
    assert short_titles(groups[:1]) == ["shifted"]
    assert short_titles([]) == []


COMPOSE: dict[str, Any] = {"transform": {"_target_": "x.Compose", "_args_": [AFFINE, COLOR]}}


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({"teacher": {"steps": 0}}, "pretrained"),
        ({"task": {"name": "rotated", "transform": AFFINE}}, "trained on augmented images (rotated)"),
        ({"task": COMPOSE}, "trained on augmented images (Affine, Color)"),
        ({"task": {"name": "images of all groups"}}, "trained on images of all groups"),
        ({"teacher": {"train_shift": 3}}, "trained on shifts of up to 3 px"),
        ({"teacher": {"train_shift": 0}}, "trained without augmentation"),
    ],
)
def test_the_teachers_training(config: dict[str, Any], text: str) -> None:
    assert teacher(config) == text


def test_tasks_are_named_by_name_or_class() -> None:
    assert task({"task": {"_target_": "experiments.tasks.CommonCorruption", "kind": "cifar10_c"}}) == (
        "cifar10_c commoncorruption"
    )
    assert task({"task": {"name": "rotated", "_target_": "x.Invariance"}}) == "rotated"

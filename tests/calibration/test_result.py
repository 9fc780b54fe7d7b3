"""`Calibration`: its ranges, rows, table and numbers, and the state that it is saved as."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from hard_aug import Calibration, calibrate
from hard_aug.calibration import CalibratedParameter
from hard_aug.transforms import Affine, Color, Compose, Elastic, Filter, Narrowed
from hard_aug.transforms.spec import columns_by_group
from tests.helpers.calibration_parts import Levels, Offsets, grey, trained_network

TRANSFORM = Compose(
    Affine(translation=0.2, rotation=30.0, scale=2.0, shear=None),
    Elastic(magnitude=0.1, control=4),
    Filter(blur=1.0, gamma=None, noise=None, sharpness=None),
)
#: translation, rotation, scale_x, scale_y, elastic, blur
REACH = torch.tensor([[0.5, 0.25], [1, 1], [0.1, 0.9], [1, 0.5], [0.5, 0.5], *[[0.3, 0.3]] * 32, [0.75, 0.75]])


def result() -> Calibration:
    return Calibration(
        transform=TRANSFORM,
        reach=REACH,
        kept=torch.full((38, 2), 0.95),
        keep=0.9,
        joint_scale=0.5,
        joint_kept=0.8125,
        joint_keep=0.8,
        images=128,
        evaluations=12_345,
    )


def test_ranges_are_in_physical_units() -> None:
    found = result().ranges()
    assert found["translation_x"] == pytest.approx((-0.1, 0.05))
    assert found["translation_y"] == pytest.approx((-0.2, 0.2))
    assert found["rotation"] == pytest.approx((-3, 27))
    assert found["scale_x"] == pytest.approx((0.5, math.sqrt(2)))
    assert found["scale_y"] == pytest.approx((math.sqrt(0.5), math.sqrt(2)))
    assert found["displacement_x_0_0"] == pytest.approx((-0.03, 0.03))
    assert found["blur"] == pytest.approx((0, 0.75))
    assert list(found) == [parameter.name for parameter in TRANSFORM.spec]


def test_joint_ranges_are_a_part_of_each() -> None:
    joint = result().ranges(joint=True)
    assert joint["rotation"] == pytest.approx((-1.5, 13.5))
    assert joint["scale_y"] == pytest.approx((0.5**0.25, 2**0.25))
    assert joint["blur"] == pytest.approx((0, 0.375))


def test_narrowed_is_the_transform_within_the_joint_ranges() -> None:
    narrowed = result().narrowed()
    assert isinstance(narrowed, Narrowed)
    assert narrowed.inner is TRANSFORM
    assert torch.allclose(narrowed.reach, REACH / 2)
    assert {p.name: (p.low, p.high) for p in narrowed.spec} == result().ranges(joint=True)


def test_rows() -> None:
    rows = {row.name: row for row in result().rows}
    assert list(rows) == ["translation_x", "translation_y", "rotation", "scale_x", "scale_y", "elastic", "blur"]
    assert rows["elastic"].group == "elastic"
    assert rows["elastic"].unit == "fraction of width"
    assert rows["scale_y"].group == "scale"
    row = rows["rotation"]
    assert (row.full_low, row.full_high, row.unit) == (-30, 30, "degrees")
    assert (row.low, row.high, row.below, row.above) == pytest.approx((-3, 27, 0.1, 0.9))
    assert (row.kept_below, row.kept_above) == pytest.approx((0.95, 0.95))
    assert math.isnan(rows["blur"].kept_below)
    assert rows["blur"].kept_above == pytest.approx(0.95)
    assert all(isinstance(row, CalibratedParameter) for row in rows.values())


def test_printed_it_is_a_table() -> None:
    lines = str(result()).splitlines()
    assert lines[0].split("  ")[0] == "parameter"
    assert len({len(line) for line in lines[:8]}) == 1
    words = [" ".join(line.split()) for line in lines[1:8]]
    assert words[2] == "rotation degrees -3 to 27 -30 to 30 10 % 90 %"
    assert words[3] == "scale_x factor 0.5 to 1.41 0.5 to 2 100 % 50 %"
    assert words[6] == "blur pixels 0 to 0.75 0 to 1 75 %"  # there is nothing below
    assert lines[8:] == [
        "At the end of each range the teacher keeps 90 % of the probability of its predictions for 128 images;",
        "on uniform draws of all parameters together 81 %, at 0.50 of these ranges.",
    ]
    assert result().table() == "\n".join(lines[:8])


def test_all_numbers_are_json() -> None:
    found = json.loads(json.dumps(result().to_dict(), allow_nan=False))
    assert found["rows"][2]["name"] == "rotation"
    assert found["rows"][2]["high"] == pytest.approx(27)
    assert found["rows"][-1]["kept_below"] is None
    assert found["rows"][0]["kept_below"] == pytest.approx(0.95)
    assert {name: value for name, value in found.items() if name != "rows"} == {
        "keep": 0.9,
        "joint_scale": 0.5,
        "joint_kept": 0.8125,
        "joint_keep": 0.8,
        "images": 128,
        "evaluations": 12_345,
    }


def test_a_measured_one_is_json_and_prints() -> None:
    found = calibrate(trained_network(), torch.rand(16, 1, 8, 8), Compose(Affine(), Elastic(control=4), Filter()))
    text = json.dumps(found.to_dict(), allow_nan=False)
    assert json.loads(text) == found.to_dict()
    assert len(str(found).splitlines()) == 1 + 6 + 1 + 4 + 2
    for name, columns in columns_by_group(found.transform.spec).items():
        assert bool((found.reach[columns] > 0).all()), name
        assert bool((found.reach[columns] <= 1).all()), name
    assert bool(((found.kept >= 0.9 - 1e-6) | (found.reach == 1 / 64)).all())


def test_the_state_round_trip() -> None:
    state = result().state_dict()
    loaded = Calibration.from_state(state, TRANSFORM)
    assert torch.equal(loaded.reach, REACH)
    assert loaded.to_dict() == result().to_dict()
    assert str(loaded) == str(result())
    loaded.reach.zero_()  # it is a copy
    assert torch.equal(state["reach"], REACH)


@pytest.mark.parametrize(
    "wrong",
    [
        {"reach": torch.ones(5, 2)},
        {"reach": 1.5 * torch.ones(38, 2)},
        {"reach": torch.zeros(38, 2)},
        {"reach": torch.full((38, 2), math.nan)},
        {"reach": [[1.0, 1.0]] * 38},
        {"kept": torch.full((38, 2), 1.1)},
        {"kept": torch.ones(38, 2, dtype=torch.int64)},
        {"joint_scale": math.nan},
        {"images": "many"},
        {"more": 1},
    ],
)
def test_states_that_do_not_fit(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="calibration"):
        Calibration.from_state({**result().state_dict(), **wrong}, TRANSFORM)
    with pytest.raises(ValueError, match=r"calibration.*of shape \(4, 2\), got torch.float32 of shape \(38, 2\)"):
        Calibration.from_state(result().state_dict(), Color())


def test_copies() -> None:
    found = copy.deepcopy(result())
    assert found.reach is not REACH
    assert torch.equal(found.reach, REACH)
    assert replace(found, joint_scale=1.0).ranges(joint=True) == found.ranges()


def test_a_transform_of_ones_own_has_groups_of_its_names() -> None:
    found = calibrate(Levels(0.3, 0.7), grey(32), Offsets(few=2, many=9))
    assert [row.name for row in found.rows] == ["few_0", "few_1", "many"]
    assert found.rows[2].above == found.rows[2].below == pytest.approx(float(found.reach[2, 0]))

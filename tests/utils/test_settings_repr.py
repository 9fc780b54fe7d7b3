"""The `repr` of an object's settings."""

from __future__ import annotations

from hard_aug.utils.settings_repr import SettingsRepr, describe_settings, settings_of


class Part(SettingsRepr):
    def __init__(self, size: int, *, name: str = "a", scale: float | None = None) -> None:
        self.size, self.scale = size, scale
        self._name = name  # not kept under the argument's name
        self.other = 5  # no argument


def test_arguments_that_are_kept_are_shown_in_their_order() -> None:
    assert repr(Part(3)) == "Part(size=3, scale=None)"
    assert repr(Part(3, scale=0.5)) == "Part(size=3, scale=0.5)"


def test_arguments_can_be_left_out() -> None:
    assert describe_settings(Part(3, scale=0.5), skip=("size",)) == "scale=0.5"


def test_a_class_without_settings() -> None:
    class Nothing(SettingsRepr):
        pass

    assert repr(Nothing()) == "Nothing()"


def test_settings_by_name() -> None:
    assert settings_of(Part(3, scale=0.5)) == {"size": 3, "scale": 0.5}
    assert settings_of(Part(3), skip=("size", "name")) == {"scale": None}

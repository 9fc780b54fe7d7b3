"""The error of a missing extra."""

from __future__ import annotations

import subprocess
import sys

import pytest

from hard_aug.utils.extras import requires_extra

HIDE = """
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {package!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Hidden())
try:
    import {module}
except ImportError as error:
    print(error)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "package", "extra"),
    [
        ("hard_aug.data.image_set", "torchvision", "data"),
        ("hard_aug.evaluation.corruptions", "skimage", "evaluation"),
    ],
)
def test_the_extra_to_install_is_named(module: str, package: str, extra: str) -> None:
    program = HIDE.format(package=package, module=module)
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert f"requires {package}" in found
    assert f"pip install 'hard_aug[{extra}]'" in found


def test_other_import_errors_are_unchanged() -> None:
    with pytest.raises(ModuleNotFoundError, match="No module named 'nowhere'"), requires_extra("x", "data", "PIL"):
        import nowhere  # noqa: F401
    with (
        pytest.raises(ImportError, match="x requires PIL: pip install 'hard_aug\\[data\\]'"),
        requires_extra("x", "data", "PIL"),
    ):
        raise ModuleNotFoundError("No module named 'PIL.Image'", name="PIL")

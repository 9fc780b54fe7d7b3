"""The resolver `default_of`: use the library's default values in YAML files instead of repeating the numbers.

`rotation: ${default_of:hard_aug.transforms.Affine,rotation}` has the value of the default of `Affine`'s argument
`rotation`. Importing the package `experiments` registers it.
"""

from __future__ import annotations

import inspect
from typing import Any

from hydra.utils import get_object
from omegaconf import OmegaConf


def default_of(path: str, argument: str) -> Any:
    """Return the default value of an argument of a class or function.

    Args:
        path: import path, such as `hard_aug.transforms.Affine`.
        argument: its name.

    Raises:
        ValueError: there is no such argument, or it has no default.
    """
    parameters = inspect.signature(get_object(path)).parameters
    with_default = [name for name, one in parameters.items() if one.default is not inspect.Parameter.empty]
    if argument not in with_default:
        raise ValueError(f"default_of:{path},{argument}: expected one of the arguments {', '.join(with_default)}")
    return parameters[argument].default


OmegaConf.register_new_resolver("default_of", default_of, replace=True, use_cache=False)

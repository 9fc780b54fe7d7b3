"""Conditions: what a denoiser is told of the class it is to draw.

| condition | denoisers |
|---|---|
| `Unconditional` | any that wants nothing |
| `ClassLabels` | `UNet2DModel` with `num_class_embeds`, `DiTTransformer2DModel` |
| `ClassEmbeddings` | those of text to image (`UNet2DConditionModel`): one prompt's embedding for each class |
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

#: Arguments by name; those of some denoisers are nested (`added_cond_kwargs` of Stable Diffusion XL).
Arguments = Mapping[str, Any]


def mapped(function: Callable[..., Any], arguments: Arguments, *others: Arguments) -> dict[str, Any]:
    """`function` of each tensor, with those of the same name in `others`."""
    return {
        name: mapped(function, value, *(other[name] for other in others))
        if isinstance(value, Mapping)
        else function(value, *(other[name] for other in others))
        for name, value in arguments.items()
    }


def _names(arguments: Arguments) -> list[str]:
    """Of the tensors, sorted; nested ones as `outer.inner`."""
    found: list[str] = []
    for name, value in arguments.items():
        found += [f"{name}.{inner}" for inner in _names(value)] if isinstance(value, Mapping) else [name]
    return sorted(found)


class Condition(ABC):
    """Arguments of the denoiser, by name, for a batch of labels."""

    @abstractmethod
    def __call__(self, labels: Tensor) -> dict[str, Any]:
        """For labels `(B,)`, on their device."""

    def none(self, count: int, device: torch.device) -> dict[str, Any]:
        """For `count` images of no class, which classifier-free guidance compares with.

        Raises:
            ValueError: a condition that knows no such thing.
        """
        raise ValueError(
            f"{type(self).__name__} has nothing to say of no class, which guidance_scale other than 1 compares with; "
            "use guidance_scale=1"
        )


class Unconditional(Condition):
    """Nothing."""

    def __call__(self, labels: Tensor) -> dict[str, Any]:
        return {}


class ClassLabels(Condition):
    """The label itself.

    Args:
        classes: how many there are.
        none_label: the label that stands for no class; None: there is none.
        argument: what the denoiser calls it.
    """

    def __init__(self, classes: int, *, none_label: int | None = None, argument: str = "class_labels") -> None:
        self.classes, self.none_label, self.argument = classes, none_label, argument

    def __call__(self, labels: Tensor) -> dict[str, Any]:
        return {self.argument: labels}

    def none(self, count: int, device: torch.device) -> dict[str, Any]:
        if self.none_label is None:
            return super().none(count, device)
        return {self.argument: torch.full((count,), self.none_label, device=device)}


class ClassEmbeddings(Condition):
    """Embeddings of one prompt for each class, such as "a photograph of a waterbird".

    ```python
    prompts = [f"a photograph of a {name}" for name in classes]
    embeddings, none = pipeline.encode_prompt(prompts, device, 1, True, negative_prompt=[""] * len(prompts))
    condition = ClassEmbeddings({"encoder_hidden_states": embeddings}, none={"encoder_hidden_states": none[:1]})
    ```

    Args:
        embeddings: by the denoiser's argument, `(K, ...)`, a row for each class; nested where the denoiser's are.
        none: the same for no class, `(1, ...)`.

    Raises:
        ValueError: unequal numbers of rows, or other arguments for no class.
    """

    def __init__(self, embeddings: Arguments, *, none: Arguments | None = None) -> None:
        rows: set[int] = set()
        mapped(lambda value: rows.add(len(value)), embeddings)
        if len(rows) != 1:
            raise ValueError(f"embeddings have {sorted(rows)} rows: wanted at least one argument, a row for each class")
        if none is not None and _names(none) != _names(embeddings):
            raise ValueError(f"none has {_names(none)}: wanted the arguments of embeddings, {_names(embeddings)}")
        (self.classes,) = rows
        self._tables = {"classes": dict(embeddings), "none": None if none is None else dict(none)}
        self._device: torch.device | None = None

    def __call__(self, labels: Tensor) -> dict[str, Any]:
        return mapped(lambda value: value[labels], self._on(labels.device)["classes"])

    def none(self, count: int, device: torch.device) -> dict[str, Any]:
        table = self._on(device)["none"]
        if table is None:
            return super().none(count, device)
        return mapped(lambda value: value.expand(count, *value.shape[1:]), table)

    def _on(self, device: torch.device) -> dict[str, Any]:
        """The tables on a device, where they stay: there may be a thousand prompts."""
        if self._device != device:
            self._tables = {
                name: None if table is None else mapped(lambda value: value.to(device), table)
                for name, table in self._tables.items()
            }
            self._device = device
        return self._tables

"""Conditioning: the arguments that tell a denoiser which class to generate.

| conditioning | denoisers |
|---|---|
| `Unconditional` | any that requires none |
| `ClassLabels` | `UNet2DModel` with `num_class_embeds`, `DiTTransformer2DModel` |
| `ClassEmbeddings` | text-to-image models (`UNet2DConditionModel`): the embedding of one prompt per class |
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from hard_aug.utils.settings_repr import SettingsRepr

#: Tensors by argument name; some denoisers take nested ones (`added_cond_kwargs` of Stable Diffusion XL).
Arguments = Mapping[str, Any]


def map_tensors(function: Callable[..., Any], arguments: Arguments, *others: Arguments) -> dict[str, Any]:
    """Apply `function` to each tensor of `arguments`, together with the tensors of the same name in `others`.

    Args:
        function: called with one tensor from each mapping.
        arguments: tensors by name, possibly nested.
        *others: mappings with the same names.
    """
    return {
        name: map_tensors(function, value, *(other[name] for other in others))
        if isinstance(value, Mapping)
        else function(value, *(other[name] for other in others))
        for name, value in arguments.items()
    }


def argument_names(arguments: Arguments) -> list[str]:
    """Return the sorted names of the tensors, nested ones as `outer.inner`."""
    found: list[str] = []
    for name, value in arguments.items():
        found += [f"{name}.{inner}" for inner in argument_names(value)] if isinstance(value, Mapping) else [name]
    return sorted(found)


class Conditioning(ABC):
    """Keyword arguments of the denoiser for a batch of labels.

    Example:
        >>> class OneHot(Conditioning):
        ...     def __call__(self, labels):
        ...         return {"class_labels": torch.nn.functional.one_hot(labels, 3).float()}
        >>> OneHot()(torch.tensor([0, 2]))["class_labels"]
        tensor([[1., 0., 0.],
                [0., 0., 1.]])
    """

    @abstractmethod
    def __call__(self, labels: Tensor) -> dict[str, Any]:
        """Return the arguments for labels `(B,)`, on their device."""

    def none(self, count: int, device: torch.device) -> dict[str, Any]:
        """Return the unconditional arguments for `count` images, as classifier-free guidance needs them.

        Args:
            count: number of images.
            device: device of the arguments.

        Raises:
            ValueError: the conditioning has no unconditional case.
        """
        raise ValueError(
            f"{type(self).__name__} has no unconditional case, which classifier-free guidance requires; use "
            "guidance_scale=1, or give the label or embedding that stands for no class"
        )


class Unconditional(Conditioning):
    """No arguments.

    Example:
        >>> Unconditional()(torch.tensor([0, 2]))
        {}
    """

    def __call__(self, labels: Tensor) -> dict[str, Any]:
        """See `Conditioning.__call__`."""
        return {}

    def __repr__(self) -> str:
        return "Unconditional()"


class ClassLabels(SettingsRepr, Conditioning):
    """The label itself.

    Args:
        classes: number of classes.
        none_label: the label that stands for no class; None: the denoiser has none.
        argument: name of the denoiser's argument.

    Example:
        >>> condition = ClassLabels(10, none_label=10)
        >>> condition
        ClassLabels(classes=10, none_label=10, argument='class_labels')
        >>> condition(torch.tensor([0, 2]))
        {'class_labels': tensor([0, 2])}
        >>> condition.none(2, torch.device("cpu"))
        {'class_labels': tensor([10, 10])}
    """

    def __init__(self, classes: int, *, none_label: int | None = None, argument: str = "class_labels") -> None:
        self.classes, self.none_label, self.argument = classes, none_label, argument

    def __call__(self, labels: Tensor) -> dict[str, Any]:
        """See `Conditioning.__call__`."""
        return {self.argument: labels}

    def none(self, count: int, device: torch.device) -> dict[str, Any]:
        """See `Conditioning.none`."""
        if self.none_label is None:
            return super().none(count, device)
        return {self.argument: torch.full((count,), self.none_label, dtype=torch.int64, device=device)}


class ClassEmbeddings(Conditioning):
    """Embeddings of one prompt per class, such as "a photograph of a waterbird".

    ```python
    prompts = [f"a photograph of a {name}" for name in classes]
    embeddings, none = pipeline.encode_prompt(prompts, device, 1, True, negative_prompt=[""] * len(prompts))
    condition = ClassEmbeddings({"encoder_hidden_states": embeddings}, none={"encoder_hidden_states": none[:1]})
    ```

    Args:
        embeddings: tensors `(K, ...)` by the denoiser's argument, one row per class; nested if the arguments are.
        none: the same for no class, `(1, ...)`; None: the denoiser runs without classifier-free guidance.

    Raises:
        ValueError: the tensors differ in their number of rows, or `none` has other arguments.

    Example:
        >>> condition = ClassEmbeddings({"encoder_hidden_states": torch.zeros(3, 7, 16)})
        >>> condition
        ClassEmbeddings(classes=3, arguments=['encoder_hidden_states'])
        >>> condition(torch.tensor([0, 2]))["encoder_hidden_states"].shape
        torch.Size([2, 7, 16])
    """

    def __init__(self, embeddings: Arguments, *, none: Arguments | None = None) -> None:
        rows: set[int] = set()
        map_tensors(lambda value: rows.add(len(value)), embeddings)
        if len(rows) != 1:
            raise ValueError(
                f"embeddings have {sorted(rows)} rows: expected at least one argument, with a row per class"
            )
        if none is not None and argument_names(none) != argument_names(embeddings):
            raise ValueError(
                f"none has {argument_names(none)}: expected the arguments of embeddings, {argument_names(embeddings)}"
            )
        (self.classes,) = rows
        self._tables = {"classes": dict(embeddings), "none": None if none is None else dict(none)}
        self._device: torch.device | None = None

    def __call__(self, labels: Tensor) -> dict[str, Any]:
        """See `Conditioning.__call__`."""
        return map_tensors(lambda value: value[labels], self._on(labels.device)["classes"])

    def none(self, count: int, device: torch.device) -> dict[str, Any]:
        """See `Conditioning.none`."""
        table = self._on(device)["none"]
        if table is None:
            return super().none(count, device)
        return map_tensors(lambda value: value.expand(count, *value.shape[1:]), table)

    def _on(self, device: torch.device) -> dict[str, Any]:
        """Move the tables to a device and keep them there: there may be a thousand prompts."""
        if self._device != device:
            self._tables = {
                name: None if table is None else map_tensors(lambda value: value.to(device), table)
                for name, table in self._tables.items()
            }
            self._device = device
        return self._tables

    def __repr__(self) -> str:
        arguments = argument_names(self._tables["classes"] or {})
        return f"ClassEmbeddings(classes={self.classes}, arguments={arguments})"

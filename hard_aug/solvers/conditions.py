"""Conditions: what a denoiser is told of the class it is to draw.

| condition | denoisers |
|---|---|
| `Unconditional` | any that wants nothing |
| `ClassLabels` | `UNet2DModel` with `num_class_embeds`, `DiTTransformer2DModel` |
| `ClassEmbeddings` | those of text to image (`UNet2DConditionModel`): one prompt's embedding for each class |
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor


class Condition(ABC):
    """Arguments of the denoiser, by name, for a batch of labels."""

    @abstractmethod
    def __call__(self, labels: Tensor) -> dict[str, Tensor]:
        """For labels `(B,)`, on their device."""

    def none(self, count: int, device: torch.device) -> dict[str, Tensor]:
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

    def __call__(self, labels: Tensor) -> dict[str, Tensor]:
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

    def __call__(self, labels: Tensor) -> dict[str, Tensor]:
        return {self.argument: labels}

    def none(self, count: int, device: torch.device) -> dict[str, Tensor]:
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
        embeddings: by the denoiser's argument, `(K, ...)`, a row for each class.
        none: the same for no class, `(1, ...)`.

    Raises:
        ValueError: unequal numbers of rows, or other arguments for no class.
    """

    def __init__(self, embeddings: Mapping[str, Tensor], *, none: Mapping[str, Tensor] | None = None) -> None:
        rows = {len(value) for value in embeddings.values()}
        if len(rows) != 1:
            raise ValueError(f"embeddings have {sorted(rows)} rows: wanted at least one argument, a row for each class")
        if none is not None and set(none) != set(embeddings):
            raise ValueError(f"none has {sorted(none)}: wanted the arguments of embeddings, {sorted(embeddings)}")
        (self.classes,) = rows
        self.embeddings, self._none = dict(embeddings), None if none is None else dict(none)

    def __call__(self, labels: Tensor) -> dict[str, Tensor]:
        return {name: value.to(labels.device)[labels] for name, value in self.embeddings.items()}

    def none(self, count: int, device: torch.device) -> dict[str, Tensor]:
        if self._none is None:
            return super().none(count, device)
        return {name: value.to(device).expand(count, *value.shape[1:]) for name, value in self._none.items()}

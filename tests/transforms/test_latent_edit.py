"""LatentEdit: micro-batches, residual and `repr` of a transform with a trivial autoencoder."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hard_aug.transforms import Parameter
from hard_aug.transforms.latent_edit import LatentEdit


class Brightness(LatentEdit):
    """An "autoencoder" that loses a tenth of the brightness; the edit adds to its latents."""

    spec = (Parameter("brightness", -1.0, 1.0, identity=0.0, unit="fraction"),)

    def __init__(
        self, amount: float = 1.0, *, residual: bool = True, micro_batch: int | None = None, checkpointing: bool = False
    ) -> None:
        super().__init__(residual=residual, micro_batch=micro_batch, checkpointing=checkpointing)
        self.amount = amount
        self.rows: list[tuple[str, int]] = []

    def _check_images(self, images: Tensor) -> None:
        if images.shape[-1] != 4:
            raise ValueError("expected images of width 4")

    def _encode(self, images: Tensor) -> tuple[Tensor, ...]:
        self.rows.append(("encode", len(images)))
        return (0.9 * images,)

    def _reconstruct(self, images: Tensor, *encoded: Tensor) -> Tensor:
        self.rows.append(("reconstruct", len(images)))
        return encoded[0]

    def _decode_edited(self, images: Tensor, values: Tensor, *encoded: Tensor) -> Tensor:
        self.rows.append(("decode", len(images)))
        return encoded[0] + self.amount * values[:, :, None, None].sinh()


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("micro_batch", [None, 2])
@pytest.mark.parametrize("residual", [False, True])
def test_the_edit_is_added_to_the_image_or_to_its_reconstruction(
    residual: bool, micro_batch: int | None, checkpointing: bool
) -> None:
    transform = Brightness(0.5, residual=residual, micro_batch=micro_batch, checkpointing=checkpointing)
    images, u = torch.rand(3, 1, 4, 4), torch.tensor([[0.3], [-0.2], [0.0]], requires_grad=True)
    out = transform(images, u)
    expected = (images if residual else 0.9 * images) + 0.5 * torch.erf(u / 2**0.5)[:, :, None, None].sinh()
    assert torch.allclose(out, expected, atol=1e-6)
    gradients = [torch.autograd.grad(each.sum(), u)[0] for each in (out, expected)]
    assert torch.allclose(*gradients, atol=1e-5)
    parts = [3] if micro_batch is None else [2, 1]
    assert [rows for name, rows in transform.rows if name == "encode"] == parts
    assert [rows for name, rows in transform.rows if name == "reconstruct"] == (parts if residual else [])
    again = 2 if checkpointing else 1
    assert sorted(rows for name, rows in transform.rows if name == "decode") == sorted(again * parts)
    transform(images, u)
    assert [rows for name, rows in transform.rows if name == "encode"] == parts  # cached


def test_settings_and_images_are_checked() -> None:
    assert repr(Brightness(0.5, micro_batch=2)) == (
        "Brightness(amount=0.5, residual=True, micro_batch=2, checkpointing=False)"
    )
    for micro_batch in (0, -1, 2.5):
        with pytest.raises(ValueError, match=f"micro_batch={micro_batch}: expected an integer >= 1"):
            Brightness(micro_batch=micro_batch)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected images of width 4"):
        Brightness()(torch.rand(1, 1, 4, 5), torch.zeros(1, 1))

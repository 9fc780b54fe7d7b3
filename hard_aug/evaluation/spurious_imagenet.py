"""Spurious ImageNet's mAUC (Neuhaus et al., arXiv:2212.04871): is a class predicted from what correlates with it?

For class k, the probabilities p_k of ImageNet validation images of k (positives) are separated from those of images
that show the spurious feature and not the class (negatives); the score is the mean over classes, 1 is ideal. The
authors' page speaks of the AUC, their code computes the average precision, which are two numbers, so both are here:

| measure | computed by sklearn.metrics | all scores equal |
|---|---|---|
| auroc | `roc_auc_score` | 0.5 |
| average_precision | `average_precision_score`, as in the authors' code | fraction of positives: 0.4 for 50 to 75 |

| folder | form |
|---|---|
| spurious | a folder per feature, `..._class_<k>_..._<component>/*`, k ImageNet's index; those of a class are joined |
| validation | `<k>/*` with k ImageNet's WordNet id (`n02206856`), as torchvision has it, or the index (`309`) |

As in the authors' code, validation images have their shorter side resized to 256/224 of the size and are centre
cropped, and those of spurious features (squares) are resized to the size, both bicubic. It computes in float32; here
probabilities are float64, which separates what would tie at 1. Heads of ImageNet-21k are not mapped.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode

from hard_aug.data.image_files import list_image_files, read_image_files
from hard_aug.models.network import Network
from hard_aug.utils.checks import check_integer
from hard_aug.utils.extras import requires_extra

CLASS = re.compile(r"(?:^|_)class_(\d+)(?:_|$)")
SOURCE = "the repository YanNeu/spurious_imagenet, whose setup_download.sh fetches the folder images"


def spurious_mauc(
    model: nn.Module,
    spurious: str | Path,
    validation: str | Path,
    *,
    size: int = 224,
    batch_size: int = 64,
    classes: int = 1000,
    device: torch.device | None = None,
    workers: int | None = None,
) -> dict[str, Any]:
    """Compute the score of a model in evaluation mode; its train/eval flags are restored.

    Args:
        model: images `(B, 3, size, size)` in [0, 1] to logits `(B, classes)`; wrap a model that expects normalised
            input in `hard_aug.Normalized`.
        spurious: folder of images of spurious features, see the table above.
        validation: folder of ImageNet's validation images, see the table above.
        size: height and width of the images, pixels.
        batch_size: images that are decoded and evaluated at once; more are never in memory.
        classes: number of logits that the model must have; a head of another label set would give a meaningless score.
        device: of the model; None: that of its first parameter.
        workers: threads that decode; None: one per core, 8 at most.

    Returns:
        `auroc` and `average_precision`, means over classes in [0, 1], and `per_class`: by index, the same two,
        `spurious` and `validation` (numbers of images), `spurious_probability` and `validation_probability` (mean p_k).

    Raises:
        ValueError: folders without a class or an image, a file that cannot be decoded, logits of another shape,
            probabilities of NaN.
        FileNotFoundError: a missing folder.
        ImportError: scikit-learn or timm is not installed.
    """
    check_integer(batch_size=batch_size)
    negatives = list_spurious_images(Path(spurious))
    if max(negatives) >= classes:
        raise ValueError(f"{spurious} has class {max(negatives)}; expected indices below classes={classes}")
    positives = list_validation_images(Path(validation), list(negatives))
    network = Network(model, name="model")
    device = network.device if device is None else device
    probabilities = partial(
        _probabilities, network, size=size, batch_size=batch_size, classes=classes, device=device, workers=workers
    )
    return mauc(probabilities(positives, resize=size * 256 // 224), probabilities(negatives, resize=size))


def mauc(validation: Mapping[int, Tensor], spurious: Mapping[int, Tensor]) -> dict[str, Any]:
    """Compute the score from probabilities.

    Args:
        validation: by class k, p_k `(N,)` of images of k.
        spurious: by class k, p_k `(M,)` of images of its spurious feature.

    Returns:
        As `spurious_mauc`.

    Raises:
        ValueError: no class, different classes, a class without a value, values that are not finite.
        ImportError: scikit-learn is not installed.

    Example:
        >>> import torch
        >>> from hard_aug.evaluation import mauc
        >>> score = mauc({3: torch.tensor([0.9, 0.5])}, {3: torch.tensor([0.7, 0.3])})
        >>> score["auroc"], round(score["average_precision"], 4)
        (0.75, 0.8333)
    """
    with requires_extra("mauc", "evaluation", "sklearn"):  # imported here: it takes as long as most of the library
        from sklearn.metrics import average_precision_score, roc_auc_score

    if not spurious or validation.keys() != spurious.keys():
        raise ValueError(f"expected values of the same classes, got {sorted(validation)} and {sorted(spurious)}")
    per_class = {}
    for index in sorted(spurious):
        high, low = validation[index].cpu().double(), spurious[index].cpu().double()
        if not len(high) or not len(low) or not bool(torch.cat([high, low]).isfinite().all()):
            raise ValueError(
                f"class {index}: expected finite probabilities of at least one image of each kind, got {len(high)} and "
                f"{len(low)}; if they are NaN, check the model's weights and normalisation"
            )
        truth = [1] * len(high) + [0] * len(low)
        values = torch.cat([high, low]).numpy()
        per_class[index] = {
            "auroc": float(roc_auc_score(truth, values)),
            "average_precision": float(average_precision_score(truth, values)),
            "validation": len(high),
            "spurious": len(low),
            "validation_probability": float(high.mean()),
            "spurious_probability": float(low.mean()),
        }
    means = {
        name: sum(values[name] for values in per_class.values()) / len(per_class)
        for name in ("auroc", "average_precision")
    }
    return {**means, "per_class": per_class}


def list_spurious_images(folder: Path) -> dict[int, list[Path]]:
    """Return the images of spurious features by index of the class, those of all features of a class together.

    Args:
        folder: with `..._class_<index>_.../`.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: no folder in it, one whose name has no class, or one without an image.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder} of Spurious ImageNet. Get it from {SOURCE}")
    found: dict[int, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if not path.is_dir() or path.name.startswith((".", "__")):  # what unpacking leaves beside the data
            continue
        match = CLASS.search(path.name)
        if match is None:
            raise ValueError(f"{path}: expected a name with class_<index> in it; give the folder images of {SOURCE}")
        found.setdefault(int(match[1]), []).extend(_list_some(path))
    if not found:
        raise ValueError(f"{folder} has no folder ..._class_<index>_...; give the folder images of {SOURCE}")
    return found


def list_validation_images(folder: Path, classes: Sequence[int]) -> dict[int, list[Path]]:
    """Return the images of ImageNet's validation set by index of the class.

    Args:
        folder: with a folder per class, named by WordNet id or index.
        classes: indices of the classes to list.

    Raises:
        FileNotFoundError: no such folder, or none of a class.
        ValueError: a class without an image.
        ImportError: timm, which knows the WordNet ids, is not installed.
    """
    with requires_extra("the list of ImageNet's classes", "evaluation", "timm"):
        timm_data: Any = importlib.import_module("timm.data")

    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder} of ImageNet's validation images, <WordNet id>/*")
    ids = timm_data.ImageNetInfo("imagenet-1k").label_names()
    found = {}
    for index in classes:
        names = [*ids[index : index + 1], str(index)]
        path = next((folder / name for name in names if (folder / name).is_dir()), None)
        if path is None:
            raise FileNotFoundError(
                f"{folder} has no folder {' or '.join(names)} for class {index}; expected ImageNet's validation images "
                "in folders by class, as torchvision.datasets.ImageNet unpacks them into val"
            )
        found[index] = _list_some(path)
    return found


def _list_some(folder: Path) -> list[Path]:
    paths = list_image_files(folder)
    if not paths:
        raise ValueError(f"{folder} has no image in it; unpack the data again")
    return paths


def _probabilities(
    network: Network,
    images_of: Mapping[int, Sequence[Path]],
    *,
    resize: int,
    size: int,
    batch_size: int,
    classes: int,
    device: torch.device,
    workers: int | None,
) -> dict[int, Tensor]:
    """Return p_k of the images of each class, float64 on the CPU. Batches go across classes."""
    flat = [(path, index) for index, paths in images_of.items() for path in paths]
    values = []
    for start in range(0, len(flat), batch_size):
        paths, labels = zip(*flat[start : start + batch_size], strict=True)
        images = read_image_files(
            paths, size=size, resize=resize, interpolation=InterpolationMode.BICUBIC, workers=workers
        )
        logits = network.evaluate(images.to(device))
        if logits.shape != (len(paths), classes):
            raise ValueError(
                f"logits {tuple(logits.shape)}: expected ({len(paths)}, {classes}), ImageNet's classes "
                "in their order; pass a model with that head"
            )
        # On the CPU: not every device has float64.
        values.append(logits.cpu().double().softmax(1)[range(len(paths)), labels])
    lengths = [len(paths) for paths in images_of.values()]
    return dict(zip(images_of, torch.split(torch.cat(values), lengths), strict=True))

"""Spurious ImageNet's mAUC: is class k predicted from what merely goes with it? (Neuhaus et al., arXiv:2212.04871.)

    python -m experiments.spurious_imagenet --model resnet50 --spurious images --validation val --output score.json

For class k, the probabilities p_k of ImageNet validation images of k (positives) are separated from those of images
that show the spurious feature and not the class (negatives); the score is the mean over classes, 1 is ideal. The
authors' page speaks of the AUC, their code computes the average precision, which are two numbers, so both are here:

| measure | computed by sklearn.metrics | all scores equal |
|---|---|---|
| auroc | `roc_auc_score` | 0.5 |
| average_precision | `average_precision_score`, as in the authors' code | share of positives: 0.4 for 50 to 75 |

| folder | form |
|---|---|
| spurious | one folder a feature, `..._class_<k>_..._<component>/*`, k ImageNet's index; those of a class are joined |
| validation | `<k>/*` with k ImageNet's WordNet id (`n02206856`), as torchvision has it, or the index (`309`) |

As in the authors' code, validation pictures have their shorter side resized to 256/224 of the size and are centre
cropped, and those of spurious features (squares) are resized to the size, bicubic both. It computes in float32; here
probabilities are float64, which parts what would tie at 1. Heads of ImageNet-21k are not mapped.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode

from experiments.group_folders import pictures_in, read_pictures
from hard_aug.models import Normalized, evaluation_mode, timm_model

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
    """The score of a model, in evaluation mode; its own flags are kept.

    Args:
        model: images `(B, 3, size, size)` in [0, 1] to logits `(B, classes)`; wrap others in `Normalized`.
        spurious, validation: folders, see the table above.
        size: of the images, in pixels.
        batch_size: images that are decoded and run at once; more are never in memory.
        classes: logits that the model must have; a head of another label set would give a score that means nothing.
        device: where the model is; None: where its first parameter is.
        workers: threads that decode; None: one a core, 8 at most.

    Returns:
        `auroc` and `average_precision`, means over classes in [0, 1], and `per_class`: by index, the same two,
        `spurious` and `validation` (numbers of images), `spurious_probability` and `validation_probability` (mean p_k).

    Raises:
        ValueError: folders without a class or a picture, an unreadable picture, other logits, probabilities of NaN.
        FileNotFoundError: a folder that is not there.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}: wanted a whole number of at least 1")
    negatives = spurious_pictures(Path(spurious))
    if max(negatives) >= classes:
        raise ValueError(f"{spurious} has class {max(negatives)}; wanted indices below classes={classes}")
    positives = validation_pictures(Path(validation), list(negatives))
    if device is None:
        device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    probabilities = partial(
        _probabilities, model, size=size, batch_size=batch_size, classes=classes, device=device, workers=workers
    )
    return mauc(probabilities(positives, resize=size * 256 // 224), probabilities(negatives, resize=size))


def mauc(validation: Mapping[int, Tensor], spurious: Mapping[int, Tensor]) -> dict[str, Any]:
    """The score from probabilities: by class k, p_k `(N,)` of images of k, and of images of its spurious feature.

    Raises:
        ValueError: no class, classes that differ, a class without a value, values that are not finite.
    """
    if not spurious or validation.keys() != spurious.keys():
        raise ValueError(f"wanted values of the same classes, got {sorted(validation)} and {sorted(spurious)}")
    per_class = {}
    for index in sorted(spurious):
        high, low = validation[index].double().cpu(), spurious[index].double().cpu()
        if not len(high) or not len(low) or not bool(torch.cat([high, low]).isfinite().all()):
            raise ValueError(
                f"class {index}: wanted finite probabilities of at least one image of each kind, got {len(high)} and "
                f"{len(low)}; if they are NaN, look at the model's weights and normalisation"
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


def spurious_pictures(folder: Path) -> dict[int, list[Path]]:
    """Pictures of spurious features by index of the class; features of one class together.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: none in it, one whose name has no class, or one without a picture.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder} of Spurious ImageNet. Get it from {SOURCE}")
    found: dict[int, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if not path.is_dir() or path.name.startswith((".", "__")):  # what unpacking leaves beside the data
            continue
        match = CLASS.search(path.name)
        if match is None:
            raise ValueError(f"{path}: wanted a name with class_<index> in it; give the folder images of {SOURCE}")
        found.setdefault(int(match[1]), []).extend(_some_pictures(path))
    if not found:
        raise ValueError(f"{folder} has no folder ..._class_<index>_...; give the folder images of {SOURCE}")
    return found


def validation_pictures(folder: Path, classes: Sequence[int]) -> dict[int, list[Path]]:
    """Pictures of ImageNet's validation set by index, of these classes.

    Raises:
        FileNotFoundError: no such folder, or none of a class.
        ValueError: a class without a picture.
    """
    from timm.data import ImageNetInfo

    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder} of ImageNet's validation pictures, <WordNet id>/*")
    ids = ImageNetInfo("imagenet-1k").label_names()
    found = {}
    for index in classes:
        names = [*ids[index : index + 1], str(index)]
        path = next((folder / name for name in names if (folder / name).is_dir()), None)
        if path is None:
            raise FileNotFoundError(
                f"{folder} has no folder {' or '.join(names)} for class {index}; wanted ImageNet's validation pictures "
                "in folders by class, as torchvision.datasets.ImageNet unpacks them into val"
            )
        found[index] = _some_pictures(path)
    return found


def _some_pictures(folder: Path) -> list[Path]:
    pictures = pictures_in(folder)
    if not pictures:
        raise ValueError(f"{folder} has no picture in it; unpack the data again")
    return pictures


@torch.no_grad()
def _probabilities(
    model: nn.Module,
    pictures: Mapping[int, Sequence[Path]],
    *,
    resize: int,
    size: int,
    batch_size: int,
    classes: int,
    device: torch.device,
    workers: int | None,
) -> dict[int, Tensor]:
    """p_k of each class's pictures, float64 on the CPU. Batches go across classes."""
    flat = [(path, index) for index, paths in pictures.items() for path in paths]
    values = []
    with evaluation_mode(model):
        for start in range(0, len(flat), batch_size):
            paths, wanted = zip(*flat[start : start + batch_size], strict=True)
            images = read_pictures(
                paths, size=size, resize=resize, interpolation=InterpolationMode.BICUBIC, workers=workers
            )
            logits = model(images.to(device))
            if logits.shape != (len(paths), classes):
                raise ValueError(
                    f"logits {tuple(logits.shape)}: wanted ({len(paths)}, {classes}), ImageNet's classes "
                    "in their order; give a model with that head"
                )
            values.append(logits.double().softmax(1).cpu()[torch.arange(len(paths)), torch.tensor(wanted)])
    lengths = [len(paths) for paths in pictures.values()]
    return dict(zip(pictures, torch.cat(values).split(lengths), strict=True))


def load_model(name: str, weights: Path | None) -> Normalized:
    """timm's network by name, with its own weights (downloaded) or those of a state dict.

    The file may hold the bare network's state, or that of `Normalized`, alone or under "model" or "state_dict".

    Raises:
        FileNotFoundError: no such file.
        ValueError: an unknown name, or a state of another network.
    """
    if weights is None:
        return timm_model(name, pretrained=True)
    if not weights.is_file():
        raise FileNotFoundError(f"no file {weights}; give --weights=<state dict>, or leave it out for timm's own")
    model = timm_model(name)
    state = torch.load(weights, map_location="cpu", weights_only=True)
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict):
        raise ValueError(f"{weights} holds a {type(state).__name__}; wanted a state dict of {name}")
    try:
        (model if any(key.startswith("model.") for key in state) else model.model).load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{weights} is no state dict of {name}: {error}") from error
    return model


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m experiments.spurious_imagenet", description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True, help="name of a network of timm, with ImageNet's 1,000 classes")
    parser.add_argument("--weights", type=Path, help="its state dict (torch.save); without: timm's, downloaded")
    parser.add_argument("--spurious", type=Path, required=True, help="folder with ..._class_<index>_.../")
    parser.add_argument("--validation", type=Path, required=True, help="ImageNet's val, with <WordNet id>/")
    parser.add_argument("--size", type=int, help="of the images, in pixels; without: what timm tests the network at")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ...")
    parser.add_argument("--output", type=Path, help="JSON file for everything, per class too")
    given = parser.parse_args(arguments)

    from experiments.train import choose_device

    try:
        device = choose_device(given.device)
        model = load_model(given.model, given.weights).to(device)
        settings: Any = model.model.pretrained_cfg
        size = given.size or (settings.get("test_input_size") or settings["input_size"])[-1]
        result = spurious_mauc(
            model, given.spurious, given.validation, size=size, batch_size=given.batch_size, device=device
        )
    except (ValueError, OSError) as error:
        parser.error(str(error))
    shown = {"model": given.model, "size": size, **result}
    if given.output is not None:
        given.output.parent.mkdir(parents=True, exist_ok=True)
        given.output.write_text(json.dumps(shown, indent=1) + "\n")
    print(f"{given.model}: auroc {result['auroc']:.4f}, average precision {result['average_precision']:.4f}")


if __name__ == "__main__":
    main()

"""Spurious ImageNet's mAUC of a timm model, on the command line; see `hard_aug.evaluation.spurious_imagenet`.

For example `python -m experiments.spurious_imagenet --model resnet50 --spurious images --validation val`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.configuration.devices import choose_device
from experiments.models import load_weights
from experiments.training.files import write_json
from hard_aug.evaluation.spurious_imagenet import spurious_mauc
from hard_aug.models import Normalized, timm_model


def load_model(name: str, weights: Path | None) -> Normalized:
    """Load a timm model, with a file of `weights` of the bare network or of `Normalized`; None: timm's (downloaded).

    Raises:
        FileNotFoundError: no such file.
        ValueError: an unknown name, or a file without weights of this network.
    """
    model = timm_model(name, pretrained=weights is None)
    if weights is not None:
        try:
            load_weights(model, weights)
        except ValueError:
            load_weights(model.model, weights)
    return model


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; `arguments`: None for those of the process."""
    parser = argparse.ArgumentParser(prog="python -m experiments.spurious_imagenet", description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True, help="name of a timm model with ImageNet's 1,000 classes")
    parser.add_argument("--weights", type=Path, help="file of its weights; default: timm's weights, downloaded")
    parser.add_argument("--spurious", type=Path, required=True, help="folder with ..._class_<index>_.../")
    parser.add_argument("--validation", type=Path, required=True, help="ImageNet's val, with <WordNet id>/")
    parser.add_argument("--size", type=int, help="of the images, pixels; default: timm's test size of the model")
    parser.add_argument("--batch-size", type=int, default=64, help="images per forward (default: 64)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ...")
    parser.add_argument("--output", type=Path, help="JSON file for all results, including those per class")
    given = parser.parse_args(arguments)
    try:
        device = choose_device(given.device)
        model = load_model(given.model, given.weights).to(device)
        settings: Any = model.model.pretrained_cfg
        size = given.size or (settings.get("test_input_size") or settings["input_size"])[-1]
        settings = {"size": size, "batch_size": given.batch_size, "device": device}
        result = spurious_mauc(model, given.spurious, given.validation, **settings)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    if given.output is not None:
        given.output.parent.mkdir(parents=True, exist_ok=True)
        write_json(given.output, {"model": given.model, "size": size, **result})
    print(f"{given.model}: auroc {result['auroc']:.4f}, average precision {result['average_precision']:.4f}")


if __name__ == "__main__":
    main()

"""Metrics of how a search for hard images fails, for a log.

| metric | failure that it shows |
|---|---|
| `judge_consistency` | label drift: fraction of images that a judge outside the score still assigns to the label |
| `teacher_consistency` | the same by the teacher (high beside a low value of the judge: the teacher was fooled) |
| `saturated` | off the manifold: fraction of values that are 0 or 1, minus that of the unguided images |
| `diversity` | mode collapse: mean distance of two images of a class, relative to that of the unguided images |
| `rms_change` | no effect: root mean square distance to the unguided image of the same seed |
| `transfer` | adversarial noise: another student's loss of confidence in the label, relative to the student's own |
| `unimproved` | vanishing gradients: fraction of images whose score rose by less than 0.001 |
"""

from __future__ import annotations

from torch import Tensor, nn

from hard_aug.models.network import Network


def top1_accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the fraction of images whose top class is the label.

    Args:
        model: network from images to logits.
        images: `(B, C, H, W)` in [0, 1].
        labels: `(B,)`.
    """
    return float((Network(model, name="network").evaluate(images).argmax(1) == labels).float().mean())


def saturated(images: Tensor) -> float:
    """Return the fraction of values that round to 0 or 255 as bytes."""
    edge = 0.5 / 255
    return float(((images <= edge) | (images >= 1 - edge)).float().mean())


def diversity(images: Tensor, labels: Tensor) -> float:
    """Return the root mean square distance of two images of a class, averaged over classes; NaN if no class has two.

    It is computed from variances: the mean squared distance of two different images is twice the unbiased variance.

    Args:
        images: `(B, C, H, W)`.
        labels: `(B,)`.
    """
    distances = [
        float((2 * images[labels == label].var(dim=0).mean()).sqrt())
        for label in set(labels.tolist())
        if int((labels == label).sum()) > 1
    ]
    return sum(distances) / len(distances) if distances else float("nan")


def transfer(images: Tensor, unguided: Tensor, labels: Tensor, *, student: nn.Module, other: nn.Module) -> float:
    """Return another student's loss of confidence in the label, relative to that of the student of the search.

    1 means that both lose equally; 0 that the images are noise that fits one network only. NaN if the student lost no
    confidence.

    Args:
        images: `(B, C, H, W)`, result of the search.
        unguided: `(B, C, H, W)`, unguided images of the same seeds.
        labels: `(B,)`.
        student: student of the score.
        other: student with the same recipe and another seed.
    """

    def confidence_loss(model: nn.Module) -> float:
        network = Network(model, name="student")
        confidence = [
            network.evaluate(shown).float().softmax(1).gather(1, labels[:, None]).mean() for shown in (unguided, images)
        ]
        return float(confidence[0] - confidence[1])

    own = confidence_loss(student)
    return confidence_loss(other) / own if own > 1e-6 else float("nan")


def failure_metrics(
    images: Tensor,
    unguided: Tensor,
    labels: Tensor,
    *,
    teacher: nn.Module,
    student: nn.Module,
    judge: nn.Module | None = None,
    other_student: nn.Module | None = None,
    scores_before: Tensor | None = None,
    scores_after: Tensor | None = None,
) -> dict[str, float]:
    """Compute the metrics of the module's docstring, as far as their inputs are given.

    Args:
        images: `(B, C, H, W)` in [0, 1], results of a search.
        unguided: `(B, C, H, W)` in [0, 1], unguided images of the same seeds.
        labels: `(B,)`.
        teacher: teacher of the score.
        student: student of the score.
        judge: a classifier that is not part of the score.
        other_student: a student with the same recipe and another seed.
        scores_before: `(B,)`, scores of the unguided images.
        scores_after: `(B,)`, scores of `images`.

    Raises:
        ValueError: there are no images, or the shapes differ.

    Example:
        >>> import torch
        >>> teacher, student = (nn.Sequential(nn.Flatten(), nn.Linear(64, 3)) for _ in range(2))
        >>> images, labels = torch.full((4, 1, 8, 8), 0.5), torch.tensor([0, 1, 0, 1])
        >>> metrics = failure_metrics(images + 0.1, images, labels, teacher=teacher, student=student)
        >>> round(metrics["rms_change"], 4), metrics["saturated"]
        (0.1, 0.0)
    """
    if len(images) == 0 or images.shape != unguided.shape:
        raise ValueError(
            f"images {tuple(images.shape)} and unguided {tuple(unguided.shape)}: expected equal shapes, not empty"
        )
    metrics = {
        "teacher_consistency": top1_accuracy(teacher, images, labels),
        "saturated": saturated(images) - saturated(unguided),
        "diversity": _ratio(diversity(images, labels), diversity(unguided, labels)),
        "rms_change": float((images - unguided).square().mean().sqrt()),
    }
    if judge is not None:
        metrics["judge_consistency"] = top1_accuracy(judge, images, labels)
    if other_student is not None:
        metrics["transfer"] = transfer(images, unguided, labels, student=student, other=other_student)
    if scores_before is not None and scores_after is not None:
        rise = scores_after - scores_before
        metrics["unimproved"] = float((rise[~rise.isnan()] < 1e-3).float().mean())
    return metrics


def _ratio(value: float, other: float) -> float:
    return value / other if other else float("nan")

"""A score of an augmentation from the teacher alone: the standard deviation of its mean probability ("T. stddev").

After Wang et al., "What Makes a 'Good' Data Augmentation in Knowledge Distillation", NeurIPS 2022, arXiv:2012.02909,
who distil on an image and an augmented view of it. Their code takes the teacher's class probabilities (temperature 1)
on a random subset of 320 images and one view of each, averages them over the subset to one vector `m`, `(K,)`, repeats
that, and reports the standard deviation of each `m_k` over the repetitions, averaged over the K classes. The lower it
is, the lower was the loss of their students: views that differ from their images make the mean of a subset less random.
No label is used, and no prediction is compared.

Here no subsets are drawn. With `a_k = (p_k + q_k) / 2` for the probability `p_k` on an image and `q_k` on its view, the
standard deviation of the mean over n independent images is exactly `sqrt(Var(a_k) / n)`, and this variance over images
and draws is estimated from all of them at once.

- The identity has the score of the clean images, which is not 0 but the highest, unless the teacher is more certain of
  the views than of the images: views that are equal to their image tell nothing new.
- It does not say whether the teacher's predictions are still right: views on which it is uncertain lower the score too.
  A transform after which all images look the same has half the score of the identity, and is the best by it. So read
  it beside `kept`, and compare augmentations that keep the teacher's predictions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from tqdm import tqdm

from hard_aug.inner_loop.image_check import ImageCheck
from hard_aug.models.eval_mode import eval_mode
from hard_aug.models.network import Network
from hard_aug.models.normalized import Normalization, Pair
from hard_aug.ops.elementwise import at_least_float32
from hard_aug.policies import Policy, Uniform
from hard_aug.transforms import Transform, make_context
from hard_aug.utils.checks import as_seed, check_integer, check_kinds, check_labels
from hard_aug.utils.image_choice import choose

#: Images of a subset in the published code: five batches of 64.
SUBSET = 320


@dataclass(frozen=True, slots=True)
class TeacherScore:
    """What a teacher's probabilities on random views say of an augmentation.

    Attributes:
        stddev: The paper's T. stddev, above 0; lower is better.
        clean_stddev: The same without augmentation: each image and itself.
        spread: Standard deviation over the draws of the probability that the teacher gives to its prediction for the
            clean image, mean over the images, in [0, 0.71]; 0 where the teacher is invariant. It is not in the paper.
        kept: Fraction of the views on which the teacher's prediction is that for the clean image (for a mix, the mix of
            its predictions).
        images: Number of images that were used.
        draws: Number of views of each.

    Example:
        >>> from hard_aug.diagnosis import TeacherScore
        >>> TeacherScore(0.004, clean_stddev=0.005, spread=0.1, kept=0.9, images=1024, draws=4).ratio
        0.8
    """

    stddev: float
    clean_stddev: float
    spread: float
    kept: float
    images: int
    draws: int

    @property
    def ratio(self) -> float:
        """`stddev / clean_stddev`, which no longer depends on the number of classes or the subsets' size.

        It is 1 for the identity and 0.5 for views that all have the same probabilities; NaN for a teacher whose
        probabilities are the same on all clean images.
        """
        return self.stddev / self.clean_stddev if self.clean_stddev else float("nan")


def teacher_stddev(
    teacher: nn.Module,
    images: Tensor,
    transform: Transform,
    policy: Policy | None = None,
    *,
    draws: int = 4,
    subset: int = SUBSET,
    labels: Tensor | None = None,
    max_images: int | None = 1024,
    batch_size: int = 256,
    normalization: Pair | None = None,
    seed: int = 0,
    progress: bool | None = None,
) -> TeacherScore:
    """Score an augmentation before any student exists; see the head of this module for the definition.

    To compare augmentations, give the same teacher, images and settings. Whether the scores rank students can be tested
    with `scipy.stats.spearmanr(scores, accuracies)` (scipy comes with the extra `evaluation`).

    Cost: `1 + draws` forwards of the teacher for each image, 5,120 with the defaults.

    Args:
        teacher: From images in [0, 1] to logits `(B, K)`. Runs in evaluation mode; its modes are restored.
        images: `(N, C, H, W)` in [0, 1] (or normalised, see `normalization`); at least two are used.
        transform: The transform.
        policy: Source of its parameters, of which only draws are taken. None: `Uniform(transform.spec)`.
        draws: Number of views of each image, at least 2.
        subset: Number n of images whose mean probability varies; the scores are proportional to `1 / sqrt(n)`.
        labels: Integers `(N,)`, for transforms that require them.
        max_images: Largest number of images that are used; of more, a random choice that depends on N and `seed` only.
            None: all.
        batch_size: Number of images per forward.
        normalization: `(mean, std)` per channel if the images are normalised: undone first, and applied again before a
            network that does not normalise by itself, as `Normalized` does.
        seed: Seed of the choice of images and of all draws.
        progress: Whether to show a progress bar on the standard error stream; None: if that is a terminal.

    Raises:
        TypeError: If the teacher, the transform or the policy has the wrong type; for images as `HardAugmenter`.
        ValueError: If there are fewer than two images, a setting is out of range, or the policy is for another
            transform; for images as `HardAugmenter`.

    Example:
        >>> import torch
        >>> from hard_aug import teacher_stddev
        >>> from hard_aug.transforms import Affine
        >>> torch.manual_seed(0)  # doctest: +ELLIPSIS
        <torch._C.Generator object at ...>
        >>> teacher = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
        >>> score = teacher_stddev(teacher, torch.rand(16, 1, 8, 8), Affine())
        >>> score.stddev < score.clean_stddev, 0 < score.spread < 0.1
        (True, True)
    """
    check_kinds(teacher=(teacher, nn.Module), transform=(transform, Transform))
    policy = Uniform(transform.spec) if policy is None else policy
    check_kinds(policy=(policy, Policy))
    policy.check_spec(transform.spec)
    if labels is None and transform.requires_labels:
        raise ValueError(f"{type(transform).__name__} requires the class of each image: pass labels=")
    check_integer(2, draws=draws)
    check_integer(subset=subset, batch_size=batch_size)
    check_integer(2, max_images=max_images)
    seed, draws, subset, batch_size = as_seed(seed), int(draws), int(subset), int(batch_size)
    pair = None if normalization is None else Normalization(*normalization)
    network = Network(teacher, name="teacher", normalization=pair)
    images = ImageCheck(network.device, pair)(images, takes_gradients=False)
    if len(images) < 2:
        raise ValueError(f"images: expected at least two, whose probabilities are compared, got {len(images)}")
    check_labels(labels, batch=len(images))
    labels = None if labels is None else labels.to(images.device)
    images, labels = choose(images, labels, limit=max_images, seed=seed)
    with (
        torch.no_grad(),
        eval_mode(network.inner),
        tqdm(
            total=(1 + draws) * len(images),
            desc="teacher's score",
            unit="image",
            leave=False,
            disable=None if progress is None else not progress,
        ) as bar,
    ):
        evaluation = _Evaluation(network, images, transform, policy, labels, batch_size, bar)
        clean_logits = evaluation.clean_logits()
        clean = _probabilities(clean_logits)
        top = clean.argmax(1, keepdim=True)
        variance, kept, of_top = torch.zeros_like(clean[0]), [], []
        for views, is_kept in evaluation.views(clean_logits, draws, seed):
            # Within one draw all images are independent, so this is without bias.
            variance += ((clean + views) / 2).var(0) / draws
            kept.append(is_kept)
            of_top.append(views.gather(1, top))
    return TeacherScore(
        stddev=float((variance / subset).sqrt().mean()),
        clean_stddev=float((clean.var(0) / subset).sqrt().mean()),
        spread=float(torch.cat(of_top, 1).std(1).mean()),
        kept=sum(kept) / draws,
        images=len(images),
        draws=draws,
    )


@dataclass(frozen=True, slots=True)
class _Evaluation:
    """The teacher on all images, however these are transformed.

    Attributes:
        network: The teacher.
        images: Clean images `(N, C, H, W)`.
        transform: The transform.
        policy: Source of its parameters.
        labels: Integers `(N,)`.
        batch_size: Number of images per forward.
        bar: The progress bar, which counts images.
    """

    network: Network
    images: Tensor
    transform: Transform
    policy: Policy
    labels: Tensor | None
    batch_size: int
    bar: tqdm

    def clean_logits(self) -> Tensor:
        """Return the teacher's logits `(N, K)` on the clean images."""
        found = []
        for part in torch.split(self.images, self.batch_size):
            found.append(self.network(part))
            self.bar.update(len(part))
        return torch.cat(found)

    def views(self, clean_logits: Tensor, draws: int, seed: int) -> Iterator[tuple[Tensor, float]]:
        """Yield for each draw the probabilities `(N, K)` on a view of each image, and the fraction that is kept."""
        device = self.policy.one_sided.device
        generator = torch.Generator(device).manual_seed(seed)
        others = torch.Generator().manual_seed(seed)  # partners and noise
        for _ in range(draws):
            u = self.policy.sample(self.images.to(device), generator).to(self.images.device)
            context = make_context(
                self.transform, self.images, generator=others, labels=self.labels, teacher_logits=clean_logits
            )
            found, kept = [], 0
            for start in range(0, len(u), self.batch_size):
                rows = slice(start, start + self.batch_size)
                logits = self.network(self.transform.render(self.images[rows], u[rows], context.rows(rows)))
                expected = self.transform.reference(clean_logits[rows], u[rows], context.rows(rows))
                kept += int((logits.argmax(1) == expected.argmax(1)).sum())
                found.append(_probabilities(logits))
                self.bar.update(len(logits))
            yield torch.cat(found), kept / len(u)


def _probabilities(logits: Tensor) -> Tensor:
    return at_least_float32(logits).softmax(1).cpu().double()  # some devices have no float64

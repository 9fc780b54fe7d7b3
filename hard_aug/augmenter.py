"""HardAugmenter: joins transform, policy, objective and schedule around teacher and student (arXiv:2305.14890)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from hard_aug.batch import HardBatch
from hard_aug.compatibility import check_cuda_graph, check_parts
from hard_aug.export import LearnedAugmentation
from hard_aug.inner_loop.adversary import Adversary
from hard_aug.inner_loop.clean_batch import CleanBatch
from hard_aug.inner_loop.cuda_graph import GraphedUpdate
from hard_aug.inner_loop.exploration import Exploration
from hard_aug.inner_loop.networks import Networks
from hard_aug.inner_loop.policy_optimizer import PolicyOptimizer
from hard_aug.losses.two_view import TwoViewLoss
from hard_aug.models.batch_norm import BatchNormMode
from hard_aug.objectives import KL, Disagreement, Hinge, Invariance, Penalty, Reference
from hard_aug.ops.backend import Backend, check_backend, use_backend
from hard_aug.policies import Gaussian, Policy
from hard_aug.schedules import Alternating, Schedule
from hard_aug.transforms import Transform, make_context
from hard_aug.utils.checks import (
    ImageCheck,
    check_fraction,
    check_integer,
    check_kinds,
    check_labels,
    check_positive_number,
    check_same_classes,
)
from hard_aug.utils.distributed import ProcessGroup
from hard_aug.utils.rng import ShardedGenerator, restore_generator
from hard_aug.utils.rows import rows_of

DEFAULT_SCHEDULE = Alternating(fraction=0.25, every=6)
#: Of the distillation loss, for objectives that have none.
DEFAULT_TEMPERATURE = 2.0


class HardAugmenter:
    """Generates from each batch images on which the student disagrees with a teacher whose prediction is unchanged.

    A call leaves nothing behind in the networks: modes, buffers, `requires_grad`, `.grad` and the global generator are
    as before, also when something raises, for networks whose forward in evaluation mode draws no random numbers and
    writes no buffer. Networks are used, never registered or stored in a state.

    If torch.distributed is initialised at construction, the processes learn one policy: they draw as one process would
    for the joined batch, and average their gradients. All make the same calls, with batches of equal size. (Partners of
    a mix and fractions of a batch are those of the process's own.)

    Args:
        teacher: network from images in [0, 1] to logits `(B, K)`, on one device with the student. See `Normalized`.
        student: likewise.
        transform: what may be done to an image.
        policy: where its parameters come from; None: `Gaussian(transform.spec)`.
        objective: what is maximised; None: `KL()`.
        invariance: how the teacher's prediction is kept; None: `Penalty()`, or `Hinge()` for a `Search`.
        schedule: when the policy is updated; None: `Alternating(fraction=0.25, every=6)`, or `Alternating()` for a
            `Search`.
        exploration: the defence against collapse; None: `Exploration()`.
        learning_rate: of the policy's Adam, above 0; None: `policy.learning_rate`.
        hard_fraction: fraction of each batch, its first images, that gets hard views, in (0, 1].
        warmup_calls: number of calls without hard views, in which `HardBatch.loss` is plain distillation.
        batch_norm: how the student's BatchNorm sees the views, "shared", "frozen" or "split"; see
            `hard_aug.models.batch_norm`.
        normalization: `(mean, std)` per channel, if the loader normalises images; undone on entry, so that hard and
            clean images and the networks' inputs are in [0, 1].
        backend: of the operations, "auto", "torch" or "triton"; None: see `hard_aug.ops.backend`.
        cuda_graph: replay policy updates from a CUDA graph; see `hard_aug.inner_loop.cuda_graph`.
        seed: of the augmenter's own generator, the source of every draw.

    Raises:
        TypeError: parts of the wrong class.
        ValueError: settings out of range, or parts that cannot work together.

    Example:
        >>> from hard_aug.transforms import Affine
        >>> teacher, student = (nn.Sequential(nn.Flatten(), nn.Linear(64, 3)) for _ in range(2))
        >>> augmenter = HardAugmenter(teacher=teacher, student=student, transform=Affine())
        >>> hard = augmenter(torch.rand(4, 1, 8, 8))
        >>> hard.loss().backward()
        >>> hard.images.shape
        torch.Size([4, 1, 8, 8])
    """

    def __init__(
        self,
        *,
        teacher: nn.Module,
        student: nn.Module,
        transform: Transform,
        policy: Policy | None = None,
        objective: Disagreement | None = None,
        invariance: Invariance | None = None,
        schedule: Schedule | None = None,
        exploration: Exploration | None = None,
        learning_rate: float | None = None,
        hard_fraction: float = 1.0,
        warmup_calls: int = 0,
        batch_norm: BatchNormMode = "shared",
        normalization: tuple[Sequence[float], Sequence[float]] | None = None,
        backend: Backend | None = None,
        cuda_graph: bool = False,
        seed: int = 0,
    ) -> None:
        check_kinds(teacher=(teacher, nn.Module), student=(student, nn.Module), transform=(transform, Transform))
        policy = Gaussian(transform.spec) if policy is None else policy
        objective = KL() if objective is None else objective
        check_kinds(policy=(policy, Policy), objective=(objective, Disagreement))
        if invariance is None:
            invariance = Hinge() if policy.is_per_sample else Penalty()
        if schedule is None:
            schedule = Alternating() if policy.is_per_sample else DEFAULT_SCHEDULE
        exploration = Exploration() if exploration is None else exploration
        check_kinds(
            invariance=(invariance, Invariance),
            schedule=(schedule, Schedule),
            exploration=(exploration, Exploration),
        )
        learning_rate = policy.learning_rate if learning_rate is None else learning_rate
        check_positive_number(learning_rate=learning_rate)
        check_fraction(hard_fraction=hard_fraction)
        check_integer(0, warmup_calls=warmup_calls)
        if backend is not None:
            check_backend(backend)
        check_parts(transform=transform, policy=policy, objective=objective, invariance=invariance, schedule=schedule)
        self.schedule, self.exploration = schedule, exploration
        self._hard_fraction, self._warmup_calls = hard_fraction, warmup_calls
        self._backend, self._seed = backend, seed
        names = ("learning_rate", "hard_fraction", "warmup_calls", "batch_norm", "normalization", "backend", "seed")
        given = (learning_rate, hard_fraction, warmup_calls, batch_norm, normalization, backend, seed)
        self._settings = dict(zip(names, given, strict=True)) | {"cuda_graph": cuda_graph}
        self._two_view_loss = TwoViewLoss(
            student,
            temperature=float(getattr(objective, "temperature", DEFAULT_TEMPERATURE)),
            batch_norm=batch_norm,
            backend=backend,
        )
        networks = Networks(teacher=teacher, student=student)
        self.device = networks.device
        processes = ProcessGroup(self.device)
        self._generator = ShardedGenerator(self.device, rank=processes.rank, processes=processes.count)
        self._generator.manual_seed(seed)
        self._optimizer = PolicyOptimizer(
            policy=policy.to(self.device),
            invariance=invariance.to(self.device),
            exploration=exploration,
            learning_rate=learning_rate,
            processes=processes,
            device=self.device,
        )
        self._adversary = Adversary(
            networks=networks,
            transform=transform,
            objective=objective,
            optimizer=self._optimizer,
            generator=self._generator,
        )
        if cuda_graph:
            check_cuda_graph(self.device, policy=policy, schedule=schedule, processes=processes)
            self._adversary.update = GraphedUpdate(self._adversary)
        self._runner = schedule.make_runner(self._adversary)
        self._check = ImageCheck(self.device, normalization)
        self._calls = 0
        self._checked_student = False

    @property
    def transform(self) -> Transform:
        """What may be done to an image."""
        return self._adversary.transform

    @property
    def objective(self) -> Disagreement:
        """What is maximised."""
        return self._adversary.objective

    @property
    def policy(self) -> Policy:
        """Where the transform's parameters come from."""
        return self._optimizer.policy

    @property
    def invariance(self) -> Invariance:
        """How the teacher's prediction is kept."""
        return self._optimizer.invariance

    @property
    def dropped_steps(self) -> int:
        """Number of policy updates dropped for a gradient that was not finite. Synchronises with the device."""
        return int(self._optimizer.dropped)

    @property
    def uniform_fraction(self) -> float:
        """Fraction of draws that are uniform instead of the policy's, in [0, 0.95]. Synchronises with the device.

        It is `exploration.min_uniform_fraction` while the policy's variance is large enough. If it rises, the teacher
        has too little invariance, within the transform's ranges, to transfer; see `hard_aug.inner_loop.exploration`.
        """
        return float(self._optimizer.uniform_fraction)

    def __repr__(self) -> str:
        names = ("transform", "policy", "objective", "invariance", "schedule", "exploration")
        parts = [f"{name}={getattr(self, name)!r}" for name in names]
        parts += [f"{name}={value!r}" for name, value in self._settings.items()]
        return (
            "HardAugmenter(\n" + "".join(f"  {part},\n".replace("\n", "\n  ", part.count("\n")) for part in parts) + ")"
        )

    def sample(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Draw `u`, `(B, P)`, as a call does: from the policy, and in part uniformly (but without a search).

        Args:
            images: `(B, C, H, W)`; only their number counts, unless the policy is conditional.
            generator: source of the draws.
        """
        return self._optimizer.sample(images, generator).u

    def __call__(self, images: Tensor, labels: Tensor | None = None) -> HardBatch:
        """Generate hard images from `images`; every n-th call updates the policy first.

        Args:
            images: `(B, C, H, W)` floating point in [0, 1] (or normalised, see `normalization`); any B, also 0.
            labels: `(B,)` integers, for objectives and transforms that require them.

        Raises:
            TypeError: images or labels that are no tensors of the right dtype, or networks that return no logits.
            ValueError: images of wrong rank, range or device, NaN; labels missing, of wrong shape or range; networks
                with unequal numbers of classes or NaN. Nothing has changed then.
            RuntimeError: inference mode.
            FloatingPointError: networks inside the transform that overflow; nothing has changed then.
        """
        images = self._checked(images, labels)
        with use_backend(self._backend):
            self._runner.flush()
        call = self._calls - self._warmup_calls
        rows = 0 if call < 0 else rows_of(self._hard_fraction, len(images))
        is_due = rows > 0 and self.schedule.is_due(call)
        optimizer = self._optimizer.state_dict() if is_due else None
        runner, generator = self._runner.state_dict(), self._generator.get_state()
        try:
            runs_student = is_due or not self._checked_student
            with use_backend(self._backend), self._adversary.networks.eval_mode(student=runs_student):
                batch = self._generate(images, labels, rows, is_due)
        except BaseException:
            self._generator.set_state(generator)
            self._runner.load_state_dict(runner)
            if optimizer is not None:
                self._optimizer.load_state_dict(optimizer)
            raise
        self._calls += 1
        return batch

    def _checked(self, images: Tensor, labels: Tensor | None) -> Tensor:
        """Return `images` in [0, 1], detached, once all processes have theirs."""
        rows, error = 0, None
        try:
            images = self._check(images)
            rows = len(images)
            check_labels(labels, batch=rows, required_by=self.objective if self.objective.requires_labels else None)
        except (TypeError, ValueError, RuntimeError) as refused:
            error = refused
        self._optimizer.processes.validate_batch(rows, error)
        return images

    def _generate(self, images: Tensor, labels: Tensor | None, rows: int, is_due: bool) -> HardBatch:
        """Return a batch whose first `rows` images are hard, perhaps after updates of the policy."""
        adversary, networks = self._adversary, self._adversary.networks
        with torch.no_grad():
            clean_logits = networks.teacher_logits(images)
            if not self._checked_student and len(images):
                student_logits = networks.student_logits(images[:1])
                check_same_classes(teacher_logits=clean_logits, student_logits=student_logits)
                self._checked_student = True
        if labels is not None and self.objective.requires_labels:
            labels = self._check.labels(labels, classes=clean_logits.shape[1])
        source, rest = images[:rows], clean_logits[rows:]
        source_labels = None if labels is None else labels[:rows]
        reference = Reference(clean_logits[:rows], labels=source_labels)
        if is_due and self.objective.requires_student_reference:
            with torch.no_grad():
                reference = replace(reference, student_logits=networks.student_logits(source))
        context = make_context(
            self.transform,
            source,
            generator=self._generator,
            labels=source_labels,
            teacher_logits=reference.teacher_logits,
        )
        clean = CleanBatch(source, reference, context)
        part = clean.first(self.schedule.rows(rows))
        if is_due:
            self._runner.before_sample(part)
        with torch.no_grad():
            u = self._optimizer.sample(source, self._generator).u
        if is_due and self.policy.is_per_sample:
            u = torch.cat((adversary.refine(part, u[: len(part)]), u[len(part) :]))
        with torch.no_grad():
            hard = self.transform.render(source, u, context)
            teacher_logits = networks.teacher_logits(hard) if rows or not len(images) else rest[:0]
            reference = adversary.reference(clean, u)
        observer = self._runner.after_sample(clean, hard, reference) if is_due else None
        return HardBatch(
            images=hard if rows == len(images) else torch.cat((hard, images[rows:])),
            clean_images=images,
            num_hard=rows,
            u=torch.cat((u, u.new_zeros(len(rest), u.shape[1]))),
            context=context,
            teacher_logits=torch.cat((teacher_logits, rest)),
            clean_teacher_logits=clean_logits,
            reference=Reference(torch.cat((reference.teacher_logits, rest)), labels=labels),
            transform=self.transform,
            objective=self.objective,
            two_view_loss=self._two_view_loss,
            observer=observer,
        )

    def export(self, *, p: float = 1.0) -> LearnedAugmentation:
        """Return the policy as it is now as an augmentation that needs neither network; a frozen copy on the CPU.

        Args:
            p: probability that an image is augmented, in (0, 1].

        Raises:
            ValueError: a `Search`, or a transform that requires labels; see `hard_aug.export`.
        """
        return LearnedAugmentation(self.transform, self.policy, uniform_fraction=self.uniform_fraction, p=p)

    def check(self) -> None:
        """Raise what a call on a GPU has found since the last check. Synchronises with the device.

        On the CPU each call raises by itself; on a GPU, where reading values synchronises, the first of a shape.

        Raises:
            ValueError: a batch held NaN, values outside [0, 1] or invalid labels, or processes had unequal batches.
            FloatingPointError: a network inside the transform returned values that are not finite.
        """
        bad, unequal = bool(self._check.bad), bool(self._optimizer.processes.unequal)
        self._check.bad.zero_()
        self._optimizer.processes.unequal.zero_()
        if bad:
            raise ValueError(
                "a batch since the last check held NaN, values outside [0, 1] or labels of no class; check the data's "
                "transforms"
            )
        if unequal:
            raise ValueError("batches of different size in the processes; use a DistributedSampler, or drop_last=True")
        reports = self.transform.pop_nonfinite_reports()
        if reports:
            raise FloatingPointError(f"since the last check {reports[0]}")

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs for a bit-equal next batch; the networks are not in it.

        It holds the policy, its optimiser, multiplier, uniform fraction, number of calls, schedule and generator.
        """
        with use_backend(self._backend):
            self._runner.flush()
        return {
            **self._optimizer.state_dict(),
            "calls": self._calls,
            "schedule": self._runner.state_dict(),
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a state returned by `state_dict()`.

        A state from another kind of device is loaded too; its draws continue from a new seed then, with a warning.

        Args:
            state: of an augmenter with the same parts.

        Raises:
            TypeError: no dictionary.
            ValueError: keys missing or unknown, or a policy of another shape; nothing is changed then.
        """
        if not isinstance(state, dict):
            raise TypeError(f"state dict: expected that of HardAugmenter.state_dict(), got {type(state).__name__}")
        own = self.state_dict()
        if own.keys() != state.keys():
            missing, unknown = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
            raise ValueError(f"state dict: missing {missing}, unknown {unknown}; expected HardAugmenter.state_dict()")
        try:
            self._load(state)
        except Exception as error:  # whatever a foreign state breaks, the augmenter must stay as it was
            self._load(own)
            raise ValueError(f"state dict does not fit this augmenter: {error}") from error

    def _load(self, state: dict[str, Any]) -> None:
        self._optimizer.load_state_dict(state)
        self._runner.load_state_dict(state["schedule"])
        calls = int(state["calls"])
        restore_generator(self._generator, state["generator"].cpu(), fallback_seed=self._seed + 1 + calls)
        self._calls = calls

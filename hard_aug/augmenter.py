"""HardAugmenter: joins transform, policy, objective and schedule around a teacher and a student (arXiv:2305.14890)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from hard_aug.adversary import Adversary
from hard_aug.ascent import Ascent
from hard_aug.batch import HardBatch
from hard_aug.captured import CapturedAscent
from hard_aug.checks import (
    ImageCheck,
    check_kinds,
    check_labels,
    check_same_classes,
)
from hard_aug.compatibility import check_capture, check_parts
from hard_aug.draws import SharedGenerator, take_up_state
from hard_aug.exported import LearnedAugmentation
from hard_aug.inner_loop import ascend_in_call, mean_of_all, searched
from hard_aug.models.batch_norm import BatchNormMode, ViewStatistics
from hard_aug.models.guard import evaluation_mode
from hard_aug.objectives import KL, Disagreement, Hinge, Invariance, Penalty, Reference
from hard_aug.ops.backend import Backend, check_backend, use_backend
from hard_aug.players import Players
from hard_aug.policies import Gaussian, Policy, Search
from hard_aug.processes import Processes
from hard_aug.schedules import Alternating, Joint, Phase, Schedule, Threshold
from hard_aug.shared_backward import SharedBackward
from hard_aug.spread import Spread
from hard_aug.transforms import Transform

DEFAULT_TEMPERATURE = 2.0


class HardAugmenter:
    """Makes, of each batch, images on which the student disagrees with a teacher that keeps its answer.

    ```python
    augmenter = HardAugmenter(teacher=teacher, student=student, transform=Compose(Affine(), Color()))
    for images, _ in loader:  # (B, C, H, W) in [0, 1]
        hard = augmenter(images)
        loss = hard.loss()
        optimizer.zero_grad(); loss.backward(); optimizer.step()
        augmenter.step()
    ```

    Args:
        teacher, student: networks from images in [0, 1] to logits `(B, K)`, on one device. See `Normalized`.
        transform: what may be done to an image.
        policy: where its parameters come from; None: `Gaussian(transform.spec)`.
        objective: what is maximised; None: `KL()`.
        invariance: how the teacher's answer is kept; None: `Penalty()`, or `Hinge()` for a `Search`.
        schedule: None: `Alternating()`.
        spread_weight, spread_floor: the defence against collapse, see `hard_aug.spread.Spread`; None: no floor.
        uniform_floor: the least share of the draws that is uniform in the ranges, in [0, 0.95].
        learning_rate: of the policy's Adam, above 0; None: `policy.learning_rate`.
        share: of each batch, its first images, that gets hard views, in (0, 1].
        warm_up: for so many calls there are no hard views, and `HardBatch.loss` is plain distillation.
        batch_norm: how the student's BatchNorm sees the views, "shared", "frozen" or "split"; see
            `hard_aug.models.batch_norm`.
        input_normalization: `(mean, std)` per channel, where the loader's images are normalised; undone on entry, so
            that hard and clean images and the networks' input are in [0, 1].
        backend: what the operations run on, "auto", "torch" or "triton"; None: see `hard_aug.ops.backend`.
        capture: play the ascents inside a call back from a CUDA graph; see `hard_aug.captured`.
        seed: of the augmenter's own generator, which every draw comes from.

    A call leaves nothing behind in the networks: modes, buffers, `requires_grad`, `.grad` and the global generator
    are as before, also when something raises, for networks whose forward in evaluation mode draws no random numbers and
    writes no buffer. Networks are used, never registered or stored in a state.

    Where torch.distributed runs when it is made, the processes learn one policy: they draw as one process would for the
    joined batch, and average what they ascend by. All make the same calls, with batches of one size. (The partners of
    a mix are of the process's own batch, and a `share` or `fraction` is taken of each.)
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
        spread_weight: float = 0.08,
        spread_floor: float | None = 0.15,
        uniform_floor: float = 0.0,
        learning_rate: float | None = None,
        share: float = 1.0,
        warm_up: int = 0,
        batch_norm: BatchNormMode = "shared",
        input_normalization: tuple[Sequence[float], Sequence[float]] | None = None,
        backend: Backend | None = None,
        capture: bool = False,
        seed: int = 0,
    ) -> None:
        check_kinds(teacher=(teacher, nn.Module), student=(student, nn.Module), transform=(transform, Transform))
        policy = Gaussian(transform.spec) if policy is None else policy
        objective = KL() if objective is None else objective
        if invariance is None:
            invariance = Hinge() if isinstance(policy, Search) else Penalty()
        self.schedule = Alternating() if schedule is None else schedule
        check_kinds(policy=(policy, Policy), objective=(objective, Disagreement), invariance=(invariance, Invariance))
        if not isinstance(self.schedule, Alternating | Threshold | Joint):
            raise TypeError(f"schedule: wanted Alternating, Threshold or Joint, got {type(self.schedule).__name__}")
        learning_rate = policy.learning_rate if learning_rate is None else learning_rate
        if not (learning_rate > 0 and math.isfinite(learning_rate)):
            raise ValueError(f"learning_rate={learning_rate}: wanted a positive number")
        if not 0 < share <= 1:
            raise ValueError(f"share={share}: wanted a share of the batch in (0, 1]")
        if not (isinstance(warm_up, int) and warm_up >= 0):
            raise ValueError(f"warm_up={warm_up}: wanted a number of calls of at least 0")
        if backend is not None:
            check_backend(backend)
        check_parts(
            transform=transform, policy=policy, objective=objective, invariance=invariance, schedule=self.schedule
        )
        self.transform, self.objective = transform, objective
        self._share, self._warm_up = share, warm_up
        self._statistics = ViewStatistics(student, batch_norm)
        self._players = Players(teacher=teacher, student=student)
        self._wrapped_student = student
        self.device = self._players.device
        self.policy = policy.to(self.device)
        self.invariance = invariance.to(self.device)
        processes = Processes(self.device)
        self._ascent = Ascent(
            policy=self.policy,
            invariance=self.invariance,
            spread=Spread(weight=spread_weight, floor=spread_floor, least_share=uniform_floor, device=self.device),
            learning_rate=learning_rate,
            processes=processes,
            device=self.device,
        )
        self._seed = seed
        self._generator = SharedGenerator(self.device, rank=processes.rank, processes=processes.count)
        self._generator.manual_seed(seed)
        self._adversary = Adversary(
            players=self._players,
            transform=transform,
            policy=self.policy,
            objective=objective,
            invariance=self.invariance,
            ascent=self._ascent,
            generator=self._generator,
        )
        self._backend = backend
        self._captured: CapturedAscent | None = None
        if capture:
            check_capture(self.device, schedule=self.schedule, policy=policy, processes=processes)
            self._captured = CapturedAscent(self._adversary)
        keeps = not isinstance(self.schedule, Joint) or self.schedule.teacher_gradient
        self._shared = SharedBackward(self._adversary, teacher_gradient=keeps)
        self._phase = Phase()
        self._images = ImageCheck(self.device, input_normalization)
        self._calls = 0
        self._probed = False

    @property
    def dropped_steps(self) -> int:
        """How many ascents were dropped for a gradient that was not finite. Waits for the device."""
        return int(self._ascent.dropped)

    @property
    def uniform_share(self) -> float:
        """The share of draws that are uniform instead of the policy's, in [0, 0.95]. Waits for the device.

        It is `uniform_floor` while the teacher leaves the policy room. Where it rises, the teacher has too little
        invariance, within the transform's ranges, to pass on freely; see `hard_aug.spread`.
        """
        return float(self._ascent.spread.uniform_share)

    def propose(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """What a call draws: `u`, `(B, P)`, of the policy, with the share of uniform draws in it (no search)."""
        return self._adversary.draw(images, generator)[0]

    def __call__(self, images: Tensor, labels: Tensor | None = None) -> HardBatch:
        """Make a hard batch of `images`.

        Args:
            images: `(B, C, H, W)` floating point in [0, 1] (or normalised, see `input_normalization`); any B, also 0.
            labels: `(B,)` integers, for objectives that name them.

        Raises:
            TypeError, ValueError, RuntimeError: images of wrong type, rank, range or device, NaN, inference mode;
                labels missing, of wrong shape or range; players that return no logits, unequal class counts or NaN.
                All is as before the call then.
            FloatingPointError: networks inside the transform that overflow; the same holds.
        """
        images = self._checked(images, labels)
        rows = min(len(images), max(1, round(self._share * len(images))))
        late = self._calls - self._warm_up
        if late < 0:
            rows = 0
        due = rows > 0 and self.schedule.due(late)
        inside = due and not isinstance(self.schedule, Joint)
        before = self._ascent.state_dict() if inside else None
        phase = self._phase.state_dict()
        generator_state = self._generator.get_state()
        try:
            running = self._players.running(student=inside or not self._probed)
            with use_backend(self._backend), evaluation_mode(*running):
                batch = self._make(images, labels, rows, due)
        except BaseException:
            self._generator.set_state(generator_state)
            self._phase.load_state_dict(phase)
            if before is not None:
                self._ascent.load_state_dict(before)
            raise
        self._calls += 1
        return batch

    def _checked(self, images: Tensor, labels: Tensor | None) -> Tensor:
        """`images` in [0, 1], detached, once all processes have theirs."""
        rows, error = 0, None
        try:
            images = self._images(images)
            rows = len(images)
            check_labels(labels, batch=rows, wanted_by=self.objective if self.objective.wants_labels else None)
        except (TypeError, ValueError, RuntimeError) as refused:
            error = refused
        self._ascent.processes.agree(rows, error)
        return images

    def _make(self, images: Tensor, labels: Tensor | None, rows: int, due: bool) -> HardBatch:
        """A batch whose first `rows` images are hard."""
        with torch.no_grad():
            clean_logits = self._players.teacher_logits(images)
            if not self._probed and len(images):
                probe = self._players.student_logits(images[:1])
                check_same_classes(teacher_logits=clean_logits, student_logits=probe)
                self._probed = True
        if labels is not None and self.objective.wants_labels:
            labels = self._images.labels(labels, classes=clean_logits.shape[1])
        rest = clean_logits[rows:]
        source, labels_seen = images[:rows], None if labels is None else labels[:rows]
        answers = Reference(clean_logits[:rows], labels=labels_seen)
        if due and self.objective.wants_student_reference:
            with torch.no_grad():
                answers = replace(answers, student_logits=self._players.student_logits(source))
        adversary = self._adversary
        context = adversary.context(source, labels_seen, answers.teacher_logits)
        resting = due and isinstance(self.schedule, Threshold) and not self._phase.ascending
        joint = self.schedule if due and isinstance(self.schedule, Joint) else None
        if due:
            ascend = adversary.ascend if self._captured is None else self._captured
            ascend_in_call(adversary, self.schedule, self._phase, source, answers, context, ascend=ascend)
        with torch.set_grad_enabled(joint is not None):
            u, own = adversary.draw(source)
        if due:
            u = searched(adversary, self.schedule.share(rows), source, u, answers, context)
        with torch.no_grad():
            hard = adversary.render(source, u.detach(), context)
            teacher_logits = self._players.teacher_logits(hard) if rows or not len(images) else rest[:0]
            reference = adversary.reference(answers, u.detach(), context)
        if resting and isinstance(self.schedule, Threshold):
            drawn = adversary.judge(hard, reference, gradient=False).disagreement
            self._phase.drew(mean_of_all(adversary, drawn), self.schedule)
        views = hard if rows == len(images) else torch.cat((hard, images[rows:]))
        pending = None
        if joint is not None:
            pending = self._shared.prepare(source, u, own, context=context, answers=answers, hard=views, schedule=joint)
        return HardBatch(
            images=views,
            clean_images=images,
            augmented=rows,
            u=torch.cat((u.detach(), u.new_zeros(len(rest), u.shape[1]))),
            context=context,
            decode=self.transform.decode,
            teacher_logits=torch.cat((teacher_logits, rest)),
            clean_teacher_logits=clean_logits,
            reference=Reference(torch.cat((reference.teacher_logits, rest)), labels=labels),
            student=self._wrapped_student,
            statistics=self._statistics,
            objective=self.objective,
            default_temperature=float(getattr(self.objective, "temperature", DEFAULT_TEMPERATURE)),
            observer=None if pending is None else pending.observe,
            backend=self._backend,
        )

    def step(self, grad_scaler: torch.amp.GradScaler | None = None, *, hard_weight: float = 1.0) -> None:
        """Ascend along what the backwards since the last step have left; without any, do nothing.

        Args:
            grad_scaler: the scaler that the user's own loss was scaled by, before its `update()`.
            hard_weight: what the user's own loss multiplies its mean over `hard.images`, the whole batch, by, above 0:
                0.5 in a mean over clean and hard views, 1/n where the loss of each of n micro-batches is divided by n,
                B / augmented for a mean over the `augmented` images alone. One number serves all micro-batches since
                the last step; where they weigh differently, use `HardBatch.loss`.

        Neither is needed with `HardBatch.loss`, which notes every factor applied to it.

        Raises:
            ValueError: a weight that is not positive.
            RuntimeError: under `torch.inference_mode()`. Nothing is lost then.
        """
        if not (hard_weight > 0 and math.isfinite(hard_weight)):
            raise ValueError(f"hard_weight={hard_weight}: wanted a positive number")
        if torch.is_inference_mode_enabled():
            raise RuntimeError(
                "augmenter.step() under torch.inference_mode(), where gradients can't be taken; leave it"
            )
        if grad_scaler is not None and not isinstance(grad_scaler, torch.amp.GradScaler):
            raise TypeError(f"grad_scaler: wanted a torch.amp.GradScaler, got {type(grad_scaler).__name__}")
        scale = 1.0 if grad_scaler is None else float(grad_scaler.get_scale())
        with use_backend(self._backend):
            self._shared.step(scale * hard_weight)

    def export(self, *, share: float = 1.0) -> LearnedAugmentation:
        """The policy as it is now, as an augmentation that needs neither network; a frozen copy on the CPU.

        Args:
            share: the probability that an image is changed, in (0, 1].

        Raises:
            ValueError: a `Search`, or a transform that wants labels; see `hard_aug.exported`.
        """
        return LearnedAugmentation(self.transform, self.policy, uniform_share=self.uniform_share, share=share)

    def check(self) -> None:
        """Raise `ValueError` if a batch since the last check held bad values, or processes had unequal batches, and
        `FloatingPointError` if a network inside the transform gave values that are not finite.

        On the CPU each call raises by itself. On a GPU only the first call of a shape does, for images and for such
        networks alone, since reading values waits for the device; all else is noted there and raised here.
        """
        bad, unequal = bool(self._images.bad), bool(self._ascent.processes.unequal)
        self._images.bad.zero_()
        self._ascent.processes.unequal.zero_()
        if bad:
            raise ValueError(
                "a batch since the last check held NaN, values outside [0, 1] or labels of no class; check the data's "
                "transforms"
            )
        if unequal:
            raise ValueError("batches of different size in the processes; use a DistributedSampler, or drop_last=True")
        faults = self.transform.faults()
        if faults:
            raise FloatingPointError(f"since the last check {faults[0]}")

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs for a bit-equal next batch; the networks are not in it.

        That is the policy, its optimiser, the multiplier, the uniform share, the schedule's count and phase, gradients
        still pending and the generator.
        """
        with use_backend(self._backend):
            pending = self._shared.state_dict()
        return {
            "pending": pending,
            **self._ascent.state_dict(),
            "calls": self._calls,
            "phase": self._phase.state_dict(),
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a `state_dict()`.

        A state from another device is taken up too; its draws go on from a new seed then, with a warning.

        Raises:
            TypeError: no dictionary.
            ValueError: keys missing or unknown, or a policy of another form; nothing is changed then.
        """
        if not isinstance(state, dict):
            raise TypeError(f"state dict: wanted that of HardAugmenter.state_dict(), got {type(state).__name__}")
        own = self.state_dict()
        if own.keys() != state.keys():
            missing, unknown = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
            raise ValueError(f"state dict: missing {missing}, unknown {unknown}; wanted HardAugmenter.state_dict()")
        try:
            self._take_up(state)
        except Exception as error:  # whatever a foreign state breaks, the augmenter is to stay as it was
            self._take_up(own)
            raise ValueError(f"state dict does not fit this augmenter: {error}") from error
        self._shared.forget()

    def _take_up(self, state: dict[str, Any]) -> None:
        self._ascent.load_state_dict(state)
        self._shared.load_state_dict(state["pending"])
        self._phase.load_state_dict(state["phase"])
        calls = int(state["calls"])
        take_up_state(self._generator, state["generator"].cpu(), fallback_seed=self._seed + 1 + calls)
        self._calls = calls

"""HardAugmenter: joins transform, policy, objective and schedule around a teacher and a student (arXiv:2305.14890)."""

from __future__ import annotations

import logging
import math
from typing import Any

import torch
from torch import Tensor, nn

from hard_aug.ascent import Ascent
from hard_aug.batch import HardBatch
from hard_aug.checks import (
    check_image_form,
    check_kinds,
    check_labels,
    check_same_classes,
    images_in_range,
    raise_for_values,
)
from hard_aug.models.guard import evaluation_mode
from hard_aug.objectives import KL, Disagreement, Invariance, Penalty
from hard_aug.pending import Accumulated, CallsSinceStep, Pending
from hard_aug.players import Players, clamp_with_gradient, gradients_of, sum_gradients
from hard_aug.policies import Gaussian, Policy
from hard_aug.schedules import Alternating, Joint, Schedule
from hard_aug.spread import Spread, mean_of_own
from hard_aug.transforms import Context, Transform

logger = logging.getLogger(__name__)


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
        invariance: how the teacher's answer is kept; None: `Penalty()`.
        schedule: None: `Alternating()`.
        spread_weight, spread_floor: the defence against collapse, see `hard_aug.spread.Spread`; None: no floor.
        learning_rate: of the policy's Adam, above 0; None: `policy.learning_rate`.
        seed: of the augmenter's own generator, which every draw comes from.

    A call leaves nothing behind in the networks: modes, buffers, `requires_grad`, `.grad` and the global generator
    are as before, also when something raises, for networks whose forward in evaluation mode draws no random numbers and
    writes no buffer. Networks are used, never registered or stored in a state.
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
        learning_rate: float | None = None,
        seed: int = 0,
    ) -> None:
        check_kinds(teacher=(teacher, nn.Module), student=(student, nn.Module), transform=(transform, Transform))
        policy = Gaussian(transform.spec) if policy is None else policy
        objective = KL() if objective is None else objective
        invariance = Penalty() if invariance is None else invariance
        check_kinds(policy=(policy, Policy), objective=(objective, Disagreement), invariance=(invariance, Invariance))
        learning_rate = policy.learning_rate if learning_rate is None else learning_rate
        if not (learning_rate > 0 and math.isfinite(learning_rate)):
            raise ValueError(f"learning_rate={learning_rate}: wanted a positive number")
        if policy.size != transform.size:
            raise ValueError(
                f"the policy has {policy.size} parameters and the transform {transform.size}; "
                f"use {type(policy).__name__}(transform.spec)"
            )
        self.transform = transform
        self.objective = objective
        self.schedule = Alternating() if schedule is None else schedule
        if not isinstance(self.schedule, Alternating | Joint):
            raise TypeError(f"schedule: wanted Alternating or Joint, got {type(self.schedule).__name__}")
        if isinstance(self.schedule, Joint) and not self.objective.is_distillation_loss:
            raise ValueError(
                f"Joint takes the student's part from the distillation loss, which {type(self.objective).__name__} is "
                "not; use schedule=Alternating()"
            )
        self._players = Players(teacher=teacher, student=student)
        self._wrapped_student = student
        self.device = self._players.device
        self.policy = policy.to(self.device)
        self.invariance = invariance.to(self.device)
        self._ascent = Ascent(
            policy=self.policy,
            invariance=self.invariance,
            spread=Spread(weight=spread_weight, floor=spread_floor, device=self.device),
            learning_rate=learning_rate,
            device=self.device,
        )
        self._seed = seed
        self._generator = torch.Generator(self.device).manual_seed(seed)
        self._calls = 0
        self._calls_since_step = CallsSinceStep()
        self._accumulated = Accumulated(self._ascent.parameters)
        self._probed = False
        self._seen_shapes: set[tuple[int, ...]] = set()
        self._bad_values = torch.zeros((), dtype=torch.bool, device=self.device)

    @property
    def dropped_steps(self) -> int:
        """How many ascents were dropped for a gradient that was not finite. Waits for the device."""
        return int(self._ascent.dropped)

    @property
    def uniform_share(self) -> float:
        """The share of draws that are uniform instead of the policy's, in [0, 0.95]. Waits for the device.

        It is 0 while the teacher leaves the policy room. Where it rises, the teacher has too little invariance, within
        the transform's ranges, to pass on freely; see `hard_aug.spread`.
        """
        return float(self._ascent.spread.uniform_share)

    def propose(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """What a call draws: `u`, `(B, P)`, of the policy, with the share of uniform draws in it."""
        return self._draw(images, generator)[0]

    def _draw(self, images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """`u`, and which rows are the policy's own; None: all."""
        with torch.autocast(self.device.type, enabled=False):
            return self._ascent.spread.mixed(self.policy.propose(images, generator), generator)

    def __call__(self, images: Tensor, labels: Tensor | None = None) -> HardBatch:
        """Make a hard batch of `images`.

        Args:
            images: `(B, C, H, W)` floating point in [0, 1]; any B, also 0.
            labels: `(B,)` integers, for transforms that name them.

        Raises:
            TypeError, ValueError, RuntimeError: images of wrong type, rank, range or device, NaN, inference mode;
                players that return no logits, unequal class counts or NaN. All is as before the call then.
        """
        images = self._checked(images)
        check_labels(labels, batch=len(images))
        due = self.schedule.due(self._calls) and len(images) > 0
        ascends = due and isinstance(self.schedule, Alternating)
        before = self._ascent.state_dict() if ascends else None
        generator_state = self._generator.get_state()
        try:
            with evaluation_mode(*self._players.running(student=ascends or not self._probed)):
                batch = self._make(images, Context(labels=labels), due)
        except BaseException:
            self._generator.set_state(generator_state)
            if before is not None:
                self._ascent.load_state_dict(before)
            raise
        self._calls += 1
        return batch

    def _make(self, images: Tensor, context: Context, due: bool) -> HardBatch:
        with torch.no_grad():
            clean_logits = self._players.teacher_logits(images)
            if not self._probed and len(images):
                probe = self._players.student_logits(images[:1])
                check_same_classes(teacher_logits=clean_logits, student_logits=probe)
                self._probed = True
        joint = isinstance(self.schedule, Joint)
        if due and isinstance(self.schedule, Alternating):
            share = self.schedule.share(len(images))
            for _ in range(self.schedule.steps):
                self._ascend(images[:share], clean_logits[:share], context.first(share))
        with torch.set_grad_enabled(due and joint):
            u, own = self._draw(images, self._generator)
        with torch.no_grad():
            hard = self._bounded(self.transform(images, u.detach(), context))
            teacher_logits = self._players.teacher_logits(hard)
        pending = self._prepare(images, u, own, context, clean_logits, hard) if due and joint else None
        objective = self.objective
        return HardBatch(
            images=hard,
            clean_images=images,
            u=u.detach(),
            decode=self.transform.decode,
            teacher_logits=teacher_logits,
            clean_teacher_logits=clean_logits,
            student=self._wrapped_student,
            objective=objective,
            default_temperature=float(getattr(objective, "temperature", 1.0)),
            observer=None if pending is None else pending.observe,
        )

    def _ascend(self, images: Tensor, reference_logits: Tensor, context: Context) -> None:
        """One ascent step on a fresh draw, with forward and backward passes of its own."""
        with torch.enable_grad():
            u, own = self._draw(images, self._generator)
            hard = self._bounded(self.transform(images, u, context))
            scores, change = self._players.scores(
                hard,
                reference_logits=reference_logits,
                student_logits=None,
                objective=self.objective,
                multiplier=self._ascent.multiplier,
            )
            gradients = sum_gradients(scores, self.policy.variables(u))
        self._ascent.apply([g / len(images) for g in gradients], mean_of_own(change.detach(), own))

    def _prepare(
        self, images: Tensor, u: Tensor, own: Tensor | None, context: Context, logits: Tensor, hard: Tensor
    ) -> Pending:
        share = self.schedule.share(len(images))
        pending = Pending(
            images[:share],
            u[:share],
            None if own is None else own[:share],
            context.first(share),
            logits[:share],
            batch=len(images),
            arrived=self._calls_since_step.arrived,
            student=self._student_now if self._keeps_answer else None,
        )
        pending.watch(hard.requires_grad_())
        self._calls_since_step.add(pending)
        return pending

    @property
    def _keeps_answer(self) -> bool:
        return not isinstance(self.schedule, Joint) or self.schedule.teacher_gradient

    def _student_now(self, hard: Tensor) -> Tensor:
        with torch.no_grad(), evaluation_mode(self._players.student):
            return self._players.student_logits(hard)

    def step(self, grad_scaler: torch.amp.GradScaler | None = None, *, hard_weight: float = 1.0) -> None:
        """Ascend along what the backwards since the last step have left; without any, do nothing.

        Args:
            grad_scaler: the scaler that the user's own loss was scaled by, before its `update()`.
            hard_weight: what the user's own loss multiplies its mean over the hard views by, above 0: 0.5 in a mean
                over clean and hard views, 1/n where the loss of each of n micro-batches is divided by n.

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
        self._resolve()
        missing = self._calls_since_step.unanswered
        if missing:
            logger.warning("%d hard batch(es) had no backward before augmenter.step() and are left out", missing)
        self._calls_since_step.forget()
        if self._accumulated.count == 0:
            return
        accumulated, self._accumulated = self._accumulated, Accumulated(self._ascent.parameters)
        scale = 1.0 if grad_scaler is None else float(grad_scaler.get_scale())
        self._ascent.apply(*accumulated.means(scale * hard_weight))

    def _resolve(self) -> None:
        """Turn each micro-batch that had its backward into sums of gradients of the policy's parameters."""
        for one in self._calls_since_step.take():
            with evaluation_mode(self._players.teacher, self._players.student):
                self._resolve_one(one)

    def _resolve_one(self, one: Pending) -> None:
        variables = self.policy.variables(one.u)
        with torch.enable_grad():
            hard = self._bounded(self.transform(one.images, one.u, one.context))
            student_part = one.per_sample_gradient()
            teacher_part = torch.zeros_like(student_part)
            change = student_part.new_zeros(())
            if self._keeps_answer:
                leaf = hard.detach().requires_grad_()
                scores, changes = self._players.scores(
                    leaf,
                    reference_logits=one.reference_logits,
                    student_logits=one.student_logits,
                    objective=self.objective,
                    multiplier=self._ascent.multiplier,
                )
                teacher_part = sum_gradients(scores, [leaf])[0].to(student_part.dtype)
                change = mean_of_own(changes.detach(), one.own) * len(one.images)
            scaled = None
            if one.exact:
                exact = gradients_of(hard, variables, (student_part + teacher_part).to(hard.dtype))
            else:  # the user's scale is known in step() only, so the student's part is kept apart until then
                exact = gradients_of(hard, variables, teacher_part.to(hard.dtype), retain_graph=True)
                scaled = gradients_of(hard, variables, student_part.to(hard.dtype))
        self._accumulated.add(exact=exact, scaled=scaled, change=change, count=len(one.images))

    def _take_up_generator(self, state: Tensor, calls: int) -> None:
        if len(state) == len(self._generator.get_state()):
            self._generator.set_state(state)
            return
        if state.dtype != torch.uint8 or len(state) not in (16, 5056):  # bytes of a CUDA and of a CPU generator
            raise ValueError(f"the generator's state has {len(state)} values of {state.dtype}")
        self._generator.manual_seed(self._seed + 1 + calls)
        logger.warning("the state is of another kind of device: draws go on from a new seed, not bit-equal")

    def _bounded(self, images: Tensor) -> Tensor:
        return images if self.transform.bounded else clamp_with_gradient(images)

    def _checked(self, images: Tensor) -> Tensor:
        images = check_image_form(images)
        if images.device.type != self.device.type:
            raise ValueError(
                f"images are on {images.device}, and the networks were on {self.device} when the augmenter was made; "
                f"use images.to('{self.device}'), or make the augmenter after moving the networks"
            )
        if images.numel() == 0:
            return images
        in_range = images_in_range(images)
        if not images.is_cuda or tuple(images.shape) not in self._seen_shapes:
            if not bool(in_range):
                raise_for_values(images)
            self._seen_shapes.add(tuple(images.shape))
        else:
            self._bad_values |= ~in_range
        return images

    def check(self) -> None:
        """Raise `ValueError` if a batch since the last check held values outside [0, 1] or NaN.

        On the CPU each call raises by itself. On a GPU only the first call of a shape does, since reading values
        waits for the device; later ones are noted there and raised here.
        """
        bad = bool(self._bad_values)
        self._bad_values.zero_()
        if bad:
            raise ValueError(
                "a batch since the last check held NaN or values outside [0, 1]; check the data's transforms"
            )

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs for a bit-equal next batch; the networks are not in it.

        That is the policy, its optimiser, the multiplier, the uniform share, the schedule's count, gradients still
        pending and the generator.
        """
        self._resolve()
        return {
            **self._ascent.state_dict(),
            "calls": self._calls,
            "pending": self._accumulated.state_dict(),
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
            self._ascent.load_state_dict(state)
            self._accumulated.load_state_dict(state["pending"])
            self._take_up_generator(state["generator"].cpu(), int(state["calls"]))
            self._calls = int(state["calls"])
        except Exception as error:  # whatever a foreign state breaks, the augmenter is to stay as it was
            self._ascent.load_state_dict(own)
            self._accumulated.load_state_dict(own["pending"])
            self._generator.set_state(own["generator"])
            raise ValueError(f"state dict does not fit this augmenter: {error}") from error
        self._calls_since_step.forget()

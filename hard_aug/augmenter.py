"""HardAugmenter: joins transform, policy, objective and schedule around teacher and student (arXiv:2305.14890)."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hard_aug.augmenter_parts import AugmenterParts
from hard_aug.batch import HardBatch
from hard_aug.calibration import Calibration
from hard_aug.calibration.first_calls import FirstCalls
from hard_aug.compatibility import check_cuda_graph, complete_parts
from hard_aug.export import LearnedAugmentation
from hard_aug.generation import Generation
from hard_aug.inner_loop.adversary import Adversary
from hard_aug.inner_loop.cuda_graph import GraphedUpdate
from hard_aug.inner_loop.exploration import Exploration
from hard_aug.inner_loop.image_check import ImageCheck, OutOfRange
from hard_aug.inner_loop.networks import Networks
from hard_aug.inner_loop.policy_optimizer import PolicyOptimizer
from hard_aug.losses.two_view import TwoViewLoss
from hard_aug.models.batch_norm import BatchNormMode
from hard_aug.models.normalized import NetworkNormalizations, Pair
from hard_aug.objectives import Disagreement, Invariance
from hard_aug.ops.backend import Backend, check_backend, use_backend
from hard_aug.policies import Policy
from hard_aug.schedules import Schedule
from hard_aug.state import AugmenterState
from hard_aug.transforms import Menu, Transform, menu
from hard_aug.utils.checks import (
    as_python,
    as_seed,
    check_fraction,
    check_integer,
    check_kinds,
    check_labels,
    check_positive_number,
)
from hard_aug.utils.compilation import outside_graphs
from hard_aug.utils.distributed import ProcessGroup
from hard_aug.utils.rng import ShardedGenerator
from hard_aug.utils.rows import rows_of
from hard_aug.utils.running_mean import RunningMean

#: Of the distillation loss, for objectives that have none.
DEFAULT_TEMPERATURE = 2.0


class HardAugmenter(AugmenterParts):
    """Generates from each batch images on which the student disagrees with a teacher whose prediction is unchanged.

    A call leaves nothing behind in the networks: modes, buffers, `requires_grad`, `.grad` and the global generator are
    as before, also when something raises, for networks whose forward in evaluation mode draws no random numbers.
    Networks are used, never registered or stored in a state.

    A call makes no difference to training if the student is in evaluation mode *and* gradients are off, as where a
    trainer evaluates: the policy stays as it is, nothing is counted or drawn that training would miss, and one process
    may do it alone. Either of the two alone is a call like any other. (A student counts as in training if any of its
    layers does, or has no flag `training`, as frozen TorchScript.)

    If several processes train (`torch.distributed`), create the augmenter after `init_process_group` and pass the
    wrapped student. The processes learn one policy: they draw as one process would for the joined batch, and average
    their gradients. All make the same calls, with batches of equal size. (Partners of a mix and fractions of a batch
    are those of the process's own.)

    A deep copy draws as the original does, and has copies of the networks: `copy.deepcopy((student, augmenter))`. To
    keep one, or to have it in another process, use `state_dict()`; it can't be pickled.

    Args:
        teacher: network from images in [0, 1] to logits `(B, K)`, on one device with the student. See `Normalized`.
        student: likewise.
        transform: what may be done to an image; None: everything, `menu()`.
        policy: where its parameters come from; None: `GroupBandit(transform.spec)` for a `menu()`, else
            `Gaussian(transform.spec)`.
        objective: what is maximised; None: `KL()`.
        invariance: how the teacher's prediction is kept; None: `Penalty()`, or `Hinge()` for a `Search`.
        schedule: when the policy is updated; None: `Alternating(fraction=0.25, every=6)`, or `Alternating()` for a
            `Search`.
        exploration: the defence against collapse; None: `Exploration()`, or `Exploration(min_variance=None)` with a
            calibration: uniform draws would come from the full ranges.
        learning_rate: of the policy's Adam, above 0; None: `policy.learning_rate`.
        hard_fraction: fraction of each batch, its first images, that gets hard views, in (0, 1].
        warmup_calls: number of calls without hard views, in which `HardBatch.loss` is plain distillation.
        batch_norm: how the student's BatchNorm sees the views, "shared", "frozen" or "split"; see
            `hard_aug.models.batch_norm`.
        normalization: `(mean, std)` per channel, if the loader normalises images: undone on entry, so that hard and
            clean images are in [0, 1], and put back before each network that is not `Normalized`; see
            `HardBatch.normalized`. If the networks differ, `{"teacher": (mean, std), "student": (mean, std)}`; the
            loader's is the student's. (A network for images in [0, 1] is `Normalized(network, (0.0,), (1.0,))`.)
        out_of_range: whether values outside [0, 1], of a random erasing or an interpolation, "raise" or are set to the
            nearest valid ones, "clamp".
        backend: of the operations, "auto", "torch" or "triton"; None: see `hard_aug.ops.backend`.
        cuda_graph: replay policy updates from a CUDA graph; see `hard_aug.inner_loop.cuda_graph`.
        calibration: whether the policy starts from the ranges in which the teacher keeps its predictions: they are
            measured by `calibrate` on the first 128 images (about 19,000 forwards of single images of the teacher for
            the menu), and until then calls are plain distillation; or the result of an earlier `calibrate`. The `std`
            that a policy was given is replaced. None: measured for a `menu()`, unless the policy has no start, as
            `Uniform`.
        seed: of the augmenter's own generator, the source of every draw.

    Raises:
        TypeError: parts of the wrong class.
        ValueError: settings out of range, or parts that cannot work together.

    Example:
        >>> teacher, student = (nn.Sequential(nn.Flatten(), nn.Linear(64, 3)) for _ in range(2))
        >>> augmenter = HardAugmenter(teacher=teacher, student=student)
        >>> hard = augmenter(torch.rand(4, 1, 8, 8))
        >>> hard.loss().backward()
        >>> hard.images.shape
        torch.Size([4, 1, 8, 8])
    """

    _instead = "create another one, where it is needed, and load augmenter.state_dict() into it"

    def __init__(
        self,
        *,
        teacher: nn.Module,
        student: nn.Module,
        transform: Transform | None = None,
        policy: Policy | None = None,
        objective: Disagreement | None = None,
        invariance: Invariance | None = None,
        schedule: Schedule | None = None,
        exploration: Exploration | None = None,
        learning_rate: float | None = None,
        hard_fraction: float = 1.0,
        warmup_calls: int = 0,
        batch_norm: BatchNormMode = "shared",
        normalization: Pair | Mapping[str, Pair] | None = None,
        out_of_range: OutOfRange = "raise",
        backend: Backend | None = None,
        cuda_graph: bool = False,
        calibration: bool | Calibration | None = None,
        seed: int = 0,
    ) -> None:
        check_kinds(teacher=(teacher, nn.Module), student=(student, nn.Module))
        transform = menu() if transform is None else transform
        check_kinds(transform=(transform, Transform))
        calibrates = calibration is not False and (calibration is not None or isinstance(transform, Menu))
        policy, objective, invariance, schedule, exploration = complete_parts(
            transform,
            policy=policy,
            objective=objective,
            invariance=invariance,
            schedule=schedule,
            exploration=Exploration(min_variance=None) if exploration is None and calibrates else exploration,
        )
        if calibration is None:
            calibration = isinstance(transform, Menu) and policy.starts_from_reach
        learning_rate = policy.learning_rate if learning_rate is None else learning_rate
        check_positive_number(learning_rate=learning_rate)
        check_fraction(hard_fraction=hard_fraction)
        check_integer(0, warmup_calls=warmup_calls)
        learning_rate, hard_fraction, warmup_calls = as_python(learning_rate, hard_fraction, warmup_calls)
        if backend is not None:
            check_backend(backend)
        seed = as_seed(seed)
        self.schedule, self.exploration = schedule, exploration
        self._hard_fraction, self._warmup_calls, self._backend = hard_fraction, warmup_calls, backend
        self._settings = {
            "learning_rate": learning_rate,
            "hard_fraction": hard_fraction,
            "warmup_calls": warmup_calls,
            "batch_norm": batch_norm,
            "normalization": normalization,
            "out_of_range": out_of_range,
            "backend": backend,
            "seed": seed,
            "cuda_graph": cuda_graph,
            "calibration": calibration is not False,
        }
        normalizations = None if normalization is None else NetworkNormalizations.parse(normalization)
        loaders = None if normalizations is None else normalizations.student
        self._two_view_loss = TwoViewLoss(
            student,
            temperature=float(getattr(objective, "temperature", DEFAULT_TEMPERATURE)),
            batch_norm=batch_norm,
            backend=backend,
            normalization=loaders,
        )
        networks = Networks(teacher=teacher, student=student, normalization=normalizations)
        self.device = networks.device
        self._check = ImageCheck(self.device, loaders, out_of_range=out_of_range)
        self._kept = RunningMean(self.device)
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
        self._first_calls = FirstCalls(
            teacher=networks.teacher,
            transform=transform,
            policy=self._optimizer.policy,
            processes=processes,
            seed=seed,
            calibration=calibration,
        )
        self._state = AugmenterState(
            optimizer=self._optimizer,
            runner=self._runner,
            first_calls=self._first_calls,
            generator=self._generator,
            seed=seed,
        )
        self._generation = Generation(
            adversary=self._adversary,
            schedule=schedule,
            runner=self._runner,
            two_view_loss=self._two_view_loss,
            check=self._check,
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
                with unequal numbers of classes or NaN, or through which no gradient reaches the images; a process group
                that did not exist at construction. Nothing has changed then.
            RuntimeError: inference mode, unless the student is in evaluation mode.
            FloatingPointError: networks inside the transform that overflow; nothing has changed then.
        """
        if torch.compiler.is_dynamo_compiling():
            return outside_graphs(self.__call__, images, labels)
        if self._two_view_loss.evaluates:
            return self.generate(images, labels)
        images = self._checked(images, labels)
        with use_backend(self._backend):
            self._runner.flush()
        due = self.schedule.is_due(self._state.calls - self._warmup_calls)
        with self._state.restored_on_error(policy=due or not self._first_calls.done):
            with use_backend(self._backend):
                self._first_calls.add(images, labels)
            rows = self._rows(len(images))
            updates = rows > 0 and due
            refines = updates and self.policy.is_per_sample
            batch = self._generation(images, labels, rows, updates=updates, refines=refines)
        self._state.calls += 1
        if rows:
            self._kept.add(batch.teacher_consistent[:rows].to(torch.float32).mean())
        if updates:
            self._optimizer.warn_of_dropped_steps()
        return batch

    def generate(self, images: Tensor, labels: Tensor | None = None) -> HardBatch:
        """Generate hard images and change nothing, for pictures and evaluations; no other process is waited for.

        The policy does not learn from these images, and training goes on as if this had not been called.

        Args:
            images: as in a call.
            labels: as in a call.

        Raises:
            TypeError: as in a call.
            ValueError: as in a call.
            RuntimeError: inference mode, for a `Search`.
            FloatingPointError: as in a call.
        """
        refines = self.policy.is_per_sample
        images = self._check(images, takes_gradients=refines)
        self._check_labels(labels, len(images))
        self._state.has_evaluated = True
        with self._state.without_draws():
            return self._generation(images, labels, self._rows(len(images)), updates=False, refines=refines)

    def _rows(self, batch: int) -> int:
        """Return how many images of a batch get hard views in the current call."""
        starts = self._state.calls >= self._warmup_calls and self._first_calls.done
        return rows_of(self._hard_fraction, batch) if starts else 0

    def _check_labels(self, labels: Tensor | None, batch: int) -> None:
        check_labels(labels, batch=batch, required_by=self.objective if self.objective.requires_labels else None)

    def _checked(self, images: Tensor, labels: Tensor | None) -> Tensor:
        """Return `images` in [0, 1], detached, once all processes have theirs."""
        rows, error = 0, None
        try:
            images = self._check(images)
            rows = len(images)
            self._check_labels(labels, rows)
        except (TypeError, ValueError, RuntimeError) as refused:
            error = refused
        self._optimizer.processes.validate_batch(rows, error)
        return images

    def export(self, *, p: float = 1.0) -> LearnedAugmentation:
        """Return the policy as it is now as an augmentation that needs neither network; a frozen copy on the CPU.

        Args:
            p: probability that an image is augmented, in (0, 1].

        Raises:
            ValueError: a `Search`, or a transform that requires labels; see `hard_aug.export`.
        """
        if not self._first_calls.done:
            warnings.warn(
                "the ranges are not calibrated yet, since fewer than 128 images have been seen in training: this "
                "augmentation draws from all of the transform's ranges; export it later",
                stacklevel=2,
            )
        if self._state.has_evaluated and not self._state.calls:
            warnings.warn(
                "all calls so far were evaluations (the student in evaluation mode, gradients off), in which the "
                "policy learns nothing; call with gradients enabled, or with the student in training mode",
                stacklevel=2,
            )
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

        It holds the policy, its optimiser, multiplier, uniform fraction, number of calls, schedule, generator, and the
        calibration (until there is one, the images of the first calls, at most 128). With `Joint` it first makes the
        update that is due, for which all processes have to call it.
        """
        with use_backend(self._backend):
            self._runner.flush()
        return self._state.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a state returned by `state_dict()`.

        A state from another kind of device is loaded too; its draws continue from a new seed then, with a warning.

        Args:
            state: of an augmenter with the same parts.

        Raises:
            TypeError: no dictionary.
            ValueError: keys missing or unknown, values of another shape or kind, or NaN; nothing is changed then.
        """
        with use_backend(self._backend):
            self._runner.flush()
        self._state.load_state_dict(state)

"""Captured: the ascents inside a call, recorded once as a CUDA graph and played back from then on.

An ascent is a thousand small launches around two networks; where these are small, or the batch is, the host can't keep
the GPU busy with them. A graph launches all at once. It repeats the recorded kernels on the recorded memory, so

- what comes with each call is copied into tensors that stay where they are;
- weights, the policy and its optimiser are used where they lie. If one has moved, the graph is recorded anew;
- the augmenter's generator is registered with the graph: the numbers are those it would have drawn without;
- the first ascents of a form run as they are (they choose algorithms, compile kernels, make the optimiser's state), and
  so does each batch that is smaller than the recorded one: the last of an epoch, mostly.

The graph keeps the memory of one forward and backward of both networks. Networks have to be capturable: no waiting for
the device, no branch on values. What a forward computes from Python numbers that change is recorded as it was.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import Tensor

from hard_aug.adversary import Adversary
from hard_aug.objectives import Reference
from hard_aug.ops.backend import current_backend
from hard_aug.transforms import Context

logger = logging.getLogger(__name__)

#: Ascents of one form, in turn, before it is recorded.
WARM_UP = 4

#: Records a function, which it may or may not run, and gives back what plays it back and returns its result.
Recorder = Callable[[Callable[[], Tensor], torch.Generator], Callable[[], Tensor]]
Form = tuple[object, ...]


def record_cuda_graph(function: Callable[[], Tensor], generator: torch.Generator) -> Callable[[], Tensor]:
    """Record `function` as a CUDA graph; it is not run. Waits for the device.

    Raises:
        RuntimeError: something in it can't be captured.
    """
    kind = "cuda"
    graph = torch.cuda.CUDAGraph()
    graph.register_generator_state(generator)
    # Weights that autocast has cast and kept must neither go into the graph nor come out of it.
    autocast = torch.autocast(
        kind, torch.get_autocast_dtype(kind), enabled=torch.is_autocast_enabled(kind), cache_enabled=False
    )
    try:
        # Other threads, those of a loader, may go on; the backward's thread launches into the same stream.
        with autocast, torch.cuda.graph(graph, capture_error_mode="thread_local"):
            result = function()
    except RuntimeError as error:
        raise RuntimeError(
            f"capture=True, and an ascent can't be recorded as a CUDA graph ({error}); make the networks' forwards "
            "free of waits for the device (.item(), printing, boolean indexing), or leave capture out"
        ) from error

    def replay() -> Tensor:
        graph.replay()
        return result.clone()

    return replay


class CapturedAscent:
    """`adversary.ascend`, played back where it can be.

    Args:
        adversary: whose ascents these are.
        record: how they are recorded.
    """

    def __init__(self, adversary: Adversary, *, record: Recorder = record_cuda_graph) -> None:
        self._adversary = adversary
        self._record = record
        self._recorded: Form | None = None
        self._places: tuple[int, ...] = ()
        self._inputs: list[Tensor | None] = []
        self._replay: Callable[[], Tensor] | None = None
        self._form: Form | None = None
        self._in_turn = 0

    def __call__(self, images: Tensor, answers: Reference, context: Context) -> Tensor:
        """See `Adversary.ascend`."""
        inputs = _inputs(images, answers, context)
        form = self._form_of(inputs)
        if form != self._recorded or self._places != self._places_now():
            self._in_turn = self._in_turn + 1 if form == self._form else 1
            self._form = form
            if self._in_turn <= WARM_UP or self._is_a_smaller_batch(images, form):
                return self._adversary.ascend(images, answers, context)
            self._record_anew(inputs, form)
        for own, given in zip(self._inputs, inputs, strict=True):
            if own is not None and given is not None:
                own.copy_(given)
        if self._replay is None:
            raise RuntimeError("an ascent of this form was never recorded")
        return self._replay()

    def _record_anew(self, inputs: list[Tensor | None], form: Form) -> None:
        self._recorded, self._replay, self._inputs, self._in_turn = None, None, [], 0  # frees the old graph's memory
        own = [None if tensor is None else tensor.clone() for tensor in inputs]
        images, answers, context = _arguments(own)
        self._replay = self._record(lambda: self._adversary.ascend(images, answers, context), self._adversary.generator)
        self._inputs, self._recorded, self._places = own, form, self._places_now()
        logger.info("recorded an ascent on %d images as a graph", len(images))

    def _is_a_smaller_batch(self, images: Tensor, form: Form) -> bool:
        """Of what is recorded, and that is still in use."""
        known = self._inputs[0] if self._inputs else None
        return (
            known is not None
            and self._places == self._places_now()
            and len(images) < len(known)
            and images.shape[1:] == known.shape[1:]
        )

    def _form_of(self, inputs: list[Tensor | None]) -> Form:
        """All that decides which kernels run, but for the memory."""
        kind = self._adversary.ascent.dropped.device.type
        tensors = (None if t is None else (t.shape, t.stride(), t.dtype) for t in inputs)
        autocast = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind)
        return (*tensors, autocast, current_backend())

    def _places_now(self) -> tuple[int, ...]:
        """Where in memory everything lies that an ascent uses and that is not copied."""
        players = self._adversary.players
        networks = (*players.teacher.parameters(), *players.teacher.buffers())
        networks += (*players.student.parameters(), *players.student.buffers())
        return tuple(tensor.data_ptr() for tensor in (*networks, *self._adversary.ascent.state()))


def _inputs(images: Tensor, answers: Reference, context: Context) -> list[Tensor | None]:
    """What comes with each call."""
    return [
        images,
        answers.teacher_logits,
        answers.student_logits,
        answers.labels,
        context.labels,
        context.partner_images,
        context.partner_logits,
        context.noise,
    ]


def _arguments(inputs: list[Tensor | None]) -> tuple[Tensor, Reference, Context]:
    """The same as arguments of an ascent."""
    images, teacher_logits, *others = inputs
    if images is None or teacher_logits is None:
        raise ValueError("an ascent wants images and the teacher's logits on them")
    return images, Reference(teacher_logits, *others[:2]), Context(*others[2:])

"""Captured: the ascents inside a call, recorded once as a CUDA graph and played back from then on.

An ascent is a thousand small launches around two networks; where these are small, or the batch is, the host can't keep
the GPU busy with them. A graph launches all at once. It repeats the recorded kernels on the recorded memory, so

- what comes with each call is copied into tensors that stay where they are;
- weights, the policy and its optimiser are used where they lie. If one has moved, the graph is recorded anew;
- the augmenter's generator is registered with the graph: the numbers are those it would have drawn without;
- the first ascents of a form run as they are (they choose algorithms, compile kernels, make the optimiser's state), and
  so does each batch that is smaller than the recorded one: the last of an epoch, mostly.

The graph keeps the memory of one forward and backward of both networks. Networks, policy and transform have to be
capturable: no waiting for the device, no branch on values, no checkpointing of activations. What a forward computes
from Python numbers, or from tensors that are no parameters or buffers, is played back as it was recorded; flags of
PyTorch (TensorFloat-32, cuDNN's) are those of the recording.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

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
Inputs = list[Tensor | None]


def record_cuda_graph(function: Callable[[], Tensor], generator: torch.Generator) -> Callable[[], Tensor]:
    """Record `function` as a CUDA graph on the generator's device; it is not run. Waits for the device.

    Raises:
        RuntimeError: something in it can't be captured. Streams and generators are as before then.
    """
    device = generator.device
    graph = torch.cuda.CUDAGraph()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer versions register what is drawn from, and say so
        # A subclass is refused; this is a plain generator on the same state, which draws of either move on.
        graph.register_generator_state(generator.graphsafe_get_state())
    # Weights that autocast has cast and kept must neither go into the graph nor come out of it.
    autocast = torch.autocast(
        "cuda", torch.get_autocast_dtype("cuda"), enabled=torch.is_autocast_enabled("cuda"), cache_enabled=False
    )
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # untyped in torch
    cause: Exception | None = None
    try:
        # The outer stream context puts the current stream back where ending the capture fails. Other threads, those of
        # a loader, may go on; the backward's thread launches into the same stream.
        with (
            torch.cuda.device(device),
            torch.cuda.stream(torch.cuda.current_stream(device)),
            autocast,
            torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"),
        ):
            try:
                result = function()
            except Exception as error:  # of any kind: what ends the capture then hides it
                cause = error
                raise
    except Exception as error:  # of any kind: the generators have to be put back; it is raised on
        _end_capture_of(generator)
        _end_capture_of(torch.cuda.default_generators[device.index or 0])
        cause = cause or error
        if isinstance(cause, torch.OutOfMemoryError) or not isinstance(cause, RuntimeError):
            raise cause from None
        raise RuntimeError(
            f"capture=True, and an ascent can't be recorded as a CUDA graph ({str(cause).splitlines()[0]}); make the "
            "networks' forwards free of waits for the device (.item(), printing, boolean indexing), or leave it out"
        ) from cause

    def replay() -> Tensor:
        graph.replay()
        return result.clone()

    return replay


def _end_capture_of(generator: torch.Generator) -> None:
    """Let a generator draw again where a capture that failed did not."""
    generator.graphsafe_set_state(generator.clone_state())


@dataclass(slots=True)
class Recording:
    """One graph.

    Attributes:
        form: of what it was recorded for.
        inputs: what it reads.
        places: where in memory everything lay that it uses and that is not copied.
        registries: where the networks keep their parameters, buffers and modules, to look that up quickly.
        replay: plays it back.
    """

    form: Form
    inputs: Inputs
    places: tuple[int, ...]
    registries: list[dict[str, Any]]
    replay: Callable[[], Tensor]


class CapturedAscent:
    """`adversary.ascend`, played back where it can be.

    Args:
        adversary: whose ascents these are.
        record: how they are recorded.
    """

    def __init__(self, adversary: Adversary, *, record: Recorder = record_cuda_graph) -> None:
        self._adversary = adversary
        self._record = record
        self._recording: Recording | None = None
        self._form: Form | None = None
        self._in_turn = 0
        #: Fixed tensors, on which the last ascent before a recording runs already.
        self._inputs: Inputs = []

    @property
    def recorded(self) -> bool:
        """Whether there is something to play back."""
        return self._recording is not None

    def __call__(self, images: Tensor, answers: Reference, context: Context) -> Tensor:
        """See `Adversary.ascend`."""
        inputs = _inputs(images, answers, context)
        form = self._form_of(inputs)
        recording = self._recording
        valid = recording is not None and recording.places == self._places(recording.registries)
        if recording is not None and valid and form == recording.form:
            self._form, self._in_turn = None, 0
            _copy(inputs, recording.inputs)
            return recording.replay()
        self._in_turn = self._in_turn + 1 if form == self._form else 1
        self._form = form
        known = recording.inputs[0] if recording is not None and valid else None
        smaller = known is not None and len(images) < len(known) and images.shape[1:] == known.shape[1:]
        if smaller or self._in_turn < WARM_UP:
            return self._adversary.ascend(images, answers, context)
        if self._in_turn == WARM_UP:
            self._inputs = [None if tensor is None else tensor.clone() for tensor in inputs]
            return self._adversary.ascend(*_arguments(self._inputs))
        _copy(inputs, self._inputs)
        return self._record_anew(form).replay()

    def _record_anew(self, form: Form) -> Recording:
        inputs, self._inputs = self._inputs, []
        self._recording, self._form, self._in_turn = None, None, 0  # frees the old graph's memory
        arguments = _arguments(inputs)
        adversary = self._adversary
        replay = self._record(lambda: adversary.ascend(*arguments), adversary.generator)
        registries = _registries(adversary.players.teacher) + _registries(adversary.players.student)
        self._recording = Recording(form, inputs, self._places(registries), registries, replay)
        logger.info("recorded an ascent on %d images as a graph", len(arguments[0]))
        return self._recording

    def _form_of(self, inputs: Inputs) -> Form:
        """All that decides which kernels run, but for the memory."""
        kind = self._adversary.ascent.dropped.device.type
        tensors = (None if t is None else (t.shape, t.stride(), t.dtype) for t in inputs)
        autocast = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind)
        return (*tensors, autocast, torch.are_deterministic_algorithms_enabled(), current_backend())

    def _places(self, registries: list[dict[str, Any]]) -> tuple[int, ...]:
        """Of all that an ascent uses and that is not copied. (`parameters()` would take ten times as long.)"""
        networks = [
            id(value) if isinstance(value, nn.Module) else value.data_ptr()
            for registry in registries
            for value in registry.values()
            if value is not None
        ]
        return (*networks, *(tensor.data_ptr() for tensor in self._adversary.ascent.state()))


def _registries(network: nn.Module) -> list[dict[str, Any]]:
    return [
        registry
        for module in network.modules()
        for registry in (module._parameters, module._buffers, module._modules)
        if registry
    ]


def _copy(given: Inputs, own: Inputs) -> None:
    for tensor, target in zip(given, own, strict=True):
        if tensor is not None and target is not None:
            target.copy_(tensor)


def _inputs(images: Tensor, answers: Reference, context: Context) -> Inputs:
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


def _arguments(inputs: Inputs) -> tuple[Tensor, Reference, Context]:
    """The same as arguments of an ascent."""
    images, teacher_logits, *others = inputs
    if images is None or teacher_logits is None:
        raise ValueError("an ascent wants images and the teacher's logits on them")
    return images, Reference(teacher_logits, *others[:2]), Context(*others[2:])

"""Policy updates captured in a CUDA graph: recorded once and replayed from then on.

A policy update is a thousand small launches around two networks. With small networks or batches the host cannot keep
the GPU busy with them; a graph launches all at once. It repeats the recorded kernels on the recorded memory, so

- what comes with each call is copied into tensors that stay where they are;
- weights, the policy and its optimiser are used where they are. If one has moved, the graph is recorded anew;
- the augmenter's generator is registered with the graph: the random numbers are those of eager execution;
- the first updates for batches of one form run eagerly (they choose algorithms, compile kernels and create the
  optimiser's state), and so does each batch that is smaller than the recorded one: mostly the last of an epoch.

The graph keeps the memory of one forward and backward of both networks. Networks, policy and transform have to be
capturable: no synchronisation with the device, no branch on values, no activation checkpointing. What a forward
computes from Python numbers, or from tensors that are no parameters or buffers, is replayed as it was recorded;
PyTorch's flags (TensorFloat-32, cuDNN's) are those of the recording.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hard_aug.inner_loop.adversary import Adversary
from hard_aug.inner_loop.clean_batch import CleanBatch
from hard_aug.ops.backend import current_backend

logger = logging.getLogger(__name__)

#: Consecutive eager updates on batches of one form before it is recorded.
WARM_UP = 4

#: Captures a function (it may or may not execute) and returns a callable that replays it and returns its result.
Recorder = Callable[[Callable[[], Tensor], torch.Generator], Callable[[], Tensor]]
Form = tuple[object, ...]
Inputs = list[Tensor | None]


def record_cuda_graph(function: Callable[[], Tensor], generator: torch.Generator) -> Callable[[], Tensor]:
    """Record `function` as a CUDA graph on the generator's device, without running it. Synchronises with the device.

    Args:
        function: takes no arguments and returns a tensor.
        generator: source of its random numbers.

    Returns:
        A callable that replays the graph and returns a copy of the result.

    Raises:
        RuntimeError: something in it cannot be captured. Streams and generators are as before then.
    """
    device = generator.device
    graph = torch.cuda.CUDAGraph()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer versions register generators by themselves, and warn
        # A subclass is refused; this is a plain generator that shares the state.
        graph.register_generator_state(generator.graphsafe_get_state())
    # Weights in autocast's cache must neither go into the graph nor come out of it.
    autocast = torch.autocast(
        "cuda", torch.get_autocast_dtype("cuda"), enabled=torch.is_autocast_enabled("cuda"), cache_enabled=False
    )
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # untyped in torch
    cause: Exception | None = None
    try:
        # The outer stream context restores the current stream if ending the capture fails. Other threads, such as a
        # loader's, may go on; the backward's thread launches into the same stream.
        with (
            torch.cuda.device(device),
            torch.cuda.stream(torch.cuda.current_stream(device)),
            autocast,
            torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"),
        ):
            try:
                result = function()
            except Exception as error:  # of any kind: the error that ends the capture would hide it
                cause = error
                raise
    except Exception as error:  # of any kind: the generators have to be restored; it is raised again
        _end_capture_of(generator)
        _end_capture_of(torch.cuda.default_generators[device.index or 0])
        cause = cause or error
        if isinstance(cause, torch.OutOfMemoryError) or not isinstance(cause, RuntimeError):
            raise cause from None
        raise RuntimeError(
            f"cuda_graph=True: a policy update cannot be captured ({str(cause).splitlines()[0]}); remove what "
            "synchronises with the device from the networks' forwards (.item(), printing, boolean indexing), or leave "
            "it out"
        ) from cause

    def replay() -> Tensor:
        graph.replay()
        return result.clone()

    return replay


def _end_capture_of(generator: torch.Generator) -> None:
    """Make a generator usable again after a capture that failed."""
    generator.graphsafe_set_state(generator.clone_state())


@dataclass(slots=True)
class CapturedGraph:
    """One graph.

    Attributes:
        form: of the batch it was recorded for.
        inputs: tensors it reads.
        data_ptrs: addresses of everything it uses that is not copied.
        module_dicts: the networks' parameter, buffer and module dictionaries, to look the addresses up quickly.
        replay: replays the graph.
    """

    form: Form
    inputs: Inputs
    data_ptrs: tuple[int, ...]
    module_dicts: list[dict[str, Any]]
    replay: Callable[[], Tensor]


class GraphedUpdate:
    """`adversary.update_policy`, replayed from a CUDA graph where possible.

    Args:
        adversary: whose updates these are.
        record: how they are captured.
    """

    def __init__(self, adversary: Adversary, *, record: Recorder = record_cuda_graph) -> None:
        self._adversary, self._record = adversary, record
        self._graph: CapturedGraph | None = None
        self._form: Form | None = None
        self._consecutive = 0
        #: Fixed tensors, which the last eager update before a recording already uses.
        self._inputs: Inputs = []

    def __getstate__(self) -> dict[str, object]:
        """Return the state of a copy, which records a graph of its own."""
        return vars(self) | {"_graph": None, "_form": None, "_consecutive": 0, "_inputs": []}

    @property
    def is_recorded(self) -> bool:
        """Whether there is a graph to replay."""
        return self._graph is not None

    def __call__(self, clean: CleanBatch) -> Tensor:
        """Update the policy; see `Adversary.update_policy`."""
        inputs = clean.tensors()
        form = self._form_of(inputs)
        graph = self._graph
        valid = graph is not None and graph.data_ptrs == self._data_ptrs(graph.module_dicts)
        if graph is not None and valid and form == graph.form:
            self._form, self._consecutive = None, 0
            _copy(inputs, graph.inputs)
            return graph.replay()
        self._consecutive = self._consecutive + 1 if form == self._form else 1
        self._form = form
        known = graph.inputs[0] if graph is not None and valid else None
        smaller = known is not None and len(clean) < len(known) and clean.images.shape[1:] == known.shape[1:]
        if smaller or self._consecutive < WARM_UP:
            return self._adversary.update_policy(clean)
        if self._consecutive == WARM_UP:
            self._inputs = [None if tensor is None else tensor.clone() for tensor in inputs]
            return self._adversary.update_policy(CleanBatch.from_tensors(self._inputs))
        _copy(inputs, self._inputs)
        return self._recorded(form).replay()

    def _recorded(self, form: Form) -> CapturedGraph:
        inputs, self._inputs = self._inputs, []
        self._graph, self._form, self._consecutive = None, None, 0  # frees the old graph's memory
        clean = CleanBatch.from_tensors(inputs)
        adversary = self._adversary
        replay = self._record(lambda: adversary.update_policy(clean), adversary.generator)
        module_dicts = _module_dicts(adversary.networks.teacher.inner) + _module_dicts(adversary.networks.student.inner)
        self._graph = CapturedGraph(form, inputs, self._data_ptrs(module_dicts), module_dicts, replay)
        logger.info("captured a policy update on %d images in a CUDA graph", len(clean))
        return self._graph

    def _form_of(self, inputs: Inputs) -> Form:
        """Return all that decides which kernels run, except for memory addresses."""
        kind = self._adversary.optimizer.dropped.device.type
        tensors = (None if t is None else (t.shape, t.stride(), t.dtype) for t in inputs)
        autocast = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind)
        return (*tensors, autocast, torch.are_deterministic_algorithms_enabled(), current_backend())

    def _data_ptrs(self, module_dicts: list[dict[str, Any]]) -> tuple[int, ...]:
        """Return the addresses of all that an update uses and that is not copied, ten times as fast as by modules."""
        networks = [
            id(value) if isinstance(value, nn.Module) else value.data_ptr()
            for module_dict in module_dicts
            for value in module_dict.values()
            if value is not None
        ]
        return (*networks, *(tensor.data_ptr() for tensor in self._adversary.optimizer.tensors()))


def _module_dicts(network: nn.Module) -> list[dict[str, Any]]:
    return [
        module_dict
        for module in network.modules()
        for module_dict in (module._parameters, module._buffers, module._modules)
        if module_dict
    ]


def _copy(sources: Inputs, targets: Inputs) -> None:
    for source, target in zip(sources, targets, strict=True):
        if source is not None and target is not None:
            target.copy_(source)

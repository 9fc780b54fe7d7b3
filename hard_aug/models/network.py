"""Network: a teacher or student as the library runs it, whatever kind of module it is."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from hard_aug.models.eval_mode import eval_mode, unwrap_model
from hard_aug.models.forward_errors import (
    device_of,
    explain_failure,
    first_line,
    normalizes_itself,
    raise_for_logits,
    warn_of_probabilities,
)
from hard_aug.models.normalized import Normalization
from hard_aug.utils.checks import check_kinds, check_logits

#: Images that `check_gradient` looks at first, and the fewest that are not blank by chance.
PROBES = 4
ZERO_GRADIENT = "it is exactly zero for every image"
#: Standard deviation of the random projection of the logits: its gradient fits into half precision.
PROJECTION_STD = 4.0
#: Held while a network runs whose buffers are exchanged; threads may share it.
_buffers_lock = threading.RLock()
#: Of a forward: whether it is in training mode, and what else decides whether it writes; see `_kind`.
_Kind = tuple[object, ...]


class Network:
    """Runs a network and checks its logits; images, buffers and wrappers of the caller stay as they are.

    - A network that writes into its input (`x.sub_(mean)`, `nn.ReLU(inplace=True)` as the first layer) gets a copy,
      one that does not gets the images themselves. Which it is, its first forward of each kind shows.
    - Buffers that a forward in evaluation mode writes are restored after it.
    - Nothing here is registered or stored in a state.

    Args:
        module: `(B, C, H, W) -> (B, K)`; perhaps inside `DistributedDataParallel` or `torch.compile`.
        name: "teacher" or "student", for errors.
        normalization: Applied to images in [0, 1] before the module, unless that does so by itself (it contains a
            `Normalized`, or the `Normalize` of torchvision or kornia); None: it takes images in [0, 1].

    Attributes:
        module: As given.
        inner: The same without wrappers, whose forward may wait for other processes.
        name: As given.
        normalization: What is applied, None if nothing is.

    Example:
        >>> import torch
        >>> from hard_aug.models import Network
        >>> network = Network(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3)), name="teacher")
        >>> network.evaluate(torch.rand(2, 1, 8, 8)).shape
        torch.Size([2, 3])
    """

    def __init__(self, module: nn.Module, *, name: str, normalization: Normalization | None = None) -> None:
        check_kinds(**{name: (module, nn.Module)})
        self.module, self.name = module, name
        self.inner = unwrap_model(module)
        self.normalization = None if normalizes_itself(module) else normalization
        self._has_gradient = False
        #: By kind of forward: whether it writes into its input, and which buffers it writes.
        self._writes_input: dict[_Kind, bool] = {}
        self._written_buffers: dict[_Kind, list[tuple[nn.Module, str]]] = {}

    def __repr__(self) -> str:
        return f"Network({type(self.inner).__name__}, name={self.name!r}, normalization={self.normalization})"

    @property
    def device(self) -> torch.device:
        """Device of the network's tensors; the CPU if it has none."""
        return device_of(self.module) or torch.device("cpu")

    def __call__(self, images: Tensor, *, check_finite: bool = True) -> Tensor:
        """Compute logits in the mode that the network is in, without its wrappers. Gradients: images yes.

        Args:
            images: `(B, C, H, W)` in [0, 1]; never written; any B, also 0.
            check_finite: Whether to raise for logits that are not finite. (Never on a GPU, where reading them would
                synchronise with the device.)

        Returns:
            `(B, K)`.

        Raises:
            TypeError: If the network returns something else than a tensor.
            ValueError: If the logits have another shape, fewer than two classes or values that are not finite, or if
                the images are of a kind that the network fails on.
        """
        return self._logits(self.inner, images, check_finite=check_finite)

    def training_logits(self, images: Tensor) -> Tensor:
        """Compute logits of the module as given, with its wrappers, for a training loss; values are not checked.

        Args:
            images: `(B, C, H, W)` in [0, 1]; never written.

        Returns:
            `(B, K)`.

        Raises:
            TypeError: See `__call__`.
            ValueError: See `__call__`.
        """
        return self._logits(self.module, images, check_finite=False)

    def evaluate(self, images: Tensor, *, check_finite: bool = True) -> Tensor:
        """Compute logits in evaluation mode, without a graph; the modes are restored.

        Args:
            images: `(B, C, H, W)` in [0, 1]; never written.
            check_finite: See `__call__`.

        Returns:
            `(B, K)`.

        Raises:
            TypeError: See `__call__`.
            ValueError: See `__call__`.
        """
        with torch.no_grad(), eval_mode(self.inner):
            return self(images, check_finite=check_finite)

    def check_gradient(self, images: Tensor, *, instead: str = "policy=Search(transform.spec)") -> None:
        """Raise unless the images have a gradient of the logits, in evaluation mode; tested once.

        It is the gradient of a random projection of the logits. Synchronises with the device. One that vanishes in
        float16 only is warned of: that of many fresh networks does, until their BatchNorm has statistics.

        Args:
            images: `(B, C, H, W)` in [0, 1].
            instead: What works without a gradient, for the error.

        Raises:
            ValueError: If there is none, or if it is exactly zero for every image (and, of less than four images or of
                constant ones, for noise too).
        """
        if self._has_gradient or not len(images):
            return
        with eval_mode(self.inner):
            fault = self._gradient_fault(images[:PROBES])
            if fault == ZERO_GRADIENT:
                if len(images) < PROBES or bool((images == images[..., :1, :1]).all()):  # blank ones are no proof
                    images = _drawn(torch.rand, images, PROBES)
                fault = self._gradient_fault(images)
            if fault == ZERO_GRADIENT and self._vanishes_in_float16(images):
                warnings.warn(
                    f"the gradient of the {self.name}'s logits is exactly zero in float16 (does its BatchNorm have no "
                    "statistics yet?): as long as that lasts the policy learns nothing from it. Let it learn first, "
                    "warmup_calls=100, or use bfloat16",
                    stacklevel=2,
                )
                fault = ""
        if fault:
            learn = (
                "If its last layer starts at zero, or its fake quantisation has seen no images yet, let it learn "
                "first: warmup_calls=1, or as many calls as come before the optimiser step that moves it"
                if self.name == "student"
                else "If its last layer is still zero, load its weights"
            )
            raise ValueError(
                f"the {self.name}'s logits carry no gradient to the images ({fault}), from which nothing can be "
                "learned: does its forward run under torch.no_grad(), detach, round or use integer arithmetic (int8)? "
                f"Remove that (frozen parameters are fine), or use {instead}, which needs no gradient. {learn}"
            )
        self._has_gradient = True

    def _gradient_fault(self, images: Tensor) -> str:
        """Return what is wrong with the gradient, in words, "" if nothing is."""
        leaf = images.detach().clone().requires_grad_()
        try:
            with torch.enable_grad():
                logits = self(leaf)
        except RuntimeError as error:
            if isinstance(error, torch.OutOfMemoryError) or not self._fails_for_gradients(leaf):
                raise
            return f"its forward fails where gradients are enabled: {first_line(error)}"
        if not logits.requires_grad:
            return "there is none"
        weights = PROJECTION_STD * _drawn(torch.randn, logits, len(logits))
        try:
            with torch.autocast(leaf.device.type, enabled=False):
                (found,) = torch.autograd.grad(logits, leaf, weights, allow_unused=True)
        except RuntimeError as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            return f"its backward fails: {first_line(error)}"
        if found is None:
            return "there is none"
        return "" if bool(found.any()) else ZERO_GRADIENT

    def _vanishes_in_float16(self, images: Tensor) -> bool:
        """Return whether autocast is to float16, and in bfloat16, with the range of float32, there is a gradient."""
        kind = images.device.type
        if not torch.is_autocast_enabled(kind) or torch.get_autocast_dtype(kind) != torch.float16:
            return False
        with torch.autocast(kind, torch.bfloat16, cache_enabled=False):  # the cache holds weights in float16
            return not self._gradient_fault(images)

    def _fails_for_gradients(self, leaf: Tensor) -> bool:
        """Return whether the forward works without gradients, and fails again with them."""
        with torch.no_grad():
            self(leaf.detach())
        try:
            with torch.enable_grad():
                self(leaf)
        except RuntimeError:
            return True
        return False

    def _logits(self, module: nn.Module, images: Tensor, *, check_finite: bool) -> Tensor:
        if not len(images) and not getattr(module, "training", False):  # not every layer accepts empty batches
            with torch.autocast(images.device.type, enabled=False):  # on the CPU it refuses float16
                one = torch.cat((images, images.new_zeros(1, *images.shape[1:])))
            return self._logits(module, one, check_finite=check_finite)[:0]
        kind = _kind(module, images)
        first = self._is_first(kind)
        try:
            with self._kept_buffers(kind, first):
                logits = self._forward(module, images, kind, first)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError, TypeError, AssertionError) as error:
            explanation = explain_failure(self.inner, images, name=self.name)
            if explanation is None:
                error.add_note(f"(in the {self.name}'s forward on images {tuple(images.shape)}, {images.dtype})")
                raise
            raise ValueError(f"{explanation} ({first_line(error)})") from error
        logits = check_logits(logits, batch=len(images), network=self.name)
        # Reading values on a GPU synchronises with it, so only the first of each kind are.
        if check_finite and (first or logits.device.type == "cpu") and not bool(logits.detach().isfinite().all()):
            raise_for_logits(logits.detach(), name=self.name)
        if check_finite and len(self._writes_input) == 1 and first and len(images):
            warn_of_probabilities(logits.detach(), name=self.name)
        # Tensors of inference mode (a teacher decorated with it) cannot be used in a loss.
        return logits.clone() if logits.is_inference() and not torch.is_inference_mode_enabled() else logits

    def _is_first(self, kind: _Kind) -> bool:
        return kind not in self._writes_input

    def _forward(self, module: nn.Module, images: Tensor, kind: _Kind, first: bool) -> object:
        """Run the module on images that it may write into."""
        if self.normalization is not None:
            self._writes_input[kind] = False
            return module(self.normalization.normalize(images))
        if not first and not self._writes_input.get(kind, False):
            return module(images)
        shown = images.clone()
        logits: object = module(shown)
        if first:
            # The version tells of writes that change no value, which a leaf still refuses; `x.data` bypasses it.
            tracked = not shown.is_inference() and shown._version > 0
            self._writes_input[kind] = tracked or not torch.equal(shown.detach(), images.detach())
        return logits

    @contextmanager
    def _kept_buffers(self, kind: _Kind, first: bool) -> Iterator[None]:
        """Keep the buffers that a forward in evaluation mode writes, all of them at the first of its kind."""
        written = self._written_buffers.get(kind, [])
        if kind[0] or not (first or written):
            yield
            return
        with _buffers_lock:
            kept = [(one, name, one._buffers[name]) for one, name in (_buffers_of(self.inner) if first else written)]
            copies = {id(buffer): buffer.clone() for *_, buffer in kept if buffer is not None}
            try:
                # Exchanged, not written back: a graph may have them.
                for one, name, buffer in kept:
                    one._buffers[name] = None if buffer is None else copies[id(buffer)]
                yield
                if first:
                    self._written_buffers[kind] = [
                        (one, name) for one, name, buffer in kept if _differ(one._buffers.get(name), buffer)
                    ]
            finally:
                for one, name, buffer in kept:
                    one._buffers[name] = buffer


def _kind(module: nn.Module, images: Tensor) -> _Kind:
    """Return the kind of a forward, without the batch size.

    A resize, `contiguous()` or a cast at the network's start returns the images themselves where there is nothing to
    do, and they are what it writes into then.
    """
    return (
        bool(getattr(module, "training", False)),
        torch.is_grad_enabled(),
        images.requires_grad,
        images.dtype,
        images.shape[1:],
        images.is_contiguous(),
        torch.is_autocast_enabled(images.device.type),
    )


def _drawn(draw: Callable[..., Tensor], like: Tensor, rows: int) -> Tensor:
    """Draw `rows` rows of the form of `like`, always the same ones, from a generator of their own."""
    generator = torch.Generator("cpu").manual_seed(0)
    drawn = draw((rows, *like.shape[1:]), generator=generator, dtype=torch.float32, device="cpu")
    return drawn.to(like)


def _buffers_of(network: nn.Module) -> list[tuple[nn.Module, str]]:
    """Return where buffers are that can be exchanged: not TorchScript's, nor those that have no values yet."""
    return [
        (module, name)
        for module in network.modules()
        if not isinstance(module, torch.jit.ScriptModule)
        for name, buffer in module._buffers.items()
        if buffer is None or (buffer.layout == torch.strided and not nn.parameter.is_lazy(buffer))
    ]


def _differ(found: Tensor | None, expected: Tensor | None) -> bool:
    if found is None or expected is None:
        return found is not expected
    return found.shape != expected.shape or not torch.equal(found, expected)

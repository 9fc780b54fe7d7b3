"""The learned distribution of each physical parameter during training, within its whole range."""

from __future__ import annotations

import math
from typing import Any

import torch
from matplotlib.figure import Figure

from hard_aug.augmenter import HardAugmenter
from hard_aug.transforms import Parameter
from hard_aug.utils.checks import check_kinds
from hard_aug.viz.drawing import SIZE, WIDTH, add_legend, relative_std, value_at, write_relative_std

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
DRAWS = 1024
#: Largest number of parameters in a figure; some transforms have hundreds.
MOST_DRAWN = 96


class PolicyHistory:
    """Quantiles, means and standard deviations of a policy's decoded parameters, recorded during training.

    Args:
        spec: The transform's `spec`.

    Attributes:
        spec: The transform's `spec`.
        steps: Steps of the records.
        rows: By parameter, for each record `[mean, standard deviation, *QUANTILES]` in physical units, and the standard
            deviation relative to uniform random augmentation (absent in histories of earlier versions).
        uniform: Fraction of the draws that is uniform instead of the policy's, for each record.

    Example:
        >>> import torch
        >>> from hard_aug import HardAugmenter
        >>> from hard_aug.transforms import Affine
        >>> from hard_aug.viz import PolicyHistory
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
        >>> augmenter = HardAugmenter(teacher=network, student=network, transform=Affine())
        >>> history = PolicyHistory(augmenter.transform.spec)
        >>> history.record(0, augmenter)
        >>> history
        PolicyHistory(6 parameters, 1 record)
    """

    def __init__(self, spec: tuple[Parameter, ...]) -> None:
        self.spec = spec
        self.steps: list[int] = []
        self.rows: dict[str, list[list[float]]] = {parameter.name: [] for parameter in spec}
        self.uniform: list[float] = []

    def __repr__(self) -> str:
        records = f"{len(self.steps)} record{'' if len(self.steps) == 1 else 's'}"
        return f"PolicyHistory({len(self.spec)} parameters, {records})"

    @torch.no_grad()
    def record(self, step: int, augmenter: HardAugmenter, images: torch.Tensor | None = None) -> None:
        """Sample the augmenter's policy with a separate generator, and record statistics of the decoded values.

        Args:
            step: Training step of the record.
            augmenter: The augmenter; its own random state is unchanged.
            images: `(B, C, H, W)`, for a conditional policy; others are sampled with blank images.

        Raises:
            ValueError: If the policy is conditional and there are no images.
        """
        device = augmenter.device
        if not augmenter.policy.is_conditional:
            images = torch.zeros(DRAWS, 1, 1, 1, dtype=torch.float32, device=device)
        if images is None:
            name = type(augmenter.policy).__name__
            raise ValueError(f"{name} depends on the images; call record(step, augmenter, images)")
        images = images[:DRAWS]
        u = augmenter.sample(images, torch.Generator(device).manual_seed(0))
        values = augmenter.transform.decode(u)
        self.steps.append(step)
        self.uniform.append(augmenter.uniform_fraction)
        for parameter in self.spec:
            drawn = values[parameter.name].cpu().double()
            quantiles = drawn.quantile(drawn.new_tensor(QUANTILES))
            row = (drawn.mean(), drawn.std(), *quantiles, relative_std(parameter, drawn.numpy()))
            self.rows[parameter.name].append([float(value) for value in row])

    def scalars(self) -> dict[str, float]:
        """Return the standard deviations of the last record, named `policy/<parameter>_sd`."""
        return {f"policy/{name}_sd": rows[-1][1] for name, rows in self.rows.items() if rows}

    def last(self) -> dict[str, dict[str, Any]]:
        """Return the last record by parameter: mean, standard deviation `sd`, unit and range."""
        if not self.steps:
            raise ValueError("nothing has been recorded yet; call record(step, augmenter)")
        return {
            p.name: {
                "mean": self.rows[p.name][-1][0],
                "sd": self.rows[p.name][-1][1],
                "unit": p.unit,
                "range": [p.low, p.high],
            }
            for p in self.spec
        }

    def state_dict(self) -> dict[str, Any]:
        """Return all records."""
        rows = {name: [list(row) for row in rows] for name, rows in self.rows.items()}
        return {"steps": list(self.steps), "rows": rows, "uniform": list(self.uniform)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a state returned by `state_dict()`."""
        if state["rows"].keys() != self.rows.keys():
            raise ValueError(f"state: expected a history of {sorted(self.rows)}, got one of {sorted(state['rows'])}")
        self.steps = list(state["steps"])
        self.uniform = list(state.get("uniform", [0.0] * len(self.steps)))  # absent in earlier versions
        self.rows = {name: [list(r) for r in rows] for name, rows in state["rows"].items()}


def draw_policy(
    history: PolicyHistory,
    *,
    title: str = "Distribution of the augmentations drawn during training",
    warmup_calls: int = 0,
) -> Figure:
    """Draw the median and two quantile bands of each parameter over the training steps.

    The axis of values is the whole range; it is logarithmic for factors. The dashed line is the identity. The dotted
    lines are the quartiles of uniform random augmentation (uniform in the logarithm for factors). The number is the
    standard deviation of the last record relative to uniform random augmentation. A last panel shows which fraction of
    the draws is uniform instead of the policy's, if there is any. Only the first 96 parameters are drawn.

    Args:
        history: The recorded history.
        title: Title of the figure.
        warmup_calls: The augmenter's setting; the warm-up, in which the policy is not used, is grey.

    Raises:
        ValueError: If the history is empty.

    Example:
        >>> import torch
        >>> from hard_aug import HardAugmenter
        >>> from hard_aug.transforms import Affine
        >>> from hard_aug.viz import PolicyHistory, draw_policy
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
        >>> augmenter = HardAugmenter(teacher=network, student=network, transform=Affine(scale=None, shear=None))
        >>> history = PolicyHistory(augmenter.transform.spec)
        >>> history.record(0, augmenter)
        >>> [axis.get_title() for axis in draw_policy(history).axes]
        ['translation x', 'translation y', 'rotation']
    """
    check_kinds(history=(history, PolicyHistory))
    if not history.steps:
        raise ValueError("nothing has been recorded yet; call record(step, augmenter)")
    spec = history.spec[:MOST_DRAWN]
    panels = len(spec) + any(history.uniform)
    columns = min(3, panels)
    lines = math.ceil(panels / columns)
    figure = Figure(figsize=(WIDTH, 2.4 * lines + 0.7), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False)
    for axis, parameter in zip(axes.flat, spec, strict=False):
        _, _, low, lower, median, upper, high, *relative = zip(*history.rows[parameter.name], strict=False)
        axis.fill_between(history.steps, low, high, alpha=0.25, color="tab:blue", lw=0, label="drawn: 5 to 95 %")
        axis.fill_between(history.steps, lower, upper, alpha=0.45, color="tab:blue", lw=0, label="drawn: 25 to 75 %")
        axis.plot(history.steps, median, color="tab:blue", label="drawn: median")
        axis.axhline(parameter.identity, color="black", ls="--", lw=0.8, label="identity")
        for fraction, label in ((0.25, "random augmentation:\n25 and 75 %"), (0.75, None)):
            axis.axhline(value_at(parameter, fraction), color="0.3", ls=":", lw=1.2, label=label)
        if parameter.logarithmic:
            axis.set_yscale("log")
            axis.set_yticks([parameter.low, parameter.identity, parameter.high], minor=False)
            axis.set_yticks([], minor=True)
            axis.yaxis.set_major_formatter("{x:.2f}")
        axis.set_ylim(parameter.low, parameter.high)
        if relative:
            write_relative_std(axis, relative[0][-1])
        axis.set_title(parameter.name.replace("_", " "), size=SIZE, parse_math=False)
        axis.set_ylabel(parameter.unit, size=SIZE, parse_math=False)
    if any(history.uniform):
        axis = axes.flat[len(spec)]
        axis.plot(history.steps, [100 * fraction for fraction in history.uniform], color="tab:blue")
        axis.set_ylim(0, 103)
        axis.set_title("uniform random draws", size=SIZE)
        axis.set_ylabel("draws (%)", size=SIZE)
    for axis in axes.flat[:panels]:
        if warmup_calls:
            axis.axvspan(history.steps[0], warmup_calls, color="0.85", lw=0, label="warm-up", zorder=-1)
        axis.set_xlabel("training step", size=SIZE)
        axis.tick_params(labelsize=SIZE, which="both")
    add_legend(
        figure, axes, panels, columns=3, note="rel. std: standard deviation at the end\nrelative to random augmentation"
    )
    rest = "" if spec == history.spec else f" ({len(spec)} of {len(history.spec)} parameters)"
    figure.suptitle(title + rest, size=SIZE + 2, parse_math=False)
    return figure

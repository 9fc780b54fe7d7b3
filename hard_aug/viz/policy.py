"""The learned distribution of each physical parameter over training, inside the range that it could have used."""

from __future__ import annotations

import math
from typing import Any

import torch
from matplotlib.figure import Figure

from hard_aug.augmenter import HardAugmenter
from hard_aug.transforms import Parameter

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
DRAWS = 1024
#: Parameters that a picture has room for; a transform of noise has hundreds.
MOST_DRAWN = 96


class PolicyHistory:
    """Quantiles, means and standard deviations of a policy's decoded parameters, one row for each record.

    Args:
        spec: of the transform.

    Attributes:
        steps: when the records were made.
        rows: by parameter, for each record `[mean, sd, *QUANTILES]` in physical units.
    """

    def __init__(self, spec: tuple[Parameter, ...]) -> None:
        self.spec = spec
        self.steps: list[int] = []
        self.rows: dict[str, list[list[float]]] = {parameter.name: [] for parameter in spec}

    @torch.no_grad()
    def record(self, step: int, augmenter: HardAugmenter, images: torch.Tensor | None = None) -> None:
        """Draw what the augmenter draws, with a generator of its own; the augmenter's is left alone.

        Args:
            step: when this is.
            images: `(B, C, H, W)`, for a policy that looks at them; the others get blank ones.

        Raises:
            ValueError: a policy that looks at images, and none.
        """
        device = augmenter.device
        if not augmenter.policy.looks_at_images:
            images = torch.zeros(DRAWS, 1, 1, 1, device=device)
        if images is None:
            name = type(augmenter.policy).__name__
            raise ValueError(f"a {name} is another distribution for each image: record(step, augmenter, images)")
        images = images[:DRAWS]
        u = augmenter.propose(images, torch.Generator(device).manual_seed(0))
        values = augmenter.transform.decode(u)
        self.steps.append(step)
        for name, drawn in values.items():
            drawn = drawn.double().cpu()
            quantiles = drawn.quantile(torch.tensor(QUANTILES, dtype=torch.float64))
            self.rows[name].append([float(drawn.mean()), float(drawn.std()), *map(float, quantiles)])

    def scalars(self) -> dict[str, float]:
        """The last record's standard deviations, named `policy/<parameter>_sd`."""
        return {f"policy/{name}_sd": rows[-1][1] for name, rows in self.rows.items() if rows}

    def last(self) -> dict[str, dict[str, Any]]:
        """The last record by parameter: mean, sd, unit and the range."""
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
        """The records."""
        return {"steps": list(self.steps), "rows": {name: [list(r) for r in rows] for name, rows in self.rows.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up `state_dict()`."""
        if state["rows"].keys() != self.rows.keys():
            raise ValueError(f"a history of {sorted(state['rows'])}, wanted one of {sorted(self.rows)}")
        self.steps = list(state["steps"])
        self.rows = {name: [list(r) for r in rows] for name, rows in state["rows"].items()}


def draw_policy(history: PolicyHistory, *, title: str = "") -> Figure:
    """Draw the median, the middle half and the middle nine tenths of each parameter over the training steps.

    The axis of values is the whole range; a factor's is logarithmic. The dashed line is the identity, and the dotted
    ones are the quartiles of random augmentation, which is uniform in the range (in its logarithm for factors). Of more
    than `MOST_DRAWN` parameters the first ones are drawn.

    Raises:
        ValueError: an empty history.
    """
    if not history.steps:
        raise ValueError("nothing has been recorded yet; call record(step, augmenter)")
    spec = history.spec[:MOST_DRAWN]
    columns = min(3, len(spec))
    lines = math.ceil(len(spec) / columns)
    figure = Figure(figsize=(3.6 * columns, 2.5 * lines), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False)
    for axis, parameter in zip(axes.flat, spec, strict=False):
        rows = list(zip(*history.rows[parameter.name], strict=True))
        _, _, low, lower, median, upper, high = rows
        axis.fill_between(history.steps, low, high, alpha=0.25, color="tab:blue", lw=0, label="5 to 95 %")
        axis.fill_between(history.steps, lower, upper, alpha=0.45, color="tab:blue", lw=0, label="25 to 75 %")
        axis.plot(history.steps, median, color="tab:blue", label="median")
        axis.axhline(parameter.identity, color="black", ls="--", lw=0.8, label="identity")
        for share in (0.25, 0.75):
            axis.axhline(_within(parameter, share), color="gray", ls=":", lw=0.8)
        if parameter.logarithmic:
            axis.set_yscale("log")
            axis.set_yticks([parameter.low, parameter.identity, parameter.high], minor=False)
            axis.set_yticks([], minor=True)
            axis.yaxis.set_major_formatter("{x:.2f}")
        axis.set_ylim(parameter.low, parameter.high)
        axis.set_title(parameter.name.replace("_", " "), size=9)
        axis.set_ylabel(parameter.unit, size=8)
        axis.tick_params(labelsize=7, which="both")
    for axis in axes.flat[len(spec) :]:
        axis.set_visible(False)
    for axis in axes[-1]:
        axis.set_xlabel("training step", size=8)
    figure.legend(
        *axes[0, 0].get_legend_handles_labels(), fontsize=7, loc="outside lower center", ncols=4, frameon=False
    )
    if title:
        rest = "" if spec == history.spec else f" ({len(spec)} of {len(history.spec)} parameters)"
        figure.suptitle(title + rest, size=10)
    return figure


def _within(parameter: Parameter, share: float) -> float:
    if parameter.logarithmic:
        return float(parameter.low ** (1 - share) * parameter.high**share)
    return parameter.low + share * (parameter.high - parameter.low)

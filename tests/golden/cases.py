"""Cases whose results are frozen: each returns named tensors, and every setting that matters is given explicitly.

`python -m tests.golden` computes them all and writes `frozen.npz`; `test_golden.py` compares with that file.
"""

from __future__ import annotations

import datetime
import math
import os
import tempfile
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from hard_aug import Exploration, HardAugmenter, Normalized, diagnose
from hard_aug.objectives import (
    KL,
    ConfidenceGap,
    ConfidenceMargin,
    ConfidenceRatio,
    Constraint,
    DecisionMaskedKL,
    Hinge,
    JensenShannon,
    LogitMSE,
    Penalty,
    ResponseChange,
    ReverseKL,
)
from hard_aug.policies import Conditional, Gaussian, Generator, Search
from hard_aug.schedules import Alternating, Threshold
from hard_aug.synthesis import BestOfN, GuidedSampler, NoiseOptimizer, PixelPGD
from hard_aug.transforms import Affine, Color, Compose, Elastic, Filter, PatchMix, Perspective
from tests.helpers import generative_parts

STEPS = 20
CLASSES = 5
AFFINE = {"translation": 0.25, "rotation": 30.0, "scale": 1.4, "shear": 0.3}
GREY = {"brightness": 0.3, "contrast": 1.4, "saturation": None, "hue": None}

Tensors = dict[str, Tensor]


def affine_color() -> Compose:
    return Compose(Affine(**AFFINE, padding_mode="zeros"), Color(**GREY))


def mixed() -> Compose:
    filters = Filter(gamma=1.5, solarize=0.3, sharpness=1.0, blur=1.0, motion_blur=0.5, noise=0.1)
    return Compose(
        Perspective(tilt=20.0, focal_length=2.0),
        Elastic(magnitude=0.08, control=4),
        Color(**GREY),
        filters,
        PatchMix(image_size=12, patch_size=4),
    )


def networks() -> tuple[nn.Module, nn.Module]:
    """A convolutional teacher with BatchNorm, and a student with BatchNorm and dropout."""
    torch.manual_seed(1)
    teacher = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, 2, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(144, CLASSES),
    )
    with torch.no_grad():
        teacher(torch.rand(64, 1, 12, 12))
        teacher[-1].weight.mul_(8)
    student = nn.Sequential(
        nn.Flatten(), nn.Linear(144, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, CLASSES)
    )
    return teacher.eval(), student.train()


def batches(count: int = STEPS, rows: int = 8) -> list[Tensor]:
    """Blurred noise in [0, 1]."""
    generator = torch.Generator().manual_seed(7)
    coarse = torch.rand(count, rows, 1, 4, 4, generator=generator)
    return [
        nn.functional.interpolate(images, (12, 12), mode="bilinear", align_corners=False).clamp(0, 1)
        for images in coarse
    ]


def augmenter(teacher: nn.Module, student: nn.Module, **settings: Any) -> HardAugmenter:
    transform = settings.pop("transform", None) or affine_color()
    policy = settings.pop("policy", None)
    given: dict[str, Any] = {
        "objective": KL(2.0),
        "invariance": Penalty(8.0),
        "schedule": Alternating(every=1, fraction=1.0, steps=1),
        "exploration": Exploration(entropy_weight=0.08, min_variance=0.15, min_uniform_fraction=0.0),
        "learning_rate": 0.02,
        "hard_fraction": 1.0,
        "warmup_calls": 0,
        "batch_norm": "shared",
        "backend": "torch",
        "seed": 3,
        **settings,
    }
    return HardAugmenter(
        teacher=teacher,
        student=student,
        transform=transform,
        policy=Gaussian(transform.spec, std=0.3) if policy is None else policy(transform),
        **given,
    )


def flattened(value: Any, path: str) -> Tensors:
    """Every number of a nested state by its path; None is NaN."""
    if isinstance(value, Tensor):
        return {path: value.detach().clone()}
    if isinstance(value, dict):
        return {k: v for key, item in value.items() for k, v in flattened(item, f"{path}/{key}").items()}
    if isinstance(value, list | tuple):
        return {k: v for index, item in enumerate(value) for k, v in flattened(item, f"{path}/{index}").items()}
    if isinstance(value, bool | int | float) or value is None:
        return {path: torch.tensor(math.nan if value is None else float(value), dtype=torch.float64)}
    return {}


def state(made: HardAugmenter) -> Tensors:
    """The state dict under the names that the frozen file has."""
    found = made.state_dict()
    optimizer = found.pop("optimizer")["state"]
    del found["calibration"]  # there is none
    schedule = {"updating": True, "clean": None, "hard": None, "idle_calls": 0} | found.pop("schedule")
    return flattened({**found, "optimizer": optimizer, "schedule": schedule}, "state")


def train(
    made: HardAugmenter,
    student: nn.Module,
    shares: list[Tensor],
    labels: Tensor | None = None,
    *,
    autocast: bool = False,
) -> Tensors:
    """Twenty steps of SGD: every loss, the last hard batch, the student, and the augmenter's state."""
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9)
    losses = []
    torch.manual_seed(5)  # of dropout
    for images in shares:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            hard = made(images, labels)
            loss = hard.loss(temperature=2.0, clean_weight=0.5)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach().float())
    return {
        "losses": torch.stack(losses),
        "images": hard.images,
        "u": hard.u,
        "teacher_logits": hard.teacher_logits,
        "reference_logits": hard.reference_logits,
        "disagreement": hard.disagreement,
        "parameters": torch.cat([p.detach().flatten() for p in student.parameters()]),
        "buffers": torch.cat([b.detach().flatten().double() for b in student.buffers()]),
        **state(made),
    }


LABELS = torch.arange(8) % CLASSES
THRESHOLD = {"every": 1, "fraction": 0.5, "low": 1.05, "high": 1.2, "max_steps": 2, "max_idle_calls": 3, "decay": 0.9}

#: Settings of the augmenter that differ from `augmenter`'s, by case.
TRAINED: dict[str, Callable[[], dict[str, Any]]] = {
    "gaussian": dict,
    "alternating": lambda: {"schedule": Alternating(every=2, fraction=0.5, steps=2)},
    "default_schedule": lambda: {"schedule": Alternating(every=6, fraction=0.25, steps=1)},
    "threshold": lambda: {"schedule": Threshold(**THRESHOLD)},
    "generator": lambda: {"policy": lambda t: Generator(t.spec, std=0.3, width=8, seed=1), "learning_rate": 0.003},
    "conditional": lambda: {
        "policy": lambda t: Conditional(t.spec, channels=1, std=0.3, width=4, seed=1),
        "learning_rate": 0.003,
    },
    "search": lambda: {
        "policy": lambda t: Search(t.spec, candidates=4, steps=0, step_size=0.5),
        "invariance": Hinge(0.1, weight=8.0),
        "schedule": Alternating(every=1, fraction=0.5, steps=1),
    },
    "search_steps": lambda: {
        "policy": lambda t: Search(t.spec, candidates=2, steps=2, step_size=0.5),
        "invariance": Hinge(0.1, weight=8.0),
        "schedule": Alternating(every=2, fraction=1.0, steps=1),
    },
    "search_gaussian": lambda: {
        "policy": lambda t: Search(t.spec, candidates=2, steps=1, step_size=0.5, proposal=Gaussian(t.spec, std=0.3)),
        "invariance": Hinge(0.1, weight=8.0),
    },
    "constraint": lambda: {
        "invariance": Constraint(0.02, rate=0.02, decay=0.9, initial=1.0, maximum=100.0),
        "exploration": Exploration(min_uniform_fraction=0.3),
    },
    "fallback": lambda: {"exploration": Exploration(min_variance=0.9, entropy_weight=0.0)},
    "no_floor": lambda: {"exploration": Exploration(min_variance=None)},
    "split": lambda: {"batch_norm": "split"},
    "frozen": lambda: {"batch_norm": "frozen"},
    "part_of_the_batch": lambda: {"hard_fraction": 0.5, "warmup_calls": 3},
    "mixed": lambda: {"transform": mixed()},
    "mixed_threshold": lambda: {"transform": mixed(), "schedule": Threshold(**THRESHOLD)},
    "reverse_kl": lambda: {"objective": ReverseKL(2.0)},
    "jensen_shannon": lambda: {"objective": JensenShannon(2.0)},
    "logit_mse": lambda: {"objective": LogitMSE()},
    "decision_masked": lambda: {"objective": DecisionMaskedKL(2.0)},
    "response_change": lambda: {"objective": ResponseChange(2.0)},
    "confidence_gap": lambda: {"objective": ConfidenceGap(2.0)},
    "confidence_ratio": lambda: {"objective": ConfidenceRatio()},
    "confidence_margin": lambda: {"objective": ConfidenceMargin(target="teacher")},
    "autocast": dict,
    "half": dict,
    "normalized": dict,
}


def trained(name: str) -> Tensors:
    teacher, student = networks()
    settings = TRAINED[name]()
    shares = batches()
    if name == "normalized":
        key = "normalization"
        settings[key] = ((0.4,), (0.3,))
        teacher = Normalized(teacher, (0.5,), (0.25,))
        shares = [(images - 0.4) / 0.3 for images in shares]
    if name == "half":
        teacher, student, shares = teacher.bfloat16(), student.bfloat16(), [images.bfloat16() for images in shares]
    labels = LABELS if name.startswith("confidence") else None
    given = Normalized(student, (0.0,), (1.0,)) if name == "normalized" else student  # it takes images in [0, 1]
    return train(augmenter(teacher, given, **settings), student, shares, labels, autocast=name == "autocast")


#: What each of two processes trains with.
SHARED = ("gaussian", "threshold", "search_steps", "constraint", "mixed", "part_of_the_batch")


def process(rank: int, folder: str) -> None:
    """One of two processes, each with its half of every batch."""
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meeting",
        rank=rank,
        world_size=2,
        timeout=datetime.timedelta(seconds=60),
    )
    found: Tensors = {}
    for name in SHARED:
        teacher, student = networks()
        wrapped = nn.parallel.DistributedDataParallel(student)
        shares = [images[4 * rank : 4 * rank + 4] for images in batches()]
        result = train(augmenter(teacher, wrapped, **TRAINED[name]()), wrapped, shares)
        found |= {f"{name}/{key}": value for key, value in result.items()}
    torch.save(found, f"{folder}/{rank}.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def two_processes() -> Tensors:
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(process, args=(folder,), nprocs=2)
        return {
            f"rank{rank}/{key}": value for rank in range(2) for key, value in torch.load(f"{folder}/{rank}.pt").items()
        }


def exported() -> Tensors:
    """An export draws and augments as it did, also bytes and single images."""
    teacher, student = networks()
    made = augmenter(teacher, student, exploration=Exploration(min_uniform_fraction=0.3))
    for images in batches(5):
        made(images)
    augmentation = made.export(p=0.7)
    images = batches(1)[0]
    generator = torch.Generator().manual_seed(11)
    return {
        "batch": augmentation(images, generator=generator),
        "bytes": augmentation((255 * images).to(torch.uint8), generator=generator),
        "single": augmentation(images[0], generator=generator),
    }


def diagnosed() -> Tensors:
    teacher, student = networks()
    images = torch.cat(batches(4))
    found = {}
    for name, transform in (("affine_color", affine_color()), ("mixed", mixed())):
        result = diagnose(teacher, student.eval(), images, transform, values=5, threshold=0.9, batch_size=12, seed=2)
        for index, row in enumerate(result.rows):
            columns = (
                row.teacher_consistency,
                row.student_agreement,
                row.teacher_divergence,
                row.student_divergence,
            )
            found |= flattened([row.fractions, row.values, *columns, row.transfer_gap], f"{name}/{index}")
    return found


def searched(method: str) -> Tensors:
    """Hard images from tiny generative models, and their scores before and after."""
    sampler = generative_parts.make_sampler(steps=4, strength=0.6)
    invariance = Hinge(0.1, weight=2.0)
    search = {
        "mpgd": lambda: GuidedSampler(sampler, mu=0.3, mu_shape="noise"),
        "guided": lambda: GuidedSampler(
            sampler, mu=0.2, rho=0.2, iterations=2, recurrence=2, smooth=2, smooth_sigma=0.1
        ),
        "noise": lambda: NoiseOptimizer(sampler, iterations=3, learning_rate=0.1),
        "best_of_n": lambda: BestOfN(sampler, count=3),
        "pgd": lambda: PixelPGD(sampler, eps=0.05, steps=3),
    }[method]()
    score = generative_parts.score(KL(2.0) if method == "noise" else None, invariance=invariance)
    found = search(
        score,
        generative_parts.labels(),
        seeds=generative_parts.seeds(),
        images=generative_parts.pictures(),
    )
    return {"images": found.images, "before": found.scores_before, "after": found.scores_after}


#: Every case by name.
CASES: dict[str, Callable[[], Tensors]] = {
    **{name: (lambda name=name: trained(name)) for name in TRAINED},  # type: ignore[misc]
    "two_processes": two_processes,
    "export": exported,
    "diagnosis": diagnosed,
    **{m: (lambda m=m: searched(m)) for m in ("mpgd", "guided", "noise", "best_of_n", "pgd")},  # type: ignore[misc]
}

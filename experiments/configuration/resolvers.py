"""Resolvers of the configurations; importing the package `experiments` registers them.

| resolver | value |
|---|---|
| `${default_of:hard_aug.transforms.Affine,rotation}` | default of an argument of a class or function of the library |
| `${run_name:}` | name of a run's folder: `<method>-seed<seed>-<hash of its identity>` |
| `${config_text:train}` | keys of `conf/train.yaml` with their comments, for `--help` |
| `${named_configs:}` | named experiments with the first sentence on each, for `--help` |
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from hard_aug.utils.hashing import cache_key

CONF = Path(__file__).parents[1] / "conf"
#: Beginning of the folder's name of a job whose name can't be determined; the job raises the reason.
INVALID = "invalid-"


def default_of(path: str, argument: str) -> Any:
    """Return the default value of an argument of a class or function.

    Args:
        path: import path, such as `hard_aug.transforms.Affine`.
        argument: its name.

    Raises:
        ValueError: there is no such argument, or it has no default.
    """
    parameters = inspect.signature(get_object(path)).parameters
    with_default = [name for name, one in parameters.items() if one.default is not inspect.Parameter.empty]
    if argument not in with_default:
        raise ValueError(f"default_of:{path},{argument}: expected one of the arguments {', '.join(with_default)}")
    return parameters[argument].default


def run_name(*further: str, _root_: DictConfig) -> str:
    """Return the name of a run's folder, of the characters `A-Za-z0-9._-`; equal for runs with the same outcome.

    That of `experiments.generate` depends on `further` nodes.

    An invalid configuration has a name too, so that one job's error does not stop the other jobs of a multirun.
    """
    from experiments.configuration.identity import run_hash

    own = OmegaConf.masked_copy(_root_, [str(key) for key in _root_ if key != "hydra"])
    try:
        name = f"{own.method.name}-seed{own.seed}-{run_hash(own, *further)}"
    except Exception:  # of any type: `experiments.configuration.command` raises it again
        return INVALID + cache_key({"config": OmegaConf.to_yaml(own)})
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name)


def config_text(name: str) -> str:
    """Return a configuration file and those it extends, with comments, without the node `hydra`."""
    kept, bases, hidden = [f"# {name}.yaml"], [], False
    for line in (CONF / f"{name}.yaml").read_text(encoding="utf-8").splitlines():
        if re.match(r"\w", line):
            hidden = line.startswith("hydra:")
        if base := re.fullmatch(r"  - (\w+)", line):
            bases += [base[1]] if base[1] != "_self_" else []
        elif not hidden and line != "defaults:" and not line.startswith("  - override hydra/"):
            kept.append(re.sub("^  - (override )?", "", line))
    return "\n\n".join([_escaped("\n".join(kept).strip()), *map(config_text, bases)])


def named_configs() -> str:
    """Return a line for each file in `conf/experiment` and in `conf`: its name and the first sentence on it."""
    groups = (("experiment=", "experiment/*.yaml"), ("--config-name ", "*.yaml"))
    found = [
        (prefix + path.stem, path)
        for prefix, pattern in groups
        for path in sorted(CONF.glob(pattern))
        if re.search(rf"experiments\.train .*{prefix}{path.stem}\b", path.read_text(encoding="utf-8"))
    ]
    width = max((len(name) for name, _ in found), default=0)
    return _escaped("\n".join(f"{name:{width}}  {_first_sentence(path)}" for name, path in found))


def _first_sentence(path: Path) -> str:
    comments = re.findall(r"^# (?!@package)(.*)", path.read_text(encoding="utf-8"), re.MULTILINE)
    return re.split(r"(?<=\?) |[.;](?: |$)", " ".join(comments))[0]


def _escaped(text: str) -> str:
    """Escape the placeholders of Hydra's templates."""
    return text.replace("$", "$$")


for _resolver in (default_of, run_name, config_text, named_configs):
    OmegaConf.register_new_resolver(_resolver.__name__, _resolver, replace=True)

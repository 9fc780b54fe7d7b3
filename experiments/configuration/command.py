"""Entry points: Hydra's command line, with configuration errors in one line.

| outcome | stderr | exit status |
|---|---|---|
| configuration error, missing file or package | one line, with near names | 2 |
| not-finite loss, out of memory, full disk | one line; the traceback is in the log | 1 |
| any other exception | traceback | 1 |
| Ctrl-C or SIGTERM | one line | 130 |

`HYDRA_FULL_ERROR=1` shows all tracebacks. The configuration of a command needs the callback
`experiments.runs.status.StatusCallback`, which keeps Hydra from printing a failed job's error a second time.
"""

from __future__ import annotations

import difflib
import dis
import functools
import inspect
import io
import logging
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import hydra
import torch
from filelock import FileLock
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import env_override
from hydra.errors import HydraException, InstantiationException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments.configuration.identity import run_hash
from experiments.configuration.resolvers import CONF, INVALID
from hard_aug.utils import disk

#: Exceptions that are explained by their message.
EXPLAINED = (FloatingPointError, torch.OutOfMemoryError, MemoryError, OSError)
#: Packages whose `raise ValueError` is about the user's input.
CHECKED_PACKAGES = ("experiments", "hard_aug", "hydra", "omegaconf", "__main__")
#: Nodes whose keys are those of another node.
OPEN_NODES = ("teacher.data",)
#: Lines of Hydra's and OmegaConf's messages that are no part of the explanation.
BOILERPLATE = (
    "full_key:",
    "object_type=",
    "reference_type=",
    "See https",
    "To append",
    "Or add a second +",
    "provider=",
)


class Interrupted(Exception):
    """The run was stopped by Ctrl-C or SIGTERM."""


class JobFailed(BaseException):
    """Carries a job's exception past Hydra's own reports; raised by the callback."""


def first_process() -> bool:
    """Return whether this is the process of rank 0, which writes the files (`RANK`, set by torchrun and accelerate)."""
    return os.environ.get("RANK", "0") == "0"


def run_lock(folder: Path) -> FileLock:
    """Return the lock that a run holds on its folder while it executes; the same object for the same folder."""
    return FileLock(folder / "status.lock", is_singleton=True)


def write_any_text() -> None:
    """Let this process print and log any text: in UTF-8, escaped where a terminal does not have a character."""
    for stream in (sys.stdout, sys.stderr):
        if not isinstance(stream, io.TextIOWrapper):  # replaced, as in a notebook
            continue
        own = stream.isatty() or "PYTHONIOENCODING" in os.environ
        stream.reconfigure(encoding=None if own else "utf-8", errors="backslashreplace")
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler) and isinstance(handler.stream, io.TextIOWrapper):
            handler.stream.reconfigure(encoding="utf-8", errors="backslashreplace")


def hydra_command(config_name: str) -> Callable[[Callable[[DictConfig], Any]], Callable[[], None]]:
    """Decorate an entry point, in place of `hydra.main`; its configurations are in the folder `conf` beside it."""

    def decorate(function: Callable[[DictConfig], Any]) -> Callable[[], None]:
        @functools.wraps(function)
        def command() -> None:
            full = os.environ.get("HYDRA_FULL_ERROR") == "1"

            @functools.wraps(function)
            def job(config: DictConfig) -> Any:
                write_any_text()
                try:
                    return run_job(function, config)
                except Exception as error:  # of any type: it is raised again
                    if HydraConfig.get().mode == RunMode.MULTIRUN and not isinstance(error, Interrupted):
                        report(error, full=full)
                    raise

            write_any_text()
            start = hydra.main(version_base="1.3", config_path="conf", config_name=config_name)(job)
            try:
                with env_override({"HYDRA_FULL_ERROR": "1"}):  # Hydra then raises errors instead of printing them
                    start()
            except JobFailed as failed:
                sys.exit(report(failed.args[0], full=full))
            except KeyboardInterrupt:
                sys.exit(report(Interrupted("stopped"), full=full))
            except Exception as error:  # of any type: bugs are printed with their traceback
                sys.exit(report(error, full=full, from_job=False))

        return command

    return decorate


def run_job(function: Callable[[DictConfig], Any], config: DictConfig) -> Any:
    """Check the overrides and execute a job; SIGTERM is handled like Ctrl-C.

    Raises:
        Interrupted: by a signal.
        ValueError: a key that nothing reads, or another process executes the same run.
    """
    node = HydraConfig.get()
    folder = Path(node.runtime.output_dir)
    former = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        lock = run_lock(folder)
        if first_process() and Path(lock.lock_file).exists() and not lock.is_locked:
            raise ValueError(f"another process is executing this run: {folder}")
        overrides: Any = OmegaConf.to_container(node.overrides.task)
        check_added_keys(str(node.job.config_name), overrides)
        if folder.name.startswith(INVALID):  # its name could not be determined: raise the reason
            run_hash(config)
        with disk.explain_disk_full(folder):
            return function(config)
    except KeyboardInterrupt as error:
        raise Interrupted(f"stopped; the same command resumes the run in {folder}") from error
    finally:
        signal.signal(signal.SIGTERM, former)


def check_added_keys(config_name: str, overrides: Sequence[str]) -> None:
    """Refuse `+key=value` unless something reads the key: an argument of a `_target_`, or an option of a group.

    A node that is null or empty accepts every key.

    Raises:
        ValueError: the error names a similar key, if there is one.
    """
    loader = GlobalHydra.instance().config_loader()
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    added = [one for one in parsed if one.is_add() or one.is_force_add()]
    added = [one for one in added if not loader.get_group_options(one.key_or_group)]
    if not added:
        return
    base = hydra.compose(config_name, [str(one.input_line) for one in parsed if one not in added])
    for one in added:
        node, names = base, one.key_or_group.split(".")
        for depth, name in enumerate(names):
            if isinstance(node, DictConfig) and name in node:
                node = node[name]
                continue
            path, known = ".".join(names[:depth]), list(node) if isinstance(node, DictConfig) else []
            if known and path not in OPEN_NODES and not _accepts(node, name):
                raise ValueError(unknown_key(".".join(names[: depth + 1]), map(str, known)))
            break


def _accepts(node: DictConfig, name: str) -> bool:
    """Return whether the `_target_` of a node has an argument of this name."""
    arguments = inspect.signature(get_object(node._target_)).parameters.values() if "_target_" in node else ()
    return any(one.name == name or one.kind is inspect.Parameter.VAR_KEYWORD for one in arguments)


def is_usage_error(error: BaseException) -> bool:
    """Return whether an exception is about the configuration, or a missing file or package, and not a bug."""
    if isinstance(error, InstantiationException) and error.__cause__ is not None:
        return isinstance(error.__cause__, (TypeError, ImportError)) or is_usage_error(error.__cause__)
    if isinstance(error, (HydraException, OmegaConfBaseException, FileNotFoundError, ModuleNotFoundError)):
        return True
    frame = error.__traceback__
    if not isinstance(error, ValueError) or frame is None:
        return False
    while frame.tb_next is not None:
        frame = frame.tb_next
    package = str(frame.tb_frame.f_globals.get("__name__")).partition(".")[0]
    explicit = frame.tb_frame.f_code.co_code[frame.tb_lasti] == dis.opmap["RAISE_VARARGS"]  # int("a") is a bug
    return explicit and package in CHECKED_PACKAGES


def _is_explained(error: BaseException) -> bool:
    """Return whether the message says enough: a traceback is of no use to the user."""
    cause = error.__cause__ if isinstance(error, InstantiationException) else None
    return is_usage_error(error) or isinstance(cause or error, (*EXPLAINED, Interrupted))


def report(error: BaseException, *, full: bool, from_job: bool = True) -> int:
    """Print an exception to stderr and return the exit status.

    Args:
        error: the exception.
        full: print all tracebacks.
        from_job: it is of a job; otherwise all processes of a distributed run have the same one.
    """
    stopped = isinstance(error, Interrupted)
    if full or not _is_explained(error):
        traceback.print_exception(error)
    elif first_process():
        print(error if stopped else f"error: {describe(error)}", file=sys.stderr)
    elif from_job and not stopped:
        print(f"error in process {os.environ['RANK']}: {describe(error)}", file=sys.stderr)
    return 130 if stopped else 2 if is_usage_error(error) else 1


def describe(error: BaseException) -> str:
    """Return one line on an exception."""
    cause = error.__cause__
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.rpartition("/")
        options = error.options or [path.stem for path in (CONF / group).glob("*.yaml")]
        given, near = f"{group}={name}" if group else f"--config-name {name}", _near(name, options)
        return f"{given}: {near and f'did you mean {near}? '}expected one of {', '.join(sorted(options))}"
    if isinstance(error, InstantiationException) and cause is not None:
        _, _, key = str(error).rpartition("full_key: ")
        return f"{key}: {describe(cause)}" if "full_key: " in str(error) else describe(cause)
    parent = getattr(cause, "parent_node", None)
    if isinstance(cause, OmegaConfBaseException) and "is not in struct" in str(cause) and parent is not None:
        return unknown_key(str(cause.full_key), [str(key) for key in parent if key != "hydra"])
    text = str(error) or str(cause or type(error).__name__)
    lines = [line.strip() for line in text.splitlines()]
    line = "; ".join(line for line in lines if line and not line.startswith(BOILERPLATE))
    line = re.sub(r"[.:;]; ", "; ", line)
    if not _is_explained(error):
        return f"{type(error).__name__}: {line}"
    if isinstance(error, OverrideParseException):
        key, _, value = error.override.partition("=")
        fix = f"; quote a value with such characters twice: '{key}=\"{value}\"'" if value else ""
        return f"{error.override}: {line}{fix}"
    where = getattr(error, "full_key", None)
    return f"{where}: {line}" if where else line


def unknown_key(key: str, known: Iterable[str]) -> str:
    """Return the error for a key that does not exist.

    Args:
        key: dotted, such as `teacher.stpes`.
        known: the keys beside it.
    """
    parent, dot, name = key.rpartition(".")
    options = sorted(known)
    near = _near(name, options)
    hint = f"did you mean {parent}{dot}{near}?" if near else f"expected one of {', '.join(options)}"
    return f"unknown key {key}; {hint if options else f'{parent} has no keys'}"


def _near(name: str, options: Iterable[str]) -> str:
    return next(iter(difflib.get_close_matches(name, options, n=1)), "")

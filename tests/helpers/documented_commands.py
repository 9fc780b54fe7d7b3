"""The commands `python -m experiments...` of the documents and of the heads of configuration files."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

ROOT = Path(__file__).parents[2]
CONF = ROOT / "experiments" / "conf"
CALL = re.compile(r"-m (experiments(?:\.\w+)+)(.*)")
#: Flags of Hydra that take no value, and those that take one.
FLAGS, OPTIONS = (
    ("-m", "--multirun", "--help", "--resolve", "--hydra-help"),
    ("--config-name", "-cn", "--cfg", "-c", "--info"),
)


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        place: file, relative to the repository.
        module: that is run.
        words: its arguments.
    """

    place: str
    module: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return " ".join((self.module.removeprefix("experiments."), *self.words))

    @property
    def source(self) -> Path | None:
        """The file of the module, if there is one."""
        spec = find_spec(self.module)
        return None if spec is None or spec.origin is None else Path(spec.origin)

    @property
    def config_name(self) -> str | None:
        """The configuration; None: the command is not one of Hydra."""
        own = re.search(r'@hydra_command\("(\w+)"\)', self.source.read_text() if self.source else "")
        named = [self.words[i + 1] for i, word in enumerate(self.words[:-1]) if word in ("--config-name", "-cn")]
        return named[0] if named and own else own and own[1]  # type: ignore[return-value]  # None or a name

    @property
    def overrides(self) -> list[Override]:
        """The overrides."""
        values = [i + 1 for i, word in enumerate(self.words) if word in OPTIONS]
        words = [word for i, word in enumerate(self.words) if word not in FLAGS + OPTIONS and i not in values]
        return OverridesParser.create().parse_overrides(words)


def choices(override: Override) -> list[str]:
    """Return the values of a sweep as single overrides."""
    if not override.is_sweep_override():
        return [str(override.input_line)]
    key = str(override.input_line).split("=")[0]
    return [f"{key}={value}" for value in override.sweep_string_iterator()]


def documented_commands() -> list[Command]:
    """Return all commands, each once."""
    pages = [ROOT / "README.md", ROOT / "experiments" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    found: dict[tuple[str, tuple[str, ...]], Command] = {}
    for path in [*pages, *sorted(CONF.rglob("*.yaml"))]:
        text = path.read_text(encoding="utf-8")
        lines = _lines_of_page(text) if path.suffix == ".md" else _lines_of_configuration(text)
        for line in lines:
            match = CALL.search(line)
            if match is None:
                continue
            plain = re.sub(r"(?<= )(\[[\w=]+( [^\]]*)?\]|<\w+>)", "", match[2])  # what a reader fills in
            plain = re.sub(r"<[^>]+>", "placeholder", plain)
            words = tuple(word for word in shlex.split(plain, comments=True) if word != "...")
            found.setdefault((match[1], words), Command(str(path.relative_to(ROOT)), match[1], words))
    return list(found.values())


def _lines_of_page(text: str) -> list[str]:
    """Return the lines of code blocks, and code within lines."""
    blocks = re.findall(r"^```.*?\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    prose = re.sub(r"^```.*?\n.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    spans = [span.replace("\n", " ") for span in re.findall(r"`([^`]+)`", prose)]
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines()] + spans


def _lines_of_configuration(text: str) -> list[str]:
    """Return the lines of comments and of the help that are commands."""
    joined = re.sub(r" *\\\n#? *", " ", text)
    lines = (re.sub(r"^[#\s]*", "", line) for line in joined.splitlines())
    lines = (line.split("  ")[0] for line in lines)  # what follows is an explanation
    return [line for line in lines if re.match(r"(python|torchrun|accelerate launch) ", line)]

"""Policy files: YAML (or JSON) with check strings by rule name, which override the default rules."""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from oslo_policy.policy import RuleDefault

from openimds.control_api.policy.base import CREDENTIALS, TARGETS
from openimds.control_api.policy.defaults import RULES, rules_by_name

_LITERAL = re.compile(r"True|False|None|'[^']*'|\"[^\"]*\"|-?[0-9]+")
_TARGET = re.compile(r"%\(([^)]*)\)s")
_SAMPLE_HEADING = """\
# The rules of the control API. Uncomment and change the rules that should differ from the default, and send SIGHUP to
# the control API or restart it. `openimds config validate policy.yaml` checks the file.
# "@" permits everyone, "!" permits nobody. docs/rights.md lists the rule of each attribute.
"""


class PolicyError(Exception):
    """A policy file is invalid. `problems` has a sentence for each fault."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


def read_rules(paths: Iterable[Path]) -> dict[str, Any]:
    """The parsed check of each rule: the defaults, overridden by the files in this order. Raises PolicyError."""
    texts = {rule.name: rule.check_str for rule in RULES}
    places: dict[str, str] = {}
    problems: list[str] = []
    for path in paths:
        try:
            given = _read(path)
        except PolicyError as error:
            problems += error.problems
            continue
        for name, text in given.items():
            if isinstance(text, str):
                texts[name], places[name] = text, str(path)
            else:
                problems.append(f"{path}: {name}: the check must be text in quotation marks, not {text!r}")
    checks, invalid = _parsed(texts, places)
    problems += [*invalid, *_unknown_names(checks, places)]
    if problems:
        raise PolicyError(problems)
    return checks


def files_in(places: Sequence[Path], policy_dirs: Sequence[Sequence[Path]], *, required: bool) -> list[Path]:
    """The policy file at the first of its places that exists, and the files of each folder by name. A missing one is
    skipped, unless it is `required`.

    Raises PolicyError for a missing file that the configuration names: without it, the default rules would apply.
    """
    found = [path for path in places if path.is_file()][:1]
    if required and not found:
        where = " or ".join(map(str, places))
        raise PolicyError([f"{where}: [oslo_policy] policy_file names this file, and it does not exist"])
    for candidates in policy_dirs:
        for folder in [path for path in candidates if path.is_dir()][:1]:
            found += sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    return found


def sample_text() -> str:
    """A policy file with all rules, commented out and set to their defaults."""
    lines = [_SAMPLE_HEADING]
    for rule in RULES:
        lines += [f"# {rule.description}", f'#"{rule.name}": "{rule.check_str}"', ""]
    return "\n".join(lines)


def _read(path: Path) -> Mapping[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        given, repeated = yaml.safe_load(text), _repeated_names(text)
    except (OSError, UnicodeDecodeError) as error:
        raise PolicyError([f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}"]) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}" if mark else ""
        raise PolicyError([f"{path}{place}: is not valid YAML: {getattr(error, 'problem', error)}"]) from error
    if given is None:
        return {}
    if not isinstance(given, dict) or not all(isinstance(name, str) for name in given):
        raise PolicyError([f'{path}: must be a mapping with rules like "create_network": "rule:context_is_admin"'])
    if repeated:
        raise PolicyError([f"{path}, line {line}: {name}: the file has this rule twice" for name, line in repeated])
    return given


def _repeated_names(text: str) -> list[tuple[str, int]]:
    """(name, line) of each key that an earlier line of the file has too. The YAML loader keeps only the last one."""
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if not isinstance(root, yaml.MappingNode):
        return []
    seen: set[str] = set()
    repeated = []
    for key, _ in root.value:
        if str(key.value) in seen:
            repeated.append((str(key.value), key.start_mark.line + 1))
        seen.add(str(key.value))
    return repeated


def _parsed(texts: Mapping[str, str], places: Mapping[str, str]) -> tuple[dict[str, Any], list[str]]:
    checks: dict[str, Any] = {}
    problems: list[str] = []
    for name, text in texts.items():
        with _parser_errors() as errors:
            check = RuleDefault(name, text).check
        checks[name] = check
        if name in places:
            place = f"{places[name]}: {name}"
            reasons = ["cannot be parsed"] if errors else _faults(check, texts)
            problems += [f"{place}: {text!r}: {reason}" for reason in reasons]
    return checks, problems + [
        f"{places[name]}: {name}: refers to itself" for name in places if _is_cyclic(name, checks, ())
    ]


@contextmanager
def _parser_errors() -> Iterator[list[logging.LogRecord]]:
    """Collects the errors that oslo.policy logs. It replaces a text that it cannot parse by a check that always fails."""
    errors: list[logging.LogRecord] = []

    def collect(record: logging.LogRecord) -> bool:
        errors.append(record)
        return False

    parser = logging.getLogger("oslo_policy._parser")
    parser.addFilter(collect)
    try:
        yield errors
    finally:
        parser.removeFilter(collect)


def _leaves(check: Any) -> Iterator[Any]:
    inner = getattr(check, "rules", None) or ([check.rule] if hasattr(check, "rule") else None)
    if inner is None:
        yield check
        return
    for part in inner:
        yield from _leaves(part)


def _faults(check: Any, texts: Mapping[str, str]) -> Iterator[str]:
    for leaf in _leaves(check):
        kind, match = getattr(leaf, "kind", None), getattr(leaf, "match", "")
        if kind == "rule" and match not in texts:
            yield f"there is no rule {match}{_meant(match, texts)}"
        elif kind in {"http", "https"}:
            yield f"{kind}: checks are not supported, because a check runs inside a transaction"
        elif kind not in {None, "role", "rule"} and kind not in CREDENTIALS and not _LITERAL.fullmatch(kind):
            yield f"{kind} is not a property of callers{_meant(kind, CREDENTIALS | {'role', 'rule'})}"
        for name in _TARGET.findall(match):
            if name not in TARGETS:
                yield f"%({name})s is not a property of resources{_meant(name, TARGETS)}"


def _unknown_names(checks: Mapping[str, Any], places: Mapping[str, str]) -> Iterator[str]:
    """A rule of a file is a default rule's name, or a helper that another rule refers to."""
    used = {leaf.match for check in checks.values() for leaf in _leaves(check) if getattr(leaf, "kind", "") == "rule"}
    for name, path in places.items():
        if name not in rules_by_name() and name not in used:
            yield f"{path}: there is no rule {name}{_meant(name, rules_by_name())}"


def _is_cyclic(name: str, checks: Mapping[str, Any], path: tuple[str, ...]) -> bool:
    if name in path:
        return name == path[0]
    inner = [leaf.match for leaf in _leaves(checks[name]) if getattr(leaf, "kind", "") == "rule"]
    return any(_is_cyclic(other, checks, (*path, name)) for other in inner if other in checks)


def _meant(name: str, names: Iterable[str]) -> str:
    similar = difflib.get_close_matches(name, list(names), n=1, cutoff=0.7)
    return f"; was {similar[0]} meant?" if similar else ""

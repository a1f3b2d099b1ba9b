"""The log events of the source tree, read from its syntax trees, and the page that lists them."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

LEVELS = ("debug", "info", "warning", "error", "exception", "critical")
LOGGERS = ("log", "_log", "logger")
REQUEST_EVENT = "event"
"""The parameter that carries the event of a request line, which the page describes in its own section."""

_HEADING = """\
# Log events

`make docs` writes this page from the source. A log line has a time, a level, an event, the event's keys and the program
that wrote it. `debug = True` in a configuration file adds the events of level debug.

Each event is written at one place in the source, so the event of a line leads to its module. The level `exception`
writes an error with its traceback. `…` stands for keys that depend on the case.

## Request lines

Each program that serves guests writes one line for each request, at level info.

| event | program | keys |
| --- | --- | --- |
| request answered | metadata-api, metadata-agent | `request_id`, `instance_id`, `method`, `path`, `status`, `ms`, … |
| request given up by its guest | metadata-api, metadata-agent | the same without `status` |
| namespace proxy: request | metadata-agent | the fields of HAProxy's log line |
"""


@dataclass(frozen=True, slots=True)
class LogCall:
    """One call in the source that writes a log line."""

    event: str
    level: str
    keys: tuple[str, ...]
    module: str
    """Path below `src/openimds`."""


def log_calls(package: Path) -> list[LogCall]:
    """Returns every log call below `package`. Raises ValueError if the event of a call is not a constant."""
    trees = {
        path.relative_to(package).as_posix(): ast.parse(path.read_text()) for path in sorted(package.rglob("*.py"))
    }
    constants = {module: _constants(tree) for module, tree in trees.items()}
    found: list[LogCall] = []
    for module, tree in trees.items():
        names = _imported(tree, constants) | constants[module]
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                found += _calls(node, module, names)
    return found


def log_events_page(calls: Sequence[LogCall]) -> str:
    """Returns docs/log-events.md."""
    by_package: dict[str, list[LogCall]] = defaultdict(list)
    for call in calls:
        by_package[call.module.split("/")[0]].append(call)
    lines = [_HEADING]
    for package, found in sorted(by_package.items()):
        lines += [f"## {package}", "", "| event | level | keys | module |", "| --- | --- | --- | --- |"]
        lines += sorted({_row(call) for call in found})
        lines.append("")
    return "\n".join(lines)


def _row(call: LogCall) -> str:
    keys = ", ".join(key if key == "…" else f"`{key}`" for key in call.keys)
    event = call.event.replace("|", "\\|")
    return f"| {event} | {call.level} | {keys} | `{call.module}` |"


def _calls(node: ast.Call, module: str, constants: dict[str, str]) -> Iterator[LogCall]:
    function = node.func
    if not isinstance(function, ast.Attribute) or function.attr not in LEVELS or not node.args:
        return
    if not isinstance(function.value, ast.Name) or function.value.id not in LOGGERS:
        return
    if isinstance(node.args[0], ast.Name) and node.args[0].id == REQUEST_EVENT:
        return
    keys = tuple(keyword.arg or "…" for keyword in node.keywords if keyword.arg != "exc_info")
    for event in _events(node.args[0], constants):
        if event is None:
            raise ValueError(f"{module}:{node.lineno}: the event of a log line is a constant")
        yield LogCall(event, function.attr, keys, module)


def _events(event: ast.expr, constants: dict[str, str]) -> Iterator[str | None]:
    """Yields the texts that the expression can be; None if one of them is not a constant."""
    if isinstance(event, ast.IfExp):
        yield from _events(event.body, constants)
        yield from _events(event.orelse, constants)
    elif isinstance(event, ast.Constant) and isinstance(event.value, str):
        yield event.value
    else:
        yield constants.get(event.id) if isinstance(event, ast.Name) else None


def _constants(tree: ast.Module) -> dict[str, str]:
    return {
        target.id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def _imported(tree: ast.Module, constants: dict[str, dict[str, str]]) -> dict[str, str]:
    """Returns the constants of other modules that `tree` imports by name."""
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            path = node.module.removeprefix("openimds.").replace(".", "/")
            exported = constants.get(f"{path}.py") or constants.get(f"{path}/__init__.py") or {}
            found |= {name.asname or name.name: exported[name.name] for name in node.names if name.name in exported}
    return found

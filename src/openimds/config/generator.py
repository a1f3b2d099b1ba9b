"""The text of sample configuration files and of docs/configuration.md, generated from the options."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence

from oslo_config import cfg, types

from openimds.config.loader import option_names
from openimds.config.options import DEFAULT, Section
from openimds.config.programs import Program
from openimds.config.settings import CommonConfig

WIDTH = 100

_INTRODUCTION = """\
`make docs` generates this page. `openimds config sample PROGRAM` prints the same options as a configuration file, and
`openimds config validate FILE` checks a file.

Each program accepts `--config-file` any number of times, and later files override earlier ones. The files and options
have the names of neutron and nova, so that existing files can be used unchanged. Old option names are accepted with a
warning that states the current name. Lines before the first `[section]` belong to `[DEFAULT]`, with a warning.
`$state_path` in a value is replaced; write `$$` for a plain dollar sign."""


def sample_text(programs: Sequence[Program[CommonConfig]]) -> str:
    """A configuration file with all options of `programs`, commented out and set to their defaults."""
    names = " and ".join(program.name for program in programs)
    files = ", ".join(dict.fromkeys(file for program in programs for file in program.files))
    lines = [f"# Options of {names}, read from {files}.", ""]
    for section, options in merge_sections(programs).items():
        lines.append(f"[{section.name}]")
        lines += _comment(section.help)
        for option in options:
            lines += ["", *_comment(option.help), *_comment(" ".join(constraints(section.name, option)))]
            lines.append(f"#{option.dest} = {default_text(option)}".rstrip())
        lines.append("")
    return "\n".join(lines)


def reference_page(programs: Mapping[str, Program[CommonConfig]]) -> str:
    """The text of docs/configuration.md."""
    lines = [
        "# Configuration reference",
        "",
        _INTRODUCTION,
        "",
    ]
    for program in programs.values():
        files = ", ".join(f"`{file}`" for file in program.files)
        lines += [f"## openimds {program.name}", "", f"{program.summary} Reads {files}.", ""]
        for section, options in merge_sections([program]).items():
            lines += _section_table(section, options)
    return "\n".join(lines)


def merge_sections(programs: Sequence[Program[CommonConfig]]) -> dict[Section, tuple[cfg.Opt, ...]]:
    """The options of all programs by section, each option once, with [DEFAULT] first."""
    helps: dict[str, str] = {}
    options: dict[str, dict[str, cfg.Opt]] = {DEFAULT: {}}
    for program in programs:
        for section in program.sections:
            helps[section.name] = helps.get(section.name) or section.help
            options.setdefault(section.name, {}).update({option.dest: option for option in section.options})
    return {Section(name, (), helps.get(name, "")): tuple(found.values()) for name, found in options.items() if found}


def constraints(section: str, option: cfg.Opt) -> Iterator[str]:
    """Sentences that complete the help text: choices, range, old names."""
    if choices := _choices(option):
        yield f"One of: {choices}."
    low, high = getattr(option.type, "min", None), getattr(option.type, "max", None)
    if low is not None or high is not None:
        yield f"Range: {_number(low)} to {_number(high)}."
    _, *older = dict.fromkeys(option_names(section, option))
    if older:
        yield "Old names: " + ", ".join(f"[{group}] {name}" for group, name in older) + "."


def default_text(option: cfg.Opt) -> str:
    """The default as text in a configuration file."""
    default = option.sample_default if option.sample_default is not None else option.default
    if default is None:
        return ""
    return ",".join(str(item) for item in default) if isinstance(default, list) else str(default)


def _section_table(section: Section, options: Sequence[cfg.Opt]) -> list[str]:
    lines = [f"### [{section.name}]", ""]
    if section.help:
        lines += [section.help, ""]
    lines += ["| option | default | meaning |", "| --- | --- | --- |"]
    for option in options:
        text = " ".join([option.help or "", *constraints(section.name, option)]).replace("|", "\\|")
        default = default_text(option)
        lines.append(f"| `{option.dest}` | {f'`{default}`' if default else ''} | {text} |")
    return [*lines, ""]


def _choices(option: cfg.Opt) -> str:
    kind = option.type.item_type if isinstance(option.type, types.List) else option.type
    choices = getattr(kind, "choices", None)
    if not choices:
        return ""
    described = choices.items() if isinstance(choices, Mapping) else [(choice, None) for choice in choices]
    return ", ".join(f"{choice} ({words})" if words else str(choice) for choice, words in described)


def _number(bound: float | None) -> str:
    if bound is None:
        return "any"
    return str(int(bound)) if float(bound).is_integer() else str(bound)


def _comment(text: str | None) -> list[str]:
    return textwrap.wrap(text or "", WIDTH, initial_indent="# ", subsequent_indent="# ")

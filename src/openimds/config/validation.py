"""What is odd about a configuration file: options that nothing here reads, and what was probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence

from openimds.config.loading import spellings
from openimds.config.options import DEFAULT, Section
from openimds.config.reading import Assignment, ConfigFile

ALIKE = 0.85
"""difflib's ratio from which on a name counts as a misspelling of another: `service_metadata_porxy` has 0.95;
nova's and neutron's own other options stay below it (the tests hold a list of such pairs)."""

Name = tuple[str, str]
"""(section, option)"""

ELSEWHERE: frozenset[Name] = frozenset(
    (DEFAULT, option)
    for option in (
        # What stands in nearly every nova.conf and neutron agent's file and has no meaning here.
        "verbose",
        "log_dir",
        "log_file",
        "use_syslog",
        "use_stderr",
        "transport_url",
        "rpc_backend",
        "auth_strategy",
        "interface_driver",
        "dhcp_driver",
        "my_ip",
        "use_namespaces",
        "root_helper",
        "lock_path",
        "metadata_host",
        "metadata_port",
    )
)
"""Known from OpenStack, read by nothing here, and no sign of a mistake."""


def likely_misspellings(files: Iterable[ConfigFile], known: Sequence[Section]) -> Iterator[str]:
    """A sentence for each option that nothing reads and that looks like a known one."""
    names = known_names(known)
    for found in unknown_options(files, names):
        if meant := nearest(found, names):
            yield f"{found.place}: [{found.section}] {found.option} is not an option; was {_shown(meant)} meant?"


def unknown_options(files: Iterable[ConfigFile], names: frozenset[Name]) -> Iterator[Assignment]:
    """What is set and not in `names`."""
    for file in files:
        for found in file.assignments:
            if (found.section, found.option) not in names | ELSEWHERE:
                yield found


def known_names(sections: Iterable[Section]) -> frozenset[Name]:
    """All spellings of all options."""
    return frozenset(
        name for section in sections for option in section.options for name in spellings(section.name, option)
    )


def nearest(found: Assignment, names: Iterable[Name]) -> Name | None:
    """The known option that was probably meant: the same name in another section, or a name almost like it."""
    by_option: dict[str, list[Name]] = {}
    for name in sorted(names):
        by_option.setdefault(name[1], []).append(name)
    alike = difflib.get_close_matches(found.option, by_option, n=1, cutoff=ALIKE)
    if not alike:
        return None
    candidates = by_option[alike[0]]
    same_section = [name for name in candidates if name[0] == found.section]
    return (same_section or candidates)[0]


def _shown(name: Name) -> str:
    return f"[{name[0]}] {name[1]}"

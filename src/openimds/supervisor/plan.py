"""What one `openimds up` is to run: its options, the files it writes where they are missing, the parts that follow."""

from __future__ import annotations

import base64
import pwd
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from openimds import config
from openimds.config import (
    AgentConfig,
    CommonConfig,
    ConfigError,
    ControlApiConfig,
    Listen,
    MetadataAgentConfig,
    MetadataApiConfig,
)
from openimds.config.programs import PROGRAMS
from openimds.runtime.lifecycle import StartupError
from openimds.supervisor import default_config, service_spec
from openimds.supervisor.default_config import DefaultConfig
from openimds.supervisor.service_spec import ServiceSpec
from openimds.supervisor.state_dir import StateDir

OVERRIDING_FILE = "up.conf"
METADATA_PROXY = "direct"
"""What the first files say: no process a namespace, and no hop. The option's own default is neutron's, for who puts one of
our agents into neutron's place."""
PROXY_USER = "haproxy"
"""Debian's package makes it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpOptions:
    """The options of one `openimds up`; None: as the files say."""

    state_dir: Path
    listen: str | None = None
    control_port: int | None = None
    metadata_port: int | None = None
    namespace_prefix: str | None = None
    metadata_proxy: str | None = None
    config_files: tuple[str, ...] = ()
    debug: bool = False
    detached: bool = False
    """There is no terminal: stderr is the supervisor's log file."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to run."""

    configs: Mapping[str, CommonConfig]
    parts: tuple[ServiceSpec, ...]

    @property
    def control(self) -> ControlApiConfig:
        found = self.configs["control-api"]
        assert isinstance(found, ControlApiConfig)
        return found

    @property
    def listeners(self) -> Mapping[str, Listen]:
        metadata = self.configs["metadata-api"]
        assert isinstance(metadata, MetadataApiConfig)
        return {"control-api": self.control.listen, "metadata-api": metadata.listen}


def plan(options: UpOptions, folder: StateDir) -> Plan:
    """Write the missing files, read all of them, and say what is to run. Raises CannotStartError."""
    _write_missing_files(options, folder)
    readers = {name: program.files for name, program in PROGRAMS.items()}
    files: dict[str, list[str]] = {
        name: [str(folder.etc / file) for file in program.files] + [str(folder.etc / OVERRIDING_FILE)]
        for name, program in PROGRAMS.items()
    }
    for given in options.config_files:
        names, path = service_spec.routed(given, readers)
        for name in names:
            files[name].append(str(Path(path).absolute()))
    configs = _load_all(files)
    for config_value in configs.values():
        if config_value.state_path != folder.path:
            raise StartupError(
                f"{config_value.program} would keep its state in {config_value.state_path}, not in {folder.path}: "
                f"set state_path = {folder.path} in its files, or give that folder with --state-dir"
            )
    return Plan(configs, tuple(_part(name, files[name], configs[name], folder) for name in PROGRAMS))


# The files -------------------------------------------------------------------------------------------------------


def _write_missing_files(options: UpOptions, folder: StateDir) -> None:
    first = DefaultConfig(
        state_path=folder.path,
        listen=options.listen or "127.0.0.1",
        control_port=options.control_port or 5000,
        metadata_port=options.metadata_port or 8775,
        namespace_prefix=options.namespace_prefix or "",
        metadata_proxy=options.metadata_proxy or METADATA_PROXY,
        proxy_user=_proxy_user(),
        service_password=secrets.token_urlsafe(24),
        shared_secret=secrets.token_urlsafe(32),
    )
    texts = default_config.configuration_files(first)
    missing = [name for name in texts if not (folder.etc / name).exists()]
    _keep_pairs_together(missing, folder)
    for name in missing:
        folder.write_secret_file(name, texts[name])
    if not (folder.etc / "token_keys").exists():
        folder.write_secret_file("token_keys", base64.urlsafe_b64encode(secrets.token_bytes(32)).decode() + "\n")
    folder.write_secret_file(OVERRIDING_FILE, _overriding(options, folder))


def _keep_pairs_together(missing: Sequence[str], folder: StateDir) -> None:
    """Two of the files share a secret: with one of them gone, a new one could not match."""
    pair = {"nova.conf", "metadata_agent.ini"}
    gone = pair & set(missing)
    if len(gone) == 1:
        (name,) = gone
        (other,) = pair - gone
        raise StartupError(
            f"{folder.etc / name} is missing, and its secret must be the one in {folder.etc / other}: put it back, or "
            "remove both to have both written anew"
        )


def _overriding(options: UpOptions, folder: StateDir) -> str:
    """The options given to this start, said over the files."""
    given = (options.listen, options.control_port, options.metadata_port)
    say = partial(
        default_config.overriding_file, prefix=options.namespace_prefix, metadata_proxy=options.metadata_proxy
    )
    if given == (None, None, None):
        return say(control=None, metadata=None)
    now = _listeners_in_files(folder)
    control, metadata = now["control-api"], now["metadata-api"]
    return say(
        control=f"{options.listen or control.host}:{options.control_port or control.port}",
        metadata=f"{options.listen or metadata.host}:{options.metadata_port or metadata.port}",
    )


def _listeners_in_files(folder: StateDir) -> Mapping[str, Listen]:
    files = [str(folder.etc / "nova.conf")]
    try:
        return {
            "control-api": config.load_control_api(files).listen,
            "metadata-api": config.load_metadata_api(files).listen,
        }
    except ConfigError as error:
        raise StartupError(str(error)) from error


def _load_all(files: Mapping[str, Sequence[str]]) -> dict[str, CommonConfig]:
    configs: dict[str, CommonConfig] = {}
    problems: list[str] = []
    for name, program in PROGRAMS.items():
        try:
            configs[name] = program.load(files[name])
        except ConfigError as error:
            problems += [problem for problem in error.problems if problem not in problems]
    if problems:
        raise StartupError("\n".join(problems))
    return configs


def _proxy_user() -> str:
    try:
        return pwd.getpwnam(PROXY_USER).pw_name
    except KeyError:
        return ""


# The parts -------------------------------------------------------------------------------------------------------


def _part(name: str, files: Sequence[str], value: CommonConfig, folder: StateDir) -> ServiceSpec:
    return ServiceSpec(
        name=name,
        argv=service_spec.part_argv(name, files),
        log_file=folder.log_file(name),
        pid_file=folder.pid_file(name),
        files=tuple(files),
        listens=_listens(value),
    )


def _listens(value: CommonConfig) -> str:
    match value:
        case ControlApiConfig():
            return value.public_url
        case MetadataApiConfig():
            return default_config.url(value.listen.host, value.listen.port)
        case MetadataAgentConfig():
            return str(value.socket_path)
        case AgentConfig():
            return "-"
        case _:
            return "-"

"""The plan of one `openimds up`: its options, the configuration files that it creates, and the parts to run."""

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

OVERRIDE_FILE = "up.conf"
METADATA_PROXY = "direct"
"""The value in new files: direct mode needs no process per namespace and no further hop. The default of the option
itself is `haproxy` as in neutron, for hosts where an agent replaces neutron's."""
PROXY_USER = "haproxy"
"""The user that Debian's haproxy package creates."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpOptions:
    """The options of one `openimds up`. None if the configuration files decide."""

    state_dir: Path
    listen: str | None = None
    control_port: int | None = None
    metadata_port: int | None = None
    namespace_prefix: str | None = None
    metadata_proxy: str | None = None
    config_files: tuple[str, ...] = ()
    debug: bool = False
    detached: bool = False
    """True if the supervisor runs in the background, with stderr in its log file."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The parts to run, and the configuration of each program by name."""

    configs: Mapping[str, CommonConfig]
    specs: tuple[ServiceSpec, ...]

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
    """Creates missing configuration files, loads all files, and returns the plan. Raises StartupError."""
    _write_missing_files(options, folder)
    readers = {name: program.files for name, program in PROGRAMS.items()}
    files: dict[str, list[str]] = {
        name: [str(folder.etc / file) for file in program.files] + [str(folder.etc / OVERRIDE_FILE)]
        for name, program in PROGRAMS.items()
    }
    for given in options.config_files:
        names, path = service_spec.route_config_file(given, readers)
        for name in names:
            files[name].append(str(Path(path).absolute()))
    configs = _load_all(files)
    for each in configs.values():
        if each.state_path != folder.path:
            raise StartupError(
                f"the state_path of {each.program} is {each.state_path} and not {folder.path}: set "
                f"state_path = {folder.path} in its files, or name the other folder with --state-dir"
            )
    return Plan(configs, tuple(_service_spec(name, files[name], configs[name], folder) for name in PROGRAMS))


# The files -------------------------------------------------------------------------------------------------------


def _write_missing_files(options: UpOptions, folder: StateDir) -> None:
    settings = DefaultConfig(
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
    texts = default_config.configuration_files(settings)
    missing = [name for name in texts if not (folder.etc / name).exists()]
    _check_shared_secret(missing, folder)
    for name in missing:
        folder.write_secret_file(name, texts[name])
    if not (folder.etc / "token_keys").exists():
        folder.write_secret_file("token_keys", base64.urlsafe_b64encode(secrets.token_bytes(32)).decode() + "\n")
    folder.write_secret_file(OVERRIDE_FILE, _override_text(options, folder))


def _check_shared_secret(missing: Sequence[str], folder: StateDir) -> None:
    """Two files share a secret. If only one of them is missing, a new one would have another secret."""
    pair = {"nova.conf", "metadata_agent.ini"}
    gone = pair & set(missing)
    if len(gone) == 1:
        (name,) = gone
        (other,) = pair - gone
        raise StartupError(
            f"{folder.etc / name} is missing, and its secret must be the one in {folder.etc / other}: restore it, or "
            "remove both files to have both created again"
        )


def _override_text(options: UpOptions, folder: StateDir) -> str:
    """The text of the file that makes the options of this start override the other files."""
    given = (options.listen, options.control_port, options.metadata_port)
    text = partial(default_config.override_file, prefix=options.namespace_prefix, metadata_proxy=options.metadata_proxy)
    if given == (None, None, None):
        return text(control=None, metadata=None)
    listeners = _listeners_in_files(folder)
    control, metadata = listeners["control-api"], listeners["metadata-api"]
    return text(
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


def _service_spec(name: str, files: Sequence[str], value: CommonConfig, folder: StateDir) -> ServiceSpec:
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

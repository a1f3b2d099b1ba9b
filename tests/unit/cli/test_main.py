"""The command line: output, streams, exit codes, and imports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from openimds import __version__
from openimds.cli.main import openimds
from openimds.config.programs import PROGRAMS


def run(*words: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(openimds, list(words))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def test_version_prints_the_version() -> None:
    assert run("version") == (0, f"openimds {__version__}\n", "")


def test_every_command_has_a_summary_and_its_own_help() -> None:
    code, text, _ = run("--help")
    assert code == 0
    names = openimds.command_names()
    for name in names:
        assert f"  {name} " in text
        assert run(name, "--help")[0] == 0
    assert set(PROGRAMS) < set(names)


def test_help_imports_no_large_module() -> None:
    """Imports dominate the start time of a command, so `--help` loads no module that only programs need."""
    code = (
        "import atexit, sys; atexit.register(lambda: print(*sys.modules, file=sys.stderr));"
        "from openimds.cli import main; sys.argv = ['openimds', '--help']; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    loaded = set(done.stderr.split())
    assert "openimds.cli.main" in loaded
    assert {"openimds.config", "openimds.programs", "openimds.store", "openimds.control_api"} & loaded == set()
    assert {"cryptography", "fastapi", "oslo_config", "pydantic", "requests", "sqlalchemy", "uvloop"} & loaded == set()


def test_invalid_arguments_have_exit_code_2() -> None:
    code, _, stderr = run("upp")
    assert code == 2
    assert "No such command 'upp'" in stderr
    assert run("up", "--control-port", "0")[0] == 2
    assert run("restart", "sshd")[0] == 2


@pytest.mark.parametrize("name", PROGRAMS)
def test_program_with_an_invalid_file_prints_one_sentence(name: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.ini"
    path.write_text("[DEFAULT]\ndebug = perhaps\n")
    code, _, stderr = run(name, "--config-file", str(path))
    assert code == 1
    assert stderr == f"openimds: {path}, line 2: [DEFAULT] debug: is not valid: 'perhaps' is neither true nor false\n"


def test_status_down_and_restart_of_a_missing_folder(tmp_path: Path) -> None:
    missing = str(tmp_path / "nowhere")
    code, text, _ = run("status", "--state-dir", missing)
    assert code == 1
    assert text.startswith(f"nothing is up in {missing}")
    assert run("down", "--state-dir", missing) == (0, f"nothing is up in {missing}: the folder does not exist\n", "")
    code, _, stderr = run("restart", "--state-dir", missing, "l3-agent")
    assert code == 1
    assert f"`openimds up --detach --state-dir {missing}` starts it" in stderr


def test_config_sample_prints_the_options_of_a_program_or_file() -> None:
    code, text, _ = run("config", "sample", "dhcp-agent")
    assert code == 0
    assert "#force_metadata = False" in text
    assert run("config", "sample", "dhcp_agent.ini")[1] == text
    code, _, stderr = run("config", "sample", "nova")
    assert code == 1
    assert "is neither a program nor the name of a configuration file" in stderr


def test_config_validate_prints_findings_and_sets_the_exit_code(tmp_path: Path) -> None:
    path = tmp_path / "l3_agent.ini"
    path.write_text("[DEFAULT]\nmetadata_port = 9697\n")
    assert run("config", "validate", str(path)) == (0, "no errors, no warnings\n", "")
    path.write_text("[DEFAULT]\nmetadata_port = 0\n")
    code, text, _ = run("config", "validate", str(path))
    assert code == 1
    assert f"error: {path}, line 2: [DEFAULT] metadata_port: is not valid" in text
    assert run("config", "validate", "/nowhere")[1].startswith("error: /nowhere: cannot be read")


def test_db_commands_report_and_upgrade_the_schema(tmp_path: Path) -> None:
    conf = tmp_path / "nova.conf"
    conf.write_text(f"[DEFAULT]\nstate_path = {tmp_path}\n")
    files = ("--config-file", str(conf))
    assert run("db", "version", *files)[:2] == (1, "no tables\n")
    code, text, _ = run("db", "upgrade", *files)
    assert code == 0
    assert text.startswith("no tables → ")
    assert run("db", "upgrade", *files)[1].startswith("nothing to do")
    assert run("db", "version", *files)[0] == 0


def test_db_bootstrap_can_run_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`db bootstrap` does for programs under systemd what `openimds up` does itself."""
    conf = tmp_path / "nova.conf"
    conf.write_text(f"[DEFAULT]\nstate_path = {tmp_path}\n")
    monkeypatch.setenv("OS_BOOTSTRAP_PASSWORD", "canary-a")
    monkeypatch.setenv("OPENIMDS_SERVICE_PASSWORD", "canary-b")
    for _ in range(2):
        code, text, stderr = run("db", "bootstrap", "--config-file", str(conf))
        assert (code, text, stderr) == (0, "the users admin, neutron and nova have these passwords\n", "")
    assert len(list((tmp_path / "images").iterdir())) == 1


def test_validate_accepts_a_program_for_each_file(tmp_path: Path) -> None:
    path = tmp_path / "my=agent.ini"
    path.write_text("[DEFAULT]\nenable_isolated_metadata = True\n")
    assert run("config", "validate", str(path)) == (0, "no errors, no warnings\n", "")
    code, output, _ = run("config", "validate", f"metadata-agent={path}")
    assert (code, "enable_isolated_metadata is not read by metadata-agent" in output) == (0, True)
    code, _, errors = run("config", "validate", f"metadata-agnet={path}")
    assert (code, errors.startswith(f"openimds: metadata-agnet of metadata-agnet={path} is no program: ")) == (1, True)
    code, _, errors = run("config", "validate", "--program", "l3-agent", f"metadata-agent={path}")
    assert (code, "give only one of them" in errors) == (1, True)


def test_validate_checks_the_policy_of_a_named_control_api(tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text("no_such_rule: role:admin\n")
    path = tmp_path / "api.conf"
    path.write_text(f"[DEFAULT]\nstate_path = {tmp_path}\n")
    code, output, _ = run("config", "validate", f"control-api={path}")
    assert (code, "no_such_rule" in output) == (1, True)
    assert run("config", "validate", f"metadata-api={path}")[0] == 0

"""The command line from outside: what it says, on which stream, with which exit code, and what it imports for it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from openimds import __version__
from openimds.cli.main import openimds
from openimds.config.programs import PROGRAMS


def typed(*words: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(openimds, list(words))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def test_version() -> None:
    assert typed("version") == (0, f"openimds {__version__}\n", "")


def test_every_command_has_a_summary_and_its_own_help() -> None:
    code, text, _ = typed("--help")
    assert code == 0
    names = openimds.command_names()
    for name in names:
        assert f"  {name} " in text
        assert typed(name, "--help")[0] == 0
    assert set(PROGRAMS) < set(names)


def test_help_waits_for_nothing_large() -> None:
    """What makes a command line slow is what it imports: `--help` has nothing of what programs need."""
    code = (
        "import atexit, sys; atexit.register(lambda: print(*sys.modules, file=sys.stderr));"
        "from openimds.cli import main; sys.argv = ['openimds', '--help']; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    loaded = set(done.stderr.split())
    assert "openimds.cli.main" in loaded
    assert {"openimds.config", "openimds.programs", "openimds.store", "openimds.control_api"} & loaded == set()
    assert {"cryptography", "fastapi", "oslo_config", "pydantic", "requests", "sqlalchemy", "uvloop"} & loaded == set()


def test_what_is_not_understood_is_exit_code_2() -> None:
    code, _, said = typed("upp")
    assert code == 2
    assert "No such command 'upp'" in said
    assert typed("up", "--control-port", "0")[0] == 2
    assert typed("restart", "sshd")[0] == 2


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_with_a_bad_file_is_a_sentence(name: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.ini"
    path.write_text("[DEFAULT]\ndebug = perhaps\n")
    code, _, said = typed(name, "--config-file", str(path))
    assert code == 1
    assert said == f"openimds: {path}, line 2: [DEFAULT] debug: is not valid: 'perhaps' is neither true nor false\n"


def test_status_and_down_of_nothing(tmp_path: Path) -> None:
    nowhere = str(tmp_path / "nowhere")
    code, text, _ = typed("status", "--state-dir", nowhere)
    assert code == 1
    assert text.startswith(f"nothing is up in {nowhere}")
    assert typed("down", "--state-dir", nowhere) == (0, f"nothing is up in {nowhere}: the folder does not exist\n", "")
    code, _, said = typed("restart", "--state-dir", nowhere, "l3-agent")
    assert code == 1
    assert f"`openimds up --detach --state-dir {nowhere}` starts it" in said


def test_config_sample() -> None:
    code, text, _ = typed("config", "sample", "dhcp-agent")
    assert code == 0
    assert "#force_metadata = False" in text
    assert typed("config", "sample", "dhcp_agent.ini")[1] == text
    code, _, said = typed("config", "sample", "nova")
    assert code == 1
    assert "is neither a program nor a file" in said


def test_config_validate(tmp_path: Path) -> None:
    path = tmp_path / "l3_agent.ini"
    path.write_text("[DEFAULT]\nmetadata_port = 9697\n")
    assert typed("config", "validate", str(path)) == (0, "no errors, no warnings\n", "")
    path.write_text("[DEFAULT]\nmetadata_port = 0\n")
    code, text, _ = typed("config", "validate", str(path))
    assert code == 1
    assert f"error: {path}, line 2: [DEFAULT] metadata_port: is not valid" in text
    assert typed("config", "validate", "/nowhere")[1].startswith("error: /nowhere: cannot be read")


def test_db(tmp_path: Path) -> None:
    conf = tmp_path / "nova.conf"
    conf.write_text(f"[DEFAULT]\nstate_path = {tmp_path}\n")
    files = ("--config-file", str(conf))
    assert typed("db", "version", *files)[:2] == (1, "no tables\n")
    code, text, _ = typed("db", "upgrade", *files)
    assert code == 0
    assert text.startswith("no tables → ")
    assert typed("db", "upgrade", *files)[1].startswith("nothing to do")
    assert typed("db", "version", *files)[0] == 0


def test_db_bootstrap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `up` does by itself, for those who run the programs under systemd."""
    conf = tmp_path / "nova.conf"
    conf.write_text(f"[DEFAULT]\nstate_path = {tmp_path}\n")
    monkeypatch.setenv("OS_BOOTSTRAP_PASSWORD", "canary-a")
    monkeypatch.setenv("OPENIMDS_SERVICE_PASSWORD", "canary-b")
    for _ in range(2):
        code, text, said = typed("db", "bootstrap", "--config-file", str(conf))
        assert (code, text, said) == (0, "the users admin, neutron and nova have these passwords\n", "")
    assert len(list((tmp_path / "images").iterdir())) == 1

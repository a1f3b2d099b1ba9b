"""The libraries of the control API stay out of the processes that serve guests: each costs a worker tens of MiB."""

from __future__ import annotations

import subprocess
import sys

import pytest

CONTROL_API_ONLY = ("alembic", "fastapi", "oslo_policy", "pydantic", "sqlalchemy", "starlette", "uvicorn")


@pytest.mark.parametrize(
    "program", ["metadata_api.main", "metadata_agent.main", "dhcp_agent", "l3_agent", "compute_agent"]
)
def test_program_imports_no_library_of_the_control_api(program: str) -> None:
    story = f"import sys, openimds.programs.{program}; print(*set(sys.modules) & set({CONTROL_API_ONLY!r}))"
    ran = subprocess.run([sys.executable, "-c", story], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == []


@pytest.mark.parametrize("module", ["cli.main", "cli.config", "config.validator", "supervisor.up"])
def test_command_line_imports_the_policy_only_to_check_it(module: str) -> None:
    """Its import takes longer than most commands."""
    script = f"import sys, openimds.{module}; print('oslo_policy' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout == "False\n"

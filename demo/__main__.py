"""`make demo`: starts a system, runs the walkthrough, stops the system, and reports whether every check passed."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from demo import walkthrough
from demo.terminal import DemoError, Terminal, demo_environment, free_port, leftovers, namespaces, owned_devices, quoted


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave the system running at the end")
    keep = parser.parse_args().keep
    started = time.monotonic()
    setup = _setup()
    earlier_namespaces = namespaces(setup.prefix)
    devices: frozenset[str] = frozenset()
    try:
        failed_checks = _run(setup)
    finally:
        if not keep:
            devices = owned_devices(setup.state_dir)
            setup.terminal.heading("The end: `openimds down` removes everything")
            _remove(setup)
    if not keep:
        found = leftovers(setup.folder.parent, setup.prefix, devices, earlier_namespaces)
        failed_checks += [f"nothing is left: {resource}" for resource in found]
    print(f"\nfinished in {time.monotonic() - started:.0f} s; ", end="")
    print("every check passed." if not failed_checks else "FAILED:\n  " + "\n  ".join(failed_checks))
    if keep:
        _print_next_commands(setup)
    return 1 if failed_checks else 0


def _setup() -> walkthrough.Setup:
    root = Path(tempfile.mkdtemp(prefix="openimds-demo-"))
    root.chmod(0o711)
    folder, state_dir = root / "work", root / "state"
    folder.mkdir()
    env = demo_environment({"OS_CLIENT_CONFIG_FILE": str(folder / "clouds.yaml"), "OS_CLOUD": "openimds"})
    os.chdir(folder)
    # Another openimds may run on this machine. Its firewall table has no id in its name, so a prefix is needed.
    others = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=False).stdout
    return walkthrough.Setup(Terminal(env), folder, state_dir, "demo-" if "openimds" in others else "")


def _run(setup: walkthrough.Setup) -> list[str]:
    terminal = setup.terminal
    try:
        terminal.heading("0. A cloud on one machine")
        terminal.run(
            f"openimds up --detach --state-dir {quoted(str(setup.state_dir))} "
            f"--metadata-proxy haproxy --control-port {free_port(5000)} --metadata-port {free_port(8775)}"
            + (f" --namespace-prefix {setup.prefix}" if setup.prefix else "")
        )
        (setup.folder / "clouds.yaml").write_text((setup.state_dir / "etc" / "clouds.yaml").read_text())
        vm1 = walkthrough.without_router(setup)
        walkthrough.with_router(setup, vm1)
        walkthrough.through_dhcp(setup, vm1)
        tenants = walkthrough.overlapping_projects(setup)
        walkthrough.summary_table(setup, {"admin": vm1, **tenants})
    except DemoError as broken:
        print(f"\033[31m{broken}\033[0m", flush=True)
        _show_logs(setup)
        return [*terminal.failed_checks, str(broken).splitlines()[0]]
    return list(terminal.failed_checks)


def _remove(setup: walkthrough.Setup) -> None:
    try:
        setup.terminal.run(f"openimds down --purge --state-dir {quoted(str(setup.state_dir))}")
    except DemoError as broken:
        setup.terminal.failed_checks.append(str(broken))
    subprocess.run(["rm", "-rf", str(setup.folder.parent)], check=False)


def _show_logs(setup: walkthrough.Setup) -> None:
    for log in sorted((setup.state_dir / "log").glob("*.log")):
        print(f"--- {log.name}\n" + "\n".join(log.read_text(errors="replace").splitlines()[-12:]))


def _print_next_commands(setup: walkthrough.Setup) -> None:
    print(
        "The system is still running. To use it:\n"
        f"  export OS_CLIENT_CONFIG_FILE={setup.folder}/clouds.yaml OS_CLOUD=openimds\n"
        "To remove it:\n"
        f"  openimds down --purge --state-dir {setup.state_dir}"
    )


if __name__ == "__main__":
    sys.exit(main())

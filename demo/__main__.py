"""`make demo`: bring a system up, tell the story, take it down, and say whether all of it was true."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from demo import story
from demo.stage import Stage, StoryBrokenError, free_port, machine_state, quoted, story_environment


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave the system running at the end")
    keep = parser.parse_args().keep
    before = machine_state()
    started = time.monotonic()
    scene = _scene()
    try:
        untrue = _tell(scene)
    finally:
        if not keep:
            scene.stage.chapter("The end: everything goes away")
            _take_down(scene)
    if not keep:
        untrue += _left_behind(before)
    print(f"\ntold in {time.monotonic() - started:.0f} s; ", end="")
    print("all of it is true." if not untrue else "NOT TRUE:\n  " + "\n  ".join(untrue))
    if keep:
        _how_to_go_on(scene)
    return 1 if untrue else 0


def _scene() -> story.Scene:
    root = Path(tempfile.mkdtemp(prefix="openimds-demo-"))
    root.chmod(0o711)
    folder, state_dir = root / "story", root / "state"
    folder.mkdir()
    env = story_environment({"OS_CLIENT_CONFIG_FILE": str(folder / "clouds.yaml"), "OS_CLOUD": "openimds"})
    os.chdir(folder)
    # Another openimds may run here: its firewall table is the one thing that ids do not keep apart.
    others = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=False).stdout
    return story.Scene(Stage(env), folder, state_dir, "demo-" if "openimds" in others else "")


def _tell(scene: story.Scene) -> list[str]:
    stage = scene.stage
    try:
        stage.chapter("0. A cloud on one machine")
        stage.run(
            f"openimds up --detach --state-dir {quoted(str(scene.state_dir))} "
            f"--metadata-proxy haproxy --control-port {free_port(5000)} --metadata-port {free_port(8775)}"
            + (f" --namespace-prefix {scene.prefix}" if scene.prefix else "")
        )
        (scene.folder / "clouds.yaml").write_text((scene.state_dir / "etc" / "clouds.yaml").read_text())
        vm1 = story.without_router(scene)
        story.with_router(scene, vm1)
        story.through_dhcp(scene, vm1)
        tenants = story.two_tenants(scene)
        story.closing_table(scene, {"admin": vm1, **tenants})
    except StoryBrokenError as broken:
        print(f"\033[31m{broken}\033[0m", flush=True)
        _show_logs(scene)
        return [*stage.untrue, str(broken).splitlines()[0]]
    return list(stage.untrue)


def _take_down(scene: story.Scene) -> None:
    try:
        scene.stage.run(f"openimds down --purge --state-dir {quoted(str(scene.state_dir))}")
    except StoryBrokenError as broken:
        scene.stage.untrue.append(str(broken))
    subprocess.run(["rm", "-rf", str(scene.folder.parent)], check=False)


def _left_behind(before: dict[str, Sequence[str]]) -> list[str]:
    after = machine_state()
    return [f"{what} are as they were before" for what in before if before[what] != after[what]]


def _show_logs(scene: story.Scene) -> None:
    for log in sorted((scene.state_dir / "log").glob("*.log")):
        print(f"--- {log.name}\n" + "\n".join(log.read_text(errors="replace").splitlines()[-12:]))


def _how_to_go_on(scene: story.Scene) -> None:
    print(
        "The system goes on running. To use it:\n"
        f"  export OS_CLIENT_CONFIG_FILE={scene.folder}/clouds.yaml OS_CLOUD=openimds\n"
        "To take it down:\n"
        f"  openimds down --purge --state-dir {scene.state_dir}"
    )


if __name__ == "__main__":
    sys.exit(main())

"""A virtual machine as a guest: QEMU with a kernel of its own, attached by a tap device as by a hypervisor.

The initramfs of scripts/make-qemu-guest prints the guest's documents on the serial console. The CPU is emulated (TCG), so
that the host needs no /dev/kvm.
"""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.system.cloud import run
from tests.waiting import HANG_SECONDS, INSTALL_SECONDS, until

GUEST_SCRIPT = Path(__file__).parents[2] / "scripts" / "make-qemu-guest"
META_DATA, USER_DATA = "/openstack/latest/meta_data.json", "/latest/user-data"
"""The documents that the guest prints."""

TUNSETIFF = 0x400454CA
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
MEMORY_MIB = 128


@dataclass(frozen=True, slots=True)
class QemuGuest:
    process: subprocess.Popen[bytes]
    console: Path

    def document(self, path: str) -> str:
        """Waits until the guest has printed the response for `path`, and returns it."""
        return until(partial(self._printed, path), lambda: f"the guest prints {path}; it printed:\n{self._text()}")

    def is_running(self) -> bool:
        return self.process.poll() is None

    def _printed(self, path: str) -> str:
        assert self.is_running(), f"QEMU has ended:\n{self._text()}"
        _, _, rest = self._text().partition(f"=== begin {path} ===\n")
        document, end, _ = rest.partition(f"\n=== end {path} ===\n")
        return document if end else ""

    def _text(self) -> str:
        return self.console.read_text(errors="replace").replace("\r\n", "\n")


@contextmanager
def tap(name: str) -> Iterator[int]:
    """Creates a tap device and yields its file descriptor.

    The kernel removes the device with the last copy of the descriptor, also when the tests are killed.
    """
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI | IFF_VNET_HDR))
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def qemu_guest(tap_descriptor: int, mac_address: str, console: Path) -> Iterator[QemuGuest]:
    """Boots a guest with one NIC (`eth0`) on the tap. The guest ends with its parent, also when the tests are killed."""
    files = _guest_files()
    argv = [
        "setpriv", "--pdeathsig=KILL", "qemu-system-x86_64", "-machine", "pc,accel=tcg", "-m", f"{MEMORY_MIB}",
        "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-serial", f"file:{console}",
        "-kernel", str(files / "vmlinuz"), "-initrd", str(files / "initrd"),
        "-append", "console=ttyS0 quiet panic=-1",
        "-netdev", f"tap,id=nic0,fd={tap_descriptor}",
        "-device", f"virtio-net-pci,netdev=nic0,mac={mac_address},romfile=",
    ]  # fmt: skip
    console.touch()
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, pass_fds=[tap_descriptor])
    try:
        yield QemuGuest(process, console)
    finally:
        process.kill()
        process.wait(HANG_SECONDS)


def _guest_files() -> Path:
    """The folder with the kernel and the initramfs. They are built now unless `make test` has built them."""
    return Path(run([str(GUEST_SCRIPT)], timeout_seconds=INSTALL_SECONDS).stdout.strip())

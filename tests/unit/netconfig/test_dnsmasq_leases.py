from __future__ import annotations

from openimds.netconfig.dnsmasq_leases import HeldLease, parse_hosts, parse_leases, stale_leases, without_leases

TEXT = """\
1796000000 fa:16:3e:54:93:88 192.168.40.5 vm1 01:fa:16:3e:54:93:88
1796000000 FA:16:3e:54:93:89 192.168.40.6 * *
duid 00:01:00:01:2b
1796000000 1234567 2001:db8::5 vm1 00:01:00:01:aa
1796000000 T77 2001:db8::6 * 00:01:00:01:bb
179600
"""
FIRST = HeldLease("192.168.40.5", "fa:16:3e:54:93:88", "01:fa:16:3e:54:93:88")
SECOND = HeldLease("192.168.40.6", "fa:16:3e:54:93:89", None)
THIRD = HeldLease("2001:db8::5", None, "00:01:00:01:aa", "1234567")
FOURTH = HeldLease("2001:db8::6", None, "00:01:00:01:bb", "77")


def test_file_is_read() -> None:
    found = parse_leases(TEXT)
    assert found.leases == (FIRST, SECOND, THIRD, FOURTH)
    assert found.server_duid == "00:01:00:01:2b"


def test_empty_file() -> None:
    assert parse_leases("").leases == ()
    assert parse_leases("").server_duid is None


def test_stale_are_those_whose_owner_changed_or_went() -> None:
    wanted = {"192.168.40.5": "fa:16:3e:00:00:01", "192.168.40.6": "fa:16:3e:54:93:89", "2001:db8::5": "x"}
    held = (FIRST, SECOND, THIRD, FOURTH)
    assert list(stale_leases(held, wanted, {})) == [FIRST, FOURTH]
    assert list(stale_leases(held, wanted, {"2001:db8::5": "x", "192.168.40.6": "y"})) == [FIRST, FOURTH]
    assert list(stale_leases(held, wanted, {"2001:db8::5": "y"})) == [FIRST, THIRD, FOURTH]


def test_former_owners_by_the_host_file() -> None:
    text = "fa:16:3e:54:93:88,set:port-1,vm1.x,192.168.40.5\nFA:16:3e:54:93:89,vm2,[2001:db8::5]\n\n"
    assert parse_hosts(text) == {"192.168.40.5": "fa:16:3e:54:93:88", "2001:db8::5": "fa:16:3e:54:93:89"}


def test_garbage_is_no_lease() -> None:
    text = "garbage\n1 xx 192.168.40.5 a b\n1 fa:16:3e:00:00:01 nowhere a b\nduid 00:01\n1 x 2001:db8::5 a b\n1 7 10.0.0.1 a b\n"
    assert parse_leases(text).leases == ()


def test_leases_are_taken_out_of_the_text() -> None:
    kept = without_leases(TEXT, {"192.168.40.5", "2001:db8::6"})
    assert parse_leases(kept).leases == (SECOND, THIRD)
    assert parse_leases(kept).server_duid == "00:01:00:01:2b"

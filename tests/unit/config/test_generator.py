from __future__ import annotations

from pathlib import Path

import pytest

from openimds.config import ConfigError, loader
from openimds.config.generator import merge_sections, reference_page, sample_text
from openimds.config.programs import PROGRAMS, programs_of
from openimds.config.validator import validate_files

DOCS = Path(__file__).parents[3] / "docs"


def test_reference_page_is_current() -> None:
    assert (DOCS / "configuration.md").read_text() == reference_page(PROGRAMS), "run `make docs`"


@pytest.mark.parametrize("name", PROGRAMS)
def test_sample_with_every_option_set_is_valid_and_has_the_defaults(name: str, tmp_path: Path) -> None:
    text = sample_text(programs_of(name))
    path = tmp_path / "sample.conf"
    lines = (line[1:] if line.startswith("#") and not line.startswith("# ") else line for line in text.splitlines())
    path.write_text("\n".join(line for line in lines if "<" not in line and not line.endswith("= ")) + "\n")
    program = PROGRAMS[name]
    findings = validate_files([str(path)], {name: program})
    assert [
        finding.sentence for finding in findings if finding.level == "error" and "auth_url" not in finding.sentence
    ] == []


def test_sample_of_a_shared_file_has_each_option_once() -> None:
    text = sample_text(programs_of("nova.conf"))
    assert text.count("\n#state_path = ") == 1
    assert "[control_api]" in text
    assert "\n#metadata_listen_port = 8775\n" in text


def test_every_option_has_a_help_text() -> None:
    for program in PROGRAMS.values():
        for options in merge_sections([program]).values():
            assert [option.dest for option in options if not option.help] == []


def test_every_option_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every option affects the configuration of a program."""
    without_effect = {"auth_type", "local_metadata_per_cell"}
    read: set[tuple[str, str]] = set()
    original = loader.OptionValues.__getitem__

    def recording(self: loader.OptionValues, key: tuple[str, str]) -> object:
        read.add(key)
        return original(self, key)

    monkeypatch.setattr(loader.OptionValues, "__getitem__", recording)
    path = tmp_path / "all.conf"
    path.write_text(
        "[metrics]\nport = 1\n[metadata_rate_limiting]\nrate_limit_enabled = True\n"
        "[keystone_authtoken]\nauth_url = http://a/v3\nusername = u\npassword = p\n"
        "[DEFAULT]\nenabled_ssl_apis = metadata\n[wsgi]\nssl_cert_file = c\nssl_key_file = k\n"
        "[guest_requests]\nstrict_requests = True\n[metadata_haproxy]\nstrict_requests = True\n"
        "[vendordata_dynamic_auth]\nauth_url = http://a/v3\nusername = u\npassword = p\n"
    )
    for program in PROGRAMS.values():
        try:
            program.load([str(path)])
        except ConfigError as error:
            pytest.fail(str(error))
        names = {
            (section.name, option.dest)
            for section in program.sections
            for option in section.options
            if option.dest not in without_effect
        }
        assert names - read == set()
        read.clear()

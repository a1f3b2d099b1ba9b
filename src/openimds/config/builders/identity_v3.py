"""Identity v2.0 went out of OpenStack in 2018; configuration files of before still name its address."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from openimds.config.loader import OptionValues
from openimds.config.options import Section


def led_to_v3(auth_url: str) -> str:
    """`http://controller:5000/v2.0` → `http://controller:5000/v3`; others stay as they are."""
    return re.sub(r"/v2\.0/?$", "/v3", auth_url)


def addresses_led_to_v3(values: OptionValues, sections: Sequence[Section]) -> Iterator[str]:
    """A sentence for each auth_url that ends in /v2.0."""
    for section in sections:
        url: Any = values.values.get((section.name, "auth_url"))
        if url and led_to_v3(url) != url:
            place = values.where(section, "auth_url")
            yield f"{place}: identity v2.0 is no more: {led_to_v3(url)} is asked instead; write that"

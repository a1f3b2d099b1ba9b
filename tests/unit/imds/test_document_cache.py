"""Random seeds: each given once, in no process twice, and as random as what they are drawn from."""

from __future__ import annotations

import itertools
import os
import re
from base64 import b64decode
from collections import Counter

import pytest

from openimds.imds.document_cache import BATCH_SIZE, RandomSeeds
from openimds.imds.handler import Environment
from openimds.imds.request_log import new_request_id

SEED_BYTES = 512


@pytest.mark.parametrize("size", [1, 2, 3, 510, 511, 512])
def test_a_seed_is_base64_of_so_many_bytes(size: int) -> None:
    seeds = RandomSeeds(Environment().many_random_bytes)
    given = [b64decode(seeds.text(size), validate=True) for _ in range(2 * BATCH_SIZE)]
    assert {len(one) for one in given} == {size}


@pytest.mark.parametrize(("size", "bits"), [(1, (6, 2)), (2, (6, 6, 4)), (3, (6, 6, 6, 6))])
def test_every_value_of_every_letter_is_as_likely(size: int, bits: tuple[int, ...]) -> None:
    """Drawn of each of the 256 values once, every letter that may stand at its place is there equally often."""
    anywhere, at_the_end = itertools.cycle(range(256)), itertools.cycle(range(256))

    def random_bytes(count: int) -> bytes:
        """At every place of the texts, each value in turn."""
        if count == BATCH_SIZE:
            return bytes(next(at_the_end) for _ in range(count))
        return b"".join(bytes([next(anywhere)]) * (count // BATCH_SIZE) for _ in range(BATCH_SIZE))

    seeds = RandomSeeds(random_bytes)
    given = [seeds.text(size) for _ in range(256 * 8)]
    for place, count in enumerate(bits):
        letters = Counter(one[place] for one in given)
        assert len(letters) == 2**count
        assert len(set(letters.values())) == 1


def test_no_seed_is_given_twice() -> None:
    seeds = RandomSeeds(Environment().many_random_bytes)
    given = [seeds.text(SEED_BYTES) for _ in range(8 * BATCH_SIZE)]
    assert len(set(given)) == len(given)


def test_every_byte_is_about_as_frequent() -> None:
    """256 values, 4,096 expected of each; 20 standard deviations are never met by chance."""
    counts = Counter(Environment().many_random_bytes(1 << 20))
    assert len(counts) == 256
    assert all(abs(count - 4096) < 20 * 64 for count in counts.values())


def test_a_forked_child_gives_nothing_that_its_parent_gives() -> None:
    seeds = RandomSeeds(Environment().many_random_bytes)
    ours = {seeds.text(SEED_BYTES), new_request_id().encode()}
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writing, b"\n".join(seeds.text(SEED_BYTES) for _ in range(BATCH_SIZE)))
            os.write(writing, b"\n" + b"\n".join(new_request_id().encode() for _ in range(BATCH_SIZE)))
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        of_child = stream.read().split()
    os.waitpid(child, 0)
    ours |= {seeds.text(SEED_BYTES) for _ in range(2 * BATCH_SIZE)}
    ours |= {new_request_id().encode() for _ in range(2 * BATCH_SIZE)}
    assert len(of_child) == 2 * BATCH_SIZE
    assert ours.isdisjoint(of_child)


def test_request_ids_are_random_uuids():
    ids = [new_request_id() for _ in range(600)]
    assert len(set(ids)) == len(ids)
    for one in ids:
        assert re.fullmatch(r"req-[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-a[0-9a-f]{3}-[0-9a-f]{12}", one)
    for place in set(range(4, len(ids[0]))) - {12, 17, 18, 22, 23, 27}:
        assert len({one[place] for one in ids}) == 16, "every digit is drawn"

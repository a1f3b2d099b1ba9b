"""Random seeds and request ids. No two processes return the same seed, and seeds are as random as their source."""

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
def test_seed_is_base64_of_the_requested_number_of_bytes(size: int) -> None:
    seeds = RandomSeeds(Environment().many_random_bytes)
    decoded = [b64decode(seeds.text(size), validate=True) for _ in range(2 * BATCH_SIZE)]
    assert {len(each) for each in decoded} == {size}


@pytest.mark.parametrize(("size", "bits"), [(1, (6, 2)), (2, (6, 6, 4)), (3, (6, 6, 6, 6))])
def test_letters_of_a_seed_are_uniformly_distributed(size: int, bits: tuple[int, ...]) -> None:
    """If the source returns each of the 256 values once, every possible letter of a position is equally frequent."""
    batch_values, last_values = itertools.cycle(range(256)), itertools.cycle(range(256))

    def random_bytes(count: int) -> bytes:
        """Returns each value in turn, at every position of the texts."""
        if count == BATCH_SIZE:
            return bytes(next(last_values) for _ in range(count))
        return b"".join(bytes([next(batch_values)]) * (count // BATCH_SIZE) for _ in range(BATCH_SIZE))

    seeds = RandomSeeds(random_bytes)
    seeds_drawn = [seeds.text(size) for _ in range(256 * 8)]
    for position, count in enumerate(bits):
        letters = Counter(seed[position] for seed in seeds_drawn)
        assert len(letters) == 2**count
        assert len(set(letters.values())) == 1


def test_seeds_are_unique() -> None:
    seeds = RandomSeeds(Environment().many_random_bytes)
    drawn = [seeds.text(SEED_BYTES) for _ in range(8 * BATCH_SIZE)]
    assert len(set(drawn)) == len(drawn)


def test_random_bytes_are_uniformly_distributed() -> None:
    """Each of the 256 values is expected 4,096 times. A deviation of 20 standard deviations does not occur by chance."""
    counts = Counter(Environment().many_random_bytes(1 << 20))
    assert len(counts) == 256
    assert all(abs(count - 4096) < 20 * 64 for count in counts.values())


def test_forked_child_and_parent_have_no_seed_or_id_in_common() -> None:
    seeds = RandomSeeds(Environment().many_random_bytes)
    of_parent = {seeds.text(SEED_BYTES), new_request_id().encode()}
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
    of_parent |= {seeds.text(SEED_BYTES) for _ in range(2 * BATCH_SIZE)}
    of_parent |= {new_request_id().encode() for _ in range(2 * BATCH_SIZE)}
    assert len(of_child) == 2 * BATCH_SIZE
    assert of_parent.isdisjoint(of_child)


def test_request_ids_are_random_uuids():
    ids = [new_request_id() for _ in range(600)]
    assert len(set(ids)) == len(ids)
    for each in ids:
        assert re.fullmatch(r"req-[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-a[0-9a-f]{3}-[0-9a-f]{12}", each)
    for position in set(range(4, len(ids[0]))) - {12, 17, 18, 22, 23, 27}:
        assert len({each[position] for each in ids}) == 16, "every digit is random"

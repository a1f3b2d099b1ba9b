from __future__ import annotations

import asyncio

from openimds.web.guest.freshness import Freshness
from openimds.web.guest.records import Records


def test_memory_has_an_end(instances, threads) -> None:
    async def scene() -> None:
        records = Records(Freshness(instances.revision, threads), threads, max_records=2)
        questions: list[str] = []

        def question(key: str) -> str:
            questions.append(key)
            return key

        async def ask(key: str) -> str:
            return await records.ask(key, lambda: question(key))

        for key in ("a", "b", "a", "c", "a", "b"):
            assert await ask(key) == key
        assert questions == ["a", "b", "c", "b"]  # the one that was used last stays longest

    asyncio.run(scene())


def test_a_change_while_a_question_is_under_way_is_not_missed(instances, threads) -> None:
    async def scene() -> None:
        records = Records(Freshness(instances.revision, threads), threads)

        def question() -> int:
            found = instances.number
            instances.number += 1  # another process commits just then
            return int(found)

        first = await records.ask("key", question)
        assert await records.ask("key", question) == first + 1

    asyncio.run(scene())

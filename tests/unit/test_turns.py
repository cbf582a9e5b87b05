"""Work that is bounded in each turn of the loop, and shared among those who ask for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from cacheserver.turns import Pace, Places, Turns


async def _order(*asked: tuple[str, str], most: int = 1) -> list[list[str]]:
    """What was let go on in each turn of the loop, of tasks (name, client) that came in this order."""
    turns, done = Turns(most), list[str]()

    async def work(name: str, client: str) -> None:
        await turns.spend(1, client)
        done.append(name)

    tasks = [asyncio.create_task(work(name, client)) for name, client in asked]
    found = []
    while not all(task.done() for task in tasks):
        before = len(done)
        await asyncio.sleep(0)
        found.append(done[before:])
    return [each for each in found if each]


def test_no_turn_has_more_than_its_share() -> None:
    found = asyncio.run(_order(*((str(number), "one") for number in range(7)), most=2))

    assert found == [["0", "1"], ["2", "3"], ["4", "5"], ["6"]]


def test_a_client_who_asks_once_does_not_wait_for_all_of_one_who_asks_much() -> None:
    much = [(f"much {number}", "much") for number in range(50)]

    found = asyncio.run(_order(*much, ("once", "once")))

    assert found.index(["once"]) <= 3


def test_what_was_given_up_takes_no_turn() -> None:
    async def given_up() -> int:
        turns = Turns(1)
        await turns.spend(1)
        waiting = [asyncio.create_task(turns.spend(1)) for _ in range(5)]
        await asyncio.sleep(0)
        for task in waiting[:4]:
            task.cancel()
        after = 0
        while not waiting[4].done():
            await asyncio.sleep(0)
            after += 1
        return after

    assert asyncio.run(given_up()) <= 4


def test_no_more_have_a_place_than_there_are_and_each_gets_one_in_the_end() -> None:
    async def most() -> tuple[int, int]:
        places, now, seen, done = Places(3), [0], [0], [0]

        async def work(number: int) -> None:
            async with places.place(number % 2):
                now[0] += 1
                seen[0] = max(seen[0], now[0])
                for _ in range(number % 4):
                    await asyncio.sleep(0)
                now[0] -= 1
                done[0] += 1

        await asyncio.gather(*(work(number) for number in range(40)))
        return seen[0], done[0]

    assert asyncio.run(most()) == (3, 40)


def test_a_client_who_comes_once_has_the_second_place_behind_one_who_comes_much() -> None:
    async def order() -> list[str]:
        places, done = Places(1), list[str]()

        async def work(name: str, client: str) -> None:
            async with places.place(client):
                await asyncio.sleep(0)
                done.append(name)

        await asyncio.gather(*(work(f"much {number}", "much") for number in range(20)), work("once", "once"))
        return done

    assert asyncio.run(order()).index("once") <= 2


def test_who_gives_up_while_waiting_takes_no_place_along() -> None:
    async def served() -> int:
        places, done = Places(1), [0]

        async def work() -> None:
            async with places.place():
                await asyncio.sleep(0)
                done[0] += 1

        tasks = [asyncio.create_task(work()) for _ in range(30)]
        for number, task in enumerate(tasks):
            await asyncio.sleep(0)
            if number % 3:
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.wait_for(work(), 10)
        return done[0]

    assert asyncio.run(served()) >= 11


def test_a_client_has_no_more_places_than_are_for_one_and_the_rest_are_for_others() -> None:
    async def seen() -> tuple[list[str], list[str]]:
        places, inside, go = Places(4, 2), list[str](), asyncio.Event()

        async def work(client: str) -> None:
            async with places.place(client):
                inside.append(client)
                await go.wait()

        tasks = [asyncio.create_task(work(client)) for client in ("much",) * 6 + ("once", "other", "more")]
        await asyncio.sleep(0)
        before = sorted(inside)
        tasks[0].cancel()
        tasks[6].cancel()  # a place is free, and whose turn it is has as many as one may have
        for _ in range(3):
            await asyncio.sleep(0)
        after = sorted(inside)
        go.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert len(inside) == 9
        async with asyncio.timeout(5), places.place("much"), places.place("much"), places.place("a"), places.place("b"):
            pass
        return before, after

    before, after = asyncio.run(seen())
    assert before == ["much", "much", "once", "other"]
    assert after == ["more", "much", "much", "much", "once", "other"]


async def test_work_of_many_shares_a_turn_and_goes_on_in_rounds_of_the_clients() -> None:
    now, done = 0.0, []

    def work(who: str, left: list[int]) -> None:
        def some(late: Callable[[], bool]) -> bool:
            nonlocal now
            while left:
                done.append(f"{who}{left.pop()}")
                now += 1.0
                if late():
                    break
            return bool(left)

        pace.work(some, who[0])

    pace = Pace(2.0, lambda: now + 1.0)
    work("a", [2, 1, 0])
    work("aa", [1, 0])
    work("b", [0])
    assert done == ["a0", "a1"]
    await asyncio.sleep(0)
    assert done == ["a0", "a1", "a2", "b0"]
    await asyncio.sleep(0)
    assert done == ["a0", "a1", "a2", "b0", "aa0", "aa1"]

"""From other threads into a loop's queues."""

import asyncio
from threading import Thread

from components.deployment.inbox import inbox_of

THREADS, ITEMS = 4, 2000


def test_everything_arrives_in_order_from_several_threads() -> None:
    async def received() -> list[list[int]]:
        loop = asyncio.get_running_loop()
        queues = [asyncio.Queue[int]() for _ in range(THREADS)]

        def send(queue: "asyncio.Queue[int]") -> None:
            for item in range(ITEMS):
                inbox_of(loop).put(loop, queue, item)

        threads = [Thread(target=send, args=(queue,)) for queue in queues]
        for thread in threads:
            thread.start()
        found = [[await asyncio.wait_for(queue.get(), 60.0) for _ in range(ITEMS)] for queue in queues]
        for thread in threads:
            thread.join()
        return found

    assert asyncio.run(received()) == [list(range(ITEMS))] * THREADS


def test_a_closed_loop_is_left_alone() -> None:
    loop = asyncio.new_event_loop()
    queue = asyncio.Queue[int]()
    loop.close()
    inbox_of(loop).put(loop, queue, 1)
    assert queue.empty()

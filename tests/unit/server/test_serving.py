"""What the server listens on."""

import asyncio
import socket

from treadle.server.serving import bind


async def test_answers_are_sent_at_once_and_wait_for_no_acknowledgement():
    listening = bind("127.0.0.1", 0)
    accepted = asyncio.get_running_loop().create_future()

    async def note(_reader, writer):
        accepted.set_result(
            writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        )
        writer.close()

    async with await asyncio.start_server(note, sock=listening):
        _, writer = await asyncio.open_connection(*listening.getsockname())
        assert await accepted
        writer.close()
        await writer.wait_closed()

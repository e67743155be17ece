"""A command on a terminal of the sandbox: the keys that interrupt, its name, its code, a program that is not there."""

import asyncio
import os
from pathlib import Path

import pytest

from krayne_sandbox.node.executing import LocalExecution

pytestmark = pytest.mark.anyio
LIMIT = 60.0
ENV = {"PATH": os.environ["PATH"]}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def said(running: LocalExecution, word: bytes) -> None:
    seen = b""
    async for piece in running.stdout():
        seen += piece
        if word in seen:
            return
    pytest.fail(f"never {word!r}: {seen!r}")


async def test_control_c_interrupts_the_program_and_not_the_terminal(tmp_path: Path) -> None:
    # The trap waits for a line: what a session's leader says as it ends may be lost. No long sleep: a ^C that comes
    # before it has begun would be heard only at its end.
    program = "trap 'echo cau''ght; read said; exit 3' INT; echo rea''dy; while :; do sleep 0.1; done"
    async with asyncio.timeout(LIMIT):
        running = await LocalExecution.begin(["sh", "-c", program], ENV, tmp_path, tty=True)
        try:
            await said(running, b"ready")
            await running.write(b"\x03")
            await said(running, b"caught")
            await running.write(b"\n")
            assert await running.wait() == 3
        finally:
            await running.close()


@pytest.mark.parametrize("tty", [False, True])
async def test_output_that_nobody_reads_does_not_keep_it_from_closing(tmp_path: Path, *, tty: bool) -> None:
    async with asyncio.timeout(LIMIT):
        running = await LocalExecution.begin(["yes"], ENV, tmp_path, tty=tty)
        assert running._reader is not None
        while not running._reader._paused:  # type: ignore[attr-defined]
            await asyncio.sleep(0)
        await running.close()
        transport = running._reader._transport  # type: ignore[attr-defined]
        assert transport is None or transport.is_closing()


async def test_words_arrive_whole_on_a_terminal(tmp_path: Path) -> None:
    async with asyncio.timeout(LIMIT):
        running = await LocalExecution.begin(["printf", "%s|", "a b", "$HOME", "*"], ENV, tmp_path, tty=True)
        try:
            await said(running, b"a b|$HOME|*|")
            assert await running.wait() == 0
        finally:
            await running.close()


@pytest.mark.parametrize("tty", [False, True])
@pytest.mark.parametrize("program", ["no-such-program", "./here"])
async def test_a_program_that_is_not_there_is_an_error_and_no_output(tmp_path: Path, program: str, tty: bool) -> None:
    with pytest.raises(FileNotFoundError):
        await LocalExecution.begin([program], ENV, tmp_path, tty=tty)

"""What a log's end has gained since it was last read, where only the end can be had. Pure."""

KNOWN = 4096  # bytes of the last reading that are looked for in the next


def added(before: bytes, after: bytes) -> bytes:
    """The bytes of `after` that come behind all of `before`; all of them when nothing is in common any more."""
    if after.startswith(before):
        return after[len(before) :]
    known = before[-KNOWN:]
    at = after.rfind(known)
    return after if at < 0 else after[at + len(known) :]


def last_lines(text: bytes, count: int | None) -> bytes:
    """The last lines, an unfinished one included; None for all."""
    if count is None:
        return text
    lines = text.splitlines(keepends=True)
    return b"".join(lines[max(0, len(lines) - count) :])

"""Which local port belongs to which forward, for good. Pure.

The book decides; a hash of the forward's name is only the first guess, so that losing the book usually loses nothing.
The laws: an entry never changes, no two forwards share a port, and adding one never moves another.
"""

from collections.abc import Container, Mapping
from hashlib import blake2b

from krayne.errors import KrayneError

LOW, HIGH = 15000, 24999  # below Linux's and macOS's ephemeral ranges, and below Kubernetes' node ports

# Ports in the range that programs on developers' machines commonly listen on.
WELL_KNOWN = frozenset(
    {
        15672,  # RabbitMQ's console
        16010, 16020, 16030,  # HBase
        16379, 16686,  # Redis cluster bus, Jaeger
        18080, 18081,  # Spark history, Flink
        19092, 19999,  # Kafka, Netdata
        22000,  # Syncthing
        24224,  # Fluentd
    }
)  # fmt: skip


class PortBookFullError(KrayneError):
    """Every port of the range belongs to a forward."""

    kind = "port-book-full"


def first_guess(identity: str, low: int = LOW, high: int = HIGH) -> int:
    """A port of [low, high] that depends on `identity` alone, the same on every machine and run."""
    digest = blake2b(identity.encode(), digest_size=8).digest()
    return low + int.from_bytes(digest) % (high - low + 1)


def assign(
    book: Mapping[str, int], key: str, *, low: int = LOW, high: int = HIGH, unusable: Container[int] = WELL_KNOWN
) -> int:
    """The port of `key`: the book's, else the first free one from its guess upwards. Raises PortBookFullError."""
    if key in book:
        return book[key]
    taken = set(book.values())
    start, size = first_guess(key, low, high), high - low + 1
    for step in range(size):
        port = low + (start - low + step) % size
        if port not in taken and port not in unusable:
            return port
    raise PortBookFullError(
        f"all {size} local ports from {low} to {high} belong to forwards",
        hint="delete clusters you no longer use, or widen the port range",
    )

"""Which local port belongs to which forward, for good.

The book is the truth and is persisted by the caller; a hash is only the first guess for a name the book does not have.
Laws: an entry never changes, a new name never moves another, no port is given twice, equal inputs give equal ports.
"""

import math
from collections.abc import Container, Mapping
from hashlib import blake2b

from krayne.errors import KrayneError

LOW, HIGH = 15000, 24999  # below Linux's and macOS's ephemeral ranges, and below Kubernetes' node ports

# Ports in the range that programs on developers' machines hold for years: a forward there would stay `port-taken`.
WELL_KNOWN = frozenset(
    {
        15000, 15432,  # Envoy's admin page, the customary second PostgreSQL
        15672, 24224,  # RabbitMQ's console, Fluentd
        16010, 16020, 16030,  # HBase
        16379, 16443,  # Redis cluster bus, MicroK8s
        16509, 16686,  # libvirt, Jaeger
        17500, 22000,  # Dropbox LAN sync, Syncthing
        18080, 18081,  # Spark history, Flink
        19000, 19092,  # ClickHouse and Expo, Kafka
        19530, 19999,  # Milvus, Netdata
        20000, 24678, 24800,  # Usermin, Vite's reload, Barrier
    }
)  # fmt: skip


class PortBookFullError(KrayneError):
    """Every port of the range belongs to a forward."""

    kind = "port-book-full"


def first_guess(identity: str, low: int = LOW, high: int = HIGH) -> int:
    """The port a name is tried at first: the same in any process, on any day."""
    return low + _hashes(identity)[0] % (high - low + 1)


def assign(
    book: Mapping[str, int],
    key: str,
    *,
    low: int = LOW,
    high: int = HIGH,
    unusable: Container[int] = (),
    salt: str = "",
) -> int:
    """The port of `key` ("world/namespace/cluster/service"): the book's entry, else a free one from its guess on.

    `unusable` adds to `WELL_KNOWN`; `salt` (the user's uid) keeps two users with equal names apart on one machine.
    Raises PortBookFullError.
    """
    known = book.get(key)
    if known is not None:
        return known
    taken = set(book.values())
    size = high - low + 1
    start, step = _hashes(f"{salt}/{key}" if salt else key)
    # Double hashing: names that meet at one port part at the next; a step coprime to the size visits every port.
    stride = 1 + step % max(1, size - 1)
    while math.gcd(stride, size) != 1:
        stride += 1
    for turn in range(size):
        port = low + (start + turn * stride) % size
        if port not in taken and port not in WELL_KNOWN and port not in unusable:
            return port
    raise PortBookFullError(
        f"every local port from {low} to {high} belongs to a forward already, so {key} gets none",
        hint="delete clusters you no longer use, or widen the port range in the settings",
    )


def _hashes(identity: str) -> tuple[int, int]:
    digest = blake2b(identity.encode("utf-8", "surrogatepass"), digest_size=16).digest()
    return int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:], "big")

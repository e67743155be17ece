"""Dials one tunnel: the SPDY upgrade, the WebSocket tunnel, whichever of them this server takes.

Both carry the same session. The remembered transport goes first; an answer only a proxy or an old server would give, or
a slow one on first contact, brings the other in. Raises KrayneErrors that say what a person must do.
"""

import os
import ssl
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import anyio
import msgspec

from kraynd.core import websocket
from kraynd.core.http1 import Refusal, read_refusal
from kraynd.kube.transport import DialLimits, Endpoint, Upgraded, place_of, send_upgrade
from krayne.errors import ForbiddenError, KrayneError, KubeConnectionError, LoginNeededError, ProtocolError

SPDY: Final = "spdy"
WEBSOCKET: Final = "websocket"
STREAM_PROTOCOL: Final = "portforward.k8s.io"
HEDGE: Final = 0.3  # seconds the first transport has, where neither is known to work
BODY_SECONDS: Final = 2.0  # for the rest of a refusal

# The telling order of two different refusals: what names the cause best goes to the user.
_RANKS = {"pod-gone": 4, "login-needed": 3, "forbidden": 2, "rejected": 1}


class Link(NamedTuple):
    """A tunnel's connection. `nonce` is of the handshake, for nobody else."""

    kind: str
    upgraded: Upgraded


class _Failure(NamedTuple):
    error: KrayneError
    try_other: bool


class _FailedError(Exception):
    def __init__(self, failure: _Failure) -> None:
        super().__init__(str(failure.error))
        self.failure = failure


class DialOrder(msgspec.Struct, frozen=True):
    """Which transports to try. `known`: the first one worked here before, so it is not raced."""

    kinds: tuple[str, ...] = (SPDY, WEBSOCKET)
    known: bool = False


def dial_order(setting: str, remembered: str | None) -> DialOrder:
    """From the user's setting ("auto" or one of the two) and what memory says of this server."""
    if setting in {SPDY, WEBSOCKET}:
        return DialOrder((setting,), known=True)
    if remembered == WEBSOCKET:
        return DialOrder((WEBSOCKET, SPDY), known=True)
    return DialOrder(known=remembered == SPDY)


async def dial(endpoint: Endpoint, path: str, order: DialOrder, limits: DialLimits) -> Link:
    """One tunnel to `path`, by the first transport that works."""
    won: list[Link] = []
    failed: list[_Failure] = []
    try:
        await _race(endpoint, path, order, limits, won, failed)
    except BaseException:
        for link in won:
            link.upgraded.transport.abort()
        raise
    for late in won[1:]:
        late.upgraded.transport.abort()
    if not won:
        raise _telling(failed)
    return won[0]


async def _race(
    endpoint: Endpoint, path: str, order: DialOrder, limits: DialLimits, won: list[Link], failed: list[_Failure]
) -> None:
    async with anyio.create_task_group() as group:

        async def one(kind: str, ended: anyio.Event) -> None:
            try:
                won.append(Link(kind, await _attempt(endpoint, path, kind, limits)))
            except _FailedError as error:
                failed.append(error.failure)
            else:
                group.cancel_scope.cancel()
            finally:
                ended.set()

        for kind in order.kinds:
            ended = anyio.Event()
            group.start_soon(one, kind, ended)
            with anyio.move_on_after(float("inf") if order.known else HEDGE):
                await ended.wait()
            if any(not failure.try_other for failure in failed):
                break


def _telling(failed: Sequence[_Failure]) -> KrayneError:
    return max((failure.error for failure in failed), key=lambda error: (_RANKS.get(error.kind, 0), len(error.message)))


async def _attempt(endpoint: Endpoint, path: str, kind: str, limits: DialLimits) -> Upgraded:
    """One transport, with one refresh of the credentials if they are refused."""
    answer = await _request(endpoint, path, kind, limits, refresh=False)
    if isinstance(answer, Refusal) and answer.status == 401:
        answer = await _request(endpoint, path, kind, limits, refresh=True)
    if isinstance(answer, Refusal):
        raise _FailedError(explain(answer))
    return answer


async def _request(
    endpoint: Endpoint, path: str, kind: str, limits: DialLimits, *, refresh: bool
) -> Upgraded | Refusal:
    nonce = os.urandom(16)
    method, wanted = ("POST", _spdy_headers()) if kind == SPDY else ("GET", _websocket_headers(nonce))
    try:
        headers = await endpoint.headers(refresh=refresh)
        upgraded = await send_upgrade(endpoint, method, path, {**headers, **wanted}, limits)
    except KrayneError as error:
        raise _FailedError(_protocol_failure(error)) from error
    except (OSError, TimeoutError) as error:
        raise _FailedError(
            _Failure(unreachable(endpoint, error), try_other=isinstance(error, ConnectionError))
        ) from error
    try:
        if upgraded.head.status != 101:
            return await _refusal(upgraded)
        _check(kind, upgraded, nonce)
    except ProtocolError as error:
        upgraded.transport.abort()
        raise _FailedError(_protocol_failure(error)) from error
    except BaseException:
        upgraded.transport.abort()
        raise
    return upgraded


async def _refusal(upgraded: Upgraded) -> Refusal:
    body = b""
    try:
        with anyio.move_on_after(BODY_SECONDS):
            body = await upgraded.greeting.body(upgraded.head)
    except OSError:
        body = bytes(upgraded.greeting.data)  # what came before the connection broke
    upgraded.transport.abort()
    return read_refusal(upgraded.head, body)


def _spdy_headers() -> dict[str, str]:
    return {
        "Connection": "Upgrade",
        "Upgrade": "SPDY/3.1",
        "X-Stream-Protocol-Version": STREAM_PROTOCOL,
        "Content-Length": "0",
    }


def _websocket_headers(nonce: bytes) -> dict[str, str]:
    return websocket.handshake_headers(nonce, websocket.TUNNEL_PROTOCOL)


def _check(kind: str, upgraded: Upgraded, nonce: bytes) -> None:
    headers = upgraded.head.headers
    if kind == WEBSOCKET:
        websocket.check_handshake(headers, nonce, websocket.TUNNEL_PROTOCOL)
    elif headers.get("upgrade", "").lower() != "spdy/3.1":
        raise ProtocolError("the server upgraded to something other than SPDY/3.1")


def _protocol_failure(error: KrayneError) -> _Failure:
    if not isinstance(error, ProtocolError):
        return _Failure(error, try_other=False)
    said = KubeConnectionError(f"the API server cannot be tunnelled through: {error.message}", retryable=True)
    return _Failure(said, try_other=True)


def unreachable(endpoint: Endpoint, error: Exception) -> KrayneError:
    """What an error of the network or of TLS means to a person."""
    place = place_of(endpoint.proxy or endpoint.server)
    where = f"{'the proxy' if endpoint.proxy else 'the API server'} at {place.authority}"
    if isinstance(error, ssl.SSLCertVerificationError):
        return KubeConnectionError(
            f"the certificate of {where} is not trusted: {error.verify_message}",
            hint="check certificate-authority and tls-server-name in the kubeconfig",
        )
    if isinstance(error, TimeoutError):
        return KrayneError(f"{where} did not answer in time", kind="dial-timeout", retryable=True)
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
    return KubeConnectionError(f"{where} cannot be reached: {reason}", retryable=True)


def explain(refusal: Refusal) -> _Failure:
    """What a refused upgrade means, and whether the other transport could fare better."""
    status, said = refusal.status, refusal.message
    if status == 401:
        error: KrayneError = LoginNeededError(
            f"the API server refuses the credentials: {said}", hint="log in again, as for kubectl"
        )
        return _Failure(error, try_other=False)
    if status == 403:
        hint = "the role needs the verb create (and get, for WebSocket) on pods/portforward"
        return _Failure(ForbiddenError(f"port-forward is not allowed: {said}", hint=hint), try_other=True)
    if status == 404 and refusal.spoken:
        return _Failure(KrayneError(f"the pod is gone: {said}", kind="pod-gone"), try_other=False)
    if status in {429, 503} and refusal.retry_after is not None:
        data = {"retry_after": refusal.retry_after}
        busy = KubeConnectionError(f"the API server asks to wait: {said}", retryable=True, data=data)
        return _Failure(busy, try_other=False)
    rest = KubeConnectionError(f"the API server did not open a tunnel: {status} {said}", retryable=True)
    return _Failure(rest, try_other=True)


def random_keys(size: int = 4096) -> Callable[[], bytes]:
    """Four fresh random bytes a call, drawn in larger lots: a mask key for each frame."""
    store = memoryview(b"")

    def key() -> bytes:
        nonlocal store
        if len(store) < 4:
            store = memoryview(os.urandom(size))
        drawn, store = bytes(store[:4]), store[4:]
        return drawn

    return key

"""WebSocket masking at memory speed: aiohttp's C helper, and plain Python where it was not built."""

from importlib import import_module

from kraynd.core.websocket import Mask, mask_plainly


def _fastest() -> Mask:
    try:
        found: Mask = getattr(import_module("aiohttp._websocket.mask"), "_websocket_mask_cython")  # noqa: B009
    except (ImportError, AttributeError):  # a private place, and not built on every platform
        return mask_plainly
    probe = bytearray(range(19))
    found(b"\x01\x02\x03\x04", probe)
    expected = bytearray(range(19))
    mask_plainly(b"\x01\x02\x03\x04", expected)
    return found if probe == expected else mask_plainly


mask: Mask = _fastest()

"""How a forwarded connection ended, read from the node's error text. Pure words.

The texts are those of containerd, CRI-O and older kubelets. What is not recognised is a reset: the safe reading, since
only "refused" and "pod-gone" claim that the application saw nothing.
"""

from typing import Final, Literal

EndKind = Literal["eof", "refused", "reset", "pod-gone", "tunnel-lost"]

TEXT_LIMIT: Final = 4096  # bytes kept of an error text
_REFUSED = ("failed to connect to localhost", "connection refused", "failed to dial")
_GONE = ("failed to find sandbox", "could not find sandbox", "is not running", "is closed", "no such container")


def read_verdict(text: str, *, received: int) -> EndKind:
    """The kind of end an error text means, after `received` bytes from the pod."""
    low = text.lower()
    if received:
        return "reset"
    if any(words in low for words in _REFUSED):
        return "refused"
    if any(words in low for words in _GONE) and ("sandbox" in low or "namespace" in low or "container" in low):
        return "pod-gone"
    return "reset"


def short_text(text: str, port: int) -> str:
    """One line for a person: the cause, without the node's wrapping around it."""
    line = " ".join(text.split())
    if "refused" in line.lower():
        return f"nothing listens on port {port} in the pod (connection refused)"
    return ": ".join(line.split(": ")[-2:])[:300]

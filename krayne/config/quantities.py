"""Kubernetes quantities: `500m`, `4Gi`, `1.5`, `2e3`, as exact decimals.

Owns the grammar and nothing else. Never rounds: the caller decides what a fraction means.
Invariant: a text accepted here is accepted by the Kubernetes API with the same value.
"""

import re
from decimal import Decimal

# k8s.io/apimachinery resource.Quantity: sign, digits, then a binary suffix, a decimal suffix, or an exponent.
_GRAMMAR = re.compile(
    r"(?P<number>[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))"
    r"(?:(?P<suffix>[KMGTPE]i|[numkMGTPE])|[eE](?P<exponent>[+-]?[0-9]{1,2}))?"
)
_SUFFIXES = {
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    "k": Decimal(10**3),
    "M": Decimal(10**6),
    "G": Decimal(10**9),
    "T": Decimal(10**12),
    "P": Decimal(10**15),
    "E": Decimal(10**18),
    "Ki": Decimal(2**10),
    "Mi": Decimal(2**20),
    "Gi": Decimal(2**30),
    "Ti": Decimal(2**40),
    "Pi": Decimal(2**50),
    "Ei": Decimal(2**60),
}
# Longer texts carry no more meaning, and decimal's 28 digits of precision then hold every product exactly.
_LENGTH_LIMIT = 20
# Kubernetes keeps quantities in an int64 and silently caps what is larger.
_LARGEST = Decimal(2**63 - 1)


def parse_quantity(text: str) -> Decimal:
    """The exact value of a Kubernetes quantity, in CPUs or bytes; ValueError says what is wrong with it."""
    match = _GRAMMAR.fullmatch(text) if len(text) <= _LENGTH_LIMIT else None
    if match is None:
        raise ValueError("is not a Kubernetes quantity")
    value = Decimal(match["number"])
    if match["suffix"]:
        value *= _SUFFIXES[match["suffix"]]
    elif match["exponent"]:
        value = value.scaleb(int(match["exponent"]))
    if abs(value) > _LARGEST:
        raise ValueError("is larger than Kubernetes can count")
    return value

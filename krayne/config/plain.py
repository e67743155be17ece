"""A model as the plain data a person would have written: defaults left out, field order kept.

Two equal models give equal data, whatever was set explicitly, so hashes and files built from it are stable.
"""

from typing import Any

from pydantic import BaseModel


def to_plain(value: Any) -> Any:
    """Dicts, lists and scalars; fields that hold their default are left out of models, but not nulls of free JSON."""
    if isinstance(value, BaseModel):
        fields = type(value).model_fields
        held = {name: getattr(value, name) for name in fields}
        return {
            name: to_plain(one)
            for name, one in held.items()
            if one != fields[name].get_default(call_default_factory=True)
        }
    if isinstance(value, dict):
        return {key: to_plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(inner) for inner in value]
    return value

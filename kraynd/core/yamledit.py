"""Change one value of a YAML text and leave every other byte, comments included, as the user wrote it.

Works on the text and the parser's positions; never reads a file. What it cannot do without rewriting it refuses, and
the caller rewrites the file whole.
"""

import yaml


class CannotEditError(Exception):
    """The text's shape does not allow a change in place."""


def set_value(text: str, path: tuple[str | int, ...], value: str | int) -> str:
    """`text` with the scalar at `path` set to `value`; missing keys are inserted beside their siblings.

    A list index must exist. Raises CannotEditError, and yaml.YAMLError for a text that does not parse.
    """
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if not isinstance(root, yaml.MappingNode):
        raise CannotEditError("the document is not a mapping")
    node: yaml.Node = root
    for depth, step in enumerate(path):
        found = _child(node, step)
        if found is None:
            return _insert(text, node, path[depth:], value)
        node = found
    if not isinstance(node, yaml.ScalarNode):
        raise CannotEditError("the value is not a scalar")
    return text[: node.start_mark.index] + _scalar(value) + text[node.end_mark.index :]


def _child(node: yaml.Node, step: str | int) -> yaml.Node | None:
    if isinstance(node, yaml.SequenceNode) and isinstance(step, int):
        if step >= len(node.value):
            raise CannotEditError("no such list entry")
        found: yaml.Node = node.value[step]
        return found
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == step:
                return value  # type: ignore[no-any-return]
        return None
    raise CannotEditError("the path leads through a scalar")


def _insert(text: str, node: yaml.Node, rest: tuple[str | int, ...], value: str | int) -> str:
    if not isinstance(node, yaml.MappingNode) or not node.value or not isinstance(rest[-1], str):
        raise CannotEditError("nothing to insert beside")
    if len(rest) != 1:
        raise CannotEditError("a whole section is missing")
    line = f"{rest[0]}: {_scalar(value)}"
    first = node.value[0][0].start_mark
    if node.flow_style:
        return f"{text[: first.index]}{line}, {text[first.index :]}"
    # Before the first key, which also holds for a mapping that starts on its list dash.
    return f"{text[: first.index]}{line}\n{' ' * first.column}{text[first.index :]}"


def _scalar(value: str | int) -> str:
    return str(value) if isinstance(value, int) else f'"{value}"'

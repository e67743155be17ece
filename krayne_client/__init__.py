"""The thin client: the standard library alone on its way to `krayne ls`."""

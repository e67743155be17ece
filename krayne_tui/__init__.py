"""`krayne tui`: the clusters at a glance, on a terminal screen. On top of the SDK; needs the extra `tui`."""

"""The daemon. Start reading at `daemon.py`, then `core/plan.py`, then `forwards.py`."""

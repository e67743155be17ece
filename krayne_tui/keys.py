"""The screen's keys: what is pressed, what it does, and the two lines at the bottom that say so."""

from textual.binding import Binding

KEYS = (
    ("c", "create", "create", "declare a new cluster in a form"),
    ("s", "scale", "scale", "change a worker group's count"),
    ("p", "pause", "pause/resume", "suspend a cluster, or let a suspended one run again"),
    ("o", "browse", "open", "open a service in the browser"),
    ("t", "ssh", "ssh", "a shell in the cluster; this screen comes back after it"),
    ("l", "logs", "logs", "follow the head's log"),
    ("d", "delete", "delete", "delete the cluster; its name is asked for"),
    ("n", "namespace", "namespace", "show one namespace, or all"),
    ("slash", "filter", "filter", "show only clusters with these words; Esc ends it"),
    ("r", "refresh", "refresh", "ask again for the details shown, connection counts among them"),
    ("question_mark", "help", "help", "this"),
    ("q", "quit", "quit", "leave; clusters and ports stay"),
)
SPELLED = {"slash": "/", "question_mark": "?"}
BINDINGS = [Binding(key, action, label) for key, action, label, _ in KEYS]


def bar() -> str:
    """Every key, on two lines."""
    said = [f"{SPELLED.get(key, key)} {label}" for key, _, label, _ in KEYS]
    half = len(said) // 2
    return "\n".join("   ".join(part) for part in (said[:half], said[half:]))


def help_text() -> str:
    """Every key with what it does."""
    return "\n".join(f"{SPELLED.get(key, key)}  {label:<13} {says}" for key, _, label, says in KEYS)

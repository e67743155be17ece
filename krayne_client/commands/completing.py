"""`krayne completion`: a script for the shell. Commands and options are in it; names are asked of the daemon.

The names go the way of `krayne ls` (`krayne __complete KIND`), so that a Tab costs about a start of Python.
"""

import argparse
import sys
from typing import Any

from krayne_client.commands.entering import LOGGED
from krayne_client.grammar import FORMATS, Grammar

SHELLS = ("bash", "zsh", "fish")
SERVICED = ("open", "tun-open", "tun-close")  # commands whose further words are services
CONDITIONS = ("ready", "deleted", "suspended", "service=ssh", "service=notebook", "service=code-server")


def add(grammar: Grammar) -> None:
    """What can be typed."""
    typed = grammar.verb(
        "completion", completion, "print what makes your shell complete krayne's words",
        "completion bash    (in ~/.bashrc: source <(krayne completion bash))",
        "completion zsh     (in ~/.zshrc: source <(krayne completion zsh))",
        "completion fish    (krayne completion fish > ~/.config/fish/completions/krayne.fish)",
    )  # fmt: skip
    typed.usage = f"krayne completion {{{','.join(SHELLS)}}}"
    typed.add_argument("shell", choices=SHELLS, help="which shell")


def completion(options: argparse.Namespace) -> int:
    """`krayne completion`."""
    from krayne_client.cli import parser

    verbs = _verbs(parser())
    sys.stdout.write(_fish(verbs) if options.shell == "fish" else _bash(verbs, options.shell))
    return 0


class _Verb:
    """What is completed of one command."""

    def __init__(self, command: argparse.ArgumentParser) -> None:
        actions = command._actions  # noqa: SLF001 - argparse has no other way to ask
        self.options = sorted(word for action in actions for word in action.option_strings)
        self.named = any(action.dest == "name" and not action.option_strings for action in actions)
        self.choices = [
            str(choice) for action in actions if not action.option_strings for choice in action.choices or ()
        ]


def _verbs(root: argparse.ArgumentParser) -> dict[str, _Verb]:
    found: Any = next(one for one in root._actions if isinstance(one, argparse._SubParsersAction))  # noqa: SLF001
    return {name: _Verb(command) for name, command in found.choices.items()}


_BASH = """\
_krayne() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} verb= name= at=1 scope= words=
    while [ $at -lt $COMP_CWORD ]; do
        case ${COMP_WORDS[at]} in
            -n|--namespace) scope="-n ${COMP_WORDS[at+1]}"; at=$((at+1)) ;;
            -o|--output) at=$((at+1)) ;;
            -*) ;;
            *) if [ -z "$verb" ]; then verb=${COMP_WORDS[at]}; elif [ -z "$name" ]; then name=${COMP_WORDS[at]}; fi ;;
        esac
        at=$((at+1))
    done
    case $prev in
        -n|--namespace) words=$(krayne __complete namespaces 2>/dev/null) ;;
        -o|--output) words="@FORMATS@" ;;
        --for) words="@CONDITIONS@" ;;
        --group) words=$(krayne __complete groups.$name $scope 2>/dev/null) ;;
        --service) words="@LOGGED@" ;;
        -f|--file|--kubeconfig) COMPREPLY=($(compgen -f -- "$cur")); return ;;
    esac
    if [ -z "$words" ]; then
        case $cur in
            -*) case $verb in
@OPTIONS@
                esac ;;
            *) case $verb in
                "") words="@VERBS@" ;;
@CHOICES@
                @SERVICED@)
                    if [ -z "$name" ]; then words=$(krayne __complete clusters $scope 2>/dev/null)
                    else words=$(krayne __complete services.$name $scope 2>/dev/null); fi ;;
                @NAMED@) [ -z "$name" ] && words=$(krayne __complete clusters $scope 2>/dev/null) ;;
                esac ;;
        esac
    fi
    COMPREPLY=($(compgen -W "$words" -- "$cur"))
}
"""


def _bash(verbs: dict[str, _Verb], shell: str) -> str:
    options = [f'                {name}) words="{" ".join(one.options)}" ;;' for name, one in verbs.items()]
    chosen = {name: one.choices for name, one in verbs.items() if one.choices}
    choices = [
        f'                {name}) [ -z "$name" ] && words="{" ".join(found)}" ;;' for name, found in chosen.items()
    ]
    named = [name for name, one in verbs.items() if one.named and name not in SERVICED]
    parts = {
        "FORMATS": " ".join(FORMATS),
        "CONDITIONS": " ".join(CONDITIONS),
        "LOGGED": " ".join(LOGGED),
        "VERBS": " ".join(verbs),
        "OPTIONS": "\n".join(options),
        "CHOICES": "\n".join(choices),
        "SERVICED": "|".join(SERVICED),
        "NAMED": "|".join(named),
    }
    script = _BASH
    for mark, text in parts.items():
        script = script.replace(f"@{mark}@", text)
    before = "autoload -U +X bashcompinit && bashcompinit\n" if shell == "zsh" else ""
    return f"{before}{script}complete -F _krayne krayne\n"


def _fish(verbs: dict[str, _Verb]) -> str:
    lines = [
        "complete -c krayne -f",
        f"complete -c krayne -n __fish_use_subcommand -a '{' '.join(verbs)}'",
        "complete -c krayne -s n -l namespace -x -a '(krayne __complete namespaces 2>/dev/null)'",
        f"complete -c krayne -s o -l output -x -a '{' '.join(FORMATS)}'",
    ]
    for name, one in verbs.items():
        seen = f"complete -c krayne -n '__fish_seen_subcommand_from {name}'"
        if one.named:
            lines.append(f"{seen} -a '(krayne __complete clusters 2>/dev/null)'")
        if one.choices:
            lines.append(f"{seen} -a '{' '.join(one.choices)}'")
        lines += [f"{seen} -l {word[2:]}{_fish_values(word)}" for word in one.options if word.startswith("--")]
    return "\n".join(lines) + "\n"


def _fish_values(option: str) -> str:
    """What may stand behind an option, where that is known."""
    cluster = "(commandline -opc)[3]"  # krayne VERB NAME
    values = {
        "--for": " ".join(CONDITIONS),
        "--group": f"(krayne __complete groups.{cluster} 2>/dev/null)",
        "--service": " ".join(LOGGED),
    }
    return f" -x -a '{values[option]}'" if option in values else ""

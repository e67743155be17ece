"""What a person reads: the file, the line, the field, a plain sentence, and the name they meant."""

import pytest

from krayne.config import ConfigValidationError, InvalidConfigError, Problem, parse_cluster_yaml, problems_of
from krayne.config.problems import PROBLEM_LIMIT, clipped, dotted
from krayne.errors import error_for


def refusal(text: str) -> InvalidConfigError:
    with pytest.raises(InvalidConfigError) as caught:
        parse_cluster_yaml(text.encode(), source="c.yaml")
    return caught.value


GROUP = "name: a\nworker_groups:\n- name: ok\n- "
SENTENCES = [
    ("namespace: a", "1:1: name is required"),
    ("name: no", '1:7: name must be text: no means false in YAML, write "no" in quotes'),
    ("name: 007.5", '1:7: name must be text: 007.5 is a number, write "007.5" in quotes'),
    ("name: [a]", "1:7: name must be text, not a list"),
    ("name:", "1:6: name has no value: give it one, or remove the line"),
    ("name: Demo", '1:7: name must be lower-case letters, digits and -, starting with a letter, not "Demo"'),
    ("name: " + "a" * 54, "1:7: name must be at most 53 characters, and has 54"),
    ("name: a\nname_space: b", "2:1: name_space is not a known field; did you mean namespace?"),
    ("name: a\nxyzzy: b", "2:1: xyzzy is not a known field"),
    ("name: a\nhead: 5", "2:7: head must be a mapping of fields, not 5"),
    ("name: a\nservices:", "2:10: services has no value: give it one, or remove the line"),
    ("name: a\nhead:\n  gpus: 1", "3:3: head.gpus is not a field here: GPUs belong on workers"),
    ("name: a\nhead: {cpu: 1}", "2:8: head.cpu is not a known field; did you mean cpus?"),
    ("name: a\nhead: {cpus: true}", '2:14: head.cpus must be text: true means true in YAML, write "true" in quotes'),
    ("name: a\nhead: {cpus: lots}", '2:14: head.cpus is not a Kubernetes quantity: "lots" (write it like 4 or 500m)'),
    ("name: a\nhead: {cpus: 0}", '2:14: head.cpus must be more than zero, not "0"'),
    ("name: a\nhead: {cpus: 1.5, runs_tasks: true}", "2:14: head.cpus must be a whole number when runs_tasks is true"),
    ("name: a\nhead: {memory: 4}", '2:16: head.memory is less than 1Mi: "4" counts bytes (write a unit, like 4Gi)'),
    ("name: a\nhead: {runs_tasks: 1}", "2:20: head.runs_tasks must be true or false, not 1"),
    ("name: a\nhead: {image: ''}", "2:15: head.image must not be empty"),
    (
        "name: a\nworker_groups: {name: b}",
        "2:16: worker_groups must be a list, each entry on a line that starts with -",
    ),
    (GROUP + "max_replica: 1", "4:3: worker_groups[1].max_replica is not a known field; did you mean max_replicas?"),
    (GROUP + "replicas: -1", "4:13: worker_groups[1].replicas must be 0 or more, not -1"),
    (GROUP + "replicas: 9999999999", "worker_groups[1].replicas must be at most 2147483647, not 9999999999"),
    (GROUP + "replicas: many", '4:13: worker_groups[1].replicas must be a whole number, not "many"'),
    (GROUP + "replicas: yes", "4:13: worker_groups[1].replicas must be a whole number, not true"),
    (
        GROUP + "min_replicas: 3",
        "4:17: worker_groups[1].replicas must be at least min_replicas: 0 is less than 3",
    ),
    (GROUP + "name: ok", '4:9: worker_groups[1].name is used twice: "ok"'),
    (GROUP + "name: headgroup", "4:9: worker_groups[1].name must not be headgroup"),
    (
        "name: a\nautoscaler: {upscaling_mode: agressive}",
        'upscaling_mode must be Default, Aggressive or Conservative, not "agressive" (did you mean Aggressive?)',
    ),
    ("apiVersion: ray.io/v1\nname: a", "1:1: apiVersion is not a field here: this is a Kubernetes manifest"),
    ("name: a\nhead: {pod: {labels: {ray.io/x: b}}}", "2:33: head.pod.labels.ray.io/x belongs to KubeRay"),
    ("name: a\nhead: {pod: {volumes: [{emptyDir: {}}]}}", "2:24: head.pod.volumes[0] needs a name, as text"),
    ("name: a\nhead: {pod: {env: [{name: A, valu: b}]}}", "2:30: head.pod.env[0].valu is not a known field; did you"),
    ("[a]", "1:1: a cluster file holds fields, such as name: demo, not a list"),
    ("demo", '1:1: a cluster file holds fields, such as name: demo, not "demo"'),
]


@pytest.mark.parametrize(("text", "says"), SENTENCES, ids=[says.split(": ", 1)[-1][:60] for _, says in SENTENCES])
def test_sentence(text: str, says: str) -> None:
    error = refusal(text)
    assert says in error.message
    assert error.message.startswith("c.yaml:")
    assert "\n" not in error.message
    assert "pydantic" not in error.message
    assert "Input should" not in error.message


def test_an_empty_file_says_what_is_needed() -> None:
    assert refusal("").message == "c.yaml: the file is empty: a cluster needs at least a name"


def test_all_problems_are_listed_in_the_order_of_the_file() -> None:
    error = refusal("nam: a\nhead:\n  cpu: 1\n  memory: x\nworker_groups:\n- replicas: no\n")
    assert [(problem.line, problem.field) for problem in error.problems] == [
        (1, "nam"),
        (1, "name"),
        (3, "head.cpu"),
        (4, "head.memory"),
        (6, "worker_groups[0].replicas"),
    ]
    assert error.message.splitlines()[0] == "c.yaml:1:1: nam is not a known field; did you mean name?"
    assert len(error.message.splitlines()) == 5
    assert error.hint == "fields: name, namespace, head, worker_groups, services, autoscaler"


def test_a_flood_of_mistakes_stays_readable() -> None:
    error = refusal("name: a\n" + "".join(f"k{number}: 1\n" for number in range(9000)))
    assert len(error.problems) == PROBLEM_LIMIT
    assert error.message.endswith("and more problems")


def test_problems_survive_the_control_socket() -> None:
    error = refusal("name: a\nhead:\n  cpu: 1\n")
    again = error_for(error.kind, error.message, hint=error.hint, data=error.data)
    assert isinstance(again, ConfigValidationError)
    assert problems_of(again) == error.problems
    assert error.problems == (
        Problem(
            "c.yaml",
            3,
            "head.cpu",
            "head.cpu is not a known field; did you mean cpus?",
            column=3,
            hint="fields of head: cpus, memory, image, runs_tasks, pod",
        ),
    )


def test_text_from_the_file_cannot_disturb_a_terminal() -> None:
    message = refusal('name: "\\e[31mred\\nline"').message
    assert "\x1b" not in message
    assert "\n" not in message
    assert clipped("x" * 100) == "x" * 57 + "..."


def test_dotted() -> None:
    assert dotted(("worker_groups", 1, "pod", "env", 0)) == "worker_groups[1].pod.env[0]"

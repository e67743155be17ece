"""`pod`: what goes where, and what is refused before Kubernetes sees it."""

from typing import Any

import pytest
from pydantic import ValidationError

from krayne.config import (
    ClusterConfig,
    ConfigValidationError,
    HeadNodeConfig,
    PodFragment,
    WorkerGroupConfig,
    parse_cluster_yaml,
)

FULL: dict[str, Any] = {
    "labels": {"team": "ml", "example.com/tier": ""},
    "annotations": {"example.com/note": "any text: at all"},
    "env": [{"name": "A", "value": ""}, {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}],
    "envFrom": [{"prefix": "P_", "secretRef": {"name": "s"}}],
    "volumeMounts": [{"name": "data", "mountPath": "/data", "readOnly": True, "subPath": "x"}],
    "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "c"}}, {"name": "scratch", "emptyDir": {}}],
    "initContainers": [{"name": "fetch", "image": "busybox", "command": ["true"]}],
    "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
    "nodeSelector": {"ray.io/pool": "big", "zone": "a"},
    "affinity": {"nodeAffinity": {"weight": 1, "nothing": None}},
    "topologySpreadConstraints": [{"maxSkew": 1}],
    "imagePullSecrets": [{"name": "my.registry"}],
    "serviceAccountName": "runner",
    "priorityClassName": "high",
    "runtimeClassName": "nvidia",
    "schedulerName": "volcano",
    "securityContext": {"fsGroup": 100},
    "hostAliases": [{"ip": "10.0.0.1", "hostnames": ["db"]}],
    "dnsPolicy": "None",
    "dnsConfig": {"nameservers": ["1.1.1.1"]},
    "terminationGracePeriodSeconds": 0,
}
IN_CONTAINER = {"env", "envFrom", "volumeMounts"}
IN_METADATA = {"labels", "annotations"}


def test_it_is_empty_by_default() -> None:
    for one in (HeadNodeConfig(), WorkerGroupConfig()):
        assert one.pod == PodFragment()
        assert one.pod.container_fields() == {}
        assert one.pod.pod_fields() == {}


def test_every_field_reaches_its_place_unchanged() -> None:
    assert set(FULL) == set(PodFragment.model_fields)
    pod = PodFragment.model_validate(FULL)
    assert pod.container_fields() == {name: FULL[name] for name in FULL if name in IN_CONTAINER}
    assert pod.pod_fields() == {name: FULL[name] for name in FULL if name not in IN_CONTAINER | IN_METADATA}
    assert (pod.labels, pod.annotations) == (FULL["labels"], FULL["annotations"])


def test_what_it_gives_out_is_the_callers_own() -> None:
    pod = PodFragment.model_validate(FULL)
    pod.pod_fields()["volumes"].clear()
    pod.container_fields()["env"].clear()
    assert pod == PodFragment.model_validate(FULL)


def test_equal_fragments_give_equal_fields_whatever_was_written() -> None:
    terse = PodFragment.model_validate({"env": [{"name": "A", "value": "1"}]})
    wordy = PodFragment.model_validate({"env": [{"name": "A", "value": "1", "valueFrom": None}], "volumes": []})
    assert terse == wordy
    assert terse.container_fields() == wordy.container_fields() == {"env": [{"name": "A", "value": "1"}]}


def test_a_fragment_does_not_show_its_values() -> None:
    pod = PodFragment.model_validate({"env": [{"name": "TOKEN", "value": "hunter2"}]})
    assert "hunter2" not in repr(ClusterConfig(name="a", head=HeadNodeConfig(pod=pod)))
    assert "env" in repr(pod)


def test_a_dumped_config_validates_again() -> None:
    config = ClusterConfig(name="a", head=HeadNodeConfig(pod=PodFragment.model_validate(FULL)))
    assert ClusterConfig.model_validate(config.model_dump()) == config
    assert ClusterConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize("key", ["containers", "restartPolicy", "spec", "metadata", "image", "resources", "lifecycle"])
def test_what_is_ours_is_refused_with_the_reason(key: str) -> None:
    text = f"name: a\nhead:\n  pod:\n    {key}: x\n".encode()
    with pytest.raises(ConfigValidationError) as caught:
        parse_cluster_yaml(text, source="c.yaml")
    assert caught.value.message == f"c.yaml:4:5: head.pod.{key} is not a field here: {PodFragment.refused[key]}"


def test_an_unknown_field_gets_the_nearest_kubernetes_name() -> None:
    with pytest.raises(ConfigValidationError, match=r"head\.pod\.node_selector .* did you mean nodeSelector"):
        parse_cluster_yaml(b"name: a\nhead: {pod: {node_selector: {a: b}}}", source="c.yaml")


REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("KubeRay's label", {"labels": {"ray.io/group": "x"}}),
    ("KubeRay's annotation", {"annotations": {"ray.io/overwrite-container-cmd": "true"}}),
    ("KubeRay's subdomain", {"labels": {"x.ray.io/y": "x"}}),
    ("our label", {"labels": {"krayne.dev/owner": "x"}}),
    ("label name", {"labels": {"a b": "x"}}),
    ("label prefix", {"labels": {"A_/b": "x"}}),
    ("label value", {"labels": {"a": "x y"}}),
    ("long label value", {"labels": {"a": "x" * 64}}),
    ("selector value", {"nodeSelector": {"a": "-"}}),
    ("number as a label", {"labels": {"a": 1}}),
    ("env without a name", {"env": [{"value": "x"}]}),
    ("env with an empty name", {"env": [{"name": "", "value": "x"}]}),
    ("env name with =", {"env": [{"name": "A=B", "value": "x"}]}),
    ("env twice", {"env": [{"name": "A", "value": "x"}, {"name": "A", "value": "y"}]}),
    ("env with two values", {"env": [{"name": "A", "value": "x", "valueFrom": {"fieldRef": {}}}]}),
    ("env number", {"env": [{"name": "A", "value": 1}]}),
    ("the operator's own env", {"env": [{"name": "RAY_enable_autoscaler_v2", "value": "1"}]}),
    ("envFrom nothing", {"envFrom": [{"prefix": "A"}]}),
    ("envFrom both", {"envFrom": [{"secretRef": {"name": "a"}, "configMapRef": {"name": "a"}}]}),
    ("mount of no volume", {"volumeMounts": [{"name": "x", "mountPath": "/x"}]}),
    ("mount nowhere", {"volumes": [{"name": "x"}], "volumeMounts": [{"name": "x", "mountPath": ""}]}),
    ("volume without a name", {"volumes": [{"emptyDir": {}}]}),
    ("volume name", {"volumes": [{"name": "A_b", "emptyDir": {}}]}),
    ("volume twice", {"volumes": [{"name": "x"}, {"name": "x"}]}),
    ("volume of two sources", {"volumes": [{"name": "x", "emptyDir": {}, "hostPath": {}}]}),
    ("init container twice", {"initContainers": [{"name": "x"}, {"name": "x"}]}),
    ("toleration effect", {"tolerations": [{"effect": "noSchedule"}]}),
    ("toleration field", {"tolerations": [{"Key": "a"}]}),
    ("pull secret as text", {"imagePullSecrets": ["a"]}),
    ("service account name", {"serviceAccountName": "A"}),
    ("negative grace", {"terminationGracePeriodSeconds": -1}),
    ("a number that is none", {"affinity": {"a": float("inf")}}),
    ("a number beyond JSON", {"affinity": {"a": 10**18}}),
    ("not JSON", {"affinity": {"a": object()}}),
]


@pytest.mark.parametrize("fragment", [one for _, one in REFUSED], ids=[name for name, _ in REFUSED])
def test_refused(fragment: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        PodFragment.model_validate(fragment)


def test_a_bottomless_value_is_refused() -> None:
    deep: dict[str, Any] = {}
    for _ in range(25):
        deep = {"a": deep}
    with pytest.raises(ValidationError, match="deeper"):
        PodFragment(affinity=deep)


def test_a_wrong_env_value_is_placed_but_not_repeated() -> None:
    text = b"name: a\nhead:\n  pod:\n    env:\n    - name: PIN\n      value: 12345678\n    - {name: X, value: 22:22}\n"
    with pytest.raises(ConfigValidationError) as caught:
        parse_cluster_yaml(text.replace(b", value: 22:22", b""), source="c.yaml")
    assert caught.value.message == "c.yaml:6:14: head.pod.env[0].value must be text: write the value in quotes"
    with pytest.raises(ConfigValidationError) as caught:
        parse_cluster_yaml(text, source="c.yaml")
    assert "22:22" not in str(caught.value.data)

"""The API's behaviours, one by one. That they are Kubernetes' own is tests/cluster/test_conformance.py's part."""

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from tests.sandbox.running import Running, running
from tests.sandbox.things import pod, raycluster, thing, workers

CLUSTERS = "/apis/ray.io/v1/namespaces/default/rayclusters"
MAPS = "/api/v1/namespaces/default/configmaps"
PODS = "/api/v1/namespaces/default/pods"
MERGE = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
APPLY = "application/apply-patch+yaml"
TABLE = {"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"}


def refusal(answer: Any) -> tuple[int, str]:
    body = answer.json
    assert body["kind"] == "Status", body
    assert body["status"] == "Failure"
    assert body["code"] == answer.status
    return answer.status, body.get("reason", "")


def test_only_the_token_opens_it(api: Running) -> None:
    assert refusal(api.send("GET", PODS, token="wrong")) == (401, "Unauthorized")
    assert refusal(api.send("GET", PODS, token="")) == (401, "Unauthorized")
    assert api.send("GET", "/readyz", token="wrong").data == b"ok"
    assert api.send("GET", PODS).status == 200


def test_its_files_are_private_and_stay_what_they_are(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with running(home) as first:
        made = first.send("POST", MAPS, thing("kept", data={"k": "v"})).json
    before = {one.name: one.read_bytes() for one in home.iterdir() if not one.name.startswith("state.db")}
    with running(home) as second:
        assert second.get(f"{MAPS}/kept") == made
        assert second.served.port == first.served.port
        later = second.send("POST", MAPS, thing("more")).json
    assert int(later["metadata"]["resourceVersion"]) > int(made["metadata"]["resourceVersion"])
    assert before == {one.name: one.read_bytes() for one in home.iterdir() if not one.name.startswith("state.db")}
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert {stat.S_IMODE(one.stat().st_mode) for one in home.iterdir()} == {0o600}


@pytest.mark.parametrize(
    ("method", "path", "body", "kind", "wanted"),
    [
        ("POST", CLUSTERS, b"{", "application/json", (400, "BadRequest")),
        ("POST", CLUSTERS, b"[]", "application/json", (400, "BadRequest")),
        ("POST", CLUSTERS, b"[" * 100_000, "application/json", (400, "BadRequest")),
        ("POST", CLUSTERS, b'{"metadata": 3}', "application/json", (400, "BadRequest")),
        ("POST", CLUSTERS, b'{"metadata": {"labels": {"a": 1}}}', "application/json", (400, "BadRequest")),
        ("POST", CLUSTERS, b'{"kind": "Pod", "apiVersion": "v1"}', "application/json", (400, "BadRequest")),
        ("POST", CLUSTERS, b'{"metadata": {"namespace": "other"}}', "application/json", (400, "BadRequest")),
        ("POST", CLUSTERS, b"{}", "application/json", (422, "Invalid")),
        ("POST", CLUSTERS, b"{}", "application/x-unheard-of", (415, "UnsupportedMediaType")),
        ("POST", CLUSTERS, b" " * (3 * 1024 * 1024 + 1), "application/json", (413, "RequestEntityTooLarge")),
        ("GET", f"{CLUSTERS}/none", None, "", (404, "NotFound")),
        ("PATCH", f"{CLUSTERS}/none", b"{}", MERGE, (404, "NotFound")),
        ("PATCH", f"{CLUSTERS}/none", b"{}", STRATEGIC, (415, "UnsupportedMediaType")),
        ("PUT", CLUSTERS, b"{}", "application/json", (405, "MethodNotAllowed")),
        ("POST", f"{MAPS}/one", b"{}", "application/json", (405, "MethodNotAllowed")),
        ("DELETE", "/apis/ray.io/v1/rayclusters", None, "", (405, "MethodNotAllowed")),
        ("GET", f"{PODS}?fieldSelector=spec.none%3D1", None, "", (400, "BadRequest")),
        ("GET", f"{PODS}?labelSelector=a%20in", None, "", (400, "BadRequest")),
        ("GET", f"{PODS}?limit=many", None, "", (400, "BadRequest")),
        ("GET", f"{PODS}?continue=nonsense", None, "", (400, "BadRequest")),
        ("GET", f"{PODS}?resourceVersion=99999999", None, "", (504, "Timeout")),
        ("GET", f"{PODS}/none/log", None, "", (404, "NotFound")),
    ],
)  # fmt: skip
def test_what_is_refused(
    api: Running, method: str, path: str, body: bytes | None, kind: str, wanted: tuple[int, str]
) -> None:
    assert refusal(api.send(method, path, body, kind=kind)) == wanted


@pytest.mark.parametrize("path", ["/apis/ray.io/v1/namespaces/default/unheardofs", "/apis/none.io/v1", "/none"])
def test_a_path_that_nothing_serves_is_a_plain_404(api: Running, path: str) -> None:
    answer = api.send("GET", path)
    assert (answer.status, answer.data) == (404, b"404 page not found\n")


def test_a_schema_violation_names_every_field(api: Running) -> None:
    bad = raycluster("bad", suspend="yes", workerGroupSpecs=[workers(replicas=-1), {}])
    bad["spec"]["headGroupSpec"].pop("template")
    answer = api.send("POST", CLUSTERS, bad)
    assert refusal(answer) == (422, "Invalid")
    fields = {(one["field"], one["reason"]) for one in answer.json["details"]["causes"]}
    assert {
        ("spec.suspend", "FieldValueTypeInvalid"),
        ("spec.headGroupSpec.template", "FieldValueRequired"),
        ("spec.workerGroupSpecs[1].groupName", "FieldValueRequired"),
    } <= fields
    assert api.get(CLUSTERS)["items"] == []


def test_unknown_fields_are_pruned_told_or_refused(api: Running) -> None:
    strange = raycluster("one", unheardOf=1)
    assert refusal(api.send("POST", CLUSTERS, strange, fieldValidation="Strict")) == (400, "BadRequest")
    answer = api.send("POST", CLUSTERS, strange)
    assert answer.headers["Warning"] == '299 - "unknown field \\"spec.unheardOf\\""'
    assert "unheardOf" not in answer.json["spec"]
    assert "Warning" not in api.send("POST", CLUSTERS, {**strange, "metadata": {"name": "two"}},
                                     fieldValidation="Ignore").headers  # fmt: skip


def test_defaults_come_from_the_schema(api: Running) -> None:
    made = api.send("POST", CLUSTERS, raycluster("one", workerGroupSpecs=[workers(maxReplicas=None)])).json
    assert made["spec"]["workerGroupSpecs"][0]["maxReplicas"] == 2147483647
    ports = made["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["ports"]
    assert ports == [{"containerPort": 6379, "protocol": "TCP"}]


def test_a_dry_run_answers_and_changes_nothing(api: Running) -> None:
    assert api.send("POST", MAPS, thing("a"), dryRun="All").status == 201
    assert api.get(MAPS)["items"] == []
    api.send("POST", MAPS, thing("a"))
    assert api.send("PATCH", f"{MAPS}/a", {"data": {"k": "v"}}, kind=MERGE, dryRun="All").json["data"] == {"k": "v"}
    assert api.send("DELETE", f"{MAPS}/a", dryRun="All").status == 200
    assert "data" not in api.get(f"{MAPS}/a")


def test_optimistic_concurrency(api: Running) -> None:
    made = api.send("POST", CLUSTERS, raycluster("a")).json
    newer = api.send("PUT", f"{CLUSTERS}/a", {**made, "spec": {**made["spec"], "suspend": True}})
    assert (newer.status, newer.json["metadata"]["generation"]) == (200, 2)
    assert refusal(api.send("PUT", f"{CLUSTERS}/a", made)) == (409, "Conflict")
    stale = {"metadata": {"resourceVersion": made["metadata"]["resourceVersion"]}, "spec": {"suspend": False}}
    assert refusal(api.send("PATCH", f"{CLUSTERS}/a", stale, kind=MERGE)) == (409, "Conflict")
    conditions = {"preconditions": {"resourceVersion": made["metadata"]["resourceVersion"]}}
    assert refusal(api.send("DELETE", f"{CLUSTERS}/a", conditions)) == (409, "Conflict")
    gone = api.send("DELETE", f"{CLUSTERS}/a", {"preconditions": {"uid": made["metadata"]["uid"]}})
    assert (gone.status, gone.json["status"]) == (200, "Success")


def test_json_patches_are_guarded_by_their_tests(api: Running) -> None:
    api.send("POST", CLUSTERS, raycluster("a", workerGroupSpecs=[workers()]))
    place = "/spec/workerGroupSpecs/0/replicas"
    right = [{"op": "test", "path": place, "value": 1}, {"op": "replace", "path": place, "value": 2}]
    assert api.send("PATCH", f"{CLUSTERS}/a", right, kind=JSON_PATCH).status == 200
    assert refusal(api.send("PATCH", f"{CLUSTERS}/a", right, kind=JSON_PATCH)) == (422, "Invalid")
    assert api.get(f"{CLUSTERS}/a")["spec"]["workerGroupSpecs"][0]["replicas"] == 2


def test_strategic_merge_knows_containers_by_name(api: Running) -> None:
    api.send("POST", PODS, pod("a", spec={"containers": [{"name": "x", "image": "1"}, {"name": "y", "image": "1"}]}))
    patch = {"spec": {"containers": [{"name": "y", "image": "2"}]}}
    made = api.send("PATCH", f"{PODS}/a", patch, kind=STRATEGIC).json
    assert [(one["name"], one["image"]) for one in made["spec"]["containers"]] == [("x", "1"), ("y", "2")]
    assert refusal(api.send("PATCH", f"{PODS}/a", {"spec": {"dnsPolicy": "None"}}, kind=STRATEGIC)) == (422, "Invalid")


def test_status_is_written_by_itself(api: Running) -> None:
    api.send("POST", CLUSTERS, {**raycluster("a"), "status": {"state": "ready"}})
    assert "status" not in api.get(f"{CLUSTERS}/a")
    body = {"status": {"state": "ready"}, "spec": {"suspend": True}}
    made = api.send("PATCH", f"{CLUSTERS}/a/status", body, kind=MERGE).json
    assert (made["status"]["state"], made["spec"].get("suspend"), made["metadata"]["generation"]) == ("ready", None, 1)


def test_server_side_apply(api: Running) -> None:
    def apply(manager: str, spec: dict[str, Any], **query: Any) -> Any:
        body = {"apiVersion": "ray.io/v1", "kind": "RayCluster", "metadata": {"name": "a"}, "spec": spec}
        return api.send("PATCH", f"{CLUSTERS}/a", body, kind=APPLY, fieldManager=manager, **query)

    head = raycluster("a")["spec"]["headGroupSpec"]
    assert apply("one", {"headGroupSpec": head, "suspend": True, "rayVersion": "1"}).status == 201
    again = apply("one", {"headGroupSpec": head, "suspend": True, "rayVersion": "1"})
    assert (again.status, again.json["metadata"]["generation"]) == (200, 1)
    clash = apply("two", {"suspend": False, "rayVersion": "1"})
    assert refusal(clash) == (409, "Conflict")
    assert clash.json["details"]["causes"] == [
        {"reason": "FieldManagerConflict", "message": 'conflict with "one"', "field": ".spec.suspend"}
    ]
    assert apply("two", {"suspend": False, "rayVersion": "1"}, force="true").json["spec"]["suspend"] is False
    # What is left out goes, unless somebody else wants it too.
    left = apply("one", {"headGroupSpec": head}).json["spec"]
    assert (left.get("rayVersion"), left.get("suspend")) == ("1", False)
    assert set(apply("two", {}).json["spec"]) == {"headGroupSpec"}
    # Lists of worker groups are atomic: one owner, whole.
    assert apply("two", {"workerGroupSpecs": [workers()]}).status == 200
    assert refusal(apply("one", {"headGroupSpec": head, "workerGroupSpecs": [workers(replicas=2)]}))[0] == 409
    assert refusal(api.send("PATCH", f"{CLUSTERS}/a", {}, kind=APPLY))[0] == 422


def test_an_update_takes_ownership(api: Running) -> None:
    made = api.send("POST", CLUSTERS, raycluster("a", suspend=True), fieldManager="maker").json
    assert [(one["manager"], one["operation"]) for one in made["metadata"]["managedFields"]] == [("maker", "Update")]
    body = {"apiVersion": "ray.io/v1", "kind": "RayCluster", "metadata": {"name": "a"}, "spec": {"suspend": False}}
    clash = api.send("PATCH", f"{CLUSTERS}/a", body, kind=APPLY, fieldManager="two")
    assert clash.json["details"]["causes"][0]["message"] == 'conflict with "maker" using ray.io/v1'
    api.send("PATCH", f"{CLUSTERS}/a", {"spec": {"suspend": None}}, kind=MERGE, fieldManager="third")
    assert api.send("PATCH", f"{CLUSTERS}/a", body, kind=APPLY, fieldManager="two").status == 200


def test_lists_come_in_pages(api: Running) -> None:
    for at in range(5):
        api.send("POST", MAPS, thing(f"m{at}", metadata={"labels": {"odd": str(at % 2)}}))
    query: dict[str, Any] = {"limit": "2"}
    names, sizes = [], []
    while True:
        page = api.get(MAPS, **query)
        names += [one["metadata"]["name"] for one in page["items"]]
        sizes.append(page["metadata"].get("remainingItemCount"))
        if "continue" not in page["metadata"]:
            break
        query["continue"] = page["metadata"]["continue"]
    assert (names, sizes) == (["m0", "m1", "m2", "m3", "m4"], [3, 1, None])
    assert len(api.get(MAPS, labelSelector="odd=1")["items"]) == 2
    assert len(api.get(MAPS, fieldSelector="metadata.name=m3")["items"]) == 1
    api.on_loop(api.store.compact)
    api.send("POST", MAPS, thing("more"))
    api.on_loop(api.store.compact)
    assert refusal(api.send("GET", MAPS, **query)) == (410, "Expired")


def test_collections_go_at_once(api: Running) -> None:
    for at in range(3):
        api.send("POST", MAPS, thing(f"m{at}", metadata={"labels": {"odd": str(at % 2)}}))
    gone = api.send("DELETE", MAPS, labelSelector="odd=0").json
    assert [one["metadata"]["name"] for one in gone["items"]] == ["m0", "m2"]
    assert [one["metadata"]["name"] for one in api.get(MAPS)["items"]] == ["m1"]


def test_tables_have_kuberays_columns(api: Running) -> None:
    api.send("POST", CLUSTERS, raycluster("a"))
    api.send("PATCH", f"{CLUSTERS}/a/status", {"status": {"state": "ready", "desiredWorkerReplicas": 2}}, kind=MERGE)
    made = api.send("GET", CLUSTERS, headers=TABLE).json
    assert [one["name"] for one in made["columnDefinitions"]] == [
        "Name", "desired workers", "available workers", "cpus", "memory", "gpus", "tpus", "status", "age",
        "head pod IP", "head service IP",
    ]  # fmt: skip
    (row,) = made["rows"]
    assert [*row["cells"][:3], row["cells"][7]] == ["a", 2, None, "ready"]
    assert row["object"]["kind"] == "PartialObjectMetadata"
    assert made["kind"] == "Table"


def test_a_watch_resumes_where_it_ended(api: Running) -> None:
    version = api.get(MAPS)["metadata"]["resourceVersion"]
    api.send("POST", MAPS, thing("a", data={"k": "1"}))
    api.send("PATCH", f"{MAPS}/a", {"data": {"k": "2"}}, kind=MERGE)
    with api.watching(MAPS, resourceVersion=version) as events:
        first, second = next(events), next(events)
        assert (first["type"], second["type"], second["object"]["data"]) == ("ADDED", "MODIFIED", {"k": "2"})
        api.send("DELETE", f"{MAPS}/a")
        assert next(events)["type"] == "DELETED"
    with api.watching(MAPS, resourceVersion=first["object"]["metadata"]["resourceVersion"]) as events:
        assert [next(events)["type"], next(events)["type"]] == ["MODIFIED", "DELETED"]


def test_a_watch_of_a_selector_sees_things_come_and_go(api: Running) -> None:
    with api.watching(MAPS, labelSelector="on=yes") as events:
        api.send("POST", MAPS, thing("a"))
        api.send("PATCH", f"{MAPS}/a", {"metadata": {"labels": {"on": "yes"}}}, kind=MERGE)
        assert next(events)["type"] == "ADDED"
        api.send("PATCH", f"{MAPS}/a", {"metadata": {"labels": None}}, kind=MERGE)
        assert next(events)["type"] == "DELETED"


def test_a_watch_from_long_gone_is_told_so(api: Running) -> None:
    version = api.get(MAPS)["metadata"]["resourceVersion"]
    api.send("POST", MAPS, thing("a"))
    api.on_loop(api.store.compact)
    with api.watching(MAPS, resourceVersion=version) as events:
        event = next(events)
        assert (event["type"], event["object"]["code"], event["object"]["reason"]) == ("ERROR", 410, "Expired")
        assert next(events, None) is None


def test_a_watch_ends_with_a_bookmark(api: Running) -> None:
    api.send("POST", MAPS, thing("a"))
    with api.watching(MAPS, timeoutSeconds="1", allowWatchBookmarks="true") as events:
        found = list(events)
    assert [one["type"] for one in found] == ["ADDED", "BOOKMARK"]
    assert found[1]["object"]["metadata"]["resourceVersion"] == api.get(MAPS)["metadata"]["resourceVersion"]


def test_a_watch_can_begin_with_all_there_is(api: Running) -> None:
    api.send("POST", MAPS, thing("a"))
    query = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan", "allowWatchBookmarks": "true"}
    with api.watching(MAPS, **query) as events:
        assert next(events)["type"] == "ADDED"
        mark = next(events)["object"]["metadata"]
        assert mark["annotations"] == {"k8s.io/initial-events-end": "true"}
        api.send("POST", MAPS, thing("b"))
        assert next(events)["object"]["metadata"]["name"] == "b"


def test_names_are_generated_and_checked(api: Running) -> None:
    made = api.send("POST", MAPS, {"metadata": {"generateName": "some-"}}).json["metadata"]["name"]
    assert made.startswith("some-")
    assert len(made) == 10
    assert refusal(api.send("POST", MAPS, thing("Not_A_Name"))) == (422, "Invalid")
    assert refusal(api.send("PUT", f"{MAPS}/{made}", thing("other"))) == (400, "BadRequest")


def test_a_full_disk_is_an_internal_error(api: Running) -> None:
    api.on_loop(lambda: api.store._journal.limit_pages(1))
    assert refusal(api.send("POST", MAPS, thing("a", data={"k": "v" * 500_000}))) == (500, "InternalError")
    assert api.get(MAPS)["items"] == []
    api.on_loop(lambda: api.store._journal.limit_pages(1_000_000))
    assert api.send("POST", MAPS, thing("a")).status == 201


def test_reviews_say_yes(api: Running) -> None:
    asked = {"spec": {"resourceAttributes": {"verb": "create", "resource": "pods"}}}
    answer = api.send("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", asked)
    assert (answer.status, answer.json["status"]["allowed"]) == (201, True)


def test_discovery_leads_to_everything(api: Running) -> None:
    groups = [one["name"] for one in api.get("/apis")["groups"]]
    assert "ray.io" in groups
    for group in groups:
        listed = api.get(f"/apis/{group}/v1")["resources"]
        assert listed
        assert api.get(f"/apis/{group}")["preferredVersion"]["groupVersion"] == f"{group}/v1"
        for one in listed:
            if "list" in one["verbs"]:
                assert api.get(f"/apis/{group}/v1/{one['name']}")["kind"].endswith("List")
    aggregated = {"Accept": "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json"}
    assert api.send("GET", "/apis", headers=aggregated).json["kind"] == "APIGroupDiscoveryList"
    documents = api.get("/openapi/v3")["paths"]
    patch = json.dumps(api.get(documents["apis/ray.io/v1"]["serverRelativeURL"].partition("?")[0]))
    assert "fieldValidation" in patch


def test_events_are_seen_in_both_forms(api: Running) -> None:
    event = {**thing("e"), "involvedObject": {"kind": "Pod", "name": "p", "uid": "u"}, "message": "hello"}
    api.send("POST", "/api/v1/namespaces/default/events", event)
    (old,) = api.get("/api/v1/namespaces/default/events", fieldSelector="involvedObject.uid=u")["items"]
    (new,) = api.get("/apis/events.k8s.io/v1/namespaces/default/events")["items"]
    assert (old["message"], new["note"], new["regarding"]["name"]) == ("hello", "hello", "p")

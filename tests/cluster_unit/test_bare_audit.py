"""Reading audit logs, and the page of the operator's cost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bare import audit, nodes, page


def event(verb: str, resource: str, code: int = 200, **fields: Any) -> str:
    target = {"resource": resource, "name": "x", **fields}
    return json.dumps({
        "verb": verb, "stage": "ResponseComplete", "objectRef": target,
        "responseStatus": {"code": code}, "requestReceivedTimestamp": "2026-01-01T00:00:00Z",
    })  # fmt: skip


def read(tmp_path: Path, *lines: str) -> list[audit.Entry]:
    (tmp_path / "log").write_text("\n".join(lines))
    return list(audit.read(tmp_path / "log"))


def grant(verb: str, resource: str, where: str = "", **fields: Any) -> audit.Grant:
    return audit.Grant(where=where, group="", resource=resource, verb=verb, **fields)


def test_a_patch_that_made_its_object_needed_two_rights(tmp_path: Path) -> None:
    (made,) = read(tmp_path, event("patch", "jobs", 201))
    assert [each.verb for each in made.needed] == ["patch", "create"]
    (changed,) = read(tmp_path, event("patch", "jobs", 200))
    assert [each.verb for each in changed.needed] == ["patch"]


def test_a_right_holds_in_its_namespace_and_for_its_names(tmp_path: Path) -> None:
    here = read(tmp_path, event("get", "pods", namespace="team"))
    assert audit.ungranted(here, [grant("get", "pods")]) == set()
    assert audit.ungranted(here, [grant("get", "pods", "team", names=("x",))]) == set()
    for wrong in (grant("get", "pods", "other"), grant("get", "pods", "team", names=("y",)),
                  grant("list", "pods", "team")):  # fmt: skip
        assert audit.ungranted(here, [wrong]) == set(here)
        assert audit.idle(here, [wrong]) == {wrong}
    everywhere = read(tmp_path, event("list", "pods", name=""))
    assert audit.idle(everywhere, [grant("list", "pods", "team"), grant("list", "pods")]) == {
        grant("list", "pods", "team")
    }


def test_subresources_are_resources_of_their_own(tmp_path: Path) -> None:
    (entry,) = read(tmp_path, event("update", "qwenfinetunes", subresource="status"))
    assert (entry.resource, entry.verb) == ("qwenfinetunes/status", "update")


def test_reads_and_reviews_are_no_writes(tmp_path: Path) -> None:
    lines = [event(verb, "pods") for verb in ("get", "list", "delete")]
    entries = read(tmp_path, *lines, event("create", "tokenreviews"), event("create", "events"))
    assert audit.writes(entries) == {"pods": 1, "events": 1}


def test_a_line_that_is_still_being_written_is_left_out(tmp_path: Path) -> None:
    assert len(read(tmp_path, event("get", "pods"), '{"verb": "ge')) == 1


def test_rights_are_every_combination_of_a_rule() -> None:
    rule = {"apiGroups": ["", "batch"], "resources": ["a"], "verbs": ["get", "list"]}
    role = {"kind": "Role", "metadata": {"name": "r", "namespace": "team"}, "rules": [rule]}
    assert len(audit.grants(role)) == 4
    assert {each.where for each in audit.grants(role)} == {"team"}
    assert {each.where for each in audit.grants(role | {"kind": "ClusterRole"})} == {""}


def test_a_fake_node_is_ready_and_has_what_was_asked() -> None:
    body = nodes.node("n", gpus=8)
    assert body["status"]["allocatable"]["nvidia.com/gpu"] == "8"
    assert body["status"]["conditions"][0]["status"] == "True"


def test_an_ending_names_its_attempt_its_run_and_its_rank() -> None:
    stage = nodes.ending(2, 64, seconds=1.5, run="tiny", index="0", message='{"a": "b"}')
    keys = [item["key"] for item in stage["spec"]["selector"]["matchExpressions"]]
    assert len(keys) == 5
    assert stage["spec"]["delay"] == {"durationMilliseconds": 1500}
    assert "exitCode: 64" in stage["spec"]["next"]["statusTemplate"]


FOUND = {
    "runs": 100, "runs_with_all_pods": 90, "p50_seconds": 1.5, "p99_seconds": 2.5, "load": 3,
    "pods_per_second": 40, "writes_per_run": 7.0, "cpu_seconds": 9.5, "resident_mib": 80,
    "peak_mib": 90, "idle_cpu_percent": 1.25, "idle_writes": 0,
}  # fmt: skip


def test_the_page_says_what_was_not_reached_and_what_was_not_measured() -> None:
    written = page.text({"hundred": FOUND})
    assert "90 of 100 within the time" in written
    assert "Not measured so far: 250 runs" in written
    assert "One run of 1,000 nodes" not in written


def test_the_published_page_is_that_of_its_figures() -> None:
    known = json.loads(page.PAGE.with_suffix(".json").read_text(encoding="utf-8"))
    assert page.PAGE.read_text(encoding="utf-8") == page.text(known)

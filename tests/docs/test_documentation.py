"""What the documentation shows is true: runs are accepted, commands exist, pages are the code's."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from documented import DOCS, FENCE, ROOT, RUNS, TEXTS, blocks, page_run, shown
from qwenft_cli import prepare
from qwenft_cli.__main__ import VERBS, main, parser
from qwenft_plan.spec import FinetuneSpec
from qwenft_trainer import prepare_arguments
from reference import PAGES
from reference.crd import schema
from reference.values import comments, undocumented

VERB_NAMES = {module.NAME for module in VERBS}


def closed(node: Any) -> Any:
    """Refuse unknown fields, as the apiserver does under strict validation."""
    if isinstance(node, dict):
        node = {key: closed(value) for key, value in node.items()}
        if "properties" in node and node.get("additionalProperties") is None:
            node["additionalProperties"] = False
        if node.pop("nullable", False) and isinstance(node.get("type"), str):
            node["type"] = [node["type"], "null"]
    return [closed(item) for item in node] if isinstance(node, list) else node


SPEC = closed(schema()["properties"]["spec"])


def test_there_are_runs_to_copy() -> None:
    assert len(RUNS) >= 7


@pytest.mark.parametrize(("where", "run"), RUNS, ids=lambda value: str(value)[:40])
def test_every_run_in_the_docs_would_be_accepted(where: str, run: dict[str, Any]) -> None:
    assert run["apiVersion"] == "qwenft.dev/v1alpha1", where
    assert re.fullmatch(r"[a-z]([-a-z0-9]{0,43}[a-z0-9])?", run["metadata"]["name"])
    jsonschema.validate(run["spec"], SPEC)
    FinetuneSpec.from_mapping(run["spec"])


def test_the_check_of_runs_can_fail() -> None:
    _, run = RUNS[0]
    with pytest.raises(jsonschema.ValidationError, match="oddity"):
        jsonschema.validate(run["spec"] | {"oddity": 1}, SPEC)


def commands() -> list[tuple[str, str]]:
    return [(each.where, each.text) for each in shown("qwenft", "kubectl qft")]


@pytest.mark.parametrize(("where", "command"), commands())
def test_every_command_exists_with_its_options(where: str, command: str) -> None:
    words = shlex.split(command.removeprefix("kubectl qft ").removeprefix("qwenft "))
    verb = words[0]
    assert verb in VERB_NAMES, where
    if len(words) > 1 and verb == prepare.NAME:
        prepare_arguments.parser().parse_args(words[1:])
    elif len(words) > 1:
        parser().parse_args(words)


PLANNED = sorted({
    (where, command)
    for where, command in commands()
    if command.startswith(("qwenft plan ", "qwenft render ")) and " --on " in command
})  # fmt: skip


@pytest.mark.parametrize(("where", "command"), PLANNED)
def test_every_command_that_plans_does_so(
    where: str, command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file that the page does not come with is the page's own run."""
    words = shlex.split(command)[1:]
    for place, word in enumerate(words):
        if word == "FILE" or (word.endswith(".yaml") and not (ROOT / word).exists()):
            words[place] = str(tmp_path / Path(word).name)
            text = {} if word == "lessons.yaml" else page_run(where)
            (tmp_path / Path(word).name).write_text(yaml.safe_dump(text))
        elif word.endswith(".yaml"):
            words[place] = str(ROOT / word)
    assert main(words) == 0, capsys.readouterr().err
    assert len(capsys.readouterr().out.splitlines()) > 5


@pytest.mark.full
@pytest.mark.torch
def test_the_tutorial_trains_on_this_machine(tmp_path: Path) -> None:
    """Without a cluster, word for word: from records to a model."""
    wanted = [
        command
        for where, command in commands()
        if where == "docs/tutorial/3-run.md" and " ./data" in command
    ]
    assert [shlex.split(command)[1] for command in wanted] == ["prepare", "run"]
    for command in wanted:
        words = [sys.executable, "-m", "qwenft_cli", *shlex.split(command)[1:]]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "data/result/model/config.json").is_file()


def test_the_check_of_commands_can_fail() -> None:
    assert len(PLANNED) >= 6
    with pytest.raises(SystemExit):
        parser().parse_args(["status", "--nonsense"])
    assert len(commands()) >= 25


@pytest.mark.parametrize("path", sorted(PAGES))
def test_a_generated_page_is_up_to_date(path: str) -> None:
    assert (ROOT / path).read_text("utf-8") == PAGES[path](), "make docs-reference writes it anew"


def test_every_value_of_the_chart_is_explained() -> None:
    assert undocumented() == []
    assert len(comments()) > 20


def test_every_file_that_a_command_names_is_there() -> None:
    for where, body in blocks(""):
        for name in re.findall(r"(?<![\w/])((?:manifests|charts|docs)/[\w./-]+)", body):
            assert (ROOT / name).exists(), f"{where}: {name}"


def links(text: Path) -> Iterator[str]:
    content = FENCE.sub("", text.read_text("utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", content):
        if "://" not in target and not target.startswith("#"):
            yield target.partition("#")[0]


@pytest.mark.parametrize("text", TEXTS, ids=lambda path: path.name)
def test_every_link_leads_somewhere(text: Path) -> None:
    for target in links(text):
        assert (text.parent / target).exists(), f"{text.name}: {target}"


def test_every_issue_that_a_question_comes_from_has_its_address() -> None:
    text = (DOCS / "faq.md").read_text("utf-8")
    named = set(re.findall(r"\[([\w./-]+#\d+)\](?!:)", text))
    addresses = dict(re.findall(r"^\[([^\]]+)\]: (\S+)$", text, flags=re.MULTILINE))
    assert len(named) > 30
    assert named == set(addresses)
    for name, address in addresses.items():
        repository, _, number = name.partition("#")
        pattern = rf"https://github\.com/{re.escape(repository)}/(issues|pull)/{number}"
        assert re.fullmatch(pattern, address), name


def test_every_page_is_in_the_navigation() -> None:
    navigation = (DOCS / "mkdocs.yml").read_text("utf-8")
    for text in DOCS.rglob("*.md"):
        assert str(text.relative_to(DOCS)) in navigation, text.name


def test_the_library_call_of_the_docs_works() -> None:
    (body,) = [body for _, body in blocks("python") if "Inventory.parse" in body]
    _, run = RUNS[0]
    scope: dict[str, Any] = {"document": run}
    exec(compile(body, "docs", "exec"), scope)  # noqa: S102 - the documentation's own lines
    assert scope["found"].plan.world_size >= 1


@pytest.mark.full
def test_the_site_builds_without_a_warning() -> None:
    done = subprocess.run(["make", "docs"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (ROOT / "build" / "site" / "tutorial" / "3-run" / "index.html").is_file()

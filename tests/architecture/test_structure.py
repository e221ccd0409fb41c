"""The house rules that a reader would otherwise have to check by eye."""

from __future__ import annotations

import ast
import re
import statistics
import subprocess
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("operator/src", "trainer_image/src")
LONGEST_FILE = 400
LONGEST_FUNCTION = 60
MEDIAN_FUNCTION = 10
LEAST_TEST_RATIO = 1.5


@cache
def tracked() -> tuple[Path, ...]:
    """Return every file that git knows and that is still there."""
    listing = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    files = (ROOT / name for name in listing.stdout.split("\0") if name)
    return tuple(file for file in files if file.is_file())


def python_files(*folders: str) -> list[Path]:
    return [
        file
        for file in tracked()
        if file.suffix == ".py" and file.relative_to(ROOT).as_posix().startswith(folders)
    ]


def lines(file: Path) -> int:
    return len(file.read_text(encoding="utf-8").splitlines())


def functions(file: Path) -> Iterator[tuple[str, int]]:
    """Yield the place and length in lines of each function of ``file``."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno:
            place = f"{file.relative_to(ROOT)}:{node.lineno} {node.name}"
            yield place, node.end_lineno - node.lineno + 1


def test_the_folder_operator_never_shadows_the_standard_library() -> None:
    assert not (ROOT / "operator" / "__init__.py").exists()


def test_no_file_outgrows_its_welcome() -> None:
    long = {str(f.relative_to(ROOT)): lines(f) for f in python_files("operator", "trainer_image",
            "tests") if lines(f) > LONGEST_FILE}  # fmt: skip
    assert long == {}


def test_functions_are_short() -> None:
    every = [entry for file in python_files(*SOURCES) for entry in functions(file)]
    assert [entry for entry in every if entry[1] > LONGEST_FUNCTION] == []
    assert statistics.median(length for _, length in every) <= MEDIAN_FUNCTION


def test_tests_outweigh_the_code() -> None:
    source = sum(lines(file) for file in python_files(*SOURCES))
    tests = sum(lines(file) for file in python_files("tests/"))
    assert tests / source >= LEAST_TEST_RATIO, f"{tests} lines of tests to {source} of code"


@pytest.mark.parametrize("name", ["utils", "helpers", "manager", "common", "misc"])
def test_no_module_has_a_name_that_says_nothing(name: str) -> None:
    assert [file for file in python_files("operator", "trainer_image", "tests")
            if file.stem == name or name in file.parent.parts] == []  # fmt: skip


def found(pattern: str, *, only: str = "") -> list[str]:
    """Return ``file:line`` of each tracked text line that matches ``pattern``."""
    expression = re.compile(pattern)
    hits = []
    for file in tracked():
        if only and file.suffix != only:
            continue
        try:
            text = file.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        hits += [
            f"{file.relative_to(ROOT)}:{number}"
            for number, line in enumerate(text.splitlines(), 1)
            if expression.search(line)
        ]
    return [hit for hit in hits if not hit.startswith("tests/architecture/")]


def test_nothing_is_left_open() -> None:
    assert found(r"\b(TODO|FIXME|XXX|NotImplementedError)\b", only=".py") == []


def test_no_package_registry_is_named() -> None:
    hosts = r"https?://[\w.-]*(pypi|pythonhosted|proxy\.golang|npmjs|deb\.debian|crates\.io|maven)"
    assert found(hosts) == []


def test_pinned_files_carry_hashes_and_no_address() -> None:
    pins = sorted((ROOT / "requirements").glob("*.txt"))
    assert [pin.name for pin in pins] == [
        "audit.txt", "bootstrap.txt", "dev.txt", "docs.txt", "operator.txt", "stores.txt",
        "trackers.txt", "trainer.txt", "unit.txt",
    ]  # fmt: skip
    for pin in pins:
        text = pin.read_text(encoding="utf-8")
        assert "://" not in text, pin.name
        names = re.findall(r"^[A-Za-z0-9._-]+==", text, flags=re.MULTILINE)
        assert names
        assert text.count("--hash=sha256:") >= len(names), pin.name


def test_images_carry_only_their_own_libraries() -> None:
    pinned = {
        image: re.findall(
            r"^([a-z0-9-]+)==", (ROOT / f"requirements/{image}.txt").read_text(), flags=re.MULTILINE
        )
        for image in ("operator", "trainer")
    }
    assert {"kopf", "kubernetes"} <= set(pinned["operator"])
    assert {"torch", "transformers"} <= set(pinned["trainer"])
    assert not {"torch", "transformers"} & set(pinned["operator"])
    assert not {"kopf", "kubernetes"} & set(pinned["trainer"])


def imports(folder: str, library: str) -> list[str]:
    """Return the files of ``folder`` that import ``library`` anywhere, lazily or not."""
    expression = re.compile(rf"^\s*(import|from)\s+{library}\b", flags=re.MULTILINE)
    return [
        file.relative_to(ROOT / folder).as_posix()
        for file in python_files(folder)
        if expression.search(file.read_text(encoding="utf-8"))
    ]


def test_only_one_file_imports_kopf_and_one_a_side_kubernetes() -> None:
    assert imports("operator/src", "kopf") in ([], ["qwenft_operator/main.py"])
    assert set(imports("operator/src", "kubernetes")) <= {
        "qwenft_operator/cluster.py",
        "qwenft_cli/connect.py",
    }


def test_bare_install_needs_two_libraries() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = [re.split(r"[<>=~!]", dependency)[0] for dependency in project["dependencies"]]
    assert names == ["pyyaml", "rich"]


def test_every_public_module_says_why_it_is_there() -> None:
    silent = [
        str(file.relative_to(ROOT))
        for file in python_files(*SOURCES)
        if not ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))
    ]
    assert silent == []

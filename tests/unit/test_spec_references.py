"""The specification and the code name each other, and both names lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
SPEC = REPOSITORY / "spec"
PAGES = sorted(path for path in SPEC.glob("*.md") if path.name != "README.md")
PREFIXES = {
    "encoding": "EN",
    "statement": "ST",
    "model": "MO",
    "trace": "TR",
    "numerics": "NU",
    "log": "LO",
    "attestation": "AT",
    "dispute": "DI",
    "spotcheck": "SC",
    "finality": "FI",
    "economics": "EC",
}
SOURCES = sorted(
    path
    for folder in ("core", "runtime", "services", "clients/python", "protos/otr")
    for pattern in ("*.py", "*.proto")
    for path in (REPOSITORY / folder).rglob(pattern)
)


def defined_rules(page: Path) -> list[str]:
    return re.findall(r"^- \*\*([A-Z]{2}-\d+)\.\*\*", page.read_text(), re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_rule_of_a_page_has_its_prefix_and_no_number_twice(page: Path) -> None:
    rules = defined_rules(page)
    assert rules
    assert len(rules) == len(set(rules))
    assert {rule.split("-")[0] for rule in rules} == {PREFIXES[page.stem]}


def test_rule_numbers_have_no_gaps() -> None:
    # A withdrawn rule keeps its number and says so, therefore a gap is a slip.
    for page in PAGES:
        numbers = sorted(int(rule.split("-")[1]) for rule in defined_rules(page))
        assert numbers == list(range(1, len(numbers) + 1)), page.name


def test_every_rule_that_is_referred_to_exists() -> None:
    known = {rule for page in PAGES for rule in defined_rules(page)}
    prefixes = "|".join(PREFIXES.values())
    for path in [*SPEC.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md")]:
        text = path.read_text()
        if path.name == "README.md" and path.parent == SPEC:
            text = text.replace("`ST-7`", "")
        referred = set(re.findall(rf"\b(?:{prefixes})-\d+\b", text))
        assert referred <= known, path.name


def test_every_module_that_the_specification_names_exists() -> None:
    missing = []
    for page in PAGES:
        for dotted in re.findall(r"`(otr_\w+(?:\.\w+)+)`", page.read_text()):
            package, *rest = dotted.split(".")
            (root,) = REPOSITORY.glob(f"*/*/{package}")
            target = root.joinpath(*rest)
            if not target.is_dir() and not target.with_suffix(".py").is_file():
                missing.append(f"{page.name}: {dotted}")
    assert missing == []


def headings(page: str) -> list[str]:
    return re.findall(r"^#+ (.+)$", (SPEC / f"{page}.md").read_text(), re.MULTILINE)


def test_every_page_and_section_that_code_names_exists() -> None:
    reference = re.compile(r"spec/(\w+)\.md(?:,? (?:section )?(?:\"([^\"]+)\"|(\d+)))?")
    wrong = []
    for source in SOURCES:
        text = " ".join(line.strip(" #/") for line in source.read_text().splitlines())
        for match in reference.finditer(text):
            page, quoted, number = match.groups()
            if page not in PREFIXES:
                wrong.append(f"{source.name}: {match[0]}")
                continue
            titles = headings(page)
            if quoted is not None and quoted.lower() not in {title.lower() for title in titles}:
                wrong.append(f"{source.name}: {match[0]}")
            if number is not None and not any(t.startswith(f"{number}.") for t in titles):
                wrong.append(f"{source.name}: {match[0]}")
    assert wrong == []

"""README and docs: links resolve, and every command and flag in them exists."""

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "parity" / "README.md",
    *(ROOT / "docs").glob("*.md"),
]


def prose(path):
    """The page without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.S | re.M)


def anchors(path):
    """Of the headings, as GitHub makes them."""
    for heading in re.findall(r"^#+ (.+)$", prose(path), re.M):
        yield re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_resolve(page):
    links = re.findall(r"\]\(([^)\s]+)\)", prose(page))
    for link in links:
        if link.startswith("http"):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def commands(text):
    """(module, flags) of every `python -m`, lines joined that end in a backslash."""
    text = text.replace("\\\n", " ")
    for module, rest in re.findall(r"python3? -m ([\w.]+)([^\n`|#]*)", text):
        yield module.rstrip("."), re.findall(r"(?<=\s)--(\w+)(?!\w|\.)", rest)


def source_of(module):
    """The text of a command's module, or of its package's __main__, and of what it shares."""
    spec = importlib.util.find_spec(module)
    if spec.submodule_search_locations:
        spec = importlib.util.find_spec(f"{module}.__main__")
    shared = ROOT / "vitjax" / "tools" / "command.py"
    return Path(spec.origin).read_text() + shared.read_text()


OURS = ("vitjax", "input_pipeline", "parity", "constraints", "tests")


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_commands_and_flags_exist(page):
    for module, flags in commands(page.read_text()):
        if (
            module.split(".")[0] in OURS
            and module.islower()
            and module[-6:] != ".tools"
        ):
            source = source_of(module)
            for flag in flags:
                assert flag == "config" or f'"--{flag}"' in source, (module, flag)


def test_make_targets_exist():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
    for page in PAGES:
        assert set(re.findall(r"`make ([\w-]+)", page.read_text())) <= targets, page


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 220

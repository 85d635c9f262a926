"""README and docs: links resolve, commands, flags, targets and files exist."""

import importlib
import importlib.util
import re
import shlex
from pathlib import Path

import pytest

from input_pipeline.sources.folder_layouts import SUFFIXES
from tests.helpers import weights_cases
from vitjax.commands import COMMANDS as COMMAND_MODULES
from vitjax.weights import files, trainers

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [README, ROOT / "parity" / "README.md", *DOCS]
OURS = ("vitjax", "input_pipeline", "configs", "parity", "constraints", "tests")
TOOLS = ROOT / "vitjax" / "tools"


def by_page(pages):
    ids = [str(page.relative_to(ROOT)) for page in pages]
    return pytest.mark.parametrize("page", pages, ids=ids)


def prose(page):
    """Return the page without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.S | re.M)


def spans(text):
    """Return the texts between backticks, with spaces for line breaks."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)]


def shell_lines(page):
    """Yield the lines of the page's shell blocks; a backslash joins two lines."""
    for block in re.findall(r"^```sh\n(.*?)^```$", page.read_text(), re.S | re.M):
        yield from block.replace("\\\n", " ").splitlines()


def anchors(page):
    """Yield the anchors that GitHub makes of the headings."""
    for heading in re.findall(r"^#+ (.+)$", prose(page), re.M):
        yield re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@by_page(PAGES)
def test_links_resolve(page):
    links = re.findall(r"\]\(([^)\s]+)\)", prose(page))
    for link in links:
        if link.startswith("http"):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def flags_in(text):
    """Yield the flags of one command, up to the next one; quoted text has none."""
    for word in shlex.split(text, comments=True):
        if word in ("&&", "|", ">"):
            return
        if found := re.match(r"--(\w+)(?![\w.])", word):
            yield found[1]
        if word.endswith(";"):
            return


def commands(page):
    """Yield (module, flags) of every `python -m` and of every command of vitjax."""
    for text in [*shell_lines(page), *spans(prose(page))]:
        for name, rest in re.findall(r"(?<![\w/.-])vitjax ([a-z_]+)\b(.*)", text):
            yield COMMAND_MODULES[name], list(flags_in(rest))
        for found in re.finditer(r"python3? -m ([\w.]+)(.*)", text):
            last = found[1].rpartition(".")[2]
            if last and not last.isupper():  # "": the head of a table; COMMAND: any
                yield found[1], list(flags_in(found[2]))


def named_tools(page):
    """Yield (tools, flags) of commands and flags without `python -m`."""
    section = []
    for line in prose(page).splitlines():
        if line.startswith("#"):
            words = line.strip("# ").split()
            section = [w for w in words if (TOOLS / f"{w}.py").exists()]
        for span in spans(line):
            first, _, rest = span.partition(" ")
            if (TOOLS / f"{first}.py").exists() and rest.startswith("--"):
                yield [first], list(flags_in(rest))
            elif page.name == "tools.md" and section and span.startswith("--"):
                yield section, list(flags_in(span))


COMMANDS = {
    path.stem for path in TOOLS.glob("*.py") if '"__main__"' in path.read_text()
}


def flags_of(module):
    """Return the flags that a module's source names or takes from command.py."""
    path = ROOT.joinpath(*module.split("."))
    file = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
    source = file.read_text()
    if "probes.add_flags(" in source:
        source += (TOOLS / "probes.py").read_text()
    if module == "vitjax.train":
        source += (ROOT / "vitjax" / "command_line.py").read_text()
    for part in (TOOLS / "command.py").read_text().split("\ndef ")[1:]:
        name = part.partition("(")[0]
        if f"command.{name}(" in source:
            source += part
    return {"help", *re.findall(r'"--(\w+)"', source)}


def test_the_flags_of_a_module_are_its_own_and_the_helpers_that_it_calls():
    assert {"matrix", "config", "out"} < flags_of("vitjax.tools.sweep")
    assert {"self_test", "only"} < flags_of("parity")
    assert not {"ckpt", "json", "evals"} & flags_of("vitjax.tools.sweep")


@by_page(PAGES)
def test_commands_and_flags_exist(page):
    found = [([module], flags) for module, flags in commands(page)]
    found += [
        ([f"vitjax.tools.{tool}" for tool in tools], flags)
        for tools, flags in named_tools(page)
    ]
    for modules, flags in found:
        if modules[0].split(".")[0] not in OURS:
            assert importlib.util.find_spec(modules[0]), modules
            continue
        known = {flag for module in modules for flag in flags_of(module)}
        assert known >= set(flags), (modules, flags)


def test_the_pages_name_commands():
    """The patterns above find commands and tools."""
    found = {module for page in PAGES for module, _ in commands(page)}
    assert found >= {f"vitjax.tools.{tool}" for tool in COMMANDS}
    assert found >= {"vitjax.train", "vitjax.benchmark", "parity", "parity.speed"}


def test_every_tool_has_a_section():
    text = (ROOT / "docs" / "tools.md").read_text()
    assert len(COMMANDS) == 14
    named = [m.removeprefix("vitjax.tools.") for m in COMMAND_MODULES.values()]
    assert COMMANDS | {"vitjax.train", "vitjax.benchmark", "parity.__main__"} == {
        *named
    }
    assert {*" ".join(re.findall(r"^## (.+)$", text, re.M)).split()} >= COMMANDS


@by_page(PAGES)
def test_make_targets_exist(page):
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
    for text in [*shell_lines(page), *spans(prose(page))]:
        if found := re.match(r"make ([\w-]+)", text):
            assert found[1] in targets, text


@by_page(PAGES)
def test_files_of_the_repository_exist(page):
    tops = "|".join([*OURS, "docs", "pictures", "recipes"])
    for text in [*shell_lines(page), *spans(prose(page))]:
        for name in re.findall(rf"(?<![\w/.-])(?:{tops})/[\w/.-]*\.\w+", text):
            assert (ROOT / name).exists(), name


@by_page(PAGES)
def test_arguments_of_configs_are_taken(page, tmp_path):
    """With another checkpoint and a number of classes: the files are not there."""
    there = weights_cases.stored(tmp_path / "x.npz")
    for text in [*shell_lines(page), *spans(prose(page))]:
        for name, arg in re.findall(r"configs/(\w+)\.py:([^\s\"]+)", text):
            arg = arg.replace("$init", "lecun")  # a loop of the shell
            if arg.isupper() or "..." in arg or "=NAME" in arg:
                continue
            arg = re.sub(r"\bckpt=[^,]*", f"ckpt={there}", arg)
            if name in ("finetune", "scratch") and "classes=" not in arg:
                arg += ",classes=3"
            importlib.import_module(f"configs.{name}").get_config(arg)


def sentences(page):
    """Yield the sentences of paragraphs, items and table cells, without code."""
    text = re.sub(r"`[^`]*`", "X", prose(page))
    blocks = re.split(r"\n\n|\n(?=[-|#]|\d\.)|(?<= )\| ", text)
    for block in blocks:
        if not block.startswith("#"):
            words = " ".join(block.strip("-| \n").split())
            yield from re.split(r"(?<=[.:;!?]) ", words)


@by_page([README, *DOCS])
def test_sentences_are_plain(page):
    for sentence in sentences(page):
        assert not re.match(r"(Of|What|Whether) ", sentence), sentence
        assert not re.search(
            r"\b(anew|beside|go(es)? on|(is|are) told)\b", sentence, re.I
        ), sentence


@by_page(DOCS)
def test_a_page_begins_with_one_sentence(page):
    title, first = page.read_text().split("\n\n")[:2]
    assert re.fullmatch(r"# .+", title)
    assert first.startswith("This page ")
    assert first.endswith(".")
    assert len(re.findall(r"[.!?](?:\s|$)", first)) == 1


def test_the_readme_is_short():
    assert len(README.read_text().splitlines()) <= 220
    lines = [line for line in prose(README).splitlines() if not line.startswith("|")]
    assert max(map(len, lines)) <= 120


def row_of(page, start):
    """Return the cells of the one table row that begins with this text."""
    [row] = [x for x in (ROOT / page).read_text().splitlines() if x.startswith(start)]
    return [cell.strip() for cell in row.strip("|").split(" | ")]


def test_the_tables_of_what_is_read_have_all_suffixes_and_trees():
    images, _ = row_of("docs/data.md", "| `.jpg")
    assert sorted(images.split("`")[1].split()) == sorted(SUFFIXES)
    state_dicts, formats = row_of("docs/weights.md", "| `.safetensors`")
    named = set(re.findall(r"`(\.[\w.]+)`", state_dicts))
    assert named >= files.SUFFIXES.keys() - {".npz"} - {".tar"}
    for words in ("timm", "torchvision", "Hugging Face", "mup-vit"):
        assert words in formats
    trees, _ = row_of("docs/weights.md", "| several state dicts")
    assert tuple(re.findall(r"`(\w+)`", trees)) == trainers.ORDER

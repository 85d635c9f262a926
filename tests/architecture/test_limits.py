"""Sizes: files of at most 400 lines, functions of at most 80 lines and 9 parameters."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FILES = [p for d in ("vitjax", "input_pipeline", "configs", "parity", "constraints")
         for p in sorted((ROOT / d).rglob("*.py"))]  # fmt: skip
# One model with all of big_vision's options.
LONG = {"vitjax/models/vit.py"}
# Their parameters are the keys of a config section.
SECTIONS = {
    "input_pipeline/pipeline.py": {"make_train"},
    "parity/reference/train.py": {"__init__"},
    "parity/reference/vit.py": {"__init__"},
    "vitjax/evaluators/features.py": {"__init__"},
    "vitjax/optim/chain.py": {"make_optimizer"},
    "vitjax/records/sinks.py": {"__init__"},
    "vitjax/step/train_step.py": {"make_train_step"},
}


def functions():
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                yield str(path.relative_to(ROOT)), node


def test_files_are_short():
    lines = {str(p.relative_to(ROOT)): len(p.read_text().splitlines()) for p in FILES}
    assert {file for file, count in lines.items() if count > 400} == LONG


def test_functions_fit_a_screen():
    long = [(f, x.name) for f, x in functions() if x.end_lineno - x.lineno >= 80]
    assert not long


def test_only_config_sections_have_many_parameters():
    found = {}
    for file, node in functions():
        args = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
        if len([a for a in args if a.arg not in ("self", "cls")]) > 9:
            found.setdefault(file, set()).add(node.name)
    assert found == SECTIONS

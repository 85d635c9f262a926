"""A process that imports vitjax or input_pipeline may load TensorFlow and triton."""

import importlib.util
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from input_pipeline import environment

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
SIDES = ("vitjax", "input_pipeline")

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None,
    reason="triton is not installed (Linux on x86-64 only)",
)


def _run(code, **changes):
    """(status, stdout, stderr) of a process without TensorFlow's variables."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("TF_")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**kept, **changes},
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout, done.stderr


def test_variables_that_the_user_has_set_are_kept(monkeypatch):
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "1")
    monkeypatch.delenv("TF_NUM_INTRAOP_THREADS", raising=False)
    environment.prepare()
    assert os.environ["TF_NUM_INTRAOP_THREADS"] == "1"
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "4")
    environment.prepare()
    assert os.environ["TF_NUM_INTRAOP_THREADS"] == "4"
    assert os.environ["TF_ENABLE_ONEDNN_OPTS"] == "1"


def test_prepared_twice_is_prepared_once():
    environment.prepare()
    environment.prepare()
    assert [type(f) for f in sys.meta_path].count(environment.OwnSymbols) == 1


@pytest.mark.parametrize("package", SIDES)
def test_each_package_prepares_and_imports_nothing_heavy(package):
    code = (
        f"import sys, {package}, os\n"
        "assert 'OwnSymbols' in [type(f).__name__ for f in sys.meta_path]\n"
        "assert os.environ['TF_ENABLE_ONEDNN_OPTS'] == '0'\n"
        "print(*sorted({'jax', 'tensorflow', 'torch', 'triton'} & sys.modules.keys()))"
    )
    status, out, error = _run(code)
    assert (status, out.split()) == (0, []), error


@pytest.mark.skipif(
    (sys.platform, platform.machine()) != ("linux", "x86_64"),
    reason="triton has no wheel for this machine",
)
def test_triton_is_installed_for_these_tests():
    """Without triton the tests below would all be skipped."""
    assert importlib.util.find_spec("triton") is not None


MALLOC = """
#define _GNU_SOURCE
#include <stddef.h>
extern void *__libc_malloc(size_t);
void *malloc(size_t size) { return __libc_malloc(size); }
"""


@needs_triton
@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_a_replaced_malloc_is_never_bypassed(tmp_path):
    """Deep binding would free memory with another allocator, which ends the process."""
    (tmp_path / "malloc.c").write_text(MALLOC)
    library = tmp_path / "malloc.so"
    command = ["cc", "-shared", "-fPIC", "-o", library, tmp_path / "malloc.c"]
    subprocess.run(command, check=True)
    code = (
        "import input_pipeline, triton, sys\n"
        "loader = sys.modules['triton._C.libtriton'].__spec__.loader\n"
        "assert type(loader).__name__ == 'ExtensionFileLoader', loader\n"
    )
    status, _, error = _run(code, LD_PRELOAD=str(library))
    assert status == 0, error
    code = (
        "import input_pipeline, tensorflow\n"
        "try:\n    import triton\nexcept ImportError as error:\n    print(error)\n"
        "import torch\n"
        "weight = torch.nn.Parameter(torch.ones(3))\n"
        "sgd = torch.optim.SGD([weight], lr=0.5)\n"
    )
    status, out, error = _run(code, LD_PRELOAD=str(library))
    assert status == 0, error
    assert "import triton before TensorFlow" in out


@needs_triton
def test_the_naked_order_still_ends_the_process():
    """Skipped once it does not: then OwnSymbols and this test can be removed."""
    status, out, said = _run(
        "import tensorflow, triton; print(tensorflow.__version__, triton.__version__)"
    )
    if status == 0:
        versions = "TensorFlow {} and triton {}".format(*out.split())
        pytest.skip(f"{versions} live together: OwnSymbols is not needed for them")
    # The last is the message of triton 3.9.
    assert status in (-signal.SIGSEGV, -signal.SIGABRT) or "LLVM ERROR" in said


# Orders in a user's own program, which then compiles with both.
ORDERS = {
    "ours, TensorFlow, triton by torch's optimizer": "import {ours}, tensorflow, torch\n"
    "torch.optim.SGD([torch.nn.Parameter(torch.ones(3))])\n"
    "assert 'triton' in sys.modules\nimport triton",
    "TensorFlow, ours, triton": "import tensorflow, {ours}, triton",
    "ours, triton, TensorFlow": "import {ours}, triton, tensorflow",
}
COMPILE = """
import hashlib, sys
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
import importlib.util
spec = importlib.util.spec_from_file_location("kernel", sys.argv[1])
kernel = importlib.util.module_from_spec(spec)
sys.modules["kernel"] = kernel
spec.loader.exec_module(kernel)
types = {"x": "*fp32", "y": "*fp32", "n": "i32", "BLOCK": "constexpr"}
source = ASTSource(fn=kernel.add, signature=types, constexprs={(3,): 128})
made = triton.compile(source, target=GPUTarget("cuda", 90, 32))
print(hashlib.sha256(made.asm["ptx"].encode()).hexdigest())
"""
KERNEL = """
import triton
import triton.language as tl


@triton.jit
def add(x, y, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    a = tl.load(x + i, mask=i < n)
    tl.store(y + i, tl.exp(a) + tl.sum(a), mask=i < n)
"""
XLA = """
double = tensorflow.function(lambda x: 2 * x, jit_compile=True, autograph=False)
assert double(tensorflow.ones(3)).numpy().tolist() == [2, 2, 2]
"""


@pytest.fixture(scope="module")
def ptx(tmp_path_factory):
    """(a file with a kernel, how to compile it afresh, the PTX's hash without us)."""
    folder = tmp_path_factory.mktemp("triton")
    (folder / "kernel.py").write_text(KERNEL)
    changes = {
        "TRITON_CACHE_DIR": str(folder / "cache"),
        "TRITON_ALWAYS_COMPILE": "1",
        "ARGUMENT": str(folder / "kernel.py"),
    }
    start = "import os, sys; sys.argv = ['', os.environ['ARGUMENT']]\n"
    status, out, error = _run(start + "import triton\n" + COMPILE, **changes)
    assert status == 0, error
    return start, changes, out


@needs_triton
@pytest.mark.parametrize("order", ORDERS)
def test_any_order_compiles_as_without_the_others(order, ptx):
    """Both compilers work: the same PTX, and XLA's own answer."""
    start, changes, expected = ptx
    code = start + ORDERS[order].format(ours="vitjax.weights") + COMPILE + XLA
    status, out, error = _run(code, **changes)
    assert (status, out) == (0, expected), error


def test_tensorflow_says_nothing_at_its_start():
    assert _run("import input_pipeline.ops, jax; jax.devices()") == (0, "", "")
    # Without our variable it prints such lines, so the test above can fail.
    _, _, said = _run("import tensorflow", TF_ENABLE_ONEDNN_OPTS="1")
    assert re.search("oneDNN|cpu_feature_guard", said)

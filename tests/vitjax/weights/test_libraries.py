"""A broken torch, or a library on top of it, is one sentence where it is needed.

Stand-ins that raise come before the real libraries on PYTHONPATH of other processes.
"""

import importlib.metadata
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.runs import QUICKSTART, TWELVE_STEPS, run_tok
from vitjax.weights.libraries import MATCHING, Unusable, importing

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]

USED = (
    "from vitjax.weights.libraries import import_torchvision\n"
    "torchvision = import_torchvision()\n"
    "assert import_torchvision() is torchvision\n"
    "import torch\n"
    "from torchvision.transforms.v2 import functional\n"
    "image = torch.arange(48, dtype=torch.uint8).reshape(3, 4, 4)\n"
    "assert functional.rotate(image, 90).tolist() == image.rot90(1, (1, 2)).tolist()\n"
    "from torchvision.models import VisionTransformer\n"
)


def test_torchvision_in_a_fresh_process_without_warnings():
    """Also with a torch that was built for the CPU only."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", USED],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def message_of(error, name, instead=""):
    """The message of `Unusable` for a library whose import raises this error."""
    with pytest.raises(Unusable) as caught, importing(name, instead):
        raise error
    return str(caught.value)


def test_a_missing_library_and_what_helps():
    error = ModuleNotFoundError("No module named 'nosuch'", name="nosuch")
    expected = "nosuch is not installed: pip install nosuch, or use another"
    assert message_of(error, "nosuch", "use another") == expected
    # The message of a library that it needs is not repeated.
    assert message_of(Unusable("torch is not installed"), "timm").startswith("torch is")


def test_the_cause_behind_a_librarys_own_words_is_named():
    try:
        from torch import nosuch  # noqa: F401
    except ImportError as error:
        wrapper = ModuleNotFoundError("set the verbosity to see why")
        wrapper.__cause__ = error
    said = message_of(wrapper, "timm")
    assert said.startswith("timm cannot be imported, ImportError: cannot import name")
    assert f"torch {importlib.metadata.version('torch')}" in said
    assert said.endswith(f"install timm and torch again, {MATCHING}")
    assert "\n" not in said
    assert "AttributeError: no reason given" in message_of(AttributeError(), "torch")


CUDA = 'OSError("libcudart.so.13: cannot open shared object file")'
TRITON = 'AttributeError("module triton has no attribute jit")'
NMS = 'RuntimeError("operator torchvision::nms does not exist\\nIts second line")'
# Runs each command of the arguments, in one process.
COMMANDS = """
import contextlib, importlib, io, json, sys
done = []
for name, *arguments in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    module = importlib.import_module(name)
    main = getattr(module, "cli", module.main)  # vitjax.train's with flags of its own
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(arguments)
    done.append([status, out.getvalue(), err.getvalue()])
print(json.dumps(done))
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The workdir of a run whose model every format has a place for."""
    workdir = tmp_path_factory.mktemp("trained") / "run"
    assert run_tok(workdir) == 0
    return workdir


def beside(raising, tmp_path, *commands):
    """([(status, stdout, stderr) of each command], libraries whose import was tried)."""
    for name, error in raising.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(
            "import pathlib\n"
            f"(pathlib.Path(__file__).parent / 'tried').touch()\nraise {error}\n"
        )
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    process = subprocess.run(
        [sys.executable, "-c", COMMANDS, json.dumps(commands)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    tried = {name for name in raising if (tmp_path / name / "tried").exists()}
    return json.loads(process.stdout.splitlines()[-1]), tried


def sentence(done, *lines):
    """The one sentence of a command that fails; `lines` are others that may follow."""
    status, _, err = done
    first, *others = err.strip().splitlines()
    assert (status, others) == (1, list(lines)), err
    assert first.startswith("error: ")
    return first


EXPORT = "vitjax.tools.export"
HINT = "(VITJAX_TRACEBACK=1 shows where it comes from)"


def test_files_of_torch_are_refused_and_other_files_are_written(trained, tmp_path):
    """The check by the other library's class is left out, with a word about it."""
    pth = tmp_path / "x.pth"
    pth.write_bytes(b"its content does not matter")
    ckpt = ["--ckpt", str(trained), "--to"]
    small = [*TWELVE_STEPS, "--workdir", str(tmp_path / "run")]
    outs = [tmp_path / "timm.safetensors", tmp_path / "huggingface.safetensors"]
    npz = [str(tmp_path / "y.npz"), "--to", "big_vision"]
    (written, read, model_init, *exported, parity, speed), _ = beside(
        {"torch": CUDA},
        tmp_path,
        [EXPORT, *ckpt, "timm", str(tmp_path / "y.pth")],
        ["vitjax.tools.convert", str(pth), *npz],
        ["vitjax.train", "--config", QUICKSTART, f"--config.model_init={pth}", *small],
        *([EXPORT, *ckpt, out.stem, str(out)] for out in outs),
        ["parity.__main__", "--only", "loss"],
        ["parity.speed.__main__"],
    )
    version = importlib.metadata.version("torch")
    said = (
        "torch cannot be imported, OSError: libcudart.so.13: cannot open shared object "
        f"file (torch {version}); install torch again, {MATCHING}"
    )
    file = f"error: {said}, or use .safetensors"
    assert [sentence(written), sentence(read), sentence(model_init, HINT)] == [file] * 3
    assert not (tmp_path / "y.pth").exists()
    for out, done in zip(outs, exported, strict=True):
        assert (done[0], done[2]) == (0, ""), done
        assert done[1].endswith(f"to the bit; not tried in {out.stem}, as {said}\n")
        assert out.stat().st_size > 10_000
    assert parity == [2, "", f"error: {said}\n"]
    assert sentence(speed) == f"error: {said}"


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        (
            "torchvision",
            NMS,
            "RuntimeError: operator torchvision::nms does not exist (",
        ),
        ("triton", TRITON, "AttributeError: module triton has no attribute jit ("),
    ],
    ids=["torchvision", "triton"],
)
def test_a_broken_library_on_top_of_torch_is_left_out(
    name, error, words, trained, tmp_path
):
    """Files of torch do not need it."""
    ckpt = ["--ckpt", str(trained), "--to"]
    formats = {"timm": "timm", "torchvision": "torchvision"}
    if importlib.util.find_spec("transformers"):
        formats["huggingface"] = "transformers"
    (pth, *exported, parity), tried = beside(
        {name: error},
        tmp_path,
        [EXPORT, *ckpt, "mup_vit", str(tmp_path / "y.pth")],
        *([EXPORT, *ckpt, to, str(tmp_path / f"{to}.safetensors")] for to in formats),
        ["parity.__main__", "--only", "decoding"],
    )
    assert pth[0] == 0, pth
    assert tried == {name}
    said = f"cannot be imported, {words}"
    for (to, library), done in zip(formats.items(), exported, strict=True):
        assert (done[0], done[2]) == (0, ""), done
        assert f"not tried in {to}, as " in done[1]
        assert said in done[1]
        assert library in done[1]
        last = done[1].split("; install ")[1].split()
        assert {name, "torch"} <= set(last)
    assert parity[:2] == [2, ""], parity
    assert said in parity[2]
    assert len(parity[2].splitlines()) == 1


def test_commands_that_need_none_of_them_import_none(tmp_path):
    """Training, the tools, their own and big_vision's files do not mention them."""
    from PIL import Image

    photo = tmp_path / "photo.png"
    Image.new("RGB", (8, 8)).save(photo)
    run, other, npz = (str(tmp_path / name) for name in ("run", "other", "w.npz"))
    ckpt, small = ["--ckpt", run], ["--config", QUICKSTART, *TWELVE_STEPS]
    start = [f"--config.model_init={npz}", "--config.total_steps=1"]
    rollout = ["--image", str(photo), "--out", str(tmp_path / "rollout.png")]
    tiny = ["--batch_size", "2", "--image_size", "32", "--steps", "1"]
    names = ["torch", "torchvision", "timm", "transformers", "triton"]
    done, tried = beside(
        dict.fromkeys(names, CUDA),
        tmp_path,
        ["vitjax.train", *small, "--workdir", run],
        ["vitjax.tools.convert", run, npz, "--to", "big_vision"],
        ["vitjax.train", *small, *start, "--workdir", other],
        ["vitjax.tools.evaluate", *ckpt, "--out", str(tmp_path / "report")],
        ["vitjax.tools.plan", *small, "--accum_freq", "1", "--remat_policy", "none"],
        ["vitjax.tools.plot", run, "--out", str(tmp_path / "curves.png")],
        ["vitjax.tools.predict", *ckpt, str(photo)],
        ["vitjax.tools.average_checkpoints", run, "--out", str(tmp_path / "mean")],
        ["vitjax.tools.attention_rollout", *ckpt, *rollout],
        ["vitjax.tools.profile", *small, "--steps", "1", "--out", str(tmp_path / "t")],
        ["vitjax.benchmark", "--model", "mu/16", *tiny],
        [EXPORT, *ckpt, "--to", "safetensors", str(tmp_path / "w.safetensors")],
        [EXPORT, *ckpt, "--to", "mup_vit", str(tmp_path / "mup.safetensors")],
        ["vitjax.tools.compare_runs", run, other],
    )
    for status, out, err in done:
        assert status == 0, out + err
        assert not re.findall(rf"\b({'|'.join(names)})\b", out + err)
    assert tried == set()

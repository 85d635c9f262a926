"""Small runs of the quickstart's recipe."""

import os
import subprocess
import sys
from pathlib import Path

from vitjax import train

ROOT = Path(__file__).resolve().parents[2]
QUICKSTART = str(ROOT / "configs" / "quickstart.py")
_MODEL = [
    "--config.input.batch_size=64",
    "--config.model.width=16",
    "--config.model.depth=1",
    "--config.model.mlp_dim=32",
    "--config.model.num_heads=2",
]
SMALL = [f"--config={QUICKSTART}", *_MODEL, "--config.evals.val.log_steps=20"]
SHORT = [*SMALL, "--config.total_steps=20", "--config.ckpt_steps=20"]
# Without --config: other configs take these flags too.
TWELVE_STEPS = [
    *_MODEL,
    "--config.total_steps=12",
    "--config.log_training_steps=2",
    "--config.ckpt_steps=5",
    "--config.evals.val.log_steps=5",
]


def run(workdir, *overrides, config=QUICKSTART):
    return train.cli(
        ["--config", config, "--workdir", str(workdir), *TWELVE_STEPS, *overrides]
    )


def run_tok(workdir):
    """A class token, learned positions, the exact GELU, three channels: as others have."""
    own = {"width": 32, "depth": 1, "mlp_dim": 48, "num_heads": 2, "patch_size": (4, 4)}
    own |= {"pool_type": "tok", "posemb": "learn", "gelu": "exact"}
    pp = "grayscale_to_rgb|keep('image', 'label')"
    flags = [f"--config.model={own}", f"--config.input.pp={pp}"]
    return run(workdir, *flags, f"--config.evals.val.pp_fn={pp}")


def error_of(capsys, *args, **kwargs):
    """The sentence of a run that must fail."""
    assert run(*args, **kwargs) == 1
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    [line, hint] = captured.err.strip().splitlines()
    assert line.startswith("error: ")
    assert "VITJAX_TRACEBACK" in hint
    return line


def values(rows):
    """(step, name) -> value, without timing."""
    return {
        (row["step"], name): value
        for row in rows
        for name, value in row.items()
        if name != "step" and not name.startswith(("time/", "img/sec"))
    }


def start(workdir, devices, *flags):
    """The command as a process of its own."""
    env = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(devices),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
    }
    return subprocess.Popen(
        [sys.executable, "-m", "vitjax.train", "--config", QUICKSTART,
         "--workdir", str(workdir), *TWELVE_STEPS, *flags],
        cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def params_of(workdir, step):
    import orbax.checkpoint as ocp

    with ocp.StandardCheckpointer() as reader:
        return reader.restore(workdir / "checkpoints" / str(step) / "state")

"""Small runs of the quickstart's recipe."""

from pathlib import Path

QUICKSTART = str(Path(__file__).resolve().parents[2] / "configs" / "quickstart.py")
SMALL = [
    f"--config={QUICKSTART}",
    "--config.input.batch_size=64",
    "--config.model.width=16",
    "--config.model.depth=1",
    "--config.model.mlp_dim=32",
    "--config.model.num_heads=2",
    "--config.evals.val.log_steps=20",
]
SHORT = [*SMALL, "--config.total_steps=20", "--config.ckpt_steps=20"]

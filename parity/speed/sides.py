"""The programs that parity.speed times: one training step, in torch and in vitjax.

All start from the same weights and get the same images, labels and lambdas of mixup,
which are already on the device. Adam's moments are float32. On a GPU they compute in
bfloat16, residual stream included (torch by autocast, vitjax by dtype_mm and
residual_dtype); on a CPU they compute in float32. torch runs as its users would run it:
clip_grad_norm_, the fused AdamW. vitjax's step is the trainer's, which also returns the
norms of gradients, parameters and updates.
"""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

SIDES = ("torch eager", "torch.compile", "vitjax")
LR, WD, MIXUP_P = 1e-3, 1e-4, 0.2


@dataclasses.dataclass(frozen=True)
class Side:
    """A program: `step(i)` returns the loss of step i, and `wait` waits for it."""

    step: Callable[[int], Any]
    wait: Callable[[Any], Any]


@dataclasses.dataclass
class Problem:
    """The problem that all sides get.

    `case` is a parity.sides.cases.Case; `device` is "cpu" or "gpu".
    """

    case: Any
    device: str
    total_steps: int
    attn_impl: str = "flax"

    @property
    def dtype(self) -> str:
        """The dtype of matrix products."""
        return "bfloat16" if self.device == "gpu" else "float32"

    def model(self) -> Any:
        """Build vitjax's model."""
        from vitjax.models import vit

        kwargs = self.case.model_kwargs()
        return vit.Model(
            kwargs.pop("num_classes"),
            dtype_mm=self.dtype,
            residual_dtype=self.dtype,
            attn_impl=self.attn_impl,
            **kwargs,
        )

    @functools.cached_property
    def batch(self) -> tuple[Any, Any]:
        """Images (b h w 3) and one-hot labels (b c), float32."""
        import numpy as np

        from parity.sides.cases import random_batch

        image, labels = random_batch(self.case)
        return image.astype(np.float32), labels.astype(np.float32)

    @functools.cached_property
    def params(self) -> Any:
        """vitjax's first weights, in numpy.

        The head is not zero, so that losses depend on all weights.
        """
        import jax
        import numpy as np

        model = dataclasses.replace(self.model(), head_zeroinit=False)
        image = np.zeros((1, *self.case.image_size, 3), np.float32)
        params = jax.jit(model.init)(jax.random.key(0), image)["params"]
        return jax.tree.map(np.array, jax.device_get(params))

    @functools.cached_property
    def lambdas(self) -> list[float]:
        """mixup's lambda of every step, as vitjax's step draws it."""
        import jax

        from vitjax.step import mixup, step_keys

        def draw(at: Any) -> Any:
            key, _ = step_keys(jax.random.key(0), at)
            return mixup.sample_lambda(key, MIXUP_P)

        return jax.jit(jax.vmap(draw))(jax.numpy.arange(self.total_steps)).tolist()


def vitjax_side(problem: Problem) -> Side:
    """Build the trainer's own step, on one device."""
    import jax
    import numpy as np

    from vitjax.devices.sharding import batch_sharding, replicated
    from vitjax.optim import make_optimizer
    from vitjax.step import TrainState, make_train_step

    mesh = jax.sharding.Mesh(np.array(jax.devices(problem.device)[:1]), ("data",))
    tx, _ = make_optimizer(
        problem.params,
        total_steps=problem.total_steps,
        batch_size=None,
        data_size=None,
        lr=LR,
        wd=WD,
        optax_name="scale_by_adam",
        schedule={"decay_type": "cosine"},
        grad_clip_norm=1.0,
    )
    state = TrainState(
        step=np.zeros((), np.int32),
        params=problem.params,
        opt_state=tx.init(problem.params),
    )
    state, key = jax.device_put((state, jax.random.key(0)), replicated(mesh))
    batch = dict(zip(("image", "labels"), problem.batch, strict=True))
    batch = jax.device_put(batch, batch_sharding(mesh))
    train_step = make_train_step(
        problem.model(), tx, loss="softmax_xent", mesh=mesh, mixup={"p": MIXUP_P}
    )

    def step(_: int) -> Any:
        nonlocal state
        state, metrics = train_step(state, batch, key)
        return metrics["training_loss"]

    return Side(step, jax.block_until_ready)


def torch_side(problem: Problem, compiled: bool) -> Side:
    """Build the reference model and recipe, eager or with torch.compile."""
    import torch

    from parity.reference import train, vit
    from parity.sides import weights

    device = "cuda" if problem.device == "gpu" else "cpu"
    case = problem.case
    model = vit.ViT(image_size=case.image_size, **case.model_kwargs())
    weights.load(model, problem.params)
    schedule = train.warmup_cosine(problem.total_steps, 0)
    trainer = train.Trainer(model.to(device), lr=LR, wd=WD, multiplier=schedule)
    for group in trainer.optimizer.param_groups:
        group.update(fused=True, foreach=False)
    image, labels = (torch.tensor(x, device=device) for x in problem.batch)
    lambdas = torch.tensor(problem.lambdas, device=device)
    lower = problem.dtype == "bfloat16"

    def mix(x: torch.Tensor, lam: torch.Tensor) -> torch.Tensor:
        return x.roll(1, dims=0).lerp(x, lam)

    # lam is a tensor, because torch.compile compiles again for each Python number.
    def forward(lam: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device, torch.bfloat16, enabled=lower):
            logits, _ = model(mix(image, lam))
        return train.softmax_xent(logits.float(), mix(labels, lam))

    loss_of: Callable[..., Any] = torch.compile(forward) if compiled else forward

    def step(at: int) -> torch.Tensor:
        trainer.optimizer.zero_grad(set_to_none=True)
        loss = loss_of(lambdas[at])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trainer.params, 1.0)
        trainer.optimizer.step()
        trainer.schedule.step()
        return loss.detach()

    wait = torch.cuda.synchronize if device == "cuda" else bool
    return Side(step, lambda loss: wait() if device == "cuda" else wait(loss))


def make_side(name: str, problem: Problem) -> Side:
    """Build one of `SIDES`."""
    if name == "vitjax":
        return vitjax_side(problem)
    return torch_side(problem, compiled=name == "torch.compile")


def peak_bytes(problem: Problem, name: str) -> int | None:
    """Return the memory that one side, alone in this process, needs for three steps.

    On a GPU it is the peak of the side's own allocator. On a CPU it is the largest
    growth of the process's resident memory, compilation included. None if unknown: on a
    CPU only Linux reports it.
    """
    _ = problem.params, problem.batch, problem.lambdas
    before = _resident("VmRSS")
    if before is not None:
        Path("/proc/self/clear_refs").write_text("5")  # reset VmHWM
    side = make_side(name, problem)
    for i in range(3):
        side.wait(side.step(i))
    if problem.device == "cpu":
        after = _resident("VmHWM")
        return None if before is None or after is None else after - before
    if name == "vitjax":
        import jax

        return (jax.devices("gpu")[0].memory_stats() or {}).get("peak_bytes_in_use")
    import torch

    return torch.cuda.max_memory_allocated()


def _resident(field: str) -> int | None:
    """Return VmRSS (now) or VmHWM (the most so far) of this process, in bytes."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
    return 1024 * int(fields[field].split()[0])

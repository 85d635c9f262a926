"""Set-up of all tests: their devices and strict rank promotion, set before JAX starts."""

import contextlib
import os
import sys
import tempfile

# Shared by all test processes, so that each program is compiled once.
CACHE = os.path.join(tempfile.gettempdir(), f"vitjax-tests-xla-{os.getuid()}")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", CACHE)

# As our commands set it, which import this package first: JAX would choose another value.
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"

import jax  # noqa: E402
import pytest  # noqa: E402

# A test may import TensorFlow or torch before anything of ours.
import input_pipeline  # noqa: E402, F401

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def pytest_configure(config):
    """Use 8 CPU devices, or with `-m gpu` the GPU, and the CPU as second backend."""
    if config.getoption("markexpr") == "gpu":
        jax.devices()  # before torch loads its own libraries of CUDA
        return
    # Tests compile much and compute little: a third of the compile time, same
    # arithmetic.
    os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 8)


@pytest.fixture(scope="session")
def mesh():
    """All 8 CPU devices on one axis, "data"."""
    return jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))


@pytest.fixture
def absent(monkeypatch):
    """Return open(name) -> (target, absent devices); skips where the extra is missing."""
    from vitjax.devices import chips

    def open_target(name):
        target = chips.parse(name)
        lacking = chips.missing(target)
        if lacking is not None:
            pytest.skip(lacking)
        return target, chips.devices(target)

    for variable in ("SKIP_MDS_QUERY", "WORKER_HOSTNAMES", "ACCELERATOR_TYPE"):
        monkeypatch.setenv(f"TPU_{variable}", "")  # restored after the test
        monkeypatch.delenv(f"TPU_{variable}")
    chips.prepare()
    return open_target


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Return write(file, text), which writes modules into the current, empty folder."""
    monkeypatch.chdir(tmp_path)
    tops = set()

    def write(file, text):
        path = tmp_path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        tops.add(file.partition("/")[0].removesuffix(".py"))

    yield write
    for name in [name for name in sys.modules if name.split(".")[0] in tops]:
        del sys.modules[name]


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory):
    """The workdir of a small run on digits, which no test changes."""
    from tests.helpers.runs import SHORT
    from vitjax import train

    workdir = tmp_path_factory.mktemp("digits") / "run"
    assert train.cli([*SHORT, "--workdir", str(workdir)]) == 0
    return workdir


@pytest.fixture(scope="session")
def imagenet_dir(tmp_path_factory):
    """The data_dir of a small imagenet2012 that tfds' own builder has prepared.

    300 training images of 10 classes and 50 validation images, 4 shards each. Several
    test processes share the first one that is ready.
    """
    from tests.helpers import ilsvrc

    own = tmp_path_factory.mktemp("ilsvrc") / "root"
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    ready = shared / "imagenet"
    if not ready.exists():
        made = ilsvrc.prepare(own, train_per_class=30, num_classes=10, val=50)
        with contextlib.suppress(OSError):  # another was faster
            made.rename(ready)
    return ready


@pytest.fixture(scope="session")
def bucket_server():
    """The address of a server of buckets, a process on 127.0.0.1."""
    from tests.helpers import buckets

    with buckets.started() as address:
        yield address


@pytest.fixture(params=["gs", "s3"])
def remote(request, bucket_server, monkeypatch, tmp_path):
    """A `buckets.Remote` of this test alone, on gs and on s3; skips without the extra.

    The environment of this process and of those that it starts has dummy credentials,
    and no request can leave the machine.
    """
    pytest.importorskip("obstore")
    from tests.helpers import buckets

    for name in buckets.UNSET:
        monkeypatch.delenv(name, raising=False)
    for name, value in buckets.environment(bucket_server).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path / "gcloud"))
    return buckets.Remote(bucket_server, request.param)

"""The table of chips, and the names of those to compile for."""

import importlib.util

import jax
import pytest

from vitjax.devices import chips


@pytest.mark.parametrize(
    ("text", "name", "count", "topology"),
    [
        ("h100", "h100", 1, ""),
        ("H100x8", "h100", 8, ""),
        ("a100-40x2", "a100-40", 2, ""),
        ("rtx4090", "rtx4090", 1, ""),
        ("rtx4090x4", "rtx4090", 4, ""),
        ("v5e:2x4", "v5e", 8, "v5e:2x4"),
        ("v4:2x2x4", "v4", 16, "v4:2x2x4"),
    ],
)
def test_a_name_says_chip_count_and_topology(text, name, count, topology):
    target = chips.parse(text)
    assert (target.chip.name, target.count, target.topology) == (name, count, topology)
    assert str(target) == text.lower()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("h10", r"did you mean 'h100'\? .*v5e"),
        ("h100x0", "unknown chip 'h100x0'"),
        ("b200", r"known: a100, .*h100.*v6e\)"),
        ("v5e", "needs its topology, as in v5e:2x2; topologies are 2x2, 2x4, 4x4"),
        ("v4x8", "needs its topology, as in v4:2x2x1"),
        ("h100:2x4", "expected a TPU and its topology.*TPUs are v6e, v5e, v5p, v4"),
        ("v5e:8", "expected a TPU and its topology"),
        ("v7:2x4", "unknown chip 'v7'"),
        ("v100", "no longer compiles"),
        ("h100x16", "expected 1 to 8 GPUs, those of one host"),
    ],
)
def test_a_wrong_name_is_told_with_the_known_ones(text, told):
    with pytest.raises(ValueError, match=told):
        chips.parse(text)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA A100-SXM4-40GB", "a100-40"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA GeForce RTX 4090", "rtx4090"),
        ("Tesla V100-SXM2-16GB", "v100"),
        ("TPU v4", "v4"),
        ("TPU v5 lite", "v5e"),
        ("TPU v5e", "v5e"),
        ("TPU v5", "v5p"),
        ("TPU v5p", "v5p"),
        ("TPU v6 lite", "v6e"),
        ("TPU v6e", "v6e"),
        # Other memory, bandwidth or peak than the one whose name is alike.
        ("NVIDIA L40", None),
        ("NVIDIA L4 MIG 1g.6gb", None),
        ("NVIDIA A100 80GB PCIe", None),
        ("NVIDIA A100-PCIE-40GB", None),
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA H100 NVL", None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("NVIDIA H200 NVL", None),
        ("NVIDIA GeForce RTX 4090 D", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("Tesla V100-SXM2-32GB", None),
        ("TPU v4 lite", None),
        ("TPU7x", None),
        ("cpu", None),
        ("", None),
        ("NVIDIA GeForce GTX 1080", None),
    ],
)
def test_a_device_that_is_there_is_found_by_its_kind(kind, name):
    found = chips.of_kind(kind)
    assert (found and found.name) == name


def test_the_figures_are_in_one_unit_each():
    """Bytes, bytes a second, FLOP/s: a slip of 1,000 would be outside."""
    for chip in chips.CHIPS.values():
        assert 15e9 < chip.memory < 300e9
        assert 2e11 < chip.bandwidth < 1e13
        assert 1e14 < chip.bfloat16 < 3e15
        assert chip.float32 <= chip.tf32 <= chip.bfloat16
        assert 3e10 <= chip.link < chip.bandwidth
        assert chip.tpu or chip.name == "v100" or chip.cuda is not None


@pytest.mark.parametrize(
    "chip", [c for c in chips.CHIPS.values() if c.cuda], ids=lambda chip: chip.name
)
def test_the_peak_in_float32_is_that_of_the_units(chip):
    """Each of them adds one product a cycle; XLA is told of them, not of the peak."""
    cuda = chip.cuda
    peak = cuda.cores * cuda.lanes * 2 * cuda.clock_ghz * 1e9
    assert chip.float32 == pytest.approx(peak, rel=0.01)


def test_no_two_chips_have_a_kind_in_common():
    kinds = [kind for chip in chips.CHIPS.values() for kind in chip.kinds]
    assert len(set(kinds)) == len(kinds)


def test_the_peak_is_that_of_dtype_and_precision():
    h100, v5e = chips.CHIPS["h100"], chips.CHIPS["v5e"]
    assert h100.peak("bfloat16", "highest") == h100.peak("float16") == h100.bfloat16
    assert h100.peak("float32") == h100.peak("float32", "high") == h100.tf32
    assert h100.peak("float32", "highest") == h100.float32
    # A TPU multiplies in bfloat16: 1, 3 and 6 passes.
    assert v5e.peak("float32") == v5e.bfloat16
    assert 3 * v5e.peak("float32", "high") == pytest.approx(v5e.bfloat16)
    assert 6 * v5e.peak("float32", "highest") == pytest.approx(v5e.bfloat16)


@pytest.mark.parametrize(
    ("text", "extra"), [("h100x8", "aot_cuda"), ("v5e:2x4", "aot_tpu")]
)
def test_a_missing_extra_is_one_sentence(monkeypatch, text, extra):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    target = chips.parse(text)
    told = f'compiling for {text} needs the extra {extra}: run `pip install -e ".[{extra}]"'
    assert told in chips.missing(target)
    with pytest.raises(ValueError, match=f"needs the extra {extra}"):
        chips.devices(target)


def test_cudnn_is_for_gpus():
    chips.check_attention(chips.parse("h100"), "cudnn")
    chips.check_attention(chips.parse("v4:2x2x1"), "xla")
    with pytest.raises(ValueError, match="needs an NVIDIA GPU, got v4:2x2x1"):
        chips.check_attention(chips.parse("v4:2x2x1"), "cudnn")


@pytest.mark.aot
@pytest.mark.parametrize(
    "text",
    [
        *("h100", "h200x8", "a100x4", "a100-40", "l40s", "l4", "rtx4090"),
        *("v4:2x2x1", "v4:2x2x4", "v5e:1x1", "v5e:2x4", "v5e:16x16", "v5p:2x2x1"),
        "v6e:2x2",
    ],
)
def test_the_devices_of_every_chip(absent, text):
    target, devices = absent(text)
    assert len(devices) == target.count
    assert chips.of_kind(devices[0].device_kind) is target.chip
    assert devices[0].platform == ("tpu" if target.chip.tpu else "gpu")
    assert not set(devices) & set(jax.devices())


@pytest.mark.aot
def test_a_wrong_topology_is_told_with_some_right_ones(absent):
    with pytest.raises(
        ValueError, match=r"v5e:3x5: there is no such topology.* try 2x2"
    ):
        absent("v5e:3x5")

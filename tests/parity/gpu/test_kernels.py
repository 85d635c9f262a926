"""The summary of a trace, against one that is written by hand."""

import gzip
import json

import pytest

from parity.gpu import kernels


def event(pid, tid, name, ts, dur, **args):
    return {"ph": "X", "pid": pid, "tid": tid, "name": name, "ts": ts, "dur": dur,
            "args": args}  # fmt: skip


def named(what, pid, name, tid=0):
    return {"ph": "M", "pid": pid, "tid": tid, "name": what, "args": {"name": name}}


# Times are in microseconds. One step of two, on GPU 0: 1000 + 500 + 300 + 200 busy,
# 500 idle; the line "XLA Ops" sums up, and GPU 1 and the host are others.
TRACE = [
    named("process_name", 1, "/device:GPU:0"),
    named("process_name", 2, "/device:GPU:1"),
    named("process_name", 3, "/host:CPU"),
    named("thread_name", 1, "Stream #7(Compute)", 70),
    named("thread_name", 1, "Stream #8(MemcpyD2D)", 80),
    named("thread_name", 1, "XLA Ops", 90),
    named("thread_name", 2, "Stream #7(Compute)", 70),
    named("thread_name", 3, "python", 1),
    event(1, 70, "nvjet_hsh_128x256_64x4_2x1_v_bz_TNT", 0, 1000, hlo_op="gemm.1"),
    event(1, 70, "loop_add_fusion_12", 1000, 500, hlo_op="loop_add_fusion.12"),
    event(1, 80, "MemcpyD2D", 1200, 300),
    event(1, 70, "loop_add_fusion", 2000, 200, hlo_op="loop_add_fusion"),
    event(1, 90, "gemm.1", 0, 9000, hlo_op="gemm.1"),
    event(2, 70, "loop_add_fusion_12", 0, 7000),
    event(3, 1, "PjitFunction(step)", 0, 8000),
]


def test_the_kernels_of_a_step_on_one_device():
    found = kernels.summarise(TRACE, steps=2)
    assert [(r.name, r.kind, r.calls, r.ms) for r in found.rows] == [
        ("nvjet_hsh_128x256_64x4_2x1_v_bz_TNT", "matrix products", 0.5, 0.5),
        ("loop_add_fusion", "fusions", 1.0, 0.35),
        ("MemcpyD2D", "copies", 0.5, 0.15),
    ]
    assert found.ms == pytest.approx(1.0)
    assert [r.share for r in found.rows] == pytest.approx([0.5, 0.35, 0.15])
    # From 0 to 2200 us, the copy beside a fusion counts once.
    assert found.busy == pytest.approx(1700 / 2200)
    assert list(found.by_kind()) == ["matrix products", "fusions", "copies"]
    assert sum(found.by_kind().values()) == pytest.approx(found.ms)


def test_a_cpus_kernels_are_those_with_an_operation():
    cpu = [
        named("process_name", 1, "/host:CPU"),
        event(1, 5, "dot.3", 0, 10, hlo_op="x"),
    ]
    found = kernels.summarise([*cpu, event(1, 6, "python call", 0, 99)], steps=1)
    assert [(r.name, r.kind) for r in found.rows] == [("dot.3", "matrix products")]


@pytest.mark.parametrize(
    ("name", "group", "kind"),
    [
        ("loop_add_fusion.3", "loop_add_fusion", "fusions"),
        ("wrapped_convert_1", "wrapped_convert", "fusions"),
        ("loop_transpose_fusion_4", "loop_transpose_fusion", "copies"),
        ("gemm_fusion_dot_7_0", "gemm_fusion_dot_7_0", "matrix products"),
        ("cudnn_generated_fort_native_sdpa_sm90_flash_bprop_wgmma_f16_knob_7",
         "cudnn_generated_fort_native_sdpa_sm90_flash_bprop_wgmma_f16_knob_7", "attention"),
        ("void cutlass::Kernel2<cutlass_80_tensorop_s1688gemm>(Params)",
         "cutlass::Kernel2<cutlass_80_tensorop_s1688gemm>", "matrix products"),
        ("void cublasLt::splitKreduce_kernel<(int)32, float, (bool)1>(float*, int)",
         "cublasLt::splitKreduce_kernel<(int)32, float, (bool)1>", "matrix products"),
        ("void pytorch_flash::flash_fwd_kernel<cutlass::bfloat16_t>(Params)",
         "pytorch_flash::flash_fwd_kernel<cutlass::bfloat16_t>", "attention"),
        ("sm80_xmma_gemm_bf16bf16_tn_n_tilesize128x128x64_stage3_warpsize2x2x1_5",
         "sm80_xmma_gemm_bf16bf16_tn_n_tilesize128x128x64_stage3_warpsize2x2x1_5",
         "matrix products"),
        ("sm80_xmma_fprop_implicit_gemm_tf32", "sm80_xmma_fprop_implicit_gemm_tf32",
         "convolutions"),
        ("void cutlass__5x_cudnn::Kernel<cutlass_tensorop_s1688wgrad_optimized>(Params)",
         "cutlass__5x_cudnn::Kernel<cutlass_tensorop_s1688wgrad_optimized>",
         "convolutions"),
        ("void at::native::reduce_kernel<512, 1>(at::ReduceOp)",
         "at::native::reduce_kernel<512, 1>", kernels.OTHER),
        ("ncclDevKernel_AllReduce_Sum_f32_RING_LL", "ncclDevKernel_AllReduce_Sum_f32_RING_LL",
         kernels.OTHER),
    ],
)  # fmt: skip
def test_a_kernel_has_a_row_and_a_kind(name, group, kind):
    assert kernels.group(name) == group
    assert kernels.kind(name) == kernels.kind(group) == kind


def test_products_of_several_templates_are_rows_of_their_own():
    names = [f"void cutlass::Kernel2<cutlass_80_gemm_{n}>(Params)" for n in (64, 128)]
    names += [
        "gemm_fusion_dot_1",
        "gemm_fusion_dot_2",
        "loop_fusion_1",
        "loop_fusion_2",
    ]
    events = [event(1, 5, n, 10 * i, 10, hlo_op="x") for i, n in enumerate(names)]
    rows = kernels.summarise(events, steps=1).rows
    assert sorted((r.kind, r.calls) for r in rows) == [
        ("fusions", 2), *[("matrix products", 1)] * 4,
    ]  # fmt: skip


def test_the_newest_trace_is_read(tmp_path):
    folder = tmp_path / "plugins" / "profile" / "1"
    folder.mkdir(parents=True)
    with pytest.raises(ValueError, match="holds no trace"):
        kernels.read(tmp_path)
    with gzip.open(folder / "host.trace.json.gz", "wt") as file:
        json.dump({"traceEvents": TRACE}, file)
    assert kernels.read(tmp_path) == TRACE
    with pytest.raises(ValueError, match="no kernel"):
        kernels.summarise([], steps=1)

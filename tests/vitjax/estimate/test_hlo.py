"""Reading the text of a program."""

import pytest

from vitjax.estimate import hlo

LINE = """ENTRY %main (a: bf16[2,3]) -> bf16[2,3] {
  %a = bf16[2,3]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %f.1 = (bf16[2,3]{1,0}, /*index=1*/u8[5]{0:S(1)}) custom-call(%a), custom_call_target="x", metadata={op_name="jit(f)/a \\"(b\\"/dot"}
}
"""


def test_an_instruction_has_shapes_operands_and_attributes():
    module = hlo.parse(LINE)
    a, f = module.computations[module.entry].values()
    assert (f.opcode, f.operands, f.target, f.root) == (
        "custom-call",
        ("a",),
        "x",
        True,
    )
    assert f.op_name.endswith("/dot")
    assert [(s.dtype, s.dims, s.on_chip) for s in f.shapes] == [
        ("bf16", (2, 3), False),
        ("u8", (5,), True),
    ]
    # Whole tiles of 8 x 128.
    assert (a.shapes[0].size, a.shapes[0].bytes) == (6, 2 * 8 * 128)


def test_a_text_without_an_entry_is_refused():
    with pytest.raises(ValueError, match="without ENTRY"):
        hlo.parse("nothing")

"""What the text of compiled programs says, against what was put into them."""

import jax
import jax.numpy as jnp
from jax import lax

from jfedsl.run.targets.hlo import COLLECTIVES, KERNELS, instructions
from jfedsl.run.targets.traced import grouped_convolutions

# As a TPU's compiler writes programs: layouts in braces, loops by their body, collectives in parts.
TPU = """
HloModule jit_run, is_scheduled=true

%fused (p: f32[8,16]) -> f32[8,16] {
  %p = f32[8,16]{1,0:T(8,128)} parameter(0)
  ROOT %dot.9 = f32[8,16]{1,0:T(8,128)} dot(%p, %p), lhs_contracting_dims={1}
}

%sum (a: f32[], b: f32[]) -> f32[] {
  ROOT %add.1 = f32[]{:T(128)} add(%a, %b)
}

%inner (q: (s32[], f32[8,16])) -> (s32[], f32[8,16]) {
  %fusion.2 = f32[8,16]{1,0:T(8,128)S(1)} fusion(%q), kind=kLoop, calls=%fused
  %gather = (f32[2,16]{1,0:T(2,128)}, f32[8,16]{1,0:T(8,128)}) all-gather-start(%fusion.2)
  %moved = (f32[8,16]{1,0}, f32[8,16]{1,0}, u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%p)
  %ready = f32[8,16]{1,0:T(8,128)} all-gather-done(%gather)
  ROOT %t = (s32[], /*index=1*/f32[8,16]{1,0}) tuple(%q, %ready)
}

%is_left (q: (s32[], f32[8,16])) -> pred[] {
  ROOT %less = pred[]{:T(512)} compare(%q, %q), direction=LT
}

%is_below_5 (q: (s32[], f32[8,16])) -> pred[] {
  %five = s32[]{:T(128)} constant(5)
  %n = s32[]{:T(128)} get-tuple-element(%q), index=0
  ROOT %less5 = pred[]{:T(512)} compare(%n, %five), direction=LT
}

%outer (r: (s32[], f32[8,16])) -> (s32[], f32[8,16]) {
  %while.1 = (s32[]{:T(128)}, f32[8,16]{1,0:T(8,128)}) while(%r), condition=%is_below_5, body=%inner
  %psum = (bf16[10]{0:T(1024)}, pred[3]{0}) all-reduce(%while.1), to_apply=%sum
  ROOT %t2 = (s32[], f32[8,16]{1,0}) tuple(%r, %while.1)
}

ENTRY %main (s: f32[8,16]) -> f32[8,16] {
  %s = f32[8,16]{1,0} parameter(0)
  %conv = f32[8,16]{1,0} convolution(%s, %s), dim_labels=bf_io->bf
  %cudnn = (f32[8,16]{1,0}, u8[0]{0}) custom-call(%s)
  ROOT %while.2 = (s32[], f32[8,16]) while(%s), condition=%is_left, body=%outer
}
"""

# FLOPs of one, with 3 taps on each of 64 positions but for two beyond the ends, 16 inputs a group.
CONVOLUTION = 2 * (3 * 64 - 2) * 16 * 64


def test_steps_of_a_program_for_a_tpu() -> None:
    steps = instructions(TPU)
    size = 8 * 16 * 4
    assert [s[:4] for s in steps if s.opcode in KERNELS] == [
        ("convolution", 0, size, 1),
        ("custom-call", 0, size, 1),
        ("fusion", 2, size, 5),
    ]
    assert [s[:4] for s in steps if s.opcode in COLLECTIVES] == [
        ("all-gather", 2, size, 5),
        ("collective-permute", 2, size, 5),
        ("all-reduce", 1, 10 * 2 + 3, 1),
    ]
    assert [s.loops for s in steps if s.opcode == "compare"] == [1, 2], "a condition runs in a loop"
    (fusion,) = [s for s in steps if s.opcode == "fusion"]
    assert fusion.flops == 2 * 8 * 16 * 16 and fusion.starts == 5
    assert fusion.traffic == 0, "its operand is not known, and its result stays on the chip"


def test_steps_of_a_program_for_this_machine() -> None:
    """Two nested loops, with a product in the inner one and a grouped convolution in the outer."""

    def inner(x: jax.Array, _: None) -> tuple[jax.Array, None]:
        return jnp.tanh(x @ x), None

    def outer(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, None]:
        x = lax.scan(inner, x, None, length=5)[0]
        y = lax.conv_general_dilated(
            x[None], kernel, (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"),
            feature_group_count=4,
        )[0]  # fmt: skip
        return y, None

    run = jax.jit(lambda x, kernels: lax.scan(outer, x, kernels)[0])
    traced = run.trace(jnp.ones((64, 64)), jnp.ones((3, 3, 16, 64)))
    assert grouped_convolutions(traced.jaxpr.jaxpr) == 1
    steps = instructions(traced.lower().compile().as_text())
    assert max(step.loops for step in steps) == 2
    assert [step.loops for step in steps if step.opcode == "convolution"] == [1]
    assert [step.runs for step in steps if step.opcode == "while"] == [1, 3]
    assert sum(s.runs * s.flops for s in steps) == 3 * 5 * 2 * 64**3 + 3 * CONVOLUTION
    assert {step.runs for step in steps if step.loops == 2} == {15}
    in_inner = [s for s in steps if s.loops == 2 and s.opcode in KERNELS]
    assert in_inner and all(step.bytes <= 64 * 64 * 4 for step in in_inner)

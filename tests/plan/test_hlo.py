"""The reader of compiled programs, against counts by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from rankclip_jax.plan.costs import costs_of
from rankclip_jax.plan.groups import group_of
from rankclip_jax.plan.hlo import Shape, executed, parse

# A loop of 7 - 1 = 6 / 2 = 3 runs as TPUs write it, with no trip count: a gather and half a reduce-scatter in each.
TPU_LOOP = """HloModule m, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[]{:T(128)} parameter(0)
  %b = f32[]{:T(128)} parameter(1)
  ROOT %sum = f32[]{:T(128)} add(%a, %b)
}

%scattered (p: f32[64,8], i: s32[]) -> f32[16,8] {
  %p = f32[64,8]{1,0:T(8,128)} parameter(0)
  %i = s32[]{:T(128)} parameter(1)
  %zero = s32[]{:T(128)} constant(0)
  %reduced = f32[64,8]{1,0:T(8,128)} all-reduce(%p), channel_id=3, replica_groups={{0,1,2,3}}, to_apply=%add
  ROOT %part = f32[16,8]{1,0:T(8,128)} dynamic-slice(%reduced, %i, %zero), dynamic_slice_sizes={16,8}
}

%condition (s: (s32[], f32[16,8])) -> pred[] {
  %s = (s32[]{:T(128)}, f32[16,8]{1,0:T(8,128)}) parameter(0)
  %n = s32[]{:T(128)} get-tuple-element(%s), index=0
  %limit = s32[]{:T(128)} constant(7)
  ROOT %less = pred[]{:T(512)} compare(%n, %limit), direction=LT
}

%body (t: (s32[], f32[16,8])) -> (s32[], f32[16,8]) {
  %t = (s32[]{:T(128)}, f32[16,8]{1,0:T(8,128)S(1)}) parameter(0)
  %m = s32[]{:T(128)} get-tuple-element(%t), index=0
  %x = f32[16,8]{1,0:T(8,128)S(1)} get-tuple-element(%t), index=1
  %two = s32[]{:T(128)} constant(2)
  %next = s32[]{:T(128)} add(%m, %two)
  %all = f32[64,8]{1,0:T(8,128)} all-gather(%x), channel_id=1, replica_groups=[2,4]<=[8], dimensions={0}
  %y = f32[16,8]{1,0:T(8,128)} fusion(%all, %m), kind=kCustom, calls=%scattered
  ROOT %out = (s32[]{:T(128)}, f32[16,8]{1,0:T(8,128)}) tuple(%next, %y)
}

ENTRY %main (q: f32[16,8]) -> f32[16,8] {
  %q = f32[16,8]{1,0:T(8,128)} parameter(0)
  %one = s32[]{:T(128)} constant(1)
  %begin = s32[]{:T(128)} copy(%one)
  %start = (s32[]{:T(128)}, f32[16,8]{1,0:T(8,128)}) tuple(%begin, %q)
  %loop = (s32[]{:T(128)}, /*index=1*/f32[16,8]{1,0:T(8,128)}) while(%start), condition=%condition, body=%body
  ROOT %result = f32[16,8]{1,0:T(8,128)} get-tuple-element(%loop), index=1
}
"""


def costs_on_cpu(function, *shapes):
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return costs_of(parse(jax.jit(function).lower(*arguments).compile().as_text()))


def test_products_in_a_scan_count_as_often_as_they_run():
    def five(x, w):
        return lax.scan(lambda h, _: (jnp.tanh(h @ w), None), x, length=5)[0]

    assert costs_on_cpu(five, (8, 16), (16, 16)).flops == 5 * 2 * 8 * 16 * 16


def test_products_in_nested_scans():
    def inner(x, w):
        return lax.scan(lambda h, _: (jnp.tanh(h @ w), None), x, length=3)[0]

    def outer(x, w):
        return lax.scan(lambda h, _: (inner(h, w) + 1, None), x, length=4)[0]

    assert costs_on_cpu(outer, (8, 16), (16, 16)).flops == 4 * 3 * 2 * 8 * 16 * 16


def test_the_gradient_of_a_scan_has_three_times_its_products():
    def loss(w, x):
        return lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, w)[0].sum()

    # The gradient of the first layer's input is not computed, but XLA keeps the scan's uniform body.
    assert costs_on_cpu(jax.grad(loss), (6, 16, 16), (8, 16)).flops == 3 * 6 * 2 * 8 * 16 * 16


def test_a_scan_reads_each_layers_weights_once():
    def layers(x, w):
        return lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, w)[0]

    weights = 100 * 64 * 64 * 4
    found = costs_on_cpu(layers, (8, 64), (100, 64, 64)).bytes
    assert weights <= found < 6 * weights  # 100 x weights if every layer read all of them


def test_a_loop_of_a_tpu_runs_from_its_start_to_its_limit_by_its_step():
    collectives = {c.kind: c for c in costs_of(parse(TPU_LOOP)).collectives}
    gather, scatter = collectives["all-gather"], collectives["reduce-scatter"]
    assert gather.times == scatter.times == 3
    assert gather.sent == 64 * 8 * 4 * 3 // 4  # three of the four parts come from the other devices
    assert scatter.sent == 64 * 8 * 4 * 3 // 4
    assert set(collectives) == {"all-gather", "reduce-scatter"}


def test_arrays_on_the_chip_are_known():
    instructions = {step.instruction.name: step.instruction for step in executed(parse(TPU_LOOP))}
    assert instructions["x"].shapes == (Shape("f32", (16, 8), 1),)
    assert instructions["y"].shapes == (Shape("f32", (16, 8), 0),)
    assert instructions["loop"].shapes == (Shape("s32", ()), Shape("f32", (16, 8)))


def test_an_asynchronous_gather_counts_once():
    parts = {"start": '{"flag_start":"-1","flag_end":"-1"}', "later": '{"flag_start":"2","flag_end":"8"}'}
    lines = [
        f"  %{name} = f32[8,4]{{1,0}} all-gather(%p), replica_groups={{{{0,1}}}}, dimensions={{0}}, "
        f'backend_config={{"async_collective_fusion_config":{config}}}'
        for name, config in parts.items()
    ]
    text = "\n".join(["ENTRY %main (p: f32[4,4]) -> f32[8,4] {", "  %p = f32[4,4]{1,0} parameter(0)", *lines, "}"])
    assert [c.times for c in costs_of(parse(text)).collectives] == [1]


@pytest.mark.parametrize(
    ("form", "members"),
    {
        "{{0,2,4},{1,3,5}}, x": (0, 2, 4),
        "[2,4]<=[8]": (0, 1, 2, 3),
        "[4,2]<=[2,4]T(1,0)": (0, 4),
        "mesh['a'=4,'b'=2] {'a'}": (0, 2, 4, 6),
        "mesh['a'=2,'b'=2,'c'=2] {'a','c'}": (0, 1, 4, 5),
    }.items(),
)
def test_the_forms_of_groups(form, members):
    assert group_of(f", channel_id=1, replica_groups={form}").members == members


@pytest.mark.parametrize(("stride", "padding", "dilation"), [(1, 0, 1), (2, 1, 1), (1, 2, 3), (3, 0, 2)])
def test_convolutions_count_only_elements_that_exist(stride, padding, dilation):
    size, kernel, inputs, outputs, batch = 9, 3, 5, 7, 2
    dilated = (size - 1) * dilation + 1
    out = (dilated + 2 * padding - kernel) // stride + 1
    window = f"size={kernel}x1 stride={stride}x1 pad={padding}_{padding}x0_0 lhs_dilate={dilation}x1"
    attributes = f"window={{{window}}}, dim_labels=b01f_01io->b01f"
    text = f"""ENTRY %main (x: f32[1], k: f32[1]) -> f32[1] {{
  %x = f32[{batch},{size},1,{inputs}]{{3,2,1,0}} parameter(0)
  %k = f32[{kernel},1,{inputs},{outputs}]{{3,2,1,0}} parameter(1)
  ROOT %c = f32[{batch},{out},1,{outputs}]{{3,2,1,0}} convolution(%x, %k), {attributes}
}}
"""
    signal = np.zeros(dilated + 2 * padding)
    signal[padding : padding + dilated : dilation] = 1  # ones where an element exists: a product with ones counts them
    taps = sum(signal[o * stride : o * stride + kernel].sum() for o in range(out))
    assert costs_of(parse(text)).flops == 2 * batch * inputs * outputs * taps

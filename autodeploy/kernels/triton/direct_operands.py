"""What `direct` makes of words of weights and of x, and how its tiles begin and end.

Which columns a matrix instruction multiplies together is free as long as both sides agree: what stands at the same
place of each 16 bits is an operand of its own (see `packed_ring`), and the words of x are split alike.
"""

# ruff: noqa: N803, N806, RUF005 (what is known when a kernel is compiled is upper case; Gluon unpacks no tuples)

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from autodeploy.kernels.triton.activation import activation
from autodeploy.kernels.triton.shares import add_shares, leave_share

WORDS = gl.constexpr(16)  # of 32 bits in a unit of a row


@gluon.constexpr_function
def places(format):
    """How many numbers of a weight stand in 16 bits of a word: those of fp8 are taken apart as both words of x are."""
    return {"int4": 4, "int8": 2, "fp8": 2}.get(format, 1)


@gluon.constexpr_function
def x_words(format):
    """How many words of x meet a unit of the weight."""
    return {"int4": 64, "int8": 32}.get(format, 16)


@gluon.constexpr_function
def powers(size, least=1):
    """The powers of two from `least` up to, and without, `size`."""
    return [1 << at for at in range(size.bit_length() - 1) if 1 << at >= least]


@gluon.constexpr_function
def _decoder(format, place, half):
    """What makes a pair of 16-bit floats of what is at a place of both halves of a word; `half` is for float16."""
    if format == "int4":
        magic = "0x64006400" if half else "0x43004300"
        body = f"shr.u32 u, $1, {4 * place}; lop3.b32 $0, u, 0x000f000f, {magic}, 0xEA;"
    elif format == "fp8":
        body = f"mov.b32 {{l, h}}, $1; cvt.rn.f16x2.e4m3x2 $0, {'h' if place else 'l'};"
    elif format == "int8" and half:
        body = f"""shr.u32 u, $1, {8 * place}; xor.b32 u, u, 0x00800080;
            lop3.b32 u, u, 0x00ff00ff, 0x64006400, 0xEA; mov.b32 v, 0x64806480; sub.f16x2 $0, u, v;"""
    elif format == "int8":
        body = f"""shr.u32 u, $1, {8 * place}; lop3.b32 v, u, 0x00800080, 0x43004300, 0xEA;
            lop3.b32 u, u, 0x007f007f, 0x43004300, 0xEA; sub.bf16x2 $0, u, v;"""
    else:
        body = "mov.b32 $0, $1;"
    return "{\n.reg .b32 u, v; .reg .b16 l, h;\n" + body + "\n}"


@gluon.jit
def decoded(words, place: gl.constexpr, format: gl.constexpr, half: gl.constexpr):
    """The pairs of 16 bits `[…, 32]` at a place of `words […, 16]`."""
    decoder: gl.constexpr = _decoder(format, place, half)
    halves = gl.join(words.to(gl.int16), (words >> 16).to(gl.int16)).reshape(words.shape[:-1] + [32])
    return gl.inline_asm_elementwise(decoder, "=r,r", [halves], gl.int16, is_pure=True, pack=2)


@gluon.jit
def columns_of(words, place: gl.constexpr, format: gl.constexpr):
    """The pairs of 16 bits `[…, 32]` of the columns of x, of a unit's words, that meet the numbers at a place."""
    if format == "int4" or format == "int8":
        of_place = words
        if format == "int4":
            even, odd = gl.split(words.reshape(words.shape[:-1] + [32, 2]))
            of_place = even if place < 2 else odd
        halves: gl.constexpr = "prmt.b32 $0, $1, $2, 0x7632;" if place % 2 else "prmt.b32 $0, $1, $2, 0x5410;"
        pairs = gl.inline_asm_elementwise(halves, "=r,r,r", [of_place], gl.int16, is_pure=True, pack=2)
    else:
        pairs = decoded(words, place, format, True)
    return pairs


@gluon.jit
def weight_row(place, n, gated: gl.constexpr, ROWS: gl.constexpr, HALF: gl.constexpr):
    """The row of the weight at a place of a program's tile, or the last.

    With a gate, HALF rows of it and HALF of what it gates stand in the tile by turns.
    """
    if gated:
        column = gl.program_id(0) * (ROWS // 2) + place // (2 * HALF) * HALF + place % HALF
        row = gl.minimum(column, n - 1) + place // HALF % 2 * n
    else:
        row = gl.minimum(gl.program_id(0) * ROWS + place, n - 1)
    return row


@gluon.jit
def finish_rows(
    y, x_scale, scale, bias, out, shares, counters, m, n, x_groups,
    gate: gl.constexpr, shared: gl.constexpr, GROUP: gl.constexpr, SCALE_ROWS: gl.constexpr, HALF: gl.constexpr,
) -> None:  # fmt: skip
    """Add up the shares of a tile `y [rows, tokens]` where this program is the last of it, and write it: scaled,
    shifted, gated, rounded once."""
    ROWS: gl.constexpr = y.shape[0]
    TOKENS: gl.constexpr = y.shape[1]
    layout: gl.constexpr = y.type.layout
    token = gl.expand_dims(gl.arange(0, TOKENS, gl.SliceLayout(0, layout)), 0)
    local = gl.expand_dims(gl.arange(0, ROWS, gl.SliceLayout(1, layout)), 1)
    row = weight_row(local, n, gate is not None, ROWS, HALF)
    if shared:
        split = gl.num_programs(1)
        at = local * TOKENS + token
        if not leave_share(shares, counters, y, at, gl.program_id(0), gl.program_id(1), split):
            return
        y = add_shares(shares, counters, at, gl.program_id(0), split)
    if GROUP == 0 and scale is not None:
        y *= gl.load(scale + row * SCALE_ROWS).to(gl.float32)
    if x_scale is not None:
        y *= gl.load(x_scale + gl.minimum(token, m - 1) * x_groups)
    if bias is not None:
        y += gl.load(bias + row).to(gl.float32)
    result: gl.constexpr = out.dtype.element_ty
    if gate is None:
        gl.store(out + token * n + row, y.to(result), mask=(gl.program_id(0) * ROWS + local < n) & (token < m))
    else:
        halves = y.reshape([ROWS // (2 * HALF), 2, HALF, TOKENS]).permute([0, 2, 3, 1])
        gates, gated = gl.split(halves.reshape([ROWS // 2, TOKENS, 2]))
        half_layout: gl.constexpr = gates.type.layout
        token = gl.expand_dims(gl.arange(0, TOKENS, gl.SliceLayout(0, half_layout)), 0)
        column = gl.expand_dims(gl.arange(0, ROWS // 2, gl.SliceLayout(1, half_layout)), 1)
        column += gl.program_id(0) * (ROWS // 2)
        y = activation(gates, gate, result) * gated
        gl.store(out + token * n + column, y.to(result), mask=(column < n) & (token < m))

"""Weights of 8 and 4 bits as numbers that matrix units take.

Integers become floats by their bits: a small integer in the low bits of a float whose unit in the last place is one
adds to it, so that one subtraction leaves the integer. Conversions proper run at an eighth of that speed. Four bytes
share a register, and leave it as pairs of 16-bit floats.
"""

from __future__ import annotations

import triton
import triton.language as tl

from autodeploy.kernels.triton.launch import INTERPRETED

NATIVE = tl.constexpr(not INTERPRETED)
"""Whether there is a machine whose instructions can be named."""


def _pairs(body: str) -> str:
    """For each of four bytes, `body` with its nibbles in the low bits of u's halves; its results are $0 to $3."""
    turns = (f"prmt.b32 u, $4, v, {selector}; {body.replace('OUT', f'${at}')}" for at, selector in enumerate(SELECTORS))
    return "{\n.reg .b32 s, u, v;\nshr.u32 v, $4, 4;\n" + "\n".join(turns) + "\n}"


def _nibbles(magic: str, bias: str, kind: str) -> str:
    """0 to 15, less 8: `magic` is a float whose last place is one, `bias` is it and 8, both twice."""
    return _pairs(f"lop3.b32 u, u, 0x000f000f, {magic}, 0xEA; mov.b32 s, {bias}; sub.{kind} OUT, u, s;")


def _quarters(magic: str, bias: str, kind: str) -> str:
    """As `_nibbles`, of two numbers of 16 bits: the lowest nibble of both is $0, and so on, with no byte moved."""
    turns = (
        f"shr.u32 u, $4, {4 * at}; lop3.b32 u, u, 0x000f000f, {magic}, 0xEA; mov.b32 s, {bias}; sub.{kind} ${at}, u, s;"
        for at in range(4)
    )
    return "{\n.reg .b32 s, u;\n" + "\n".join(turns) + "\n}"


def _e2m1_pairs(shift: int, mask: str, factor: str, kind: str) -> str:
    """Exponent and mantissa moved to the place of a wider float's, whose bias `factor` then makes good."""
    size = f"shl.b32 s, u, {shift}; and.b32 s, s, {mask};"
    return _pairs(
        f"{size} shl.b32 u, u, 12; lop3.b32 u, u, 0x80008000, s, 0xEA; mov.b32 s, {factor}; mul.{kind} OUT, u, s;"
    )


SELECTORS = ("0x0400", "0x0501", "0x0602", "0x0703")
NIBBLES_BF16 = tl.constexpr(_nibbles("0x43004300", "0x43084308", "bf16x2"))
NIBBLES_FP16 = tl.constexpr(_nibbles("0x64006400", "0x64086408", "f16x2"))
E2M1_BF16 = tl.constexpr(_e2m1_pairs(6, "0x01c001c0", "0x7e807e80", "bf16x2"))
E2M1_FP16 = tl.constexpr(_e2m1_pairs(9, "0x0e000e00", "0x74007400", "f16x2"))
QUARTERS_BF16 = tl.constexpr(_quarters("0x43004300", "0x43084308", "bf16x2"))
QUARTERS_FP16 = tl.constexpr(_quarters("0x64006400", "0x64086408", "f16x2"))
BYTES_BF16 = tl.constexpr("""{
    .reg .b32 s, t, u, v;
    prmt.b32 s, $2, 0, 0x4140;
    prmt.b32 t, $2, 0, 0x4342;
    lop3.b32 u, s, 0x007f007f, 0x43004300, 0xEA;
    lop3.b32 v, s, 0x00800080, 0x43004300, 0xEA;
    sub.bf16x2 $0, u, v;
    lop3.b32 u, t, 0x007f007f, 0x43004300, 0xEA;
    lop3.b32 v, t, 0x00800080, 0x43004300, 0xEA;
    sub.bf16x2 $1, u, v;
    }""")
"""128 and the low seven bits, less 128 or, with the sign, 256."""
BYTES_FP16 = tl.constexpr("""{
    .reg .b32 s, u, c, d;
    mov.b32 c, 0x64646464;
    mov.b32 d, 0x64806480;
    xor.b32 s, $2, 0x80808080;
    prmt.b32 u, s, c, 0x4140;
    sub.f16x2 $0, u, d;
    prmt.b32 u, s, c, 0x4342;
    sub.f16x2 $1, u, d;
    }""")
"""1024 and the byte with its sign turned, less 1152."""
HALVES_BF16 = tl.constexpr("""{
    .reg .b32 s, u, v;
    lop3.b32 u, $2, 0x007f007f, 0x43004300, 0xEA;
    lop3.b32 v, $2, 0x00800080, 0x43004300, 0xEA;
    sub.bf16x2 $0, u, v;
    shr.u32 s, $2, 8;
    lop3.b32 u, s, 0x007f007f, 0x43004300, 0xEA;
    lop3.b32 v, s, 0x00800080, 0x43004300, 0xEA;
    sub.bf16x2 $1, u, v;
    }""")
HALVES_FP16 = tl.constexpr("""{
    .reg .b32 s, u, d;
    mov.b32 d, 0x64806480;
    xor.b32 s, $2, 0x80808080;
    lop3.b32 u, s, 0x00ff00ff, 0x64006400, 0xEA;
    sub.f16x2 $0, u, d;
    shr.u32 s, s, 8;
    lop3.b32 u, s, 0x00ff00ff, 0x64006400, 0xEA;
    sub.f16x2 $1, u, d;
    }""")
"""The same of the low and of the high bytes of two numbers of 16 bits."""
BYTES_FP32 = tl.constexpr("""{
    .reg .b32 s, c, u;
    mov.b32 c, 0x4b000000;
    xor.b32 s, $4, 0x80808080;
    prmt.b32 u, s, c, 0x7540;
    sub.f32 $0, u, 0f4B000080;
    prmt.b32 u, s, c, 0x7541;
    sub.f32 $1, u, 0f4B000080;
    prmt.b32 u, s, c, 0x7542;
    sub.f32 $2, u, 0f4B000080;
    prmt.b32 u, s, c, 0x7543;
    sub.f32 $3, u, 0f4B000080;
    }""")
"""2^23 and the byte with its sign turned, less 2^23 + 128."""


@triton.jit
def _signed_byte(packed, dtype: tl.constexpr):
    if NATIVE and dtype == tl.bfloat16:
        values = tl.inline_asm_elementwise(BYTES_BF16, "=&r,=&r,r", [packed], tl.bfloat16, is_pure=True, pack=4)
    elif NATIVE and dtype == tl.float16:
        values = tl.inline_asm_elementwise(BYTES_FP16, "=&r,=&r,r", [packed], tl.float16, is_pure=True, pack=4)
    elif NATIVE:
        values = tl.inline_asm_elementwise(BYTES_FP32, "=&f,=&f,=&f,=&f,r", [packed], tl.float32, is_pure=True, pack=4)
    else:
        values = packed.to(dtype)
    return values


@triton.jit
def _e2m1(code):
    """The float32 that the four low bits of an integer stand for."""
    exponent = (code >> 1) & 3
    fraction = (code & 1).to(tl.float32)
    power = (1 << exponent.to(tl.int32)).to(tl.float32)
    size = tl.where(exponent == 0, 0.5 * fraction, 0.5 * power + 0.25 * power * fraction)
    return tl.where((code & 8) != 0, -size, size)


@triton.jit
def _halves(packed, format: tl.constexpr, dtype: tl.constexpr):
    """The numbers in the low and in the high nibbles of bytes; those of int4 less 8."""
    if NATIVE and dtype != tl.float32:
        wide: tl.constexpr = NIBBLES_BF16 if format == "int4" else E2M1_BF16
        half: tl.constexpr = NIBBLES_FP16 if format == "int4" else E2M1_FP16
        code: tl.constexpr = wide if dtype == tl.bfloat16 else half
        pairs = tl.inline_asm_elementwise(code, "=&r,=&r,=&r,=&r,r", [packed], tl.int32, is_pure=True, pack=4)
        low = (pairs & 0xFFFF).to(tl.int16).to(dtype, bitcast=True)
        high = (pairs >> 16).to(tl.int16).to(dtype, bitcast=True)
    elif format == "int4":
        low = ((packed & 15).to(tl.float32) - 8.0).to(dtype)
        high = ((packed >> 4).to(tl.float32) - 8.0).to(dtype)
    else:
        low = _e2m1(packed & 15).to(dtype)
        high = _e2m1(packed >> 4).to(dtype)
    return low, high


@triton.jit
def quarters(packed, dtype: tl.constexpr):
    """The numbers in the four nibbles of 16 bits of int4, less 8, the lowest first, in a dtype of 16 bits."""
    if NATIVE and dtype == tl.bfloat16:
        first, second, third, last = tl.inline_asm_elementwise(
            QUARTERS_BF16, "=&r,=&r,=&r,=&r,r", [packed], (tl.bfloat16,) * 4, is_pure=True, pack=2
        )
    elif NATIVE:
        first, second, third, last = tl.inline_asm_elementwise(
            QUARTERS_FP16, "=&r,=&r,=&r,=&r,r", [packed], (tl.float16,) * 4, is_pure=True, pack=2
        )
    else:
        wide = packed.to(tl.int32)
        first = ((wide & 15) - 8).to(dtype)
        second = (((wide >> 4) & 15) - 8).to(dtype)
        third = (((wide >> 8) & 15) - 8).to(dtype)
        last = (((wide >> 12) & 15) - 8).to(dtype)
    return first, second, third, last


@triton.jit
def halves(packed, dtype: tl.constexpr):
    """The numbers in the low and in the high byte of 16 bits of int8, in a dtype of 16 bits."""
    if NATIVE and dtype == tl.bfloat16:
        low, high = tl.inline_asm_elementwise(
            HALVES_BF16, "=&r,=&r,r", [packed], (tl.bfloat16, tl.bfloat16), is_pure=True, pack=2
        )
    elif NATIVE:
        low, high = tl.inline_asm_elementwise(
            HALVES_FP16, "=&r,=&r,r", [packed], (tl.float16, tl.float16), is_pure=True, pack=2
        )
    else:
        low, high = packed.to(tl.int8).to(dtype), (packed >> 8).to(tl.int8).to(dtype)
    return low, high


@triton.jit
def unpack(packed, format: tl.constexpr, dtype: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):  # noqa: N803
    """The numbers `[ROWS, COLUMNS]` of dtype, exact, that stored ones stand for before they are scaled.

    Those of int4 come less 8. Two values a byte are `packed [ROWS, COLUMNS / 2]`.
    """
    if format == "int8":
        values = _signed_byte(packed, dtype)
    elif format == "fp8":
        values = packed.to(dtype)
    else:
        low, high = _halves(packed, format, dtype)
        values = tl.reshape(tl.join(low, high), (ROWS, COLUMNS))
    return values


@triton.jit
def exact_scale(stored, format: tl.constexpr):
    """A stored scale in float32."""
    if format == "mxfp4":  # the exponent of a float32; the least one is below its normal numbers
        bits = stored.to(tl.int32)
        scale = tl.where(bits == 0, 0x00400000, bits << 23).to(tl.float32, bitcast=True)
    else:
        scale = stored.to(tl.float32)
    return scale


@triton.jit
def entry(words, row, groups, group, stored: tl.constexpr, mask):
    """What `stored [rows, groups]` holds for rows at a group: read as 32-bit words, which can be on their way early."""
    SIZE: tl.constexpr = stored.primitive_bitwidth  # noqa: N806
    if words.dtype.element_ty == stored:
        found = tl.load(words + row * groups + group, mask=mask, other=0.0)
    else:
        each: tl.constexpr = 32 // SIZE
        word = tl.load(words + row * (groups // each) + group // each, mask=mask, other=0)
        bits = word >> (SIZE * (group % each))
        if SIZE == 16:
            found = bits.to(tl.int16).to(stored, bitcast=True)
        else:
            found = (bits & 255).to(tl.uint8).to(stored, bitcast=True)
    return found

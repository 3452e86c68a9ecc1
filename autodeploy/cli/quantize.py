"""`autodeploy quantize`: a checkpoint of a quantized model that other servers load too."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from autodeploy.cli import options as opt
from autodeploy.cli import output, seam
from autodeploy.cli.progress import RichProgress

Out = Annotated[Path, typer.Option(help="The checkpoint's folder, which must be new.", rich_help_panel=opt.BUILDING)]
Scheme = Annotated[
    str | None,
    typer.Option(
        "--quantize",
        metavar="SCHEME",
        help="fp8, int8, int4 or another scheme of docs/quantization.md.  [default: the recipe's]",
        rich_help_panel=opt.BUILDING,
    ),
]
Dtype = Annotated[
    str,
    typer.Option(
        help="Of what is not quantized: auto (the checkpoint's own), bf16, fp16 or fp32.", rich_help_panel=opt.BUILDING
    ),
]


def quantize(
    model: opt.Model,
    out: Out,
    quantize: Scheme = None,
    quantize_head: opt.QuantizeHead = None,
    recipe: opt.Recipe = "auto",
    dtype: Dtype = "auto",
    calibrate: opt.Calibrate = None,
    method: opt.Method = None,
    settings: opt.Set = None,
    as_json: opt.Json = False,
    debug: opt.Debug = False,
) -> None:
    """Round MODEL's projections and write a Hugging Face checkpoint in the layout of compressed-tensors."""
    options = opt.BuildOptions(dtype=dtype, quantize=quantize, quantize_head=quantize_head, settings=settings)
    with RichProgress(output.err()) as progress:
        chosen = {"quantize": quantize, "recipe": recipe, "dtype": dtype, "set": options.set}
        chosen |= {"calibrate": calibrate, "method": method}
        written = seam.quantize(model, out=out, progress=progress, **chosen)
    following = f"autodeploy build {shlex.quote(str(out))}"
    if as_json:
        output.print_json({**written.as_dict(), "next": following})
        return
    made = ", ".join(f"{count} projections in {scheme}" for scheme, count in written.schemes.items())
    output.out().print(
        f"Saved in {out}: {made}, {written.nbytes / 1e9:.2f} GB. Next: {following}", markup=False, soft_wrap=True
    )

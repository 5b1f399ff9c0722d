"""Plug-in of SGLang-Diffusion that fills in what a machine without a GPU lacks; with a GPU it does nothing.

Two gaps of 0.5.23: the sleep of a worker synchronises CUDA unasked, and Wan's layers call three operators that only a
build of sglang-kernel for CPUs brings. Stable Diffusion 3 needs the first alone.
"""

import gc
import sys
import types

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name

_kept = []  # a torch.library.Library takes its operators along when it goes


def register():
    """Called by SGLang in each of its processes (entry points `sglang.multimodal_gen.plugins`)."""
    if torch.cuda.is_available():
        return
    torch.cuda.synchronize = lambda device=None: None
    if not hasattr(torch.cpu, "empty_cache"):
        torch.cpu.empty_cache = gc.collect
    if not hasattr(torch.ops.sgl_kernel, "fused_scale_shift_cpu"):
        _define_operators()


def _define_operators():
    library = torch.library.Library("sgl_kernel", "FRAGMENT")
    _kept.append(library)
    norm = "Tensor? w, Tensor? b, Tensor scale, Tensor shift, str kind, float eps"
    for name, arguments, result, operator in (
        ("fused_scale_shift_cpu", "Tensor x, Tensor scale, Tensor shift, float c", "Tensor", _scale_shift),
        ("fused_norm_scale_shift_cpu", f"Tensor x, {norm}", "Tensor", _norm_scale_shift),
        (
            "fused_scale_residual_norm_scale_shift_cpu",
            f"Tensor residual, Tensor x, Tensor? gate, {norm}",
            "(Tensor, Tensor)",
            _residual_norm_scale_shift,
        ),
    ):
        library.define(f"{name}({arguments}) -> {result}")
        library.impl(name, operator, "CPU")
    sys.modules.setdefault("sgl_kernel", types.ModuleType("sgl_kernel"))


def _norm(x, w, b, kind, eps):
    weight, bias = (None if given is None else given.float() for given in (w, b))
    if kind == "rms":
        return F.rms_norm(x.float(), (x.shape[-1],), weight, eps)
    return F.layer_norm(x.float(), (x.shape[-1],), weight, bias, eps)


def _scale_shift(x, scale, shift, const=1.0):
    return (x.float() * (const + scale.float()) + shift.float()).to(x.dtype)


def _norm_scale_shift(x, w, b, scale, shift, kind, eps):
    return (_norm(x, w, b, kind, eps) * (1 + scale.float()) + shift.float()).to(x.dtype)


def _residual_norm_scale_shift(residual, x, gate, w, b, scale, shift, kind, eps):  # noqa: PLR0917 - the operator's
    summed = residual + (x if gate is None else x * gate)
    return _norm_scale_shift(summed, w, b, scale, shift, kind, eps), summed

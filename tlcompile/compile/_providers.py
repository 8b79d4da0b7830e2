"""ONNX Runtime's execution providers: their names, who is installed, where the others come from.

A provider is part of the installed build, or a plug-in library of a package of its own that a stock build loads.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tlcompile.errors import Problem, nearest, one_of

if TYPE_CHECKING:
    import onnxruntime as ort

CPU = "CPUExecutionProvider"


@dataclass(frozen=True)
class Provider:
    """`install` says where it comes from; `dialect` is its Q/DQ dialect, '' for the CPU's; `plugin` a module."""

    full: str
    install: str
    dialect: str = ""
    plugin: str = ""
    nvidia: bool = False


PROVIDERS = {
    "cpu": Provider(CPU, "pip install onnxruntime"),
    "cuda": Provider("CUDAExecutionProvider", "pip install onnxruntime-gpu", "tensorrt", nvidia=True),
    "tensorrt": Provider("TensorrtExecutionProvider", "pip install onnxruntime-gpu tensorrt", "tensorrt", nvidia=True),
    "nv_tensorrt_rtx": Provider(
        "NvTensorRTRTXExecutionProvider",
        "pip install onnxruntime-ep-nv-tensorrt-rtx-cu13",
        "tensorrt",
        "onnxruntime_ep_nv_tensorrt_rtx",
        nvidia=True,
    ),
    "openvino": Provider(
        "OpenVINOExecutionProvider",
        "pip install onnxruntime-openvino, or onnxruntime-ep-openvino beside onnxruntime on Intel hardware",
        plugin="onnxruntime_ep_openvino",
    ),
    "directml": Provider("DmlExecutionProvider", "pip install onnxruntime-directml (Windows)", "x86-vnni"),
    "coreml": Provider("CoreMLExecutionProvider", "pip install onnxruntime on macOS", "arm"),
    "qnn": Provider("QNNExecutionProvider", "pip install onnxruntime-qnn (Windows on ARM)", "arm", "onnxruntime_qnn"),
    "xnnpack": Provider("XnnpackExecutionProvider", "it needs a build of ONNX Runtime with --use_xnnpack", "arm"),
}
_OF_FULL = {provider.full: provider for provider in PROVIDERS.values()}


def provider(name: str) -> Provider:
    """By ONNX Runtime's own name."""
    return _OF_FULL[name]


def full_names(names: tuple[str, ...]) -> tuple[str, ...]:
    """ONNX Runtime's own names. ValueError: unknown and repeated ones, and a CPU that would hide what follows it."""
    wrong = []
    for name in (n for n in names if n not in PROVIDERS and n not in _OF_FULL):
        near = nearest(name, [*PROVIDERS, *_OF_FULL])
        wrong.append(f"'{name}' is no provider" + (f"; did you mean '{near}'?" if near else ""))
    if wrong:
        raise ValueError(f"{', '.join(wrong)} (known: {one_of(PROVIDERS)})")
    full = tuple(PROVIDERS[name].full if name in PROVIDERS else name for name in names)
    if len(set(full)) < len(full):
        raise ValueError(f"a provider is named twice in {list(names)}")
    if CPU in full[:-1]:
        raise ValueError("cpu takes every node, so it must be the last provider")
    return full


def unavailable(names: Iterable[str]) -> list[Problem]:
    """Providers that neither the installed build nor a plug-in has, or whose plug-in finds no device."""
    import onnxruntime

    available = onnxruntime.get_available_providers()
    found = []
    for name in (n for n in names if n not in available):
        if importlib.util.find_spec(provider(name).plugin or "-") is None:
            what = f"the installed build has no {name}, only {one_of(available)}: {provider(name).install}"
            found.append(Problem("onnxruntime", what))
        elif not devices(name):
            found.append(Problem("onnxruntime", f"the plug-in {provider(name).plugin} finds no device of its own here"))
    return found


def devices(name: str) -> list[Any]:
    """The devices of a plug-in provider; loads its library once a process."""
    import onnxruntime

    module = importlib.import_module(provider(name).plugin)
    with contextlib.suppress(onnxruntime.capi.onnxruntime_pybind11_state.Fail):  # it is registered already
        onnxruntime.register_execution_provider_library(name, module.get_library_path())
    return [device for device in onnxruntime.get_ep_devices() if device.ep_name == name]


def add_to(settings: ort.SessionOptions, names: Iterable[str]) -> None:
    """Choose the providers for a session, best first; the CPU is always behind them."""
    import onnxruntime

    available = onnxruntime.get_available_providers()
    for name in names:
        if name in available:
            settings.add_provider(name, {})
        else:
            settings.add_provider_for_devices(devices(name)[:1], {})

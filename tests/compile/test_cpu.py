from __future__ import annotations

import os
import platform

import pytest

from tlcompile.compile import _cpu

X86 = platform.machine() in ("x86_64", "AMD64")


def test_the_instruction_set_is_one_that_a_recipe_can_name() -> None:
    assert _cpu.isa() in ("avx2", "vnni", "arm")
    assert (_cpu.isa() == "arm") == (platform.machine() in ("arm64", "aarch64"))


def test_auto_means_this_machine() -> None:
    assert _cpu.dialect("auto") == _cpu.dialect(_cpu.isa())
    assert _cpu.why_not("auto") == _cpu.why_not(_cpu.isa()) == ""


@pytest.mark.parametrize(("isa", "dialect"), [("avx2", "x86"), ("vnni", "x86-vnni"), ("arm", "arm")])
def test_each_instruction_set_has_its_dialect(isa: str, dialect: str) -> None:
    assert _cpu.dialect(isa) == dialect


@pytest.mark.skipif(not X86, reason="states facts about x86")
def test_seven_bit_weights_are_at_home_on_every_x86_but_eight_bit_ones_need_vnni() -> None:
    assert _cpu.why_not("avx2") == ""
    assert (_cpu.why_not("vnni") == "") == (_cpu.isa() == "vnni")
    assert "made for ARM" in _cpu.why_not("arm")


def test_the_device_names_the_cpu() -> None:
    device = _cpu.device()
    assert device["cpu"]
    assert device["isa"] == _cpu.isa()
    assert 1 <= int(device["cores"]) <= (os.cpu_count() or 1)

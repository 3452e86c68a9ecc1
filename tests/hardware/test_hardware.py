from __future__ import annotations

from pathlib import Path

import pytest

from autodeploy.errors import RecipeError
from autodeploy.hardware import (
    Device,
    Gpu,
    choose_gpu,
    decode_seconds,
    find_device,
    list_gpus,
    load_gpu,
    read_gpu,
    recognise,
)

NAMES = [
    "a10",
    "a100-40",
    "a100-80",
    "a10g",
    "b200",
    "cpu",
    "gb200",
    "h100",
    "h100-nvl",
    "h100-pcie",
    "h200",
    "jetson-orin",
    "l4",
    "l40s",
    "rtx3090",
    "rtx4090",
    "rtx5090",
    "t4",
    "v100",
]


def test_the_list_of_gpus() -> None:
    assert [gpu.name for gpu in list_gpus()] == NAMES


@pytest.mark.parametrize("gpu", list_gpus(), ids=lambda gpu: gpu.name)
def test_each_file_is_plausible(gpu: Gpu) -> None:
    assert gpu.source
    assert "fp32" in gpu.tflops
    assert ("bf16" in gpu.tflops) >= ("bf16" in gpu.features)
    assert ("fp8" in gpu.tflops) == ("fp8" in gpu.features)
    assert ("fp4" in gpu.tflops) == ("fp4" in gpu.features)
    assert 1 / 200 < gpu.memory_gb / gpu.bandwidth_gb_s < 1 / 2  # one read of the whole memory takes 5 to 500 ms


def test_names_are_unique() -> None:
    names = [name for gpu in list_gpus() for name in (gpu.name, *gpu.aliases)]
    devices = [device.lower() for gpu in list_gpus() for device in gpu.devices]
    assert len(names) == len(set(names))
    assert len(devices) == len(set(devices))


def test_names_and_aliases_load() -> None:
    assert load_gpu("a100").name == "a100-80"
    assert load_gpu("H100").name == "h100"
    assert load_gpu("cpu").is_cpu


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(RecipeError, match=r"--gpu h10: no GPU has that name; did you mean 'h100'\?"):
        choose_gpu("h10")


def test_a_device_is_recognised() -> None:
    choice = recognise(Device("NVIDIA A100-SXM4-80GB", (8, 0), 85.1))
    assert choice.gpu.name == "a100-80"


def test_an_undescribed_device_falls_back_with_a_sentence() -> None:
    choice = recognise(Device("NVIDIA H20", (9, 0), 102.3))
    assert choice.gpu.memory_gb == 102.3
    assert choice.gpu.compute_capability == (9, 0)
    assert choice.reason == "no file describes NVIDIA H20; it is planned as h100-pcie with its own memory"


def test_an_undescribed_device_keeps_the_bandwidth_that_its_driver_tells() -> None:
    choice = recognise(Device("NVIDIA H20", (9, 0), 102.3, 4022.8))
    assert choice.gpu.bandwidth_gb_s == 4022.8
    assert choice.gpu.tflops == load_gpu("h100-pcie").tflops
    assert choice.reason.endswith("it is planned as h100-pcie with its own memory and bandwidth")


def test_a_device_older_than_all_is_refused() -> None:
    with pytest.raises(RecipeError, match="has compute capability"):
        recognise(Device("Tesla P100", (6, 0), 16))


def test_auto_takes_what_is_here() -> None:
    choice = choose_gpu("auto")
    assert choice.gpu.is_cpu == (find_device() is None)
    assert choice.reason


def test_a_made_up_gpu_file(tmp_path: Path) -> None:
    path = tmp_path / "dream.yaml"
    path.write_text(
        "name: dream\ntitle: Dream\ncompute_capability: [9, 0]\nmemory_gb: 500\nbandwidth_gb_s: 9000\n"
        "tflops: {bf16: 3000}\nsource: imagination\n"
    )
    assert load_gpu(str(path)).memory_gb == 500
    path.write_text(path.read_text().replace("memory_gb", "memory_bg"))
    with pytest.raises(RecipeError, match=r"dream.yaml:4: unknown key 'memory_bg'; did you mean 'memory_gb'"):
        read_gpu(path)


def test_the_roofline_of_a_decode_step() -> None:
    h200 = load_gpu("h200")
    assert decode_seconds(h200, 15.0e9, 16e9, "bf16") == pytest.approx(3.42e-3, rel=1e-2)  # bound by memory
    assert decode_seconds(h200, 1e9, 796e12, "bf16") == pytest.approx(1.0)  # bound by arithmetic
    with pytest.raises(RecipeError, match="a100-80 has no fp8 figure"):
        decode_seconds(load_gpu("a100"), 1, 1, "fp8")

from pathlib import Path

import pytest
import torch

from crosstune.errors import UserError
from crosstune.models.loading import device as module
from crosstune.models.loading.device import choose_device, choose_dtype
from crosstune.models.loading.load import _places

CPU = torch.device("cpu")


def test_auto_is_the_first_gpu_or_the_cpu(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == CPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto") == torch.device("cuda", 0)


@pytest.mark.parametrize(
    "wish", ["gpu", "cuda:", "cuda:x", "cuda:-1", "cuda:²", "auto:0", "cpu:1", "CPU", ""]
)
def test_unknown_devices(wish):
    with pytest.raises(UserError, match="device"):
        choose_device(wish)


def test_cuda_that_is_not_there(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", None)
    with pytest.raises(UserError, match="built without CUDA"):
        choose_device("cuda")
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="sees no GPU"):
        choose_device("cuda:0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(UserError, match='2 GPUs, numbered from 0; use "cuda:1" or lower'):
        choose_device("cuda:2")


def test_each_of_several_processes_has_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    for rank in range(2):
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        assert choose_device("auto") == choose_device("cuda") == torch.device("cuda", rank)
    with pytest.raises(UserError, match="each of several processes has a GPU of its own"):
        choose_device("cuda:0")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(UserError, match="process 3 of this machine has no GPU, there are 2"):
        choose_device("auto")
    with pytest.raises(UserError, match="device_map spreads"):
        _places(CPU, "auto", "auto")


def test_dtypes():
    assert choose_dtype("bf16", CPU) is choose_dtype("bfloat16", CPU) is torch.bfloat16
    assert choose_dtype("fp32", CPU) is torch.float32
    assert choose_dtype("float16", CPU) is torch.float16
    with pytest.raises(UserError, match='did you mean "bfloat16"'):
        choose_dtype("bfloat", CPU)


def test_auto_dtype_follows_the_hardware(monkeypatch):
    monkeypatch.setattr(module, "_cpu_has_bf16", lambda: True)
    assert choose_dtype("auto", CPU) is torch.bfloat16
    assert choose_dtype("auto", torch.device("mps")) is torch.float32
    monkeypatch.setattr(module, "_cpu_has_bf16", lambda: False)
    assert choose_dtype("auto", CPU) is torch.float32


@pytest.mark.parametrize(
    ("vendor", "expected"), [("GenuineIntel", False), ("AuthenticAMD", True), ("", False)]
)
def test_avx512_bf16_without_amx_is_enough_on_amd_alone(monkeypatch, vendor, expected):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"architecture": "x86_64"}, raising=False)
    monkeypatch.setattr(torch._C, "_has_mkldnn", True)
    monkeypatch.setattr(module, "_cpu_vendor", lambda: f"vendor_id : {vendor}")
    assert module._cpu_has_bf16() is expected


def test_the_vendor_is_read_from_the_system():
    file = Path("/proc/cpuinfo")
    if not file.exists() or "vendor_id" not in file.read_text():
        pytest.skip("no vendor_id in /proc/cpuinfo here")
    assert module._cpu_vendor().split(":")[1].strip() in file.read_text()


def test_cpu_check_survives_a_torch_without_the_helpers(monkeypatch):
    for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported", "get_capabilities"):
        monkeypatch.delattr(torch.cpu, name, raising=False)
    assert module._cpu_has_bf16() is False


@pytest.mark.parametrize(("architecture", "expected"), [("aarch64", True), ("x86_64", False)])
def test_arm_bf16(monkeypatch, architecture, expected):
    for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: False, raising=False)
    monkeypatch.setattr(torch._C, "_has_mkldnn", True)
    capabilities = {"architecture": architecture, "bf16": True}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert module._cpu_has_bf16() is expected

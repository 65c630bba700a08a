"""The only file that knows version quirks of torch and mmengine."""

from __future__ import annotations

from typing import Any

import torch


def has_native_bf16(device: torch.device) -> bool:
    """Returns whether bfloat16 is computed in hardware; emulation is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        cpu: Any = torch.cpu
        probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        return any(getattr(cpu, probe, bool)() for probe in probes)
    return False

"""The packages that limner's figures are compared with, made importable.

`peer("torch_fidelity")` imports one. All of them import torchvision, whose builds look for compiled operators that are absent
where it was built for another torch than the one installed; the peers use none of these, so declaring the names is enough.
"""

import importlib
import sys
from functools import cache
from types import ModuleType

import torch


def peer(name: str) -> ModuleType:
    """The module of this name: of torch-fidelity, pytorch-fid, clean-fid, lpips."""
    torchvision()
    return importlib.import_module(name)


@cache
def torchvision() -> ModuleType:
    """torchvision as it is, or, where it does not import beside this torch, with the operators declared that it misses."""
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    for module in [module for module in sys.modules if module.split(".")[0] == "torchvision"]:
        del sys.modules[module]
    declared = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        declared.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    found = importlib.import_module("torchvision")
    found.limner_declared = declared  # the declaration ends with the object
    return found

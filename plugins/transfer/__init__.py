"""Downstream tasks in other libraries; importing it registers ``Pretrained`` with mmengine."""

from . import _weights as _weights

"""Trained networks as programs of their own: `dien-export`, and `dien.export.runtime`, which needs no torch.

This file imports nothing, so that the runtime stays as light as it says.
"""

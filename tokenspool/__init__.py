"""Spools long language-model streams to storage, and never asks for the same token twice."""

__all__ = ["__version__"]

__version__ = "0.1.0"

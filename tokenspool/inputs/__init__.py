"""INPUT files: from the bytes that people write to requests that can be kept.

Read line by line in bounded memory; what is wrong with a line is a value (`BadLine`), not the end.
"""

from tokenspool.inputs.reading import read_documents, read_inputs
from tokenspool.inputs.spec import BadLine, InputDefaults, JobSpec

__all__ = ["BadLine", "InputDefaults", "JobSpec", "read_documents", "read_inputs"]

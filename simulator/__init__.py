"""An OpenAI-compatible endpoint with scripted faults, for tests, benchmarks and first steps.

Its text is a pure function of seed and request, so that any continuation can be checked byte by
byte; or, in sampling mode, every token carries its index, so that a seam can be checked without it.
"""

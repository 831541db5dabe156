"""What an endpoint may be asked: at once, in a minute, and again after a failure.

Here are the rules alone and the book that is kept of them, in the process or in Redis. Who asks,
waits and counts is above: `worker.gate` and `worker.permits`.
"""

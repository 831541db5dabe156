"""Many jobs: wiring, the local runner, and what keeps a process's claims in order."""

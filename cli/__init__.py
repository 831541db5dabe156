"""The person's door: the `tokenspool` command. Nothing imports it but `python -m tokenspool`."""

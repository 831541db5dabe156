"""Where text comes from: one module per wire, and what they share."""

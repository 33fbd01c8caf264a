"""Small tools that every floor stands on. Nothing here imports torch, and importing it does nothing."""

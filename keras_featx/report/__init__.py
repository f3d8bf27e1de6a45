"""Pictures of a run, for people."""

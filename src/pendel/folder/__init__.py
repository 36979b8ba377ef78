"""The folder of a run: its record, its checkpoints and its posterior."""

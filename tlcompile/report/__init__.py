"""The Report: what was built, how good it was found and how that was measured. Knows no stage, only their facts."""

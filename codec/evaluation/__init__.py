"""Evaluation: what codes hold, by probes (`codec probe`). Everything is imported when it is used."""

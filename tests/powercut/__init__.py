"""Simulated power cuts: a layer that records what a process does to files, and the disks that a cut could leave of it.

`layer` records (layer.c), `disk` is the model of what a cut leaves, `parts` are the parts of the product with what each
acknowledges, `examine` cuts and looks. docs/decisions/0006-power-cuts.md says what is simulated and what is not.
"""

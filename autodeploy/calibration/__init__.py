"""What real text says of a model: scales of inputs and caches, and weights that are rounded with them in mind.

`autodeploy.calibration.model` runs the graph of a model on windows of tokens, one projection after the other; what it
finds is a `Calibration`, which `autodeploy.prepare` lays over a plan of weights.
"""

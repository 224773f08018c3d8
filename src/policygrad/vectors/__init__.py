"""Vectors of Gymnasium environments, without JAX, which worker processes never import.

layout         how elements of a space lie in arrays
masks          which actions are allowed, as a part of the observation
single         one environment, made
in_turn        in this process, one after the other
side_by_side   a block in this process and one in each worker process, at the same time
worker         what a worker process runs
"""

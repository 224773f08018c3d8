"""Pictures of runs: each answers one question in one look, in colour, in grey and for the colour-blind.

pictures   `figures`: returns, performance measure, gradient norm, variance, from run directories to PNG files
heatmaps   `heatmap`: π(a|s) of a policy over few states and actions
labels     what tells runs apart: the algorithm, and only those settings that differ
style      the canvas: colours and line styles, axes, thinning of long curves, saving

Reads what `policygrad.records` wrote; needs no device. Matplotlib is imported when something is drawn.
"""

from policygrad.report.heatmaps import heatmap
from policygrad.report.pictures import figures

__all__ = ["figures", "heatmap"]

"""The loop: collect → update, again and again.

runners      the two loops behind one interface: a whole chunk of iterations in one compiled program, or Gymnasium's on the host
train        `train` and `iterate`
evaluations  the policy evaluated now and then, and the best one kept
progress     what the terminal shows meanwhile
"""

from policygrad.training.train import Run, RunProgress, iterate, train

__all__ = ["Run", "RunProgress", "iterate", "train"]

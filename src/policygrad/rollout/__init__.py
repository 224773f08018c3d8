"""How experience is collected: `steps(T)` or `episodes(N)`, compiled or on the host, one record for both.

collect   the two ways, and what an episode leaves in the log
compiled  the collectors for environments in JAX: part of the compiled iteration
host      the collector for Gymnasium's vectors: one jitted call of the policy per vector step
record    one rollout on its own, as data for another policy
"""

from policygrad.rollout.collect import Collect, EpisodeLog, episodes, steps, to_environment
from policygrad.rollout.compiled import Collector, compiled_collector
from policygrad.rollout.host import HostCollector
from policygrad.rollout.record import record

__all__ = ["Collect", "Collector", "EpisodeLog", "HostCollector", "compiled_collector", "episodes", "record", "steps", "to_environment"]

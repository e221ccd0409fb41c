"""A cluster in memory: the operator's port, with Job controller, kubelets and garbage collection.

It keeps those rules of Kubernetes that the operator relies on (resource versions, immutability,
preconditions, finalisation of Jobs, lost nodes), and time passes only when a test says so.
"""

from simulated.builders import node_body, run_body
from simulated.world import Crash, World

__all__ = ["Crash", "World", "node_body", "run_body"]

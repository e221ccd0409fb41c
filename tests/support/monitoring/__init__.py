"""A real Prometheus for the tests of metrics, alerts and dashboard."""

from monitoring.binaries import binary
from monitoring.server import Prometheus

__all__ = ["Prometheus", "binary"]

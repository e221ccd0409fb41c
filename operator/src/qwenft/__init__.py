"""qwenft for Python code: a client for runs on a cluster, typed from end to end.

::

    from qwenft import Client

    client = Client(namespace="team")
    client.submit("my-run.yaml")
    print(client.wait("my-run").result)
"""

from qwenft_cli.client import Client, RunFailed, RunLike
from qwenft_cli.client_async import AsyncClient
from qwenft_cli.document import Document, load
from qwenft_cli.failure import CliError as QwenftError
from qwenft_cli.losses import LossCurve
from qwenft_cli.snapshot import Failure, Snapshot, Worker
from qwenft_cli.spelling import document_of
from qwenft_plan.errors import Infeasible, SpecError
from qwenft_plan.planner import Planned
from qwenft_plan.progress import Progress
from qwenft_plan.spec import FinetuneSpec

__all__ = [
    "AsyncClient",
    "Client",
    "Document",
    "Failure",
    "FinetuneSpec",
    "Infeasible",
    "LossCurve",
    "Planned",
    "Progress",
    "QwenftError",
    "RunFailed",
    "RunLike",
    "Snapshot",
    "SpecError",
    "Worker",
    "document_of",
    "load",
]

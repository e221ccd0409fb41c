"""Every name that users, tools or other parts can see: labels, reasons, objects of one run.

Names are functions of the run and its attempt only, so that a repeated write meets the same object.
"""

from __future__ import annotations

__all__ = [
    "API_VERSION",
    "AUDIENCE",
    "FIELD_MANAGER",
    "GROUP",
    "KIND",
    "PLURAL",
    "VERSION",
    "config_map",
    "gang",
    "job",
    "progress_path",
    "run_labels",
    "selector",
    "service",
]

GROUP = "qwenft.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "QwenFineTune"
PLURAL = "qwenfinetunes"

FIELD_MANAGER = "qwenft"
AUDIENCE = "qwenft.dev/progress"
"""Audience of the token with which a trainer pod reports."""

LABEL_MANAGED_BY = "app.kubernetes.io/managed-by"
LABEL_NAME = "app.kubernetes.io/name"
LABEL_RUN = "qwenft.dev/run"
LABEL_UID = "qwenft.dev/run-uid"
LABEL_ATTEMPT = "qwenft.dev/attempt"
LABEL_PLAN = "qwenft.dev/plan"
LABEL_INDEX = "batch.kubernetes.io/job-completion-index"
LABEL_QUEUE = "kueue.x-k8s.io/queue-name"
"""Kueue's: on a run it goes to the Job, which Kueue then admits."""
MANAGER = f"{GROUP}/operator"
"""``spec.runPolicy.managedBy`` of runs that this operator answers for."""
ANNOTATION_CA = "qwenft.dev/progress-ca"
"""The authority that signed the operator's certificate; pods read it as a file."""
ANNOTATION_PLAN = "qwenft.dev/plan-status"
"""On a Job: what the status says of its plan, for an operator that finds the status silent."""

ANNOTATION_VOLCANO = "scheduling.volcano.sh/queue-name"
"""Volcano's: on a run it names the queue of its gangs."""

BEFORE_STEP = "QWENFT_CHECKPOINT_BEFORE_STEP"
"""Variable of a trainer that must go on from an older checkpoint than the newest."""
CONTAINER = "trainer"
MASTER_PORT = 29500
PROGRESS_PORT = 8443
CONFIG_DIR = "/etc/qwenft"
SCRIPT_DIR = f"{CONFIG_DIR}/script"

# Phases, in the order in which a run meets them.
PENDING = "Pending"
QUEUED = "Queued"
STARTING = "Starting"
TRAINING = "Training"
RESTARTING = "Restarting"
SUSPENDED = "Suspended"
SUCCEEDED = "Succeeded"
FAILED = "Failed"
TERMINAL = (SUCCEEDED, FAILED)

# Condition types, after the Kubernetes API conventions and kstatus.
PLANNED = "Planned"
READY = "Ready"
RECONCILING = "Reconciling"
STALLED = "Stalled"

# Exit codes of a trainer pod and the reasons that go with them.
REASONS = {
    64: "Preempted",
    65: "DatasetInvalid",
    66: "PlanInvalid",
    67: "NumericError",
    68: "OutOfMemory",
    69: "CommunicationFailure",
    70: "WorkerError",
}
HUNG = "Hung"
"""Why an attempt ended of which a rank stood still: told by the rank's pod, or by nobody."""


def config_map(name: str, digest: str) -> str:
    """Return the name of the frozen plan's ConfigMap."""
    return f"{name}-plan-{digest}"


def service(name: str) -> str:
    """Return the name of the headless Service; pods find each other under it."""
    return name


def job(name: str, attempt: int) -> str:
    """Return the name of one attempt's Job; attempts count from 1."""
    return f"{name}-{attempt}"


def gang(job_name: str, digest: str) -> str:
    """Return the name of an attempt's gang: its size cannot be changed, and a plan has one."""
    return f"{job_name}-{digest}"


def run_labels(name: str, uid: str) -> dict[str, str]:
    """Return the labels that every object of a run carries."""
    return {
        LABEL_NAME: "qwenft",
        LABEL_MANAGED_BY: FIELD_MANAGER,
        LABEL_RUN: name,
        LABEL_UID: uid,
    }


def selector(name: str) -> str:
    """Return the label selector of a run's children, of whichever uid."""
    return f"{LABEL_MANAGED_BY}={FIELD_MANAGER},{LABEL_RUN}={name}"


def progress_path(namespace: str, name: str) -> str:
    """Return the path of the progress endpoint (the shape of KEP-2779)."""
    return f"/apis/{API_VERSION}/namespaces/{namespace}/{PLURAL}/{name}/status"

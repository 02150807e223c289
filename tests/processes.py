"""What several tests ask of processes."""

import psutil


def alive(process: psutil.Process) -> bool:
    """Whether a process still does something; one that has ended and that nobody has waited for does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False

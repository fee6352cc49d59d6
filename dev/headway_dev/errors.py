"""What can go wrong around private services."""


class DevError(Exception):
    """A private service or a tool cannot do what was asked; the message says what to do next."""


class ToolMissing(DevError):
    """No binaries of a service are installed, and none could be had."""


class DirectoryBusy(DevError):
    """Another living process owns this directory of private services."""


class DirectoryUnusable(DevError):
    """This is no directory, or not ours to write to."""


class ServiceFailed(DevError):
    """A service did not start, or ended when it should run; carries the end of its log."""

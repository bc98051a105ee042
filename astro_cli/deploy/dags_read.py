"""What a release's dag-processor has read of the DAGs that were published for it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from astro_cli.deploy import stack
from astro_cli.deploy.dag_bundle import BUNDLE, STORAGE
from astro_cli.domain.airflow import DEPLOYED_CODE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from astro_cli.domain.releases import Release

PROCESSOR = "dag-processor"
ASK_DATABASE = (*stack.ENTRY, "run", "python3", f"{DEPLOYED_CODE}/dags_behind.py", BUNDLE)
"""See `inside/dags_behind.py`; a version follows, or `seen`."""
DIGEST_PREFIX = "sha256:"


class DagsRead(ABC):
    """Asks for it; a target says how it runs a command."""

    names: stack.Names

    @abstractmethod
    def _in_processor(self, command: Sequence[str]) -> tuple[int, str]:
        """Run a command beside the dag-processor; exit code and output, and not 0 where it does not run."""

    def dags_seen(self, release: Release) -> str:
        """The version that the release's dag-processor has read last; empty when it has read none."""
        remembered = f"{STORAGE}/{BUNDLE}/current-{stack.dags_tag(self.names, release)}"
        return self._digest_from(["cat", remembered])

    def dags_behind(self, release: Release) -> int:
        """How many DAGs the database still has from another version; 0 also where that cannot be told."""
        code, output = self._in_processor([*ASK_DATABASE, release.dags.removeprefix(DIGEST_PREFIX)])
        return int(output) if not code and output.strip().isdecimal() else 0

    def _digest_from(self, command: Sequence[str]) -> str:
        code, output = self._in_processor(command)
        version = "" if code else output.strip()
        return f"{DIGEST_PREFIX}{version}" if version else ""

"""What astro keeps for one sandbox outside the project: its identity, secrets, port and lock.

A sandbox belongs to a checkout, not to a path: the id lives in `.astro/checkout`, which git ignores. Moving the
folder keeps its sandbox; a second clone or worktree has none yet; a copied folder is noticed (the original still
claims the id from its own path) and gets a sandbox of its own.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import time
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from astro_cli.foundation.errors import LockedError
from astro_cli.foundation.paths import make_private_dir, read_json, sandbox_dir, write_atomic

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CHECKOUT_FILE = Path(".astro/checkout")
ID_BYTES = 5
NAMED_SECONDS = 3.0
"""Who takes the lock writes its name right after; on a busy machine that can take a moment."""


class SandboxState:
    """The kept state of the sandbox of one project folder."""

    def __init__(self, root: Path) -> None:
        self._root = root

    @property
    def known_id(self) -> str | None:
        """The id this folder has already, or None; looking leaves no trace."""
        claimed = _read_id(self._root)
        if claimed is None:  # perhaps a read-only project, see sandbox_id
            by_path = path_id(self._root)
            return by_path if (sandbox_dir(by_path) / "state.json").exists() else None
        return None if self._belongs_elsewhere(claimed) else claimed

    @cached_property
    def sandbox_id(self) -> str:
        """Ten hexadecimal digits; made and written down when the folder has none."""
        with _alone_in(self._root / CHECKOUT_FILE.parent):  # of two first starts, both must find the same one
            claimed = _read_id(self._root)
            if claimed and not self._belongs_elsewhere(claimed):
                self._claim(claimed)
                return claimed
            fresh = secrets.token_hex(ID_BYTES)
            try:
                write_atomic(self._root / CHECKOUT_FILE, f"{fresh}\n", mode=0o644)
            except OSError:  # a read-only project: its path is all there is to know it by
                fresh = path_id(self._root)
            self._claim(fresh)
            return fresh

    def _belongs_elsewhere(self, claimed: str) -> bool:
        home = read_json(sandbox_dir(claimed) / "state.json").get("path")
        if not isinstance(home, str) or Path(home) == self._root:
            return False
        return _read_id(Path(home)) == claimed and not _same_folder(Path(home), self._root)

    def _claim(self, sandbox_id: str) -> None:
        path = sandbox_dir(sandbox_id) / "state.json"
        known = read_json(path)
        if known.get("path") != str(self._root):
            write_atomic(path, json.dumps({**known, "path": str(self._root)}))

    @property
    def folder(self) -> Path:
        """The private folder of this sandbox."""
        return sandbox_dir(self.sandbox_id)

    def get(self, key: str) -> Any:  # noqa: ANN401 - whatever `remember` was given
        """A remembered value, or None."""
        return read_json(self.folder / "state.json").get(key)

    def remember(self, **values: object) -> None:
        """Keep JSON values under their names; None forgets one."""
        known = {**read_json(self.folder / "state.json"), **values}
        write_atomic(
            self.folder / "state.json", json.dumps({k: v for k, v in known.items() if v is not None})
        )

    def secrets(self) -> dict[str, str]:
        """The sandbox's own random secrets, made once and kept: by the names of `_SECRETS`."""
        path = self.folder / "secrets.json"
        known = read_json(path)
        missing = {name: make() for name, make in _SECRETS.items() if not isinstance(known.get(name), str)}
        if missing:
            known.update(missing)
            write_atomic(path, json.dumps(known))
        return {name: str(known[name]) for name in _SECRETS}

    @contextmanager
    def lock(self, purpose: str) -> Iterator[None]:
        """Hold this sandbox against other runs of astro that would change it.

        Raises:
            LockedError: another run holds it; the message says which.
        """
        from filelock import FileLock, Timeout

        from astro_cli.foundation import process

        holder = make_private_dir(self.folder) / "holder"
        lock = FileLock(self.folder / "lock")
        try:
            lock.acquire(timeout=0)
        except Timeout as exc:
            raise LockedError(
                f"{_name_of(holder)} is working on this sandbox right now",
                hint="wait until it is done, or end it, then run the same command again",
            ) from exc
        try:
            me = process.identity(os.getpid())
            write_atomic(holder, json.dumps({"purpose": purpose, "pid": me.pid, "started": me.started}))
            yield
        finally:
            lock.release()

    def forget(self, *, keep_key: bool = False) -> None:
        """Remove everything kept for this sandbox except its lock and its folder.

        Args:
            keep_key: the Fernet key stays, for snapshots that outlive the sandbox.
        """
        key = {"fernet": self.secrets()["fernet"]} if keep_key else {}
        for name in ("state.json", "secrets.json", "holder"):
            (self.folder / name).unlink(missing_ok=True)
        if key:
            write_atomic(self.folder / "secrets.json", json.dumps(key))


_SECRETS: dict[str, Callable[[], str]] = {
    "database": lambda: secrets.token_hex(24),
    "fernet": lambda: base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
    "jwt": lambda: secrets.token_urlsafe(48),
    "api": lambda: secrets.token_urlsafe(48),
    "warehouse": lambda: secrets.token_hex(16),
    "broker": lambda: secrets.token_hex(24),
}


def _name_of(holder: Path) -> str:
    """Who holds the lock: not who held it last, and the one who has just taken it has a moment to say so."""
    from astro_cli.foundation.process import Identity

    end = time.monotonic() + NAMED_SECONDS
    while time.monotonic() < end:
        told = read_json(holder)
        if Identity(told.get("pid", 0), told.get("started", "")).is_alive:
            return f"`astro airflow {told.get('purpose')}` (process {told['pid']})"
        time.sleep(0.05)
    return "another run of astro"


def new_secrets() -> dict[str, str]:
    """Random secrets that are kept nowhere."""
    return {name: make() for name, make in _SECRETS.items()}


def path_id(root: Path) -> str:
    """An id from the folder's path alone, for a folder that cannot be written to."""
    import hashlib

    return hashlib.sha256(str(root).encode()).hexdigest()[: 2 * ID_BYTES]


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Hold a folder against other runs of astro, where its file system knows locks."""
    import fcntl

    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # not there yet
        yield
        return
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _read_id(root: Path) -> str | None:
    try:
        text = (root / CHECKOUT_FILE).read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return None
    return text if len(text) == 2 * ID_BYTES and all(c in "0123456789abcdef" for c in text) else None


def _same_folder(first: Path, second: Path) -> bool:
    try:
        return first.samefile(second)
    except OSError:
        return False

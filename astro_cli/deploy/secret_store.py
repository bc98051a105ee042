"""A deployment's secrets on its engine: numbered, because an engine's secret can never be changed or read again.

Whether a value differs from what the engine has is told by a salted scrypt digest of it in the secret's labels.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets as randomness
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from astro_cli.deploy import stack
from astro_cli.domain.airflow import (
    ADMIN,
    AUTH_MANAGER,
    BROKER,
    broker_config,
    broker_environment,
    private_environment,
)
from astro_cli.domain.deployments import CELERY
from astro_cli.foundation import labels

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Protocol

    from astro_cli.deploy.target import Secrets
    from astro_cli.domain.deployments import Deployment

    class SecretDoor(Protocol):
        """What is used of `SwarmApi`; other targets have the like."""

        def stored(self, kind: str, label: str) -> dict[str, dict[str, Any]]:
            """Secrets with a label, by name, as an engine lists them."""

        def store(self, kind: str, name: str, content: str, marks: Mapping[str, str]) -> str:
            """Make one; returns its id."""


CONNECTION_VARIABLE = "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"
FERNET, JWT = "AIRFLOW__CORE__FERNET_KEY", "AIRFLOW__API_AUTH__JWT_SECRET"
DATABASE_URL = "postgresql+psycopg2://airflow:{password}@postgres:5432/airflow"


def new_keys(password: str) -> dict[str, str]:
    """New random keys for Airflow, as variables, and its database's address."""
    made = {
        "fernet": base64.urlsafe_b64encode(randomness.token_bytes(32)).decode(),
        "jwt": randomness.token_urlsafe(48),
        "api": randomness.token_urlsafe(48),
        "database": password,
    }
    return private_environment(made)


class SecretStore:
    """The secrets of one deployment."""

    def __init__(self, api: SecretDoor, names: stack.Names) -> None:
        self._api = api
        self._names = names

    def stored(self) -> dict[str, dict[str, Any]]:
        """Every secret of the deployment, by name."""
        found = self._api.stored("secrets", f"{labels.DEPLOYMENT}={self._names.deployment}")
        mine = self._names.project_id
        return {name: each for name, each in found.items() if _marks(each).get(labels.PROJECT) == mine}

    def ids(self) -> dict[str, str]:
        """The engine's id of every secret, by name."""
        return {name: str(each["ID"]) for name, each in self.stored().items()}

    def newest(self, role: str) -> dict[str, Any] | None:
        """The secret of a role with the highest number."""
        found = [each for each in self.stored().values() if _marks(each).get(labels.ROLE) == role]
        return max(found, key=lambda each: int(_marks(each)[labels.NUMBER]), default=None)

    def changed(self, secrets: Secrets) -> tuple[str, ...]:
        """Names of the user's secrets that the engine has not, has with another value, or has too many."""
        found = self.newest(stack.USER)
        known = _digests(found) if found else {}
        changed = [
            name for name, value in secrets.user.items() if not is_digest_of(value, known.get(name, ""))
        ]
        if secrets.database and not self._has_address(secrets.database):
            changed.append("database")
        return tuple(sorted({*changed, *(set(known) - set(secrets.user))}))

    def ensure_all(
        self, deployment: Deployment, secrets: Secrets, *, first: bool
    ) -> tuple[dict[str, str], str]:
        """Have every secret that a deployment needs.

        Args:
            first: whether this is its first release, with which the admin gets a password.

        Returns:
            See `ensure`.
        """
        own_login = AUTH_MANAGER not in deployment.env
        names, password = self.ensure(secrets, login=own_login and first)
        if deployment.executor == CELERY:
            names |= self.ensure_broker()
        return names, password

    def ensure(self, secrets: Secrets, *, login: bool) -> tuple[dict[str, str], str]:
        """Have every secret.

        Args:
            login: whether the admin needs a (new) password.

        Returns:
            The names by role, and the admin's password if it was made now.
        """
        names = {stack.KEYS: self._keys(), **self._database(secrets.database)}
        if secrets.user:
            found = self.newest(stack.USER)
            if found is None or self.changed(secrets):
                names[stack.USER] = self._make(stack.USER, json.dumps(dict(secrets.user)), secrets.user)
            else:
                names[stack.USER] = str(found["Spec"]["Name"])
        password = ""
        known = self.newest(stack.LOGIN)
        if login:
            password = randomness.token_urlsafe(18)
            names[stack.LOGIN] = self._make(stack.LOGIN, json.dumps({ADMIN: password}))
        elif known is not None:
            names[stack.LOGIN] = str(known["Spec"]["Name"])
        return names, password

    def ensure_broker(self) -> dict[str, str]:
        """The secrets by which Celery and its broker know each other, by role; made once."""
        roles = (stack.BROKER, stack.BROKER_CONFIG)
        found = [self.newest(role) for role in roles]
        if None not in found:
            return {role: str(each["Spec"]["Name"]) for role, each in zip(roles, found, strict=True) if each}
        password = randomness.token_hex(24)
        values = {
            stack.BROKER: json.dumps(broker_environment({BROKER: password})),
            stack.BROKER_CONFIG: broker_config(password),
        }
        number = 1 + max(int(_marks(each)[labels.NUMBER]) if each else 0 for each in found)
        return {role: self._make(role, values[role], number=number) for role in roles}

    def ensure_text(self, role: str, text: str) -> str:
        """Have a secret that is one text; returns its name."""
        found = self.newest(role)
        if found is not None and self.has_text(role, text):
            return str(found["Spec"]["Name"])
        return self._make(role, text, {role: text})

    def has_text(self, role: str, text: str) -> bool:
        """Whether that is what the newest secret of a role holds."""
        found = self.newest(role)
        return found is not None and is_digest_of(text, _digests(found).get(role, ""))

    def _keys(self) -> str:
        found = self.newest(stack.KEYS)
        if found is not None:
            return str(found["Spec"]["Name"])
        keys = new_keys("")
        del keys[CONNECTION_VARIABLE]
        return self._make(stack.KEYS, json.dumps(keys))

    def next_keys(self, old: Mapping[str, str], more: Mapping[str, str] | None = None) -> str:
        """Keys that follow `old`: what those encrypted can still be read, and running tasks keep their tokens.

        Args:
            more: other variables to put beside them.
        """
        keys = new_keys("")
        del keys[CONNECTION_VARIABLE]
        fernet = f"{keys[FERNET]},{old[FERNET].partition(',')[0]}"
        return self._make(stack.KEYS, json.dumps({**keys, **(more or {}), FERNET: fernet, JWT: old[JWT]}))

    def _database(self, address: str) -> dict[str, str]:
        """The secrets by which the metadata database is reached: all of one number, or made anew together."""
        roles = (stack.CONNECTION, stack.ADDRESS, *(() if address else (stack.PASSWORD,)))
        found = [self.newest(role) for role in roles]
        numbers = {_marks(each)[labels.NUMBER] if each else None for each in found}
        if len(numbers) == 1 and None not in numbers and (not address or self._has_address(address)):
            return {role: str(each["Spec"]["Name"]) for role, each in zip(roles, found, strict=True) if each}
        number = 1 + max(int(number) for number in (*numbers, "0") if number)
        password = randomness.token_hex(24)
        url = address or DATABASE_URL.format(password=password)
        plain = url.replace("postgresql+psycopg2://", "postgresql://").replace("+asyncpg://", "://")
        values = {
            stack.CONNECTION: json.dumps({CONNECTION_VARIABLE: url}),
            stack.ADDRESS: address_and_password(plain),
            stack.PASSWORD: password,
        }
        digests = {"database": address} if address else {}
        return {role: self._make(role, values[role], digests, number=number) for role in roles}

    def _has_address(self, address: str) -> bool:
        found = self.newest(stack.CONNECTION)
        return found is not None and is_digest_of(address, _digests(found).get("database", ""))

    def _make(
        self, role: str, value: str, digests: Mapping[str, str] | None = None, *, number: int | None = None
    ) -> str:
        if number is None:
            found = self.newest(role)
            number = 1 + (int(_marks(found)[labels.NUMBER]) if found else 0)
        name = self._names.of(f"{role}-{number}")
        marks = {**self._names.labels, labels.ROLE: role, labels.NUMBER: str(number)}
        marks |= {f"{labels.DIGEST}{key}": digest_of(text) for key, text in (digests or {}).items()}
        self._api.store("secrets", name, value, marks)
        return name


def address_and_password(address: str) -> str:
    """A database's address without its password, and the password in a line of its own.

    Postgres' programs take the address as an argument, which everybody on the machine can read, the password not.
    """
    parts = urlsplit(address)
    login, at, place = parts.netloc.rpartition("@")
    user, _, password = login.partition(":")
    return f"{parts._replace(netloc=f'{user}{at}{place}').geturl()}\n{unquote(password)}\n"


def _marks(stored: Mapping[str, Any]) -> Mapping[str, str]:
    return stored["Spec"].get("Labels") or {}


def _digests(stored: Mapping[str, Any]) -> dict[str, str]:
    return {
        key.removeprefix(labels.DIGEST): text
        for key, text in _marks(stored).items()
        if key.startswith(labels.DIGEST)
    }


def digest_of(value: str, salt: str = "") -> str:
    """What may be told of a secret: from it nobody learns the value, but can tell whether another is the same."""
    salt = salt or randomness.token_hex(16)
    return f"{salt}${hashlib.scrypt(value.encode(), salt=salt.encode(), n=2**13, r=8, p=1, dklen=24).hex()}"


def is_digest_of(value: str, digest: str) -> bool:
    """Whether `digest` was made of `value`."""
    return bool(digest) and hmac.compare_digest(digest_of(value, digest.partition("$")[0]), digest)

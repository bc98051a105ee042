"""Where the values of a deployment's secrets come from: environment, a file outside the project, a command."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

from astro_cli.deploy.target import Secrets
from astro_cli.domain.deployments import BUNDLED, SECRET
from astro_cli.domain.envfile import load_env
from astro_cli.foundation import process
from astro_cli.foundation.errors import AstroError, ProjectError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from astro_cli.domain.deployments import Deployment


def resolve_certificate(deployment: Deployment, root: Path, environ: Mapping[str, str]) -> Secrets:
    """The certificate alone, for what changes no secret: a colleague may go back without knowing any.

    Raises:
        ProjectError: it has no value.
    """
    return resolve_secrets(replace(deployment, secrets=(), database=BUNDLED), root, environ)


def resolve_secrets(deployment: Deployment, root: Path, environ: Mapping[str, str]) -> Secrets:
    """The value of every secret that a deployment names: environment before file before command.

    Raises:
        ProjectError: one has no value anywhere, or the file is readable by others or inside the project.
        AstroError: the command failed.
    """
    file = _from_file(deployment, root, environ)
    values = {}
    missing = []
    for name in deployment.secret_names:
        value = environ.get(name) or file.get(name)
        if value is None and deployment.secret_command:
            value = _from_command(deployment, root, name, environ)
        if value is None:
            missing.append(name)
        else:
            values[name] = value
    if missing:
        raise ProjectError(
            f"no value for the secret{'s' if len(missing) > 1 else ''} {', '.join(missing)} of `{deployment.name}`",
            hint=f"set it in the environment (`export {missing[0]}=…`), or name a `secret_file`",
        )
    certificate = deployment.publish.certificate
    return Secrets(
        user={name: values[name] for name in deployment.secrets},
        database=values[deployment.database.removeprefix(SECRET)]
        if deployment.database.startswith(SECRET)
        else "",
        certificate=_certificate(certificate, values, root),
        authority=read_pem(deployment.registry_authority, root, "registry_authority")
        if deployment.registry_authority
        else "",
    )


def _certificate(certificate: str, values: Mapping[str, str], root: Path) -> str:
    if certificate.startswith(SECRET):
        return values[certificate.removeprefix(SECRET)]
    return read_pem(certificate, root, "certificate") if certificate else ""


def _from_file(deployment: Deployment, root: Path, environ: Mapping[str, str]) -> Mapping[str, str]:
    if not deployment.secret_file:
        return {}
    path = _path(deployment.secret_file, root)
    if path.is_relative_to(root.resolve()):
        raise ProjectError(
            f"the secret_file {deployment.secret_file} lies inside the project",
            hint="keep it elsewhere, for example in ~/.config: what is in the project ends in the image",
        )
    if not path.is_file():
        # In CI the values are in the environment, and the file is on somebody's laptop.
        return {}
    if path.stat().st_mode & 0o077:
        raise ProjectError(f"{path} can be read by others", hint=f"`chmod 600 {path}`")
    return load_env(path, environ, name=path.name)


def _from_command(deployment: Deployment, root: Path, name: str, environ: Mapping[str, str]) -> str:
    argv = [*deployment.secret_command, name]
    try:
        done = process.run(argv, env=environ, cwd=root)
    except OSError as exc:
        raise AstroError(
            f"the secret_command `{argv[0]}` cannot be run: {exc.strerror}",
            hint="correct `secret_command` in .astro/config.yaml",
        ) from exc
    if done.code:
        raise AstroError(  # what it wrote may hold the value
            f"the secret_command failed for {name} (exit code {done.code})",
            hint=f"try it by hand: `{' '.join(argv)}`",
        )
    return done.output.rstrip("\n")


def read_pem(path: str, root: Path, field: str) -> str:
    """The text of a PEM file that a deployment names.

    Args:
        root: what a relative path is relative to.
        field: of the configuration that names it.

    Raises:
        ProjectError: it cannot be read.
    """
    try:
        return _path(path, root).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        reason = getattr(exc, "strerror", None) or exc
        raise ProjectError(
            f"{field}: {path} cannot be read: {reason}", hint="correct the path in .astro/config.yaml"
        ) from exc


def _path(path: str, root: Path) -> Path:
    return (root / os.path.expanduser(path)).resolve()  # noqa: PTH111 - never fails

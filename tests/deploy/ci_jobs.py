"""Takes the script lines out of a CI system's file and runs them, as that system would hand them to a shell."""

from __future__ import annotations

import os
import re
import subprocess
import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

PULL_REQUEST, PUSH = "pull request", "push"
_CONDITIONS = {
    None: (PULL_REQUEST, PUSH),
    "github.event.pull_request.head.repo.full_name == github.repository": (PULL_REQUEST,),
    "github.event_name == 'push'": (PUSH,),
}


def scripts(system: str, text: str) -> list[str]:
    """The scripts of the file's one job, in order; each runs in a shell of its own."""
    if system == "jenkins":
        blocks = re.findall(r"\bsh '''\n(.*?)'''", text, re.DOTALL)
        # In Groovy's ''' strings a backslash is written twice.
        return [textwrap.dedent(block).replace("\\\\", "\\") for block in blocks]
    if system == "gitlab":
        job = yaml.safe_load(text)["airflow"]
        return ["\n".join(job["script"]), "\n".join(job["after_script"])]
    steps = [step for step in _steps(text) if "run" in step]
    return [step["run"] if system == "github" else step["run"]["command"] for step in steps]


def _steps(text: str) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = yaml.safe_load(text)["jobs"]["airflow"]["steps"]
    return [step for step in steps if isinstance(step, dict)]


@dataclass
class Job:
    """One run of a workflow on a runner.

    Attributes:
        folder: the checkout.
        runner: the runner's own folder, for its files.
        environ: of the runner; variables of the project or organisation are in `secrets`.
    """

    system: str
    folder: Path
    runner: Path
    environ: dict[str, str]
    secrets: dict[str, str]
    said: list[str] = field(default_factory=list)

    def run(self, event: str, branch: str) -> int:
        """Run the scripts until one fails; returns its exit code."""
        path = {"github": ".github/workflows/airflow.yml", "gitlab": ".gitlab-ci.yml",
                "circleci": ".circleci/config.yml", "jenkins": "Jenkinsfile"}[self.system]  # fmt: skip
        text = (self.folder / path).read_text()
        if self.system == "github":
            return self._run_github(event, text)
        environ = {**self.environ, **self.secrets, **self._variables(event, branch)}
        code = 0
        for script in scripts(self.system, text):
            is_afterwards = "kill --yes" in script or script.startswith("cp ")
            if not code or is_afterwards:
                code = self._shell(script, environ) or code
        return code

    def _variables(self, event: str, branch: str) -> dict[str, str]:
        if self.system == "gitlab":
            merge_request = {"CI_MERGE_REQUEST_IID": "7", "CI_PROJECT_ID": "3"}
            return merge_request if event == PULL_REQUEST else {"CI_COMMIT_BRANCH": branch}
        if self.system == "circleci":
            profile = self.runner / "bash_env"
            profile.touch()
            # It keeps a variable on one line.
            one_line = {name: self.secrets[name].replace("\n", "\\n") for name in self.secrets}
            return {**one_line, "BASH_ENV": str(profile), "CIRCLE_BRANCH": branch}
        files = {}
        for name in ("ASTRO_SSH_KEY", "ASTRO_SSH_KNOWN_HOSTS"):  # "secret file": the variable is its path
            (self.runner / name).write_text(self.secrets[name])
            files[name] = str(self.runner / name)
        workspace = self.runner / "workspace-tmp"
        workspace.mkdir(exist_ok=True)
        return {**files, "BRANCH_NAME": branch, "WORKSPACE_TMP": str(workspace)}

    def _run_github(self, event: str, text: str) -> int:
        files = {name: self.runner / name for name in ("GITHUB_ENV", "GITHUB_PATH", "GITHUB_STEP_SUMMARY")}
        for file in files.values():
            file.touch()
        runner = {name: str(file) for name, file in files.items()} | {"RUNNER_TEMP": str(self.runner)}
        for step in _steps(text):
            if "run" not in step or event not in _CONDITIONS[step.get("if")]:
                continue
            given = {name: self._expression(value) for name, value in step.get("env", {}).items()}
            paths = [*files["GITHUB_PATH"].read_text().split(), self.environ["PATH"]]
            environ = {**self.environ, **runner, **given, "PATH": ":".join(paths)}
            if code := self._shell(step["run"], environ):
                return code
        return 0

    def _expression(self, text: str) -> str:
        match = re.fullmatch(r"\$\{\{ (\w+)\.([\w.]+) \}\}", text)
        assert match, text
        if match[1] in ("secrets", "vars"):
            return self.secrets[match[2]]
        return {"event.pull_request.number": "7", "token": "github-token"}[match[2]]

    def _shell(self, script: str, environ: dict[str, str]) -> int:
        options = ["-eo", "pipefail"] if self.system == "circleci" else ["-e"]
        done = subprocess.run(
            ["bash", *options, "-c", script], cwd=self.folder, env=environ, text=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=600,
        )  # fmt: skip
        self.said.append(f"$ {script}\n{done.stdout}(exit code {done.returncode})\n")
        return done.returncode


def runner_environment(home: Path, engine_url: str, uv_cache: str) -> dict[str, str]:
    """What a fresh runner has: a home, a PATH without astro, and an engine."""
    path = [entry for entry in os.environ["PATH"].split(":") if not Path(entry, "astro").exists()]
    kept = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(("SSL_", "PIP_", "UV_", "REQUESTS_", "CURL_")) or name.lower().endswith("_proxy")
    }
    return {
        **kept, "HOME": str(home), "PATH": ":".join(path), "DOCKER_HOST": engine_url, "UV_CACHE_DIR": uv_cache,
        "LANG": "C.UTF-8", "CI": "true",
    }  # fmt: skip

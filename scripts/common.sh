# shellcheck shell=bash disable=SC2034  # the sourcing scripts use these variables
# What the scripts share; sourced, from any folder.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
CACHE=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/astro

have() { command -v "$1" >/dev/null 2>&1; }

note() { printf '%s\n' "$*" >&2; }

# fail MESSAGE HINT
fail() {
  printf 'error: %s\nhint: %s\n' "$1" "$2" >&2
  exit 1
}

# True where this script may install Debian packages.
is_root_on_debian() {
  [ "$(id -u)" -eq 0 ] && have apt-get && have dpkg && grep -qsE '^ID(_LIKE)?=.*debian' /etc/os-release
}

# apt_install PACKAGE...: installs those that are missing; quiet unless it fails.
apt_install() {
  local package missing=() log
  for package in "$@"; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  note "installing Debian packages: ${missing[*]}"
  log=$(mktemp)
  if ! { apt-get update -q &&
    DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "${missing[@]}"; } >"$log" 2>&1 </dev/null; then
    tail -n 20 "$log" >&2
    rm -f "$log"
    fail "apt-get could not install ${missing[*]}" "see the lines above"
  fi
  rm -f "$log"
}

# Puts uv on PATH: the one that is there, else one from the package index in a virtual environment of its own.
ensure_uv() {
  have uv && return
  if [ ! -x "$CACHE/uv/bin/uv" ]; then
    have python3 || fail "python3 was not found" "install Python 3.10 or newer"
    if ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
      is_root_on_debian || fail "this Python cannot make virtual environments" "install python3-venv, or uv"
      apt_install python3-venv
    fi
    note "installing uv into $CACHE/uv"
    python3 -m venv --clear "$CACHE/uv"
    "$CACHE/uv/bin/python" -m pip install --quiet --disable-pip-version-check uv
  fi
  PATH=$PATH:$CACHE/uv/bin
}
